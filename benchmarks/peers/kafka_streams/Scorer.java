import ai.onnxruntime.OnnxTensor;
import ai.onnxruntime.OrtEnvironment;
import ai.onnxruntime.OrtException;
import ai.onnxruntime.OrtSession;
import ai.onnxruntime.TensorInfo;
import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.StreamReadFeature;
import com.fasterxml.jackson.core.StreamWriteFeature;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.ObjectReader;
import com.fasterxml.jackson.databind.ObjectWriter;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.util.Arrays;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.common.errors.SerializationException;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.processor.api.ContextualFixedKeyProcessor;
import org.apache.kafka.streams.processor.api.FixedKeyProcessorContext;
import org.apache.kafka.streams.processor.api.FixedKeyRecord;

/**
 * Scores a topic with an ONNX model, one record at a time, as Kafka Streams runs a processor.
 *
 * <p>Typed Jackson records in and out, one tensor a task for the input and one for the output, both bound to memory that
 * is used again for each record; one thread in ONNX Runtime. The default partitioner chooses the partition by the key.
 *
 * <p>Arguments: bootstrap, application id, input topic, output topic, model file, guarantee, stream threads, state folder.
 */
public final class Scorer {
    record Event(String id, float[] x) {}

    record Source(String topic, int partition, long offset) {}

    record Prediction(
            String id, String model, String version, Map<String, Object> outputs, long event_time, Source source) {}

    public static void main(String[] arguments) throws Exception {
        Properties settings = new Properties();
        settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, arguments[0]);
        settings.put(StreamsConfig.APPLICATION_ID_CONFIG, arguments[1]);
        settings.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, arguments[5]);
        if (arguments[5].equals(StreamsConfig.EXACTLY_ONCE_V2)) {
            settings.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, 100);
        }
        settings.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, arguments[6]);
        settings.put(StreamsConfig.STATE_DIR_CONFIG, arguments[7]);
        settings.put(StreamsConfig.producerPrefix(ProducerConfig.LINGER_MS_CONFIG), 5);
        settings.put(StreamsConfig.producerPrefix(ProducerConfig.COMPRESSION_TYPE_CONFIG), "lz4");

        OrtEnvironment environment = OrtEnvironment.getEnvironment();
        OrtSession.SessionOptions options = new OrtSession.SessionOptions();
        options.setIntraOpNumThreads(1);
        OrtSession session = environment.createSession(arguments[4], options);

        StreamsBuilder builder = new StreamsBuilder();
        builder.stream(arguments[2], Consumed.with(Serdes.ByteArray(), json(Event.class)))
                .processValues(() -> new Model(environment, session))
                .to(arguments[3], Produced.with(Serdes.ByteArray(), json(Prediction.class)));

        KafkaStreams streams = new KafkaStreams(builder.build(), settings);
        CountDownLatch ended = new CountDownLatch(1);
        streams.setUncaughtExceptionHandler(error -> {
            error.printStackTrace();
            return StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
        });
        streams.setStateListener((now, before) -> {
            if (now == KafkaStreams.State.ERROR) {
                ended.countDown();
            }
        });
        Runtime.getRuntime().addShutdownHook(new Thread(streams::close));
        streams.start();
        ended.await();
        System.exit(1);
    }

    /** The JSON of a record type. */
    private static <T> Serde<T> json(Class<T> type) {
        ObjectMapper mapper = new ObjectMapper(JsonFactory.builder()
                .enable(StreamReadFeature.USE_FAST_DOUBLE_PARSER)
                .enable(StreamWriteFeature.USE_FAST_DOUBLE_WRITER)
                .build());
        ObjectReader reader = mapper.readerFor(type);
        ObjectWriter writer = mapper.writerFor(type);
        return Serdes.serdeFrom(
                (topic, value) -> {
                    try {
                        return writer.writeValueAsBytes(value);
                    } catch (IOException error) {
                        throw new SerializationException(error);
                    }
                },
                (topic, bytes) -> {
                    try {
                        return reader.readValue(bytes);
                    } catch (IOException error) {
                        throw new SerializationException(error);
                    }
                });
    }

    /** Scores records with a batch of one, in buffers that belong to a task and thus to one thread. */
    private static final class Model extends ContextualFixedKeyProcessor<byte[], Event, Prediction> {
        private final OrtEnvironment environment;
        private final OrtSession session;
        private final String outputName;
        private FloatBuffer features;
        private FloatBuffer scores;
        private Map<String, OnnxTensor> input;
        private Map<String, OnnxTensor> output;

        Model(OrtEnvironment environment, OrtSession session) {
            this.environment = environment;
            this.session = session;
            this.outputName = session.getOutputNames().iterator().next();
        }

        @Override
        public void init(FixedKeyProcessorContext<byte[], Prediction> context) {
            super.init(context);
            String inputName = session.getInputNames().iterator().next();
            try {
                int width = columns((TensorInfo) session.getInputInfo().get(inputName).getInfo());
                int classes = columns((TensorInfo) session.getOutputInfo().get(outputName).getInfo());
                features = floats(width);
                scores = floats(classes);
                input = Map.of(inputName, OnnxTensor.createTensor(environment, features, new long[] {1, width}));
                output = Map.of(outputName, OnnxTensor.createTensor(environment, scores, new long[] {1, classes}));
            } catch (OrtException error) {
                throw new IllegalStateException(error);
            }
        }

        @Override
        public void process(FixedKeyRecord<byte[], Event> record) {
            features.put(0, record.value().x());
            try {
                session.run(input, output).close();
            } catch (OrtException error) {
                throw new IllegalStateException(error);
            }
            var at = context().recordMetadata().orElseThrow();
            context().forward(record.withValue(new Prediction(
                    record.value().id(),
                    "m",
                    "1",
                    Map.of(outputName, value()),
                    record.timestamp(),
                    new Source(at.topic(), at.partition(), at.offset()))));
        }

        @Override
        public void close() {
            input.values().forEach(OnnxTensor::close);
            output.values().forEach(OnnxTensor::close);
        }

        /** The scores: a number if there is one. */
        private Object value() {
            if (scores.capacity() == 1) {
                return scores.get(0);
            }
            float[] row = new float[scores.capacity()];
            scores.get(0, row);
            return row;
        }

        private static int columns(TensorInfo info) {
            return (int) Arrays.stream(info.getShape()).skip(1).reduce(1, (a, b) -> a * b);
        }

        private static FloatBuffer floats(int count) {
            return ByteBuffer.allocateDirect(count * Float.BYTES).order(ByteOrder.nativeOrder()).asFloatBuffer();
        }
    }
}
