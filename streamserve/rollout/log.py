"""What the rollout topic says, folded record by record: the state, its history, who follows, and what was when.

Whoever reads the topic keeps one. The fold depends on nothing but the records and their order, so every worker, the
sidecar and the command line come to the same state; and since compaction keeps every command (each has a key of its
own), one that starts today comes to the same state as one that has run for a year.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass

from streamserve.batch import TopicPartition
from streamserve.rollout.records import (
    Acknowledgement,
    Command,
    RecordError,
    SwitchPoint,
    acknowledged_slot,
    decode,
)
from streamserve.rollout.split import Split, split_of
from streamserve.rollout.state import Refused, RolloutState, apply


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """A command that was given, and what came of it.

    Attributes:
        offset: where it stands; the revision that it made, if it had an effect.
        command: with who, when and why.
        refused: why it had no effect; empty when it had one.
    """

    offset: int
    command: Command
    refused: str = ""


class RolloutLog:
    """The fold.

    Attributes:
        state: after everything that was added.
        history: every command, oldest first.
        acknowledgements: by slot, the newest; slots that have left are gone.
        switches: per input partition, ascending by offset, each with another revision than the one before it.
        skipped: records that are none of ours, or broken, or older than what was added before.
    """

    def __init__(self) -> None:
        self.state = RolloutState()
        self.history: list[Given] = []
        self.acknowledgements: dict[str, Acknowledgement] = {}
        self.switches: dict[TopicPartition, list[SwitchPoint]] = {}
        self.skipped = 0
        self._states = [self.state]
        self._splits: dict[int, Split | None] = {}
        self._end = 0

    def add(self, offset: int, key: bytes | None, value: bytes | None) -> None:
        """Take the record at `offset`; what cannot be read is counted and skipped, for ever or for a newer release."""
        if offset < self._end:
            self.skipped += 1  # read again, or the topic was made anew: a new topic needs a new fold
            return
        self._end = offset + 1
        if value is None:
            self._remove(key)
            return
        try:
            record = decode(value)
        except RecordError:
            self.skipped += 1
            return
        match record:
            case Acknowledgement():
                self.acknowledgements[record.slot] = record
            case SwitchPoint():
                self._switch(record)
            case _:
                self._command(offset, record)

    def given(self, offset: int) -> Given | None:
        """The command at an offset."""
        index = bisect_left(self.history, offset, key=lambda given: given.offset)
        found = self.history[index : index + 1]
        return found[0] if found and found[0].offset == offset else None

    def state_at(self, revision: int) -> RolloutState:
        """The state of a revision: the one in force when the topic was that long."""
        return self._states[bisect_right(self._states, revision, key=lambda state: state.revision) - 1]

    def given_ms(self, revision: int) -> int:
        """When the command of a revision was given, by the clock of whoever gave it; 0 when it does not say."""
        index = bisect_right(self.history, revision, key=lambda given: given.offset) - 1
        return self.history[index].command.at_ms if index >= 0 else 0

    def revision_at(self, topic: str, partition: int, offset: int) -> int | None:
        """The revision by which an input record was scored; None: from before the partition's first switch point."""
        points = self.switches.get(TopicPartition(topic, partition), [])
        index = bisect_right(points, offset, key=lambda point: point.offset)
        return points[index - 1].revision if index else None

    def version_at(self, topic: str, partition: int, offset: int, key: bytes) -> str | None:
        """The version that scored an input record.

        Args:
            topic: of the input.
            partition: of the input.
            offset: of the record.
            key: its entity key, or its id where it has none.

        Returns:
            None for records from before the partition's first switch point.
        """
        revision = self.revision_at(topic, partition, offset)
        if revision is None:
            return None
        state = self.state_at(revision)
        if state.revision not in self._splits:
            self._splits[state.revision] = split_of(state)
        split = self._splits[state.revision]
        return state.stable if split is None else state.sides[int(split.sides([key])[0])]

    def _remove(self, key: bytes | None) -> None:
        slot = acknowledged_slot(key)
        if slot is None:
            self.skipped += 1
        else:
            self.acknowledgements.pop(slot, None)

    def _command(self, offset: int, command: Command) -> None:
        try:
            self.state = apply(self.state, command, offset)
        except Refused as refused:
            self.history.append(Given(offset=offset, command=command, refused=str(refused)))
        else:
            self._states.append(self.state)
            self.history.append(Given(offset=offset, command=command))

    def _switch(self, point: SwitchPoint) -> None:
        """A point holds from its offset on: what an earlier pass over the partition said of that is overruled.

        Aborts, rebalances and restarts repeat the revision in force; that says nothing, and is not kept.
        """
        points = self.switches.setdefault(point.place, [])
        while points and points[-1].offset >= point.offset:
            points.pop()
        if not points or points[-1].revision != point.revision:
            points.append(point)
