"""What a swap costs the events that flow meanwhile: python -m benchmarks.swaps [--swaps N] [--rate R] [--layers ...].

A worker follows a real rollout topic under an open loop of events (latency counts from when an event was due). Each
swap has a calm window before it and a window of its own, from the command to a second after its acknowledgement; the
p99 of all swap windows is compared with that of all calm ones of the same run. Every fifth swap is a broken version.
Then rollbacks, in seconds from the command to its acknowledgement, with the count of loads that they took.

The load runs at a lower priority; `--niceness 0` measures what that is worth.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import Self

import numpy as np
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from benchmarks import models
from benchmarks.measure import end
from benchmarks.open_loop import Reader
from benchmarks.results import verdict
from streamserve.config.loading import load
from streamserve.demo.local_kafka import LocalKafka
from streamserve.demo.local_process import free_ports
from streamserve.kafka.rollout_topic import RolloutReader, RolloutWriter
from streamserve.rollout.log import RolloutLog
from streamserve.rollout.records import Command, Promote, Rollback, new_id

PARTITIONS = 4
WIDTH = 16
VERSIONS = 3
BROKEN = "9"
CALM_S = 1.5
AFTER_S = 1.0


class Bench:
    """A worker, its events and its commands; a context manager.

    Attributes:
        calm, swaps: windows (from, to) in epoch nanoseconds.
        took_s: from command to acknowledgement, good versions.
        rollback_s: the same of rollbacks.
    """

    def __init__(self, bootstrap: str, folder: Path, layers: tuple[int, ...], rate: int, niceness: int | None) -> None:
        self._bootstrap = bootstrap
        self._folder = folder
        self._rate = rate
        self._niceness = niceness
        self._port = free_ports(1)[0]
        self._name = f"swaps{time.time_ns()}"
        self._ended = threading.Event()
        self.calm: list[tuple[int, int]] = []
        self.swaps: list[tuple[int, int]] = []
        self.took_s: list[float] = []
        self.rollback_s: list[float] = []
        self._write(layers)
        settings = load(str(self._config), {}).settings
        self._log = RolloutLog()
        self._topic = RolloutReader(settings)
        self._commands = RolloutWriter(settings)

    def __enter__(self) -> Self:
        code = "from streamserve.slot import main; main()"
        if self._niceness is not None:
            code = f"import streamserve.worker.rollout as r; r.NICENESS = {self._niceness}; {code}"
        command = [sys.executable, "-c", code, "--config", str(self._config), "--slot-name", "w"]
        self._process = subprocess.Popen([*command, "--verbosity", "-2"])
        self._topic.open()
        self._commands.open()
        self._reader = Reader(self._bootstrap, f"{self._name}.predictions", PARTITIONS)
        self._reader.start()
        self._wait(lambda: self._log.acknowledgements.get("w") is not None)
        self._sender = threading.Thread(target=self._send, daemon=True)
        self._sender.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._sender.join()
        time.sleep(2)
        end(self._process)
        self._reader.stop()

    def swap(self, version: str) -> None:
        """A calm window, a command, and the window of the swap."""
        began_ns = time.time_ns()
        time.sleep(CALM_S)
        given_ns = time.time_ns()
        self.calm.append((began_ns, given_ns))
        took_s = self._command(Promote, version=version)
        if version != BROKEN:
            self.took_s.append(took_s)
        time.sleep(AFTER_S)
        self.swaps.append((given_ns, time.time_ns()))

    def roll_back(self) -> None:
        self.rollback_s.append(self._command(Rollback))

    def loads(self) -> int:
        """Loads so far, by the worker's own count."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/metrics", timeout=5) as answer:
            text = answer.read().decode()
        return sum(
            int(float(n)) for n in re.findall(r"^streamserve_model_loads_total\{[^}]*\} (\S+)$", text, re.MULTILINE)
        )

    def latency_ms(self, windows: list[tuple[int, int]]) -> np.ndarray:
        """Latencies of the events that were due in these windows."""
        count = len(self._reader.read_ns)
        due = np.array(self._reader.due_ns[:count], dtype=np.int64)
        read = np.array(self._reader.read_ns, dtype=np.int64)[:count]
        chosen = np.zeros(count, dtype=bool)
        for begin, finish in windows:
            chosen |= (due >= begin) & (due < finish)
        return (read - due)[chosen] / 1e6

    def _command(self, kind: type[Command], **fields: object) -> float:
        began_s = time.monotonic()
        revision = self._commands.publish(kind(id=new_id(), by="bench", **fields))  # type: ignore[arg-type]
        self._wait(lambda: self._log.acknowledgements["w"].revision >= revision)
        return time.monotonic() - began_s

    def _wait(self, condition: object) -> None:
        until_s = time.monotonic() + 120
        while not condition():  # type: ignore[operator]
            if time.monotonic() > until_s or self._process.poll() is not None:
                raise RuntimeError("the worker does not answer")
            for entry in self._topic.poll(0.02):
                self._log.add(*entry)

    def _send(self) -> None:
        producer = Producer({"bootstrap.servers": self._bootstrap, "linger.ms": 1})
        vector = np.random.default_rng(1).standard_normal(WIDTH).round(4).tolist()
        start_ns, sent, step_ns = time.time_ns(), 0, 1e9 / self._rate
        while not self._ended.is_set():
            due = int((time.time_ns() - start_ns) / step_ns) + 1
            while sent < due:
                due_ns = start_ns + int(sent * step_ns)
                value = f'{{"id":"{due_ns}","x":{vector}}}'
                producer.produce(f"{self._name}.events", value, b"k%d" % (sent % 100), sent % PARTITIONS)
                sent += 1
            producer.poll(0)
            time.sleep(0.001)
        producer.flush(10)

    def _write(self, layers: tuple[int, ...]) -> None:
        name, folder = self._name, self._folder / self._name
        for version in range(1, VERSIONS + 1):
            models.save(models.mlp((WIDTH, *layers, 1), seed=version), folder / "m" / str(version))
        path = models.save(models.mlp((WIDTH, *layers, 1)), folder / "m" / BROKEN)
        path.write_bytes(path.read_bytes()[:-500])
        topics = [NewTopic(f"{name}.{topic}", PARTITIONS, 1) for topic in ("events", "predictions", "dlq")]
        topics += [
            NewTopic(f"{name}.rollout", 1, 1, config={"cleanup.policy": "compact"}),
            NewTopic(f"{name}.shadow", 1, 1),
        ]
        admin = AdminClient({"bootstrap.servers": self._bootstrap})
        for future in admin.create_topics(topics).values():
            future.result()
        time.sleep(1)
        self._config = folder / "streamserve.yaml"
        self._config.write_text(f"""
version: 1
pipeline: {name}
kafka: {{bootstrap.servers: "{self._bootstrap}"}}
input: {{topics: [{name}.events], format: json, id: id}}
features: {{field: x, size: {WIDTH}}}
model: {{name: m, repository: "{folder}", version: 1}}
engine: {{max_batch_size: 512}}
output: {{topic: {name}.predictions, outputs: {{probability: probability}}}}
dead_letter: {{topic: {name}.dlq}}
rollout: {{}}
http: {{port: {self._port}}}
state_dir: {folder / "state"}
""")


