"""Java and the jars of Apache Kafka: found, downloaded once, kept in the cache folder.

Owns the question whether a broker can run on this machine (`kafka_available`), the Java program to use and
the download by Maven (`ensure_jars`). Refuses to start anything: that is `local_kafka`. The download goes to
a temporary folder that is renamed into place under a file lock, so the folder is complete if it exists, and
two processes may ask at once.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from streamserve.demo.local_process import LocalServiceError, cache_dir

JAVA_AT_LEAST = 17
_POM = Path(__file__).with_name("kafka-pom.xml")
_JAVA_HINT = (
    "Kafka needs Java 17 or newer: on Debian or Ubuntu `apt-get install openjdk-17-jre-headless`, on Fedora "
    "`dnf install java-21-openjdk-headless`, elsewhere any JDK; JAVA_HOME is honoured"
)
_MAVEN_HINT = "Maven downloads Kafka's jars: `apt-get install maven`, `dnf install maven`, or put `mvn` on the PATH"


def kafka_available(jars_dir: Path | None = None) -> str | None:
    """Why a broker cannot run here, or None when it can; a download by Maven counts as possible."""
    try:
        java()
    except LocalServiceError as error:
        return str(error)
    if not (jars_dir or default_jars_dir()).is_dir() and shutil.which("mvn") is None:
        return _MAVEN_HINT
    return None


def kafka_version() -> str:
    """The Kafka version that the shipped pom names."""
    found = re.search(r"<kafka\.version>([^<]+)</kafka\.version>", _POM.read_text())
    if found is None:
        raise LocalServiceError(f"{_POM} names no kafka.version; reinstall streamserve")
    return found[1]


def default_jars_dir() -> Path:
    """Where the jars are kept unless told otherwise."""
    return cache_dir() / f"kafka-{kafka_version()}"


def java() -> str:
    """The Java program to use. Raises LocalServiceError when there is none, or it is too old."""
    home = os.environ.get("JAVA_HOME")
    program = shutil.which("java", path=f"{home}/bin") if home else shutil.which("java")
    if program is None:
        raise LocalServiceError(f"no `java` {'in JAVA_HOME' if home else 'on the PATH'}. {_JAVA_HINT}")
    answer = subprocess.run([program, "-version"], capture_output=True, text=True, check=False)
    found = re.search(r'version "(\d+)', answer.stderr)
    if found is None or int(found[1]) < JAVA_AT_LEAST:
        raise LocalServiceError(f"{program} is {answer.stderr.splitlines()[:1]}. {_JAVA_HINT}")
    return program


def ensure_jars(jars_dir: Path | None = None) -> Path:
    """Download the jars if they are not there yet (about 43 MB); returns their folder.

    Raises:
        LocalServiceError: Maven is missing or could not download; the message has its last lines.
    """
    target = jars_dir or default_jars_dir()
    if target.is_dir():
        return target
    mvn = shutil.which("mvn")
    if mvn is None:
        raise LocalServiceError(f"no `mvn` on the PATH and no jars in {target}. {_MAVEN_HINT}")
    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / f".{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.is_dir():
            _download(mvn, target)
    return target


def _download(mvn: str, target: Path) -> None:
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as temporary:
        shutil.copy(_POM, Path(temporary, "pom.xml"))
        jars = Path(temporary, "jars")
        goal = ["dependency:copy-dependencies", f"-DoutputDirectory={jars}", "-DincludeScope=runtime"]
        answer = subprocess.run(
            [mvn, "-q", "-B", "--strict-checksums", "-Dstyle.color=never", *goal],
            cwd=temporary, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if answer.returncode != 0 or not any(jars.glob("kafka_2.13-*.jar")):
            last = "\n".join((answer.stdout + answer.stderr).splitlines()[-10:])
            raise LocalServiceError(
                f"Maven could not download Kafka's jars to {target}; it needs the network, once:\n{last}"
            )
        jars.rename(target)


if __name__ == "__main__":
    sys.stdout.write(f"{ensure_jars()}\n")
