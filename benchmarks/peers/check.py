"""Does each peer score right? Every event of a small topic must have its prediction, within 1e-5 of ONNX Runtime's.

    python -m benchmarks.peers.check [--only quix …] [--workloads mlp ffnn] [--events 2000]

Prepares each peer, runs it once per guarantee, reads its output topic as a read_committed reader would, and compares
ids and values. A prediction may come twice from a peer that promises at least once, but must be the same. Exits 1 if
one differs or a peer does not run; one that cannot be prepared on this machine is named and left out.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import onnxruntime
from confluent_kafka import Consumer, TopicPartition

from benchmarks.broker import Bench
from benchmarks.contenders import Guarantee, Job
from benchmarks.peers import OwnFormat, Peer
from benchmarks.peers.faststream import FastStream
from benchmarks.peers.faust import Faust
from benchmarks.peers.kafka_streams import KafkaStreams
from benchmarks.peers.mlserver import MLServer
from benchmarks.peers.quix import Quix, QuixSink
from benchmarks.results import say
from benchmarks.workloads import PARTITIONS, WORKLOADS, Workload
from streamserve.demo.local_kafka import LocalKafka

PEERS: tuple[Peer, ...] = (KafkaStreams(), Quix(), QuixSink(), FastStream(), Faust(), MLServer())
TOLERANCE = 1e-5
TIMEOUT_S = 120.0
STOP_S = 60.0


def expected(job: Job, count: int) -> dict[str, list[float]]:
    """Event id to the model's output, all in one call of ONNX Runtime."""
    events = [msgspec.json.decode(event) for event in job.workload.events(count)]
    session = onnxruntime.InferenceSession(job.model, providers=["CPUExecutionProvider"])
    x = np.array([event["x"] for event in events], dtype=np.float32)
    scores = session.run(None, {session.get_inputs()[0].name: x})[0]
    return {event["id"]: row for event, row in zip(events, scores.tolist(), strict=True)}


def prediction(value: bytes) -> tuple[str, list[float]]:
    """The event's id and the model's output, out of the prediction that all but `OwnFormat` write."""
    message = msgspec.json.decode(value)
    (output,) = message["outputs"].values()
    return message["id"], output if isinstance(output, list) else [output]


def records(job: Job, wanted: int, process: subprocess.Popen[bytes]) -> Iterator[bytes]:
    """Values of the output topic as they are committed, until `wanted` and no more for a second."""
    consumer = Consumer({"bootstrap.servers": job.bootstrap, "group.id": "check", "isolation.level": "read_committed"})
    consumer.assign([TopicPartition(job.output, number, 0) for number in range(PARTITIONS)])
    deadline = time.monotonic() + TIMEOUT_S
    got = 0
    try:
        while time.monotonic() < deadline:
            messages = consumer.consume(500, 1.0)
            yield from (message.value() for message in messages if message.error() is None)
            got += len(messages)
            if process.poll() is not None or (got >= wanted and not messages):
                return
    finally:
        consumer.close()


def faults(peer: Peer, job: Job, count: int) -> list[str]:
    """Run a peer over a topic of `count` events. Returns: what is wrong, nothing if it is right."""
    right = expected(job, count)
    read = peer.prediction if isinstance(peer, OwnFormat) else prediction
    process = subprocess.Popen(peer.command(job), stdout=subprocess.DEVNULL)
    found: dict[str, list[float]] = {}
    wrong = []
    repeated = 0
    try:
        for value in records(job, count, process):
            name, output = read(value)
            repeated += name in found
            found[name] = output
            if name not in right or not np.allclose(output, right[name], rtol=0, atol=TOLERANCE):
                wrong.append(f"{name}: {output} instead of {right.get(name)}")
    finally:
        ended = process.poll()
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            wrong.append(f"SIGTERM did not end it in {STOP_S:.0f} s")
    if ended is not None:
        wrong.append(f"it ended by itself with {ended}")
    elif process.returncode not in (0, -signal.SIGTERM, 128 + signal.SIGTERM):
        wrong.append(f"after SIGTERM it ended with {process.returncode}")
    if missing := len(right.keys() - found.keys()):
        wrong.append(f"{missing} of {count} events have no prediction")
    if repeated and job.guarantee == "exactly_once":
        wrong.append(f"{repeated} predictions came again, though once was promised")
    return wrong


def check(bench: Bench, peer: Peer, workload: Workload, guarantee: Guarantee, count: int) -> bool:
    """One case, one line. Returns: whether it is right."""
    topic = f"{workload.name}.{peer.name}.{guarantee}"
    if isinstance(peer, OwnFormat):
        peer.fill(bench, topic, workload, count)
    else:
        bench.fill(topic, workload.events(count))
    wrong = faults(peer, bench.job(peer, workload, topic, guarantee), count)
    versions = " ".join(f"{name} {number}" for name, number in peer.versions().items())
    say(f"{peer.name:14} {workload.name:5} {guarantee:14} {'right' if not wrong else 'WRONG':6} {versions}")
    for line in wrong[:5]:
        say(f"    {line}")
    return not wrong


def main() -> int:
    """Returns: the exit status, 1 if a peer is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[peer.name for peer in PEERS])
    parser.add_argument("--workloads", nargs="+", default=["mlp"], choices=list(WORKLOADS))
    parser.add_argument("--events", type=int, default=2000)
    options = parser.parse_args()
    right = True
    with tempfile.TemporaryDirectory() as folder, LocalKafka() as kafka:
        bench = Bench(kafka.bootstrap, Path(folder))
        for peer in PEERS:
            if options.only and peer.name not in options.only:
                continue
            try:
                peer.prepare()
            except RuntimeError as error:
                say(f"{peer.name:14} left out: {error}")
                continue
            for name in options.workloads:
                for guarantee in peer.guarantees:
                    right &= check(bench, peer, WORKLOADS[name], guarantee, options.events)
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
