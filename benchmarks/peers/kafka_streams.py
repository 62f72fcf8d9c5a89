"""Kafka Streams with ONNX Runtime for Java: `kafka_streams/Scorer.java`, built by Maven.

It scores a record at a time, because that is how Kafka Streams calls a processor; a batch would need a state store. One
stream thread, one thread in ONNX Runtime, typed Jackson records, lz4, a linger of 5 ms; exactly once commits every
100 ms, at least once at Kafka Streams' default of 30 s. The JVM has 512 MiB of heap and G1. Its CPU seconds hold the
just-in-time compiler's, as they do in production after each start; the harness leaves out the first tenth of a backlog,
so a backlog of some 10^5 events or more shows mostly compiled code.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from benchmarks.contenders import Guarantee, Job
from benchmarks.peers import FOLDER
from streamserve.demo.kafka_jars import java
from streamserve.demo.local_process import LocalServiceError

SOURCES = Path(__file__).with_name("kafka_streams")
JVM = ("-Xms512m", "-Xmx512m", "-XX:+UseG1GC", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error")


class KafkaStreams:
    """`benchmarks.peers.Peer` in Java.

    Args:
        threads: stream threads; partitions are shared out among them.
    """

    name = "kafka_streams"
    guarantees: tuple[Guarantee, ...] = ("exactly_once", "at_least_once")
    largest: int | None = None

    def __init__(self, threads: int = 1) -> None:
        self._threads = threads

    def prepare(self) -> None:
        """Compile and download (about 250 MB) unless a folder of the same sources is there.

        Raises: RuntimeError: no Java 17, no Maven, or Maven failed; with its last lines.
        """
        target = FOLDER / "kafka_streams"
        if _up_to_date(target):
            return
        try:
            java()
        except LocalServiceError as error:
            raise RuntimeError(str(error)) from error
        mvn = shutil.which("mvn")
        if mvn is None:
            raise RuntimeError("Maven builds this peer: `apt-get install maven openjdk-17-jdk-headless`")
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".kafka_streams-", dir=target.parent) as folder:
            jars = Path(folder, "jars")
            goals = ["package", "dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={jars}"]
            answer = subprocess.run(
                [mvn, "-q", "-B", "-Dstyle.color=never", f"-Dtarget={folder}/target", *goals],
                cwd=SOURCES, capture_output=True, text=True, check=False,
            )  # fmt: skip
            if answer.returncode != 0:
                last = "\n".join((answer.stdout + answer.stderr).splitlines()[-10:])
                raise RuntimeError(f"Maven could not build {SOURCES}; it needs the network and a JDK, once:\n{last}")
            shutil.copy(Path(folder, "target", "scorer.jar"), jars)
            for source in SOURCES.iterdir():
                shutil.copy(source, jars)
            shutil.rmtree(target, ignore_errors=True)
            jars.rename(target)

    def command(self, job: Job) -> list[str]:
        """The JVM on the jars of `prepare`."""
        guarantee = {"exactly_once": "exactly_once_v2", "at_least_once": "at_least_once"}[job.guarantee]
        command = [java(), *JVM, "-cp", f"{FOLDER / 'kafka_streams'}/*", "Scorer", job.bootstrap, job.name, job.topic]
        return [*command, job.output, str(job.model), guarantee, str(self._threads), str(job.folder / job.name)]

    def versions(self) -> dict[str, str]:
        """As the pom pins them, and the Java that runs them."""
        pinned = re.findall(r"<(kafka|onnxruntime|jackson)\.version>([^<]+)<", (SOURCES / "pom.xml").read_text())
        names = {"kafka": "kafka-streams", "onnxruntime": "onnxruntime (Java)", "jackson": "jackson"}
        found = re.search(
            r'version "([^"]+)"',
            subprocess.run([java(), "-version"], capture_output=True, text=True, check=False).stderr,
        )
        return {**{names[name]: pin for name, pin in pinned}, "java": found[1] if found else "unknown"}


def _up_to_date(target: Path) -> bool:
    """Whether these very sources were built into the folder."""
    return all(
        (target / source.name).is_file() and (target / source.name).read_bytes() == source.read_bytes()
        for source in SOURCES.iterdir()
    )
