"""A worker slot that gives the system back what its allocator holds free, whenever it gets a SIGUSR1.

    python -m benchmarks.trimmed_slot --config … --slot-name …

What is resident then is what it holds (`benchmarks.memory`): glibc keeps freed memory in its arenas, several MiB more
or less from one look to the next, and grows them for a while by how they are fragmented.
"""

from __future__ import annotations

import ctypes
import gc
import signal
import sys

from streamserve import slot


def trim_when_asked() -> None:
    """Have a SIGUSR1 collect garbage and trim the heap of this process (glibc)."""
    trim = ctypes.CDLL(None).malloc_trim

    def give_back(*_: object) -> None:
        gc.collect()
        trim(0)

    signal.signal(signal.SIGUSR1, give_back)


if __name__ == "__main__":
    trim_when_asked()
    sys.exit(slot.main(sys.argv[1:]))
