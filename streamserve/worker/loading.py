"""A load beside whoever waits for it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from streamserve.pipeline.serving import LoadedModel
from streamserve.rollout.state import RolloutState


class Load:
    """A version that is being loaded, by a thread of its own: nobody else uses the models until it has ended.

    Args:
        version: what is loaded.
        work: loads it.
        ready: what is loaded already, and stays so.
        wanted: the state that needs it; None: nobody waits for it.

    Attributes:
        failure: why it was not loaded.
    """

    def __init__(
        self,
        version: str,
        work: Callable[[], object],
        ready: Mapping[str, LoadedModel],
        wanted: RolloutState | None = None,
    ) -> None:
        self.version = version
        self.ready = ready
        self.wanted = wanted
        self.failure: BaseException | None = None
        self._work = work
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)
        self._thread.start()

    def ended(self, within_s: float) -> bool:
        """Whether it has ended; waits for it so long."""
        self._thread.join(within_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as failure:
            self.failure = failure.with_traceback(None)  # whose frames would hold what is loaded
