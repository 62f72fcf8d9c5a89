"""Writing to a repository so that a reader sees a version whole or not at all.

A version is made in a hidden folder beside the models, every file flushed to the disk, and then renamed to
its place. A lock on the folder is held only while a number is taken or a file is replaced: two pushes at once
get two numbers. What an interrupted push leaves is hidden, belongs to no model, and goes with the next push.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from streamserve.errors import RegistryError

LOCK: Final = ".lock"
PREFIX: Final = ".push-"
LOCK_TIMEOUT_S: Final = 30.0


@contextlib.contextmanager
def locked(root: Path) -> Iterator[None]:
    """Hold the lock of a repository. Raises: RegistryError when another holds it for 30 s."""
    with (root / LOCK).open("a") as file:
        until = time.monotonic() + LOCK_TIMEOUT_S
        while not _lock(file.fileno()):
            if time.monotonic() > until:
                raise RegistryError(f"another process holds {root / LOCK} for {LOCK_TIMEOUT_S:g} s", retryable=True)
            time.sleep(0.02)
        yield


@contextlib.contextmanager
def staged(root: Path) -> Iterator[Path]:
    """An empty hidden folder in a repository, gone at the end with what is left in it."""
    with contextlib.ExitStack() as stack:
        with locked(root):
            _sweep(root)
            stage = Path(tempfile.mkdtemp(prefix=PREFIX, dir=root))
            stack.callback(shutil.rmtree, stage, ignore_errors=True)
            # Held until the process ends: by this a sweep tells a push that lives from one that died.
            handle = os.open(stage, os.O_RDONLY | os.O_DIRECTORY)
            stack.callback(os.close, handle)
            _lock(handle)
        yield stage


def copy(source: Path, target: Path) -> None:
    """Copy a file's content and flush it to the disk."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    sync(target)


def write(path: Path, text: str) -> None:
    """Replace a small file: a reader sees the old one or the new one."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text(text, encoding="utf-8")
    sync(fresh)
    fresh.replace(path)
    sync(path.parent)


def place(folder: Path, target: Path) -> None:
    """Move a folder, all of whose files are flushed, to where readers look."""
    for path, _, _ in os.walk(folder):
        sync(Path(path))
    folder.rename(target)
    sync(target.parent)


def sync(path: Path) -> None:
    """Flush a file, or a folder's entries, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sweep(root: Path) -> None:
    """Remove what pushes left that ended before they were done."""
    for stage in root.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            handle = os.open(stage, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                if _lock(handle):
                    shutil.rmtree(stage, ignore_errors=True)
            finally:
                os.close(handle)


def _lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
