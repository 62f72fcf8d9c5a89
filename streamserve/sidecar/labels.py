"""The labels topic, read whole by every sidecar, from a thread of its own.

Labels are no part of the group: a label may belong to a sample of any partition, so each owned partition gets all of
them. Reading starts at the end; what is older, a partition reads itself while it rebuilds. The thread waits until a
batch is taken, so that a slow partition slows reading down and nothing piles up.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import CancelledError

from streamserve.errors import StreamServeError
from streamserve.kafka.clients import Properties
from streamserve.kafka.reading import StoredRecord, TopicReader
from streamserve.telemetry.logs import Log

BATCH = 1000
BATCH_S = 0.2
PATIENCE_S = 60.0
PAUSE_S = 5.0

Deliver = Callable[[Sequence[StoredRecord]], Awaitable[None]]


class LabelFeed:
    """Reads labels and hands them on in batches.

    Args:
        properties: of a reader.
        topic: it must exist.
        deliver: takes a batch, on the event loop that `open` was called on.
    """

    def __init__(self, properties: Properties, topic: str, deliver: Deliver, log: Log) -> None:
        self._properties = properties
        self._topic = topic
        self._deliver = deliver
        self._log = log
        self._stopped = threading.Event()
        self._positions: dict[int, int] = {}
        self._batch: list[StoredRecord] = []
        self._since_s = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None

    async def open(self) -> None:
        """Note the end of the topic and read from there on. Raises: BrokerUnavailable, SourceError."""
        self._loop = asyncio.get_running_loop()
        self._positions = await self._loop.run_in_executor(None, self._ends)
        threading.Thread(target=self._run, name="labels", daemon=True).start()

    def close(self) -> None:
        """Stop reading; the thread ends by itself."""
        self._stopped.set()

    def _ends(self) -> dict[int, int]:
        with TopicReader(self._properties, self._topic) as reader:
            return reader.positions("end", reader.extents())

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._read()
            except StreamServeError as error:
                self._log.warning("labels_unreadable", error=error, again_in_s=PAUSE_S)
                self._batch.clear()
                self._stopped.wait(PAUSE_S)
            except (CancelledError, RuntimeError):  # the event loop has ended
                return

    def _read(self) -> None:
        with TopicReader(self._properties, self._topic, patience_s=PATIENCE_S) as reader:
            for record in reader.read(self._positions, None, self._turn):
                if not self._batch:
                    self._since_s = time.monotonic()
                self._batch.append(record)

    def _turn(self) -> bool:
        """Asked by the reader all the time: hands the batch on when it is due, and says whether to stop."""
        if self._batch and (len(self._batch) >= BATCH or time.monotonic() - self._since_s > BATCH_S):
            batch, self._batch = self._batch, []
            if self._loop is not None and not self._stopped.is_set():
                asyncio.run_coroutine_threadsafe(self._take(batch), self._loop).result()
            for record in batch:
                self._positions[record.partition] = record.offset + 1
        return self._stopped.is_set()

    async def _take(self, batch: Sequence[StoredRecord]) -> None:
        await self._deliver(batch)
