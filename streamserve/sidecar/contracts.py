"""What the service asks of the monitor that it runs, one per partition of the samples topic.

`streamserve.drift.monitor` fits; the service knows no statistics, and its own tests run it with a monitor that only
counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, Protocol

from streamserve.config.settings import PipelineSettings
from streamserve.drift.reference import Reference

TopicRole = Literal["reports", "alerts", "samples"]
Document = Mapping[str, object]
Label = tuple[int, int, bytes | None]
"""Partition, offset and value of a message of the labels topic."""


class Event(Protocol):
    """Something to publish."""

    @property
    def kind(self) -> str: ...
    @property
    def topic_role(self) -> TopicRole: ...
    @property
    def key(self) -> bytes: ...
    def json(self) -> bytes: ...


class References(Protocol):
    """Where references come from."""

    def find(self, model: str, version: str) -> Reference | None:
        """The reference of a model version, as it is now."""
        ...


class Monitor(Protocol):
    """Judges the chunks and labels of one partition; not for two threads at a time (see `SharedMonitor`)."""

    def restore(self, documents: Iterable[Document]) -> int | None:
        """Go on from the newest states and learned references, oldest first.

        Returns:
            The offset of the samples partition to rebuild from; None is as far back as makes sense.
        """
        ...

    def rebuilt(self, labels: Mapping[int, int]) -> None:
        """The rebuild is over; labels were read up to these positions."""
        ...

    def chunk(self, data: bytes | None, offset: int, wall_ms: int) -> Iterable[Event]:
        """Take a message of the samples topic. Never raises."""
        ...

    def labels(self, records: Sequence[Label]) -> None:
        """Take messages of the labels topic; what follows from them is told with the next chunk. Never raises."""
        ...

    def overview(self, wall_ms: int) -> Document:
        """What the dashboard shows of it."""
        ...

    def column(self, model: str, version: str, window_s: float, segment: str, name: str) -> Document | None:
        """One column in detail."""
        ...

    def metrics(self) -> Document:
        """Figures for Prometheus.

        `chunks`, `rows` and `labels`: outcome -> count since it was made. `open_incidents`. `versions`: per model
        version `model`, `version`, `reference` (hash, or empty), `provisional`, `columns` (names, the worst first) and
        `windows`, each with `window_s`, `rows`, `scores` (statistic -> value per column) and `drifted` per column.
        """
        ...


MonitorFactory = Callable[[PipelineSettings, References], Monitor]
