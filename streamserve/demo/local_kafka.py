"""A real Apache Kafka on loopback, one broker or three, without Docker.

Owns the life of the brokers: ports, format, start, readiness, faults (`kill`, `pause`, `resume`, `restart`),
end. Apache Kafka in KRaft mode on the Java of this machine; each broker is its own JVM, broker and controller
at once. Refuses to be an operator's cluster: it listens on 127.0.0.1 only, without authentication, its data
is thrown away unless a `data_dir` is given, and its timeouts are short so that tests of faults take seconds.
Used by `scripts/kafka`, the demo, the test fixtures, the benchmarks and the fault runs. The jars come from
`kafka_jars`.

    with LocalKafka() as kafka:
        producer = Producer({"bootstrap.servers": kafka.bootstrap})
"""

from __future__ import annotations

import base64
import contextlib
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Self

from streamserve.demo.kafka_jars import ensure_jars, java, kafka_available
from streamserve.demo.local_process import (
    LocalProcess,
    LocalServiceError,
    Watchdog,
    accepts,
    free_ports,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

__all__ = ["KafkaBroker", "LocalKafka", "LocalServiceError", "kafka_available"]

START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 30.0

_LOGGING = """\
status = error
appender.file.type = File
appender.file.name = file
appender.file.fileName = ${sys:streamserve.log}
appender.file.layout.type = PatternLayout
appender.file.layout.pattern = [%d] %p %m (%c)%n
rootLogger.level = INFO
rootLogger.appenderRef.file.ref = file
logger.quiet.name = org.apache.kafka.common.config.AbstractConfig
logger.quiet.level = ERROR
"""

_SETTINGS = {
    "process.roles": "broker,controller",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAINTEXT",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "auto.create.topics.enable": "false",
    "num.partitions": "4",
    "offsets.topic.num.partitions": "8",
    "transaction.state.log.num.partitions": "8",
    "share.coordinator.state.topic.num.partitions": "8",
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    "group.coordinator.rebalance.protocols": "classic,consumer",
    "group.consumer.session.timeout.ms": "6000",
    "group.consumer.min.session.timeout.ms": "1000",
    "group.consumer.heartbeat.interval.ms": "1000",
    "group.consumer.min.heartbeat.interval.ms": "500",
    "broker.session.timeout.ms": "6000",
    "broker.heartbeat.interval.ms": "500",
    "unclean.leader.election.enable": "false",
    "log.retention.check.interval.ms": "300000",
    "log.cleaner.dedupe.buffer.size": "16777216",
    "num.network.threads": "2",
    "num.io.threads": "4",
}


class KafkaBroker:
    """One broker of a `LocalKafka`: its process, its ports, and the faults a test may put it through."""

    def __init__(self, node_id: int, port: int, process: LocalProcess, ready: BrokerProbe) -> None:
        self.node_id = node_id
        self.port = port
        self._process = process
        self._ready = ready

    @property
    def pid(self) -> int:
        """Process id of the JVM, a new one after `restart`."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the JVM exists; a paused one does."""
        return self._process.alive

    def kill(self) -> None:
        """SIGKILL, as a power cut of this broker: nothing is flushed or handed over."""
        self._process.kill()

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nothing answers."""
        self._process.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self._process.signal(signal.SIGCONT)

    def terminate(self) -> None:
        """SIGTERM and wait: a controlled shutdown, leadership is handed over first."""
        self._process.terminate(STOP_TIMEOUT_S)

    def restart(self, *, wait: bool = True) -> None:
        """Start again on the same ports and log directory; kills it first if it still runs.

        Args:
            wait: return only when the broker answers metadata requests and is part of the cluster.
        """
        self._process.kill()
        self._process.start()
        self._ready.watchdog_guard(self.pid)
        if wait:
            self._ready.wait(self._process, self.port, self.node_id)


class LocalKafka:
    """A cluster of one or three brokers on loopback; a context manager.

    Args:
        brokers: 1 or 3. Three: replication 3, `min.insync.replicas` 2. One: replication 1.
        data_dir: kept on `stop`, used again by the next start; default a temporary folder, removed on `stop`.
        ports: one a broker; default free ones.
        jars_dir: Kafka's jars; default the cache folder, filled on the first start.
        overrides: broker properties that replace ours, the same for all brokers.
        proxy_ports: one a broker; each broker then has a second listener (`proxy_targets`) that tells clients
            to come back on this port, so a TCP proxy there stays in the path.

    Raises:
        LocalServiceError: from `start`, with the end of the broker's log.
    """

    def __init__(
        self,
        brokers: int = 1,
        *,
        data_dir: Path | None = None,
        ports: Sequence[int] | None = None,
        jars_dir: Path | None = None,
        overrides: Mapping[str, str] | None = None,
        proxy_ports: Sequence[int] | None = None,
    ) -> None:
        if brokers not in (1, 3):
            raise ValueError(f"brokers must be 1 or 3, not {brokers}")
        for name, given in (("ports", ports), ("proxy_ports", proxy_ports)):
            if given is not None and len(given) != brokers:
                raise ValueError(f"{name} must hold {brokers}, one a broker, not {len(given)}")
        self.brokers: list[KafkaBroker] = []
        self.proxy_targets: list[int] = []
        self.data_dir: Path | None = data_dir
        self._count = brokers
        self._keeps_data = data_dir is not None
        self._ports = list(ports) if ports else None
        self._jars_dir = jars_dir
        self._overrides = dict(overrides or {})
        self._proxy_ports = list(proxy_ports or [])
        self._watchdog: Watchdog | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def bootstrap(self) -> str:
        """`bootstrap.servers` of the running cluster."""
        if not self.brokers:
            raise LocalServiceError("this LocalKafka is not started")
        return ",".join(f"127.0.0.1:{broker.port}" for broker in self.brokers)

    def start(self, *, outlive: bool = False) -> None:
        """Start all brokers; returns when each of them answers metadata requests.

        Args:
            outlive: the brokers go on when this process ends. Otherwise they die with it, even by SIGKILL.
        """
        if self.brokers:
            raise LocalServiceError("this LocalKafka runs already")
        program, jars = java(), ensure_jars(self._jars_dir)
        if self.data_dir is None:
            self.data_dir = Path(tempfile.mkdtemp(prefix="streamserve-kafka-"))
        self.data_dir.mkdir(parents=True, exist_ok=True)
        try:
            if not outlive:
                self._watchdog = Watchdog(None if self._keeps_data else self.data_dir).__enter__()
            self._start_brokers(_Jvm(program, jars, quick=self._count > 1), self.data_dir)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End all brokers, and remove the data unless its folder was given. Safe to call twice."""
        if self._keeps_data:
            for broker in self.brokers:
                broker.resume()
            for broker in reversed(self.brokers):
                broker.terminate()
        for broker in self.brokers:
            broker.kill()
        self.brokers = []
        if not self._keeps_data and self.data_dir is not None:
            shutil.rmtree(self.data_dir, ignore_errors=True)
            self.data_dir = None
        if self._watchdog is not None:
            self._watchdog.close()
            self._watchdog = None

    def _start_brokers(self, jvm: _Jvm, data_dir: Path) -> None:
        nodes = self._write_configs(data_dir)
        _format([node for node in nodes if not (node / "log" / "meta.properties").exists()], jvm, data_dir)
        probe = BrokerProbe(self._count, self._watchdog)
        ports = self._ports or []
        processes = [jvm.broker(node) for node in nodes]
        for node_id, (process, port) in enumerate(zip(processes, ports, strict=True), start=1):
            process.start()
            self.brokers.append(KafkaBroker(node_id, port, process, probe))
            probe.watchdog_guard(process.pid)
        for broker, process in zip(self.brokers, processes, strict=True):
            probe.wait(process, broker.port, None)

    def _write_configs(self, data_dir: Path) -> list[Path]:
        """A folder a broker, each with its properties file."""
        count = self._count
        found = free_ports(3 * count)
        self._ports = self._ports or found[:count]
        controllers = found[count : 2 * count]
        self.proxy_targets = found[2 * count :] if self._proxy_ports else []
        voters = ",".join(f"{i}@127.0.0.1:{port}" for i, port in enumerate(controllers, start=1))
        (data_dir / "log4j2.properties").write_text(_LOGGING)
        nodes = []
        for index in range(count):
            node = data_dir / f"broker-{index + 1}"
            node.mkdir(exist_ok=True)
            listeners = {"PLAINTEXT": self._ports[index]}
            advertised = dict(listeners)
            if self._proxy_ports:
                listeners["PROXIED"] = self.proxy_targets[index]
                advertised["PROXIED"] = self._proxy_ports[index]
            settings = {
                **_SETTINGS,
                **_replication(count),
                "node.id": str(index + 1),
                "controller.quorum.voters": voters,
                "listeners": _listeners({**listeners, "CONTROLLER": controllers[index]}),
                "advertised.listeners": _listeners(advertised),
                "log.dirs": str(node / "log"),
                **self._overrides,
            }
            (node / "server.properties").write_text("".join(f"{k}={v}\n" for k, v in settings.items()))
            nodes.append(node)
        return nodes


class BrokerProbe:
    """Tells when a broker is ready: it answers a metadata request, and the cluster knows it.

    Args:
        brokers: how many brokers make the cluster whole.
        watchdog: guards every process that starts, if given.
    """

    def __init__(self, brokers: int, watchdog: Watchdog | None) -> None:
        self._brokers = brokers
        self._watchdog = watchdog

    def watchdog_guard(self, pid: int) -> None:
        """Have a new process ended with us."""
        if self._watchdog is not None:
            self._watchdog.guard(pid)

    def wait(self, process: LocalProcess, port: int, node_id: int | None) -> None:
        """Return when the broker on `port` names `node_id` (or, with None, all brokers) in its metadata.

        Raises:
            LocalServiceError: the process ended, or START_TIMEOUT_S is over.
        """

        def died() -> LocalServiceError | None:
            return None if process.alive else process.failure("did not start")

        def knows() -> bool:
            known = _known_brokers(port)
            return node_id in known if node_id is not None else len(known) == self._brokers

        deadline = time.monotonic() + START_TIMEOUT_S
        answered = wait_until(lambda: accepts(port), START_TIMEOUT_S, died)
        if not answered or not wait_until(knows, deadline - time.monotonic(), died):
            raise process.failure(f"was not ready after {START_TIMEOUT_S:.0f} s")


def _known_brokers(port: int) -> set[int]:
    """Node ids in the metadata of the broker on `port`; empty when it does not answer yet."""
    from confluent_kafka import KafkaException  # here only: the rest needs the standard library alone
    from confluent_kafka.admin import AdminClient

    # One client a question: a client that saw other brokers would ask those.
    admin = AdminClient({"bootstrap.servers": f"127.0.0.1:{port}", "log_level": 0, "socket.timeout.ms": 2000})
    with contextlib.suppress(KafkaException):
        return set(admin.list_topics(timeout=2).brokers)
    return set()


class _Jvm:
    """Command lines for the Java programs. `quick` gives up peak speed for start and memory."""

    def __init__(self, program: str, jars: Path, *, quick: bool) -> None:
        self._program = program
        self._jars = jars
        self._broker_flags = ["-Xms256m", "-Xmx512m", "-XX:TieredStopAtLevel=1"] if quick else ["-Xms512m", "-Xmx1g"]

    def broker(self, node: Path) -> LocalProcess:
        flags = [*self._broker_flags, "-XX:+UseG1GC", "-Djava.awt.headless=true", "-Xshare:auto"]
        logging = node.parent / "log4j2.properties"
        flags += [f"-Dlog4j2.configurationFile={logging}", f"-Dstreamserve.log={node / 'kafka.log'}"]
        command = self._command(flags, "kafka.Kafka", str(node / "server.properties"))
        return LocalProcess(node.name.replace("-", " "), command, node / "kafka.log")

    def formatter(self, node: Path, cluster_id: str) -> list[str]:
        """Command that writes a broker's first log directory."""
        flags = ["-Xmx128m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xshare:auto"]
        flags += [f"-Dlog4j2.configurationFile={node.parent / 'log4j2.properties'}"]
        flags += [f"-Dstreamserve.log={node / 'format.log'}"]
        arguments = ["format", "-t", cluster_id, "-c", str(node / "server.properties")]
        return self._command(flags, "kafka.tools.StorageTool", *arguments)

    def _command(self, flags: Sequence[str], main: str, *arguments: str) -> list[str]:
        return [self._program, *flags, "-cp", f"{self._jars}/*", main, *arguments]


def _format(nodes: Sequence[Path], jvm: _Jvm, data_dir: Path) -> None:
    """Format the log directories of new brokers, all at once."""
    stamp = data_dir / "cluster.id"
    if not stamp.exists():
        stamp.write_text("A" + base64.urlsafe_b64encode(uuid.uuid4().bytes).decode()[1:22])  # never starts with "-"
    running = [
        subprocess.Popen(
            jvm.formatter(node, stamp.read_text()),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for node in nodes
    ]
    for node, child in zip(nodes, running, strict=True):
        output, _ = child.communicate()
        if child.returncode != 0:
            raise LocalServiceError(f"formatting {node / 'log'} failed:\n{output}")


def _replication(brokers: int) -> dict[str, str]:
    in_sync = "2" if brokers > 1 else "1"
    return {
        "default.replication.factor": str(brokers),
        "offsets.topic.replication.factor": str(brokers),
        "transaction.state.log.replication.factor": str(brokers),
        "share.coordinator.state.topic.replication.factor": str(brokers),
        "min.insync.replicas": in_sync,
        "transaction.state.log.min.isr": in_sync,
        "share.coordinator.state.topic.min.isr": in_sync,
    }


def _listeners(ports: Mapping[str, int]) -> str:
    return ",".join(f"{name}://127.0.0.1:{port}" for name, port in ports.items())
