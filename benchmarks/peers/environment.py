"""A peer in Python: a virtual environment of pinned packages, and a script of `apps/` that runs in it.

The pins are in `requirements/<name>.txt`; an environment is made again when they change.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.contenders import Guarantee, Job
from benchmarks.peers import FOLDER

HERE = Path(__file__).parent


class PythonPeer:
    """`benchmarks.peers.Peer` in Python; `apps/<name>_app.py` is the script.

    Attributes:
        environment: of the virtual environment and its requirements; peers may share one.
        packages: those named in tables; the first is the peer itself.
    """

    name: str
    environment: str
    guarantees: tuple[Guarantee, ...] = ("at_least_once",)
    largest: int | None = None
    packages: tuple[str, ...]

    def prepare(self) -> None:
        """Install its packages unless they are.

        Raises: RuntimeError: the installer failed; with its last lines.
        """
        pins = self._requirements()
        installed = self._folder / "requirements.txt"
        if installed.is_file() and installed.read_text() == pins.read_text():
            return
        shutil.rmtree(self._folder, ignore_errors=True)
        uv = [sys.executable, "-m", "uv"]
        for command in (
            [*uv, "venv", "--quiet", "--python", sys.executable, str(self._folder)],
            [*uv, "pip", "install", "--quiet", "--no-deps", "--python", str(self._python), "-r", str(pins)],
        ):
            answer = subprocess.run(command, capture_output=True, text=True, check=False)
            if answer.returncode != 0:
                last = "\n".join((answer.stdout + answer.stderr).splitlines()[-10:])
                raise RuntimeError(f"{self.name} could not be installed; it needs the network once:\n{last}")
        shutil.copy(pins, installed)

    def command(self, job: Job) -> list[str]:
        """The script in the environment, with the options of `apps/scoring.py`."""
        folder = job.folder / job.name
        folder.mkdir(exist_ok=True)
        command = [str(self._python), str(HERE / "apps" / f"{self.name}_app.py"), "--guarantee", job.guarantee]
        command += ["--bootstrap", job.bootstrap, "--topic", job.topic, "--output", job.output]
        return [*command, "--model", str(job.model), "--group", job.name, "--folder", str(folder)]

    def versions(self) -> dict[str, str]:
        """As they are pinned."""
        pins = dict(line.split("==") for line in self._requirements().read_text().split() if "==" in line)
        return {name: pins[name] for name in self.packages}

    def _requirements(self) -> Path:
        return HERE / "requirements" / f"{self.environment}.txt"

    @property
    def _folder(self) -> Path:
        return FOLDER / self.environment

    @property
    def _python(self) -> Path:
        return self._folder / "bin" / "python"
