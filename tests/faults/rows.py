"""The rows of the fault matrix by letter: what each does, in its full and its short form, and what it must show."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from streamserve.demo.local_kafka import LocalKafka
from tests.faults import brokers, cache_outages, kills, poison, rebalances, swaps
from tests.faults.oracle import Verdict
from tests.faults.scene import Scale


@dataclass(frozen=True, slots=True)
class Services:
    """What a row may use."""

    kafka: Callable[[], LocalKafka]
    kafka3: Callable[[], LocalKafka]
    redis_url: Callable[[], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the matrix.

    Attributes:
        run: the fault, at a scale.
        full, short: the two scales.
        at_least_once: duplicates are allowed.
        also: what else must hold; gives a text when it does not.
    """

    name: str
    title: str
    run: Callable[[Services, Scale], Verdict]
    full: Scale
    short: Scale
    at_least_once: bool = False
    also: Callable[[Verdict], str | None] = lambda _: None

    def scaled(self, seconds: float | None, rate: float | None, faults: int | None) -> Row:
        """With other figures for the full form, where they are given."""
        scale = replace(
            self.full,
            seconds=seconds or self.full.seconds,
            rate=rate or self.full.rate,
            faults=self.full.faults if faults is None else faults,
        )
        return replace(self, full=scale)

    def problems(self, verdict: Verdict) -> list[str]:
        """What did not hold."""
        found = [f"{name} {count}" for name, count in verdict.broken(at_least_once=self.at_least_once).items()]
        if not verdict.notes.get("worked_off", True):
            found.append("the input was not worked off")
        if any(code != 0 for code in verdict.notes.get("drain_codes", [])):  # type: ignore[attr-defined]
            found.append(f"exit codes of the drain {verdict.notes['drain_codes']}")
        if not verdict.events:
            found.append("no events")
        also = self.also(verdict)
        return [*found, also] if also else found


def _unless(*conditions: tuple[str, Callable[[dict[str, object]], bool]]) -> Callable[[Verdict], str | None]:
    """A check of notes: the texts of the conditions that fail."""

    def check(verdict: Verdict) -> str | None:
        return "; ".join(text for text, holds in conditions if not holds(verdict.notes)) or None

    return check


def _open_share(notes: dict[str, object]) -> bool:
    return int(str(notes["kills"])) < 20 or int(str(notes["transaction_open"])) >= 15


def _few_aborts(notes: dict[str, object]) -> bool:
    return int(str(notes["aborts_in_a_row"])) <= 3


A_SHORT = Scale(seconds=14, rate=1000, faults=4, session_ms=2000)


def _kills_row(name: str, title: str, **how: object) -> Row:
    wanted = (("fewer than 15 kills met an open transaction", _open_share),) if not how else ()
    return Row(
        name=name,
        title=title,
        run=lambda services, scale: kills.kills(services.kafka().bootstrap, services.redis_url(), scale, **how),  # type: ignore[arg-type]
        full=Scale(seconds=100, rate=2000, faults=20),
        short=Scale(seconds=8, rate=1000, faults=2, session_ms=2000) if how else A_SHORT,
        at_least_once=how.get("guarantee") == "at_least_once",
        also=_unless(*wanted),
    )


def _storm_row(name: str, protocol: str) -> Row:
    return Row(
        name=name,
        title=f"a third member joins or leaves every 5 s, {protocol} group protocol",
        run=lambda services, scale: rebalances.storm(
            services.kafka().bootstrap, services.redis_url(), scale, protocol=protocol
        ),
        full=Scale(seconds=60, rate=2000, faults=12),
        short=Scale(seconds=14, rate=1000, faults=4, session_ms=3000),
        also=_unless(
            ("more than three aborts in a row", _few_aborts),
            ("the guest never joined", lambda notes: bool(notes["joined"])),
        ),
    )


def _crash_row(name: str, title: str, fault: str) -> Row:
    return Row(
        name=name,
        title=title,
        run=lambda services, scale: poison.native_crash(
            services.kafka().bootstrap, services.redis_url(), scale, fault=fault
        ),
        full=Scale(seconds=40, rate=2000, faults=1),
        short=Scale(seconds=10, rate=500, faults=1, session_ms=2000),
        also=_unless(
            ("not the marked row alone was dead-lettered", lambda notes: bool(notes["only_the_marked_row"])),
            ("no engine crashed", lambda notes: bool(notes["crashes"])),
            ("the supervisor did not exit with 0", lambda notes: notes["supervisor_code"] == 0),
        ),
    )


