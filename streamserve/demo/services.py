"""Local Kafka and Redis that go on after the command that started them.

Owns the records of running services (`<cache>/services/<name>.json`: processes, ports, data folder) and the
commands `start`, `stop` and `status`. Stops only what it started: a process must still have the start time
that was noted. Refuses to know how a service runs (`local_kafka`, `local_redis`). `scripts/kafka` and
`scripts/redis` call it, so

    eval "$(scripts/kafka start)"

leaves KAFKA_BOOTSTRAP in the shell. Progress goes to stderr, the export line alone to stdout.
"""

# ruff: noqa: T201 - a command line
from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import shutil
import signal
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from streamserve.demo.local_kafka import LocalKafka
from streamserve.demo.local_process import LocalServiceError, cache_dir, identity
from streamserve.demo.local_redis import LocalRedis

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_VARIABLES = {"kafka": "KAFKA_BOOTSTRAP", "redis": "REDIS_URL"}
_NOT_RUNNING = 1
_USAGE = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A service that was started: where it is, and what to end when it is stopped.

    `processes` maps each process id to the identity that it had (`local_process.identity`).
    """

    name: str
    address: str
    ports: list[int]
    processes: dict[str, str]
    data_dir: str

    @property
    def running(self) -> bool:
        """Whether every process that was started is still there."""
        return all(identity(int(pid)) == known for pid, known in self.processes.items())

    def end(self) -> None:
        """Kill the processes that are still the ones we started, and remove the data."""
        for pid, known in self.processes.items():
            if identity(int(pid)) == known:
                os.kill(int(pid), signal.SIGKILL)
        for pid, known in self.processes.items():
            while identity(int(pid)) == known:
                time.sleep(0.01)
        shutil.rmtree(self.data_dir, ignore_errors=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code: 0 running or done, 1 not running or failed, 2 usage."""
    options = _parse(arguments)
    record = cache_dir() / "services" / f"{options.service}.json"
    record.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _locked(record.with_suffix(".lock")):
            if options.command == "start":
                return _start(record, options)
            return _stop(record) if options.command == "stop" else _status(record)
    except LocalServiceError as error:
        print(error, file=sys.stderr)
        return error.exit_code


def _start(record: Path, options: argparse.Namespace) -> int:
    service = _read(record)
    if service is not None and service.running:
        wanted = options.brokers if options.service == "kafka" else 1
        if wanted not in (None, len(service.processes)) or options.port not in (None, service.ports[0]):
            print(f"{service.name} runs already, otherwise: {service.address}; stop it first", file=sys.stderr)
            return _USAGE
    else:
        if service is not None:
            service.end()
        began = time.monotonic()
        service = _launch_kafka(options) if options.service == "kafka" else _launch_redis(options)
        record.write_text(json.dumps(asdict(service), indent=2) + "\n")
        print(f"{service.name} is up after {time.monotonic() - began:.1f} s: {service.address}", file=sys.stderr)
    print(f"export {_VARIABLES[service.name]}={service.address}")
    return 0


def _stop(record: Path) -> int:
    service = _read(record)
    if service is not None:
        service.end()
        record.unlink()
    return 0


def _status(record: Path) -> int:
    service = _read(record)
    if service is None or not service.running:
        print(f"{record.stem} is not running", file=sys.stderr)
        return _NOT_RUNNING
    print(f"{service.name} runs at {service.address}, processes {', '.join(service.processes)}")
    return 0


def _launch_kafka(options: argparse.Namespace) -> Service:
    brokers = options.brokers or 1
    ports = None if options.port is None else [options.port + index for index in range(brokers)]
    kafka = LocalKafka(brokers, ports=ports)
    kafka.start(outlive=True)
    return Service(
        name="kafka",
        address=kafka.bootstrap,
        ports=[broker.port for broker in kafka.brokers],
        processes=_identities([broker.pid for broker in kafka.brokers]),
        data_dir=str(kafka.data_dir),
    )


def _launch_redis(options: argparse.Namespace) -> Service:
    server = LocalRedis(port=options.port)
    server.start(outlive=True)
    return Service(
        name="redis",
        address=server.url,
        ports=[server.port],
        processes=_identities([server.pid]),
        data_dir=str(server.data_dir),
    )


def _identities(pids: Sequence[int]) -> dict[str, str]:
    return {str(pid): known for pid in pids if (known := identity(pid)) is not None}


def _read(record: Path) -> Service | None:
    try:
        return Service(**json.loads(record.read_text()))
    except FileNotFoundError:
        return None


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="services", description="Real Kafka and Redis on loopback, without Docker.")
    services = parser.add_subparsers(dest="service", required=True)
    for name, variable in _VARIABLES.items():
        commands = services.add_parser(name, help=f"sets {variable}").add_subparsers(dest="command", required=True)
        start = commands.add_parser("start", help=f"start it and print `export {variable}=...`")
        start.add_argument("--port", type=int, help="first port; default a free one")
        if name == "kafka":
            start.add_argument("--brokers", type=int, choices=(1, 3), help="default 1")
        commands.add_parser("stop", help="end what start began, and remove its data")
        commands.add_parser("status", help="exit code 0 when it runs, else 1")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
