"""MLServer in its Kafka mode, with a runtime of its own for ONNX; see `benchmarks.peers.mlserver`.

Nothing of msgspec here, and so not `scoring`: MLServer decodes and encodes by itself.
"""

from __future__ import annotations

import argparse
import asyncio
import functools

import onnxruntime
import uvloop
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import NumpyCodec
from mlserver.kafka import server as kafka
from mlserver.settings import ModelParameters
from mlserver.types import InferenceRequest, InferenceResponse

BATCH = 512
BATCH_S = 0.005
QUIET = {"version": 1, "disable_existing_loggers": False, "loggers": {"mlserver": {"level": "WARNING"}}}


class Onnx(MLModel):
    """An ONNX file, one thread; the first input and the first output."""

    async def load(self) -> bool:
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = 1
        path = self.settings.parameters.uri
        self._session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
        self._feature = self._session.get_inputs()[0].name
        self._output = self._session.get_outputs()[0].name
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        x = self.decode(payload.inputs[0], default_codec=NumpyCodec)
        scores = self._session.run([self._output], {self._feature: x})[0]
        outputs = [NumpyCodec.encode_output(self._output, scores)]
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=outputs)


async def serve(options: argparse.Namespace) -> None:
    """What `mlserver start` does with a `settings.json` and a `model-settings.json` of these values."""
    kafka.AIOKafkaConsumer = functools.partial(
        kafka.AIOKafkaConsumer, auto_offset_reset="earliest", group_id=options.group
    )
    kafka.AIOKafkaProducer = functools.partial(
        kafka.AIOKafkaProducer, linger_ms=5, compression_type="lz4", max_batch_size=1 << 20
    )
    server = MLServer(
        Settings(
            debug=False,
            parallel_workers=0,
            host="127.0.0.1",
            http_port=0,
            grpc_port=0,
            metrics_endpoint=None,
            logging_settings=QUIET,
            kafka_enabled=True,
            kafka_servers=options.bootstrap,
            kafka_topic_input=options.topic,
            kafka_topic_output=options.output,
        )
    )
    model = ModelSettings(
        name="m",
        implementation=Onnx,
        max_batch_size=BATCH,
        max_batch_time=BATCH_S,
        parameters=ModelParameters(uri=options.model, version="1"),
    )
    await server.start([model])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for name in ("guarantee", "bootstrap", "topic", "output", "model", "group", "folder"):
        parser.add_argument(f"--{name}", required=True)
    uvloop.install()
    asyncio.run(serve(parser.parse_args()))