def _swaps_row(name: str, title: str, *, kills: bool = False) -> Row:
    return Row(
        name=name,
        title=title,
        run=lambda services, scale: swaps.swaps(services.kafka().bootstrap, scale, kills=kills),
        full=Scale(seconds=60, rate=2000, faults=20),
        short=Scale(seconds=14, rate=1000, faults=10, session_ms=2000),
        also=_unless(
            ("records failed", lambda notes: not notes["failed_records"]),
            ("predictions are not of the version that history names", lambda notes: not notes["inconsistent"]),
            ("predictions have not the value of their version", lambda notes: not notes["wrong_values"]),
            ("a command was not answered", lambda notes: not notes["unanswered"]),
            ("fewer than two versions served", lambda notes: len(notes["served"]) >= 2),  # type: ignore[arg-type]
        ),
    )


def _ratio(notes: dict[str, object]) -> bool:
    return min(float(str(notes["paused_to_calm"])), float(str(notes["shut_down_to_calm"]))) >= 0.9


def _poison_exact(notes: dict[str, object]) -> bool:
    return notes["reasons"] == notes["reasons_expected"] and not notes["wrong_reasons"] and not notes["clean_run"]


ROWS = [
    _kills_row("A", "workers killed (SIGKILL), restarted under the same slot name"),
    _kills_row("A-at-least-once", "the same under at_least_once", guarantee="at_least_once"),
    _kills_row("A-renamed", "the same, restarted under another slot name", rename=True),
    _storm_row("B", "classic"),
    _storm_row("B-kip848", "consumer"),
    Row(
        name="C",
        title="leaders of the transaction log and of the group's offsets paused 5 s and killed, three brokers",
        run=lambda services, scale: brokers.coordinators(services.kafka3(), services.redis_url(), scale),
        full=Scale(seconds=0, rate=2000, faults=20, session_ms=10_000),
        short=Scale(seconds=0, rate=500, faults=2, session_ms=10_000),
    ),
    Row(
        name="D",
        title="1 % poison; once more without",
        run=lambda services, scale: poison.poisoned(services.kafka().bootstrap, services.redis_url(), scale),
        full=Scale(seconds=20, rate=5000, faults=0),
        short=Scale(seconds=4, rate=2000, faults=0),
        also=_unless(
            ("dead letters are not exact", _poison_exact),
            ("predictions beside poison differ", lambda notes: not notes["beyond_tolerance"]),
        ),
    ),
    Row(
        name="E",
        title="Redis paused, then shut down and restarted empty",
        run=lambda services, scale: cache_outages.outages(services.kafka().bootstrap, scale),
        full=Scale(seconds=20, rate=5000, faults=0),
        short=Scale(seconds=3, rate=500, faults=0),
    ),
    Row(
        name="F",
        title="rolling restart of three workers (SIGTERM)",
        run=lambda services, scale: kills.rolling(services.kafka().bootstrap, services.redis_url(), scale),
        full=Scale(seconds=60, rate=2000, faults=9),
        short=Scale(seconds=9, rate=1000, faults=3),
        also=_unless(("a restart did not exit with 0", lambda notes: set(notes["restart_codes"]) == {0})),  # type: ignore[call-overload]
    ),
    Row(
        name="G",
        title="zombie: SIGSTOP inside the commit beyond the session timeout, then SIGCONT",
        run=lambda services, scale: rebalances.zombies(services.kafka().bootstrap, services.redis_url(), scale),
        full=Scale(seconds=0, rate=2000, faults=10),
        short=Scale(seconds=0, rate=500, faults=2, session_ms=2000),
        also=_unless(("no slot came to a stop", lambda notes: bool(notes["stopped"]))),
    ),
    Row(
        name="H",
        title="the only broker killed (SIGKILL) and restarted on its log directory",
        run=lambda services, scale: brokers.single_broker(services.redis_url(), scale),
        full=Scale(seconds=60, rate=2000, faults=4, session_ms=10_000),
        short=Scale(seconds=10, rate=500, faults=1, session_ms=10_000),
    ),
    _crash_row("I", "one row brings the native engine down (SIGSEGV)", "SIGSEGV"),
    _crash_row("I-device", "one row makes the device fail for good", "device"),
    _swaps_row("J", "versions swapped under load, one broken in each way, two at once"),
    _swaps_row("J-kills", "the same, with slots killed (SIGKILL) right after commands", kills=True),
]


def chosen(names: list[str]) -> Iterator[Row]:
    """Rows by name; a letter means all rows that begin with it. Raises: ValueError for an unknown one."""
    for name in names:
        found = [row for row in ROWS if row.name.lower() == name.lower() or row.name.split("-")[0] == name.upper()]
        if not found:
            raise ValueError(f"no row {name}; there are {', '.join(row.name for row in ROWS)}")
        yield from found
