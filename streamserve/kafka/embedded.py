"""A Kafka for tests that takes no time and no Java: librdkafka's own mock cluster, in a child process.

Owns the child (`python -m streamserve.kafka.embedded`) and the handful of C calls that run in it. The library
that confluent-kafka ships exports the mock's functions, so topics are made with the partition count that is
wanted; a client's `test.mock.num.brokers` could not say it. The child ends when our end of its stdin closes,
so it cannot be left behind. Where it sits: `streamserve.testing`, fast tests of workers, and the demo where no
real Kafka can be had; not a benchmark.

What it does: produce (idempotent too), fetch, watermarks, consumer groups (classic and KIP-848), offset
commits, timestamps, headers, and the whole transactional API.

What it does not do, so what a test on it cannot prove:

- no admin API: creating, describing and altering topics, listing groups and ACLs time out or answer nothing.
  Use `create_topic`; a topic that was not created appears with 4 partitions when a client asks for it;
- aborted records are visible to `read_committed`, and open transactions never expire;
- a fenced producer may still commit. **Exactly once is proved on a real broker only** (`streamserve.demo`);
- no compaction, no retention; records live in memory.
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self

from streamserve.errors import BrokerUnavailable

if TYPE_CHECKING:
    from types import TracebackType

_PRODUCER = 0  # rd_kafka_type_t: any client can own a mock cluster
_STOP_TIMEOUT_S = 5.0


class EmbeddedKafka:
    """A mock cluster in a child process; a context manager.

    Args:
        brokers: how many mock brokers.

    Raises:
        BrokerUnavailable: from entering, when the child did not start or the library lacks the mock.
    """

    def __init__(self, brokers: int = 1) -> None:
        self._brokers = brokers
        self._bootstrap = ""
        self._child: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self._child = subprocess.Popen(
            [sys.executable, "-m", "streamserve.kafka.embedded", str(self._brokers)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        answer = _stream(self._child.stdout).readline().strip()
        if not answer:
            self.close()
            raise BrokerUnavailable("the embedded Kafka did not start; its error is on stderr")
        self._bootstrap = answer
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def bootstrap(self) -> str:
        """`bootstrap.servers` of the mock cluster."""
        if self._child is None:
            raise BrokerUnavailable("this EmbeddedKafka is not started")
        return self._bootstrap

    @property
    def pid(self) -> int:
        """Process id of the child."""
        if self._child is None:
            raise BrokerUnavailable("this EmbeddedKafka is not started")
        return self._child.pid

    def create_topic(self, name: str, partitions: int = 1) -> None:
        """Create a topic.

        Raises:
            BrokerUnavailable: the mock refused, for instance because the topic exists.
        """
        if self._child is None:
            raise BrokerUnavailable("this EmbeddedKafka is not started")
        orders = _stream(self._child.stdin)
        orders.write(f"{name} {partitions}\n")
        orders.flush()
        answer = _stream(self._child.stdout).readline().strip()
        if answer != "ok":
            raise BrokerUnavailable(f"the embedded Kafka refused topic {name}: {answer or 'it is gone'}")

    def close(self) -> None:
        """End the child. Safe to call twice."""
        if self._child is None:
            return
        _stream(self._child.stdin).close()
        try:
            self._child.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        _stream(self._child.stdout).close()
        self._child = None


class _MockCluster:
    """The C side: one client handle and the mock cluster on it. Lives as long as its process."""

    def __init__(self, library: ctypes.CDLL, brokers: int) -> None:
        library.rd_kafka_conf_new.restype = ctypes.c_void_p
        library.rd_kafka_conf_set.argtypes = [ctypes.c_void_p, *[ctypes.c_char_p] * 3, ctypes.c_size_t]
        library.rd_kafka_new.restype = ctypes.c_void_p
        library.rd_kafka_new.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t]
        library.rd_kafka_mock_cluster_new.restype = ctypes.c_void_p
        library.rd_kafka_mock_cluster_new.argtypes = [ctypes.c_void_p, ctypes.c_int]
        library.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
        library.rd_kafka_mock_cluster_bootstraps.argtypes = [ctypes.c_void_p]
        library.rd_kafka_mock_topic_create.argtypes = [ctypes.c_void_p, ctypes.c_char_p, *[ctypes.c_int] * 2]
        library.rd_kafka_mock_group_initial_rebalance_delay_ms.argtypes = [ctypes.c_void_p, ctypes.c_int32]
        library.rd_kafka_err2name.restype = ctypes.c_char_p
        self._library = library
        self._replicas = min(brokers, 3)
        why = ctypes.create_string_buffer(512)
        settings = library.rd_kafka_conf_new()
        library.rd_kafka_conf_set(settings, b"log_level", b"3", why, len(why))  # the client itself has no broker
        client = library.rd_kafka_new(_PRODUCER, settings, why, len(why))
        if not client:
            raise BrokerUnavailable(f"librdkafka gave no client: {why.value.decode()}")
        self._cluster = library.rd_kafka_mock_cluster_new(client, brokers)
        library.rd_kafka_mock_group_initial_rebalance_delay_ms(self._cluster, 100)  # default 3 s: slow joins

    @property
    def bootstrap(self) -> str:
        return bytes(self._library.rd_kafka_mock_cluster_bootstraps(self._cluster)).decode()

    def create_topic(self, name: str, partitions: int) -> str:
        """Returns `ok` or the name of librdkafka's error."""
        code = self._library.rd_kafka_mock_topic_create(self._cluster, name.encode(), partitions, self._replicas)
        return "ok" if code == 0 else bytes(self._library.rd_kafka_err2name(code)).decode()


def main(brokers: int) -> None:
    """Run the mock cluster: its address on stdout, then an answer to each `topic partitions` on stdin."""
    cluster = _MockCluster(_librdkafka(), brokers)
    print(cluster.bootstrap, flush=True)  # noqa: T201 - the protocol with the parent
    for line in sys.stdin:
        name, partitions = line.split()
        print(cluster.create_topic(name, int(partitions)), flush=True)  # noqa: T201


def _librdkafka() -> ctypes.CDLL:
    """The library that confluent-kafka itself uses: bundled in the wheel, else the system's."""
    import confluent_kafka

    package = Path(confluent_kafka.__file__).parent
    bundled = sorted(package.with_name("confluent_kafka.libs").glob("librdkafka*"))
    library = ctypes.CDLL(str(bundled[0]) if bundled else "librdkafka.so.1")
    if not hasattr(library, "rd_kafka_mock_cluster_new"):
        raise BrokerUnavailable("this librdkafka was built without its mock cluster; install the confluent-kafka wheel")
    return library


def _stream(pipe: IO[str] | None) -> IO[str]:
    if pipe is None:
        raise BrokerUnavailable("the embedded Kafka has no pipe")
    return pipe


if __name__ == "__main__":
    main(int(sys.argv[1]))
