"""The process's memory: how much it has, and how the C library gives back what it keeps.

An engine that is closed frees its buffers to the C library's allocator, which keeps most of them for the next
allocation. `give_back` hands whole free pages of all arenas to the system; without it, resident memory stays at its
peak after a large model was dropped.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

_STATM = Path("/proc/self/statm")


def resident_bytes() -> int:
    """Resident memory of this process; 0 where the system does not tell."""
    try:
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def give_back() -> None:
    """Return free pages to the system, where the C library can (glibc)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