def run(
    bootstrap: str, folder: Path, options: argparse.Namespace, name: str, layers: tuple[int, ...]
) -> dict[str, list[float]]:
    with Bench(bootstrap, folder, layers, options.rate, options.niceness) as bench:
        time.sleep(3)
        for number in range(options.swaps):
            bench.swap(BROKEN if number % 5 == 4 else str(1 + (number + 1) % VERSIONS))
        bench._command(Promote, version="1")  # noqa: SLF001  its own
        bench._command(Promote, version="2")  # noqa: SLF001
        before = bench.loads()
        for _ in range(6):
            bench.roll_back()
        reloads = bench.loads() - before
    calm, swaps = bench.latency_ms(bench.calm), bench.latency_ms(bench.swaps)
    calm_p99, swap_p99 = np.percentile(calm, 99), np.percentile(swaps, 99)
    lines = (
        f"{name}: calm p50 {np.percentile(calm, 50):.1f} p99 {calm_p99:.1f} ms ({len(calm)} events)",
        f"swaps p50 {np.percentile(swaps, 50):.1f} p99 {swap_p99:.1f} max {swaps.max():.1f} ms ({len(swaps)} events)",
        f"p99 ratio {swap_p99 / calm_p99:.2f}",
        f"a swap takes {np.median(bench.took_s):.2f} s, at most {max(bench.took_s):.2f}",
        f"a rollback at most {max(bench.rollback_s):.3f} s, {reloads} loads",
    )
    print("\n  ".join(lines), flush=True)
    return {
        f"swaps.{name}.p99_ratio": [float(swap_p99 / calm_p99)],
        f"swaps.{name}.calm_p99_ms": [float(calm_p99)],
        f"swaps.{name}.swap_p99_ms": [float(swap_p99)],
        f"swaps.{name}.swap_s": bench.took_s,
        f"swaps.{name}.rollback_s": bench.rollback_s,
        f"swaps.{name}.rollback_loads": [float(reloads)],
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.swaps", description=__doc__.splitlines()[0])
    parser.add_argument("--swaps", type=int, default=20)
    parser.add_argument("--rate", type=int, default=2000)
    parser.add_argument("--niceness", type=int, help="of the thread that loads, instead of the worker's own")
    parser.add_argument("--only", choices=["small", "large"])
    parser.add_argument("--dry", action="store_true", help="keep no results")
    options = parser.parse_args()
    sizes = {"small": (64, 64), "large": (1024, 1024, 1024)}
    figures: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder, LocalKafka() as kafka:
        for name, layers in sizes.items():
            if options.only in {None, name}:
                figures |= run(kafka.bootstrap, Path(folder), options, name, layers)
    return verdict(figures, kept=not options.dry and options.niceness is None)


if __name__ == "__main__":
    sys.exit(main())
