# syntax=docker/dockerfile:1.7
# Four images from one file, each with exactly the packages of its lock file:
#
#   docker build --target worker-cpu -t streamserve:cpu .
#   docker build --target worker-gpu -t streamserve:gpu .      ONNX Runtime for CUDA 13
#   docker build --target worker-torch -t streamserve:torch .  PyTorch, with and without a GPU; ONNX Runtime (CPU)
#   docker build --target sidecar -t streamserve:sidecar .     watches drift; no engine
#
# A pipeline's folder goes to /pipeline, read-only. The root file system may be read-only too, with a tmpfs on /tmp.

FROM python:3.12-slim-bookworm AS wheel
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY streamserve/ streamserve/
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.12-slim-bookworm AS packages-cpu
COPY requirements/cpu.txt /tmp/requirements.txt
COPY --from=wheel /wheels/ /wheels/
RUN python -m venv --without-pip /opt/streamserve \
  && pip --python /opt/streamserve install --no-cache-dir --require-hashes --only-binary=:all: -r /tmp/requirements.txt \
  && pip --python /opt/streamserve install --no-cache-dir --no-deps --no-index /wheels/*.whl

FROM python:3.12-slim-bookworm AS worker-cpu
LABEL org.opencontainers.image.title="streamserve" \
  org.opencontainers.image.description="Streaming inference workers on Kafka, CPU" \
  org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin streamserve
COPY --from=packages-cpu /opt/streamserve /opt/streamserve
# Health and metrics are for the world outside the container: publish port 8080 with care.
ENV PATH=/opt/streamserve/bin:$PATH \
  PYTHONUNBUFFERED=1 \
  PYTHONDONTWRITEBYTECODE=1 \
  STREAMSERVE_HTTP__HOST=0.0.0.0
WORKDIR /pipeline
USER 10001:10001
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=3s --start-period=60s --retries=3 \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/v2/health/ready', timeout=2)"]
ENTRYPOINT ["streamserve"]
CMD ["run"]

# PyTorch's packages bring the CUDA libraries; a GPU needs only its driver, from the host.
FROM python:3.12-slim-bookworm AS packages-torch
COPY requirements/torch.txt /tmp/requirements.txt
COPY --from=wheel /wheels/ /wheels/
RUN python -m venv --without-pip /opt/streamserve \
  && pip --python /opt/streamserve install --no-cache-dir --require-hashes --only-binary=:all: -r /tmp/requirements.txt \
  && pip --python /opt/streamserve install --no-cache-dir --no-deps --no-index /wheels/*.whl

FROM python:3.12-slim-bookworm AS worker-torch
LABEL org.opencontainers.image.title="streamserve" \
  org.opencontainers.image.description="Streaming inference workers on Kafka, PyTorch" \
  org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin streamserve
COPY --from=packages-torch /opt/streamserve /opt/streamserve
# Health and metrics are for the world outside the container: publish port 8080 with care.
ENV PATH=/opt/streamserve/bin:$PATH \
  PYTHONUNBUFFERED=1 \
  PYTHONDONTWRITEBYTECODE=1 \
  STREAMSERVE_HTTP__HOST=0.0.0.0
WORKDIR /pipeline
USER 10001:10001
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=3s --start-period=60s --retries=3 \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/v2/health/ready', timeout=2)"]
ENTRYPOINT ["streamserve"]
CMD ["run"]

FROM python:3.12-slim-bookworm AS packages-sidecar
COPY requirements/sidecar.txt /tmp/requirements.txt
COPY --from=wheel /wheels/ /wheels/
RUN python -m venv --without-pip /opt/streamserve \
  && pip --python /opt/streamserve install --no-cache-dir --require-hashes --only-binary=:all: -r /tmp/requirements.txt \
  && pip --python /opt/streamserve install --no-cache-dir --no-deps --no-index /wheels/*.whl

FROM python:3.12-slim-bookworm AS sidecar
LABEL org.opencontainers.image.title="streamserve-sidecar" \
  org.opencontainers.image.description="Watches the drift of streamserve pipelines" \
  org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin streamserve
COPY --from=packages-sidecar /opt/streamserve /opt/streamserve
# The dashboard has no password: publish port 8090 to people who may see it.
ENV PATH=/opt/streamserve/bin:$PATH \
  PYTHONUNBUFFERED=1 \
  PYTHONDONTWRITEBYTECODE=1 \
  STREAMSERVE_HTTP__HOST=0.0.0.0
WORKDIR /pipeline
USER 10001:10001
EXPOSE 8090
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=3s --start-period=60s --retries=3 \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8090/v2/health/ready', timeout=2)"]
ENTRYPOINT ["streamserve"]
CMD ["sidecar"]

# The image brings CUDA and cuDNN; Ubuntu 24.04 brings Python 3.12.
FROM nvidia/cuda:13.0.2-cudnn-runtime-ubuntu24.04 AS python-gpu
# hadolint ignore=DL3008
RUN apt-get update \
  && apt-get install -y --no-install-recommends python3.12 python3.12-venv \
  && rm -rf /var/lib/apt/lists/*

FROM python-gpu AS packages-gpu
COPY requirements/gpu.txt /tmp/requirements.txt
COPY --from=wheel /wheels/ /wheels/
RUN python3.12 -m venv /opt/streamserve \
  && /opt/streamserve/bin/pip install --no-cache-dir --require-hashes --only-binary=:all: -r /tmp/requirements.txt \
  && /opt/streamserve/bin/pip install --no-cache-dir --no-deps --no-index /wheels/*.whl \
  && /opt/streamserve/bin/pip uninstall --yes pip

FROM python-gpu AS worker-gpu
LABEL org.opencontainers.image.title="streamserve" \
  org.opencontainers.image.description="Streaming inference workers on Kafka, CUDA" \
  org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin streamserve
COPY --from=packages-gpu /opt/streamserve /opt/streamserve
ENV PATH=/opt/streamserve/bin:$PATH \
  PYTHONUNBUFFERED=1 \
  PYTHONDONTWRITEBYTECODE=1 \
  STREAMSERVE_HTTP__HOST=0.0.0.0 \
  STREAMSERVE_ENGINE__DEVICE=cuda
WORKDIR /pipeline
USER 10001:10001
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=3s --start-period=60s --retries=3 \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/v2/health/ready', timeout=2)"]
ENTRYPOINT ["streamserve"]
CMD ["run"]
