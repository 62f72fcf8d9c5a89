"""What a demo ends with: the figures, as text for people and as one JSON object for programs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from streamserve.demo.drift_topics import DriftFigures
from streamserve.demo.ledger import Count, Latencies, Percentiles, Sent


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The outcome of a run.

    Attributes:
        events: sent, bad ones included.
        predictions, dead_letters: records that a read_committed reader found.
        reasons: dead letters by reason.
        lost: events sent that are in neither topic.
        duplicated: records beyond the first of each event.
        inversions: predictions that came before one of an earlier event of their partition.
        seconds: from the first event to the last prediction or dead letter.
        latency_ms: from the time an event was due to its prediction being read; None without any.
        exactly_once: whether a duplicate is a fault.
        first_prediction_s: from the start of the command to the first prediction; None without any.
        drift: what the sidecar found; None without a sidecar.
    """

    events: int
    predictions: int
    dead_letters: int
    reasons: Mapping[str, int]
    lost: int
    duplicated: int
    inversions: int
    seconds: float
    latency_ms: Percentiles | None
    exactly_once: bool
    broker: str
    cache: str
    workers: int
    first_prediction_s: float | None
    drift: DriftFigures | None = None

    @classmethod
    def of(
        cls, sent: Sent, count: Count, latencies: Latencies, *, seconds: float, first_prediction_s: float | None,
        broker: str, cache: str, workers: int, exactly_once: bool, drift: DriftFigures | None = None,
    ) -> Summary:  # fmt: skip
        """From the ledger."""
        return cls(
            events=len(sent),
            predictions=count.predictions,
            dead_letters=count.dead_letters,
            reasons=dict(count.reasons.most_common()),
            lost=count.lost(sent),
            duplicated=count.duplicated,
            inversions=count.inversions,
            seconds=seconds,
            latency_ms=latencies.percentiles(),
            exactly_once=exactly_once,
            broker=broker,
            cache=cache,
            workers=workers,
            first_prediction_s=first_prediction_s,
            drift=drift,
        )

    @property
    def events_per_s(self) -> float:
        """Events over the seconds they took, to the last that came out."""
        return self.events / self.seconds if self.seconds > 0 else 0.0

    @property
    def kept(self) -> bool:
        """Whether the run kept what its guarantee promises."""
        return self.lost == 0 and (self.duplicated == 0 or not self.exactly_once)

    def document(self) -> dict[str, object]:
        """For `--format json`."""
        latency = self.latency_ms
        return {
            "events": self.events,
            "predictions": self.predictions,
            "dead_letters": self.dead_letters,
            "lost": self.lost,
            "duplicated": self.duplicated,
            "out_of_order": self.inversions,
            "events_per_s": round(self.events_per_s, 1),
            "latency_ms": {
                name: round(value, 2) for name, value in latency._asdict().items()
            } if latency else None,
            "reasons": dict(self.reasons),
            "seconds": round(self.seconds, 3),
            "first_prediction_s": None if self.first_prediction_s is None else round(self.first_prediction_s, 2),
            "broker": self.broker,
            "cache": self.cache,
            "workers": self.workers,
            "guarantee": "exactly_once" if self.exactly_once else "at_least_once",
            "drift": None if self.drift is None else self.drift.document(),
        }  # fmt: skip

    def rows(self) -> list[tuple[str, str, str]]:
        """For people: name, figure, remark."""
        latency = self.latency_ms
        reasons = ", ".join(f"{reason} {count}" for reason, count in self.reasons.items())
        return [
            ("events", f"{self.events:,}", f"in {self.seconds:.1f} s, {self.events_per_s:,.0f} a second"),
            ("predictions", f"{self.predictions:,}", ""),
            ("dead letters", f"{self.dead_letters:,}", reasons),
            ("lost", f"{self.lost:,}", ""),
            ("duplicated", f"{self.duplicated:,}", "" if self.exactly_once else "at least once: may be more than 0"),
            ("out of order", f"{self.inversions:,}", ""),
            (
                "latency",
                "none" if latency is None else f"{latency.p50:.0f} ms",
                "" if latency is None else f"p50; p95 {latency.p95:.0f} ms, p99 {latency.p99:.0f} ms",
            ),
            *(() if self.drift is None else self.drift.rows()),
        ]
