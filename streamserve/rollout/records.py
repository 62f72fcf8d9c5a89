"""What stands on the rollout topic: commands, acknowledgements and switch points, one JSON document each.

The topic is compacted and has one partition, so its order is the order of all commands. A command has a key of its own
and stays for ever: the commands are the history. An acknowledgement is keyed by its slot: the newest one stays. A
switch point says from which offset of an input partition on which revision was in force; workers write it in the very
transaction that holds the first predictions made under it, so that it is true whatever was aborted.

The *revision* of a state is the offset of the command that made it.
"""

from __future__ import annotations

import uuid
from typing import Annotated, Final, Literal

import msgspec
import orjson

from streamserve.batch import TopicPartition

_Version = Annotated[str, msgspec.Meta(pattern=r"^[1-9][0-9]{0,17}$")]
_LONGEST_TEXT: Final = 2000
_Text = Annotated[str, msgspec.Meta(max_length=_LONGEST_TEXT)]
_Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$", max_length=100)]
MOST_ARMS: Final = 16
_Weight = Annotated[float, msgspec.Meta(gt=0, le=1)]
_Count = Annotated[int, msgspec.Meta(ge=0)]
NONE: Final = -1
"""The revision before any command."""
_Revision = Annotated[int, msgspec.Meta(ge=NONE)]


class RecordError(ValueError):
    """Bytes that are no record of this topic; the message says what is wrong."""


class Arm(msgspec.Struct, frozen=True, kw_only=True):
    """One side of an experiment: the share of the keys that gets a version."""

    name: _Name
    version: _Version
    weight: _Weight


class Record(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind"):
    """Base of commands. Unknown fields are left alone: a newer release may have written them.

    Attributes:
        id: makes the record one of its kind.
        by: who asked: a user, a slot, `guard`, `retrain`.
        why: a sentence for the history.
        at_ms: wall clock of whoever asked.
        expects: the revision that was seen; in a state of another revision the command has no effect.
    """

    id: _Name
    by: _Text = ""
    why: _Text = ""
    at_ms: int = 0
    expects: _Revision | None = None


class Promote(Record, frozen=True, kw_only=True, tag="promote"):
    """This version is the stable one; the one before stays warm."""

    version: _Version


class Canary(Record, frozen=True, kw_only=True, tag="canary"):
    """This version gets a share of the keys."""

    version: _Version
    weight: _Weight


class Shadow(Record, frozen=True, kw_only=True, tag="shadow"):
    """This version scores the same batches, beside."""

    version: _Version


class Experiment(Record, frozen=True, kw_only=True, tag="experiment"):
    """Arms with weights that sum to 1; the first is the control."""

    name: _Name
    arms: Annotated[tuple[Arm, ...], msgspec.Meta(min_length=2, max_length=MOST_ARMS)]


class Rollback(Record, frozen=True, kw_only=True, tag="rollback"):
    """Back: ends canary and experiment if there is one, else the version before the stable one is stable again.

    Attributes:
        drop: the version that was stable is not kept to go back to, such as one that no worker could load.
    """

    drop: bool = False


class Stop(Record, frozen=True, kw_only=True, tag="stop"):
    """Ends one part of a rollout."""

    what: Literal["canary", "shadow", "experiment"]


class Retire(Record, frozen=True, kw_only=True, tag="retire"):
    """Lets go of the version before the stable one: after that there is nothing to roll back to."""


Command = Promote | Canary | Shadow | Experiment | Rollback | Stop | Retire


class Acknowledgement(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="acknowledgement"):
    """A slot says where it stands. A tombstone of its key says that it has left.

    Attributes:
        slot: name of the slot.
        revision: the newest revision it knows.
        serving: the revision that it serves; smaller when it could not follow.
        versions: versions that it has loaded and warmed.
        error: why it could not follow; empty when it did.
        took_ms: from reading the command to serving by it.
    """

    slot: _Text
    revision: _Revision
    serving: _Revision
    versions: tuple[str, ...] = ()
    error: _Text = ""
    took_ms: float = 0.0
    at_ms: int = 0


class SwitchPoint(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="switch"):
    """From `offset` of an input partition on, `revision` was in force, until the next switch point of the partition."""

    topic: str
    partition: _Count
    offset: _Count
    revision: _Revision
    slot: _Text = ""

    @property
    def place(self) -> TopicPartition:
        return TopicPartition(self.topic, self.partition)


AnyRecord = Command | Acknowledgement | SwitchPoint
_ACKNOWLEDGEMENT: Final = b"ack/"
_decoder: msgspec.json.Decoder[AnyRecord] = msgspec.json.Decoder(AnyRecord)


def is_name(value: str) -> bool:
    """Whether an experiment or an arm may be called this."""
    try:
        return bool(msgspec.convert(value, _Name))
    except msgspec.ValidationError:
        return False


def new_id() -> str:
    """An id that no other command has. It must not be used twice: compaction would drop the first command."""
    return uuid.uuid4().hex


def text(value: object) -> str:
    """Any text, such as that of an error, made to fit into a record."""
    whole = str(value).encode("utf-8", "replace").decode()
    return whole if len(whole) <= _LONGEST_TEXT else whole[: _LONGEST_TEXT - 3] + "..."


def encode(record: AnyRecord) -> tuple[bytes, bytes]:
    """Key and value. Raises: RecordError when no reader would take it, which a struct that is made does not check."""
    try:
        value = orjson.dumps(msgspec.to_builtins(record))
    except (TypeError, UnicodeEncodeError) as error:
        raise RecordError(f"not a rollout record: {error}") from error
    decode(value)
    return _key(record).encode(), value


def decode(value: bytes) -> AnyRecord:
    """Read a value. Raises: RecordError."""
    try:
        return _decoder.decode(value)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise RecordError(f"not a rollout record: {error}") from error


def acknowledgement_key(slot: str) -> bytes:
    """The key of a slot's acknowledgements."""
    return _ACKNOWLEDGEMENT + slot.encode()


def acknowledged_slot(key: bytes | None) -> str | None:
    """The slot of a key, as `acknowledgement_key` made it; None for any other key."""
    if key is None or not key.startswith(_ACKNOWLEDGEMENT):
        return None
    return key.removeprefix(_ACKNOWLEDGEMENT).decode("utf-8", "replace")


def _key(record: AnyRecord) -> str:
    match record:
        case Acknowledgement():
            return acknowledgement_key(record.slot).decode()
        case SwitchPoint():
            return f"at/{record.topic}/{record.partition}/{record.offset}"
        case _:
            return f"command/{record.id}"
