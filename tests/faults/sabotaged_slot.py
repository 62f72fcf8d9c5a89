"""A worker slot with one promise broken on purpose (`SABOTAGE` names it), to prove that the oracle can tell."""

from __future__ import annotations

import os
import random
import sys


def offsets_before_outputs() -> None:
    """At least once turned round: offsets are committed first, outputs are produced afterwards."""
    from streamserve import failpoints
    from streamserve.kafka.at_least_once import AtLeastOnceSink, _Delivery

    commit = AtLeastOnceSink.commit

    def begin(self, _timeout_s):
        delivery = _Delivery(self)
        held = []
        delivery.add = held.append
        delivery.flush = lambda: None

        def wrong_way_round(positions, _metadata):
            commit(self, positions)
            failpoints.reach("after_send_offsets")
            for part in held:
                self.add(part)
            self.flush()

        delivery.commit = wrong_way_round
        return delivery

    AtLeastOnceSink.begin = begin


def offsets_in_a_second_transaction() -> None:
    """Outputs are committed, then the offsets, by themselves."""
    from confluent_kafka import TopicPartition

    from streamserve import failpoints
    from streamserve.kafka.transactional import CALL_TIMEOUT_S, KafkaTransaction

    def commit(self, positions, metadata):
        slot = self._slot
        slot.call("commit_transaction")
        failpoints.reach("after_send_offsets")
        slot.call("begin_transaction")
        offsets = [TopicPartition(*tp, position) for tp, position in positions.items()]
        slot.call("send_offsets_to_transaction", offsets, metadata, CALL_TIMEOUT_S)
        slot.call("commit_transaction")
        self._release(slot)

    KafkaTransaction.commit = commit


def no_epochs() -> None:
    """Rows of partitions that left, or that were polled before a rewind, are taken for current."""
    from streamserve.pipeline.assignment import Assignment

    Assignment.stale = lambda _self, _positions, _epochs: set()


def forgetful_cache() -> None:
    """One batch in five never reaches the cache."""
    from streamserve.cache.slot_cache import SlotCache

    offer, draw = SlotCache.offer, random.Random(1)
    SlotCache.offer = lambda self, entries: offer(self, entries) if draw.random() > 0.2 else None


if __name__ == "__main__":
    from streamserve.slot import main

    globals()[os.environ["SABOTAGE"]]()
    sys.exit(main())
