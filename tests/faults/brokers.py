"""Row C: leaders of the transaction log and of the group's offsets stopped and killed; row H: one broker killed."""

from __future__ import annotations

import time
from collections import Counter
from functools import reduce

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from streamserve.demo.local_kafka import KafkaBroker, LocalKafka
from tests.faults.observe import wait_for
from tests.faults.oracle import Verdict
from tests.faults.rebalances import longest_pause_s
from tests.faults.scene import Scale, classic, made, scene

PAUSE_S = 5.0
KINDS = [("pause", "transactions"), ("kill", "group"), ("pause", "group"), ("kill", "transactions")]
INTERNAL = {"transactions": "__transaction_state", "group": "__consumer_offsets"}


def java_hash(text: str) -> int:
    """`String.hashCode` of Java, as the brokers place groups and transactional ids."""
    value = reduce(lambda sum_, character: (31 * sum_ + ord(character)) & 0xFFFFFFFF, text, 0)
    return value - (1 << 32) if value >= 1 << 31 else value


def leader(cluster: LocalKafka, topic: str, name: str) -> KafkaBroker:
    """The broker that coordinates `name` (a group or a transactional id)."""
    admin = AdminClient({"bootstrap.servers": cluster.bootstrap, "log_level": 2})
    partitions = admin.list_topics(topic, timeout=20).topics[topic].partitions
    number = abs(java_hash(name)) % len(partitions)
    return cluster.brokers[partitions[number].leader - 1]


def whole(cluster: LocalKafka) -> bool:
    """Whether every partition is in sync on every broker; a cluster that cannot say so within a while is not."""
    admin = AdminClient({"bootstrap.servers": cluster.bootstrap, "log_level": 2})
    try:
        topics = admin.list_topics(timeout=10).topics.values()
    except KafkaException:
        return False
    return all(len(p.isrs) == len(cluster.brokers) and p.leader > 0 for t in topics for p in t.partitions.values())


def coordinators(cluster: LocalKafka, redis_url: str | None, scale: Scale) -> Verdict:
    """Pause and kill, in turns, the leader of one of our transaction log partitions and that of our group.

    `scale.faults` in all. The next fault waits until the cluster is whole.
    """
    done: Counter[str] = Counter()
    with (
        made(cluster.bootstrap, "coordinators", redis_url=redis_url, kafka=classic(scale.session_ms)) as target,
        scene(target, scale.rate) as stage,
    ):
        stage.sleep_until(3)
        for number in range(scale.faults):
            how, what = KINDS[number % len(KINDS)]
            name = f"{target.name}.{stage.slots[number % 2].name}.{number % 3}"
            broker = leader(cluster, INTERNAL[what], target.name if what == "group" else name)
            _strike(broker, how)
            done[f"{how} {what}"] += 1
            if not wait_for(lambda: whole(cluster), 60, 0.5):
                raise AssertionError("the cluster did not become whole again")
            time.sleep(2)
            stage.slots.revive()
        quiet_s = longest_pause_s(stage)
        verdict, _ = stage.verdict(within_s=180)
    verdict.notes |= {"faults": dict(done), "longest_pause_s": round(quiet_s, 1), "slots_exited": _exited(verdict)}
    return verdict


def _strike(broker: KafkaBroker, how: str) -> None:
    if how == "pause":
        broker.pause()
        time.sleep(PAUSE_S)
        broker.resume()
    else:
        broker.kill()
        time.sleep(PAUSE_S)
        broker.restart()


def _exited(verdict: Verdict) -> int:
    return int(str(verdict.notes["lives"])) - 2


def single_broker(redis_url: str | None, scale: Scale, *, guarantee: str = "exactly_once") -> Verdict:
    """A cluster of one: SIGKILL, and a new start on the same log directory."""
    with LocalKafka() as cluster:
        kafka = classic(scale.session_ms)
        with (
            made(cluster.bootstrap, "broker", guarantee=guarantee, redis_url=redis_url, kafka=kafka) as target,
            scene(target, scale.rate) as stage,
        ):
            for number in range(scale.faults):
                stage.sleep_until(scale.seconds * (number + 0.5) / scale.faults)
                cluster.brokers[0].kill()
                time.sleep(2)
                cluster.brokers[0].restart()
            stage.sleep_until(scale.seconds)
            verdict, _ = stage.verdict(within_s=180)
    verdict.notes |= {"broker_kills": scale.faults, "slots_exited": _exited(verdict)}
    return verdict
