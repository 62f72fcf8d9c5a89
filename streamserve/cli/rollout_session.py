"""A command's way: read the rollout topic, refuse what would have no effect, publish, and see who follows.

Works on the ports, so that it is tested in memory and on Kafka alike; `rollout_session` opens it on a pipeline.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from streamserve.config.loading import LoadedConfig
from streamserve.errors import BrokerUnavailable, ConfigError
from streamserve.rollout.following import Follower, followers
from streamserve.rollout.log import Given, RolloutLog
from streamserve.rollout.records import Command, encode
from streamserve.rollout.state import RolloutState, apply
from streamserve.rollout.topic import RecordReader, RecordWriter

if TYPE_CHECKING:
    from streamserve.kafka.members import Members

READ_TIMEOUT_S = 30.0
POLL_S = 0.1
MEMBERS_EVERY_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Followed:
    """How far a command has come.

    Attributes:
        revision: which is to be followed.
        slots: where each stands.
    """

    revision: int
    slots: list[Follower]

    @property
    def live(self) -> list[Follower]:
        """Slots that are in the group."""
        return [follower for follower in self.slots if follower.standing != "gone"]

    @property
    def waiting(self) -> list[Follower]:
        """Live slots that have not answered."""
        return [follower for follower in self.slots if follower.standing == "waits"]

    @property
    def failed(self) -> list[Follower]:
        """Live slots that could not follow."""
        return [follower for follower in self.slots if follower.standing == "failed"]

    @property
    def by_nobody(self) -> bool:
        """Whether workers run, all of them have answered, and none could follow."""
        return bool(self.live) and len(self.failed) == len(self.live)


class RolloutSession:
    """The rollout topic, as somebody who gives commands sees it.

    Args:
        reader: open.
        writer: open, or opened when something is published.
        members: who is in the pipeline's group now.
    """

    def __init__(self, reader: RecordReader, writer: RecordWriter, members: Callable[[], Members]) -> None:
        self.log = RolloutLog()
        self._reader = reader
        self._writer = writer
        self._members = members

    def read(self) -> RolloutState:
        """Read to the end; the state now. Raises: BrokerUnavailable, SourceError."""
        for entry in self._reader.read_to_end(READ_TIMEOUT_S):
            self.log.add(*entry)
        return self.log.state

    def give(self, command: Command) -> Given:
        """Publish a command, unless it would have no effect; what came of it.

        Raises:
            RecordError: it is no command, such as for its weight.
            Refused: it has no effect in the state that was read last, and was not published.
            BrokerUnavailable, ContractError, SinkError: it was not published, or nobody knows.
        """
        encode(command)
        apply(self.log.state, command, self.log.state.revision + 1)
        offset = self._writer.publish(command)
        until_s = time.monotonic() + READ_TIMEOUT_S
        while (given := self.log.given(offset)) is None:
            if time.monotonic() > until_s:
                raise BrokerUnavailable(
                    f"the command was written at offset {offset} but could not be read back within"
                    f" {READ_TIMEOUT_S:g} s; `streamserve model history` will show what came of it",
                    retryable=True,
                )
            self._poll()
        return given

    def followed(self, revision: int) -> Followed:
        """Who follows now. Raises: BrokerUnavailable, SourceError."""
        members = self._members()
        return Followed(
            revision=revision,
            slots=followers(revision, self.log.acknowledgements, members.slots, members.unnamed),
        )

    def follow(self, revision: int, timeout_s: float, stop: Callable[[], bool]) -> Iterator[Followed]:
        """Who follows, again and again, until every live slot has answered, the time is over, or `stop` says so.

        Raises:
            BrokerUnavailable: nobody could be asked up to the end.
            SourceError: the topic or the group cannot be read.
        """
        until_s = time.monotonic() + timeout_s
        members, ask_at_s = self._members(), time.monotonic() + MEMBERS_EVERY_S
        while True:
            slots = followers(revision, self.log.acknowledgements, members.slots, members.unnamed)
            found = Followed(revision=revision, slots=slots)
            yield found
            now_s = time.monotonic()
            if not found.waiting or now_s >= until_s or stop():
                return
            self._poll()
            if now_s >= ask_at_s:
                members, ask_at_s = self._members_again(members, until_s), now_s + MEMBERS_EVERY_S

    def _members_again(self, before: Members, until_s: float) -> Members:
        try:
            return self._members()
        except BrokerUnavailable:
            if time.monotonic() >= until_s:
                raise
            return before

    def _poll(self) -> None:
        for entry in self._reader.poll(POLL_S):
            self.log.add(*entry)


@contextmanager
def rollout_session(loaded: LoadedConfig) -> Iterator[RolloutSession]:
    """The session of a pipeline.

    Raises:
        ConfigError: it has no `rollout` block.
        BrokerUnavailable, ContractError: as the topic's reader.
    """
    if loaded.settings.rollout is None:
        raise ConfigError([loaded.problem(("rollout",), "missing, so there are no rollouts", "add `rollout: {}`")])
    from streamserve.kafka.members import Group
    from streamserve.kafka.rollout_topic import RolloutReader, RolloutWriter

    group = Group(loaded.settings)
    writer = RolloutWriter(loaded.settings)
    try:
        with RolloutReader(loaded.settings) as reader:
            yield RolloutSession(reader, writer, group.members)
    finally:
        writer.close()
