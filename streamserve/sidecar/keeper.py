"""Which partitions this process owns, and what becomes of each: opened when assigned, dropped when revoked.

A partition that fails is dropped and opened anew after a pause, for as long as the group says that it is ours. A
fenced one waits for the session to run out first: either we were away for so long that another sidecar took over, and
then the group will tell us, or we are the owner after all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from streamserve.errors import Fenced, StreamServeError
from streamserve.kafka.reading import StoredRecord
from streamserve.sidecar.partition import OwnedPartition, Released
from streamserve.telemetry.logs import Log

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
LEAVE_S = 60.0


@dataclass(slots=True, kw_only=True)
class Totals:
    """What happened since the last time that somebody asked."""

    rebuilds: int = 0
    rebuild_s: float = 0.0
    dropped: int = 0
    fenced: int = 0
    published: int = 0
    left_out: int = 0


class Keeper:
    """The partitions owned now, on the event loop.

    Args:
        make: a new ownership of a partition.
        session_s: the session timeout of the group.
        changed: called when partitions come, go or get ready.
    """

    def __init__(
        self, make: Callable[[int], OwnedPartition], session_s: float, changed: Callable[[], None], log: Log
    ) -> None:
        self._totals = Totals()
        self._make = make
        self._session_s = session_s
        self._changed = changed
        self._log = log
        self._owned: dict[int, OwnedPartition] = {}
        self._keeping: dict[int, asyncio.Task[None]] = {}
        self._leaving: dict[int, asyncio.Future[None]] = {}
        self._failed: dict[int, asyncio.Future[StreamServeError]] = {}

    @property
    def owned(self) -> list[OwnedPartition]:
        """What is open now, by number."""
        return [self._owned[number] for number in sorted(self._owned)]

    @property
    def numbers(self) -> set[int]:
        """Partitions that the group gave us."""
        return set(self._keeping)

    @property
    def ready(self) -> bool:
        """Whether everything that is ours is rebuilt; also when nothing is."""
        return all(number in self._owned and self._owned[number].ready for number in self._keeping)

    def take_totals(self) -> Totals:
        """What happened since the last call."""
        for owned in self._owned.values():
            self._count(owned)
        taken, self._totals = self._totals, Totals()
        return taken

    def assigned(self, numbers: set[int]) -> None:
        """Ours from now on."""
        self._log.info("partitions_assigned", samples_partitions=sorted(numbers))
        self.revoked(self.numbers - numbers)
        for number in numbers - self.numbers:
            self._keeping[number] = asyncio.get_running_loop().create_task(self._keep(number))
        self._changed()

    def revoked(self, numbers: set[int]) -> None:
        """Not ours any more: drop them."""
        gone = numbers & self.numbers
        if gone:
            self._log.info("partitions_revoked", samples_partitions=sorted(gone))
        for number in gone:
            self._keeping.pop(number).cancel()
            self._drop(number)
        self._changed()

    async def record(self, number: int, offset: int, kind: bytes | None, value: bytes) -> None:
        """A record of the samples topic. One of a partition that is not open is left to its next rebuild."""
        owned = self._owned.get(number)
        if owned is not None:
            await owned.settled()
            await self._try(owned, owned.chunk(offset, kind, value))

    async def labels(self, records: Sequence[StoredRecord]) -> None:
        """Labels, for every partition. One that is rebuilding is waited for."""
        for owned in self.owned:
            await owned.settled()
            await self._try(owned, owned.labels(records))

    async def checkpoint(self) -> None:
        """Repeat what successors start from, where it is due. Partitions that rebuild are passed over."""
        for owned in self.owned:
            if owned.ready:
                await self._try(owned, owned.checkpoint())

    def close(self) -> None:
        """Drop everything."""
        self.revoked(self.numbers)

    async def _try(self, owned: OwnedPartition, call: Awaitable[None]) -> None:
        """Await a call of a partition; its failure is the partition's."""
        try:
            await call
        except Released:
            return
        except StreamServeError as error:
            failed = self._failed.get(owned.number)
            if self._owned.get(owned.number) is owned and failed is not None and not failed.done():
                failed.set_result(error)

    async def _keep(self, number: int) -> None:
        """Own a partition until cancelled."""
        pause_s = FIRST_PAUSE_S
        while True:
            if (leaving := self._leaving.pop(number, None)) is not None:
                # Both have the same transactional id: the old one must not be initialised after the new one.
                await asyncio.wait({leaving}, timeout=LEAVE_S)
            failed = self._failed[number] = asyncio.get_running_loop().create_future()
            owned = self._owned[number] = self._make(number)
            try:
                await owned.open()
                self._totals.rebuilds += 1
                self._totals.rebuild_s = owned.rebuild_s
                pause_s = FIRST_PAUSE_S
                self._changed()
                error = await failed
            except StreamServeError as exception:
                error = exception
            except Exception as exception:  # the task must not end in silence
                self._log.failure("partition_failed", exception, samples_partition=number)
                error = StreamServeError(f"{type(exception).__name__}: {exception}")
            finally:
                self._drop_if(number, owned)
            self._totals.dropped += 1
            self._totals.fenced += isinstance(error, Fenced)
            wait_s = self._session_s if isinstance(error, Fenced) else pause_s
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            self._log.warning("partition_dropped", samples_partition=number, error=error, again_in_s=wait_s)
            self._changed()
            await asyncio.sleep(wait_s)

    def _drop(self, number: int) -> None:
        owned = self._owned.pop(number, None)
        if owned is not None:
            self._count(owned)
            self._leaving[number] = asyncio.wrap_future(owned.close())

    def _count(self, owned: OwnedPartition) -> None:
        published, left_out = owned.take_published()
        self._totals.published += published
        self._totals.left_out += left_out

    def _drop_if(self, number: int, owned: OwnedPartition) -> None:
        if self._owned.get(number) is owned:
            self._drop(number)
