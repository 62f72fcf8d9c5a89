/* A library of custom operators for tests: example::Twice, y = 2 x, float32 of any shape.
 *
 * Written against the stable binary interface of ONNX Runtime instead of its header, which is not in the wheel: functions
 * of `OrtApi` never change their place in the table (onnxruntime/core/session/onnxruntime_c_api.cc asserts it).
 * A value of 666 aborts the process: a row that crashes a native engine.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

typedef struct {
  const void *const *(*get_api)(uint32_t version);
  const char *(*version)(void);
} ApiBase;

enum {
  CREATE_DOMAIN = 26,
  DOMAIN_ADD = 27,
  ADD_DOMAIN = 28,
  TENSOR_DATA = 51,
  DIMENSIONS_COUNT = 61,
  DIMENSIONS = 62,
  ELEMENT_COUNT = 64,
  TYPE_AND_SHAPE = 65,
  KERNEL_INPUT = 90,
  KERNEL_OUTPUT = 91,
  RELEASE_TYPE_AND_SHAPE = 99
};
enum { FLOAT = 1, API_VERSION = 8, MAX_RANK = 8 };

static const void *const *api;
#define CALL(place, ...) ((void *(*)(__VA_ARGS__))api[place])

typedef struct {
  uint32_t version;
  void *(*create)(const void *op, const void *const *api, const void *info);
  const char *(*name)(const void *op);
  const char *(*provider)(const void *op);
  int (*input_type)(const void *op, size_t index);
  size_t (*input_count)(const void *op);
  int (*output_type)(const void *op, size_t index);
  size_t (*output_count)(const void *op);
  void (*compute)(void *kernel, void *context);
  void (*destroy)(void *kernel);
  int (*input_required)(const void *op, size_t index);
  int (*output_required)(const void *op, size_t index);
} CustomOp;

static void *create(const void *op, const void *const *table, const void *info) { return (void *)op; }
static const char *name(const void *op) { return "Twice"; }
static const char *provider(const void *op) { return NULL; }
static int type(const void *op, size_t index) { return FLOAT; }
static size_t one(const void *op) { return 1; }
static void destroy(void *kernel) {}
static int required(const void *op, size_t index) { return 0; }

static void compute(void *kernel, void *context) {
  void *input, *output, *shape;
  float *x, *y;
  size_t rank, count;
  int64_t dimensions[MAX_RANK];
  CALL(KERNEL_INPUT, void *, size_t, void **)(context, 0, &input);
  CALL(TYPE_AND_SHAPE, void *, void **)(input, &shape);
  CALL(DIMENSIONS_COUNT, void *, size_t *)(shape, &rank);
  CALL(DIMENSIONS, void *, int64_t *, size_t)(shape, dimensions, rank);
  CALL(ELEMENT_COUNT, void *, size_t *)(shape, &count);
  CALL(RELEASE_TYPE_AND_SHAPE, void *)(shape);
  CALL(KERNEL_OUTPUT, void *, size_t, const int64_t *, size_t, void **)(context, 0, dimensions, rank, &output);
  CALL(TENSOR_DATA, void *, void **)(input, (void **)&x);
  CALL(TENSOR_DATA, void *, void **)(output, (void **)&y);
  for (size_t i = 0; i < count; i++) {
    if (x[i] == 666) abort();
    y[i] = 2 * x[i];
  }
}

static const CustomOp twice = {API_VERSION, create,  name,    provider, type,     one,
                               type,        one,     compute, destroy,  required, required};

void *RegisterCustomOps(void *options, const ApiBase *base) {
  void *domain, *status;
  api = base->get_api(API_VERSION);
  if ((status = CALL(CREATE_DOMAIN, const char *, void **)("example", &domain))) return status;
  if ((status = CALL(DOMAIN_ADD, void *, const void *)(domain, &twice))) return status;
  return CALL(ADD_DOMAIN, void *, void *)(options, domain);
}
