"""Which revision scored from which offset on: switch points, written in the transaction of the predictions they are of.

The first batch that a partition has under an epoch and a revision gets one. The epoch is part of it because an abort, a
rewind and a reassignment change it: whatever was said in a transaction that did not commit is said anew, and what
committed is true. Between two switch points of a partition every record was scored under the earlier one's revision.
"""

from __future__ import annotations

from streamserve.batch import OutboundBatch, RecordBatch, TopicPartition
from streamserve.pipeline.stages import ScoredBatch
from streamserve.rollout.records import SwitchPoint, encode

CONTROL_PARTITION = 0


class SwitchPoints:
    """The bookkeeping of one slot; used by whoever writes.

    Args:
        topic: the control topic.
        slot: who writes.
    """

    def __init__(self, topic: str, slot: str) -> None:
        self._topic = topic
        self._slot = slot
        self._said: dict[TopicPartition, tuple[int, int]] = {}

    def of(self, batch: ScoredBatch) -> OutboundBatch | None:
        """The switch points of a batch of current rows, in the order they must be written in; None, mostly."""
        epochs, revision = batch.records.epochs, batch.revision
        new = [tp for tp in batch.positions if self._said.get(tp) != (epochs[tp], revision)]
        if not new:
            return None
        self._said = {tp: said for tp, said in self._said.items() if tp in epochs}
        self._said.update((tp, (epochs[tp], revision)) for tp in new)
        rows = [_first_row(batch.records, tp) for tp in new]
        records = [
            encode(
                SwitchPoint(
                    topic=tp.topic,
                    partition=tp.partition,
                    offset=batch.records.offset[row],
                    revision=revision,
                    slot=self._slot,
                )
            )
            for tp, row in zip(new, rows, strict=True)
        ]
        return OutboundBatch(
            topic=self._topic,
            row=rows,
            partition=[CONTROL_PARTITION] * len(new),
            key=[key for key, _ in records],
            value=[value for _, value in records],
        )


def _first_row(records: RecordBatch, place: TopicPartition) -> int:
    return next(row for row, at in enumerate(zip(records.topic, records.partition, strict=True)) if at == place)
