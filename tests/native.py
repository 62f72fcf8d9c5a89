"""Native code for tests, compiled where a C compiler is."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path


def build(source: Path, folder: Path) -> Path | None:
    """Compile a shared library into a folder. Returns: its path; None without a C compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        return None
    library = folder / source.with_suffix(".so").name
    subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", library, source], check=True, timeout=60)
    return library


def twice(folder: Path) -> Path | None:
    """The library of the operator `example::Twice`: y = 2 x; a value of 666 aborts the process."""
    return build(Path(__file__).parent / "data" / "native" / "twice.c", folder)
