"""The error tree: every exception that streamserve raises on purpose, in one picture.

    StreamServeError
    ├── ConfigError            the configuration is wrong; carries every problem found, not the first
    ├── ContractError          two parts do not fit: model and features, topic and pipeline
    ├── SourceError            reading records failed
    ├── SinkError              writing or committing failed; `retryable` = abort, rewind and go on
    │   └── Fenced             another live worker owns our transactional id
    ├── BrokerUnavailable      no broker answers
    ├── TooManyRejects         most records are bad: the pipeline stops rather than drain into the dead letters
    ├── EngineError            inference failed for a batch
    │   └── EngineOutOfMemory  it failed for want of memory: a smaller batch may pass
    ├── CacheError             Redis failed; the Kafka path never sees it
    └── RegistryError          a model could not be had
        ├── ModelNotFound
        └── ModelCorrupt       digest, format or signature is not what was promised

Bad *rows* are no exceptions: they are `streamserve.batch.Reject` values. Foreign exceptions are mapped to this
tree once, in the adapter that meets them. `exit_code` is what the command line ends with (docs/configuration.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


class StreamServeError(Exception):
    """Base of every deliberate error.

    Args:
        message: what happened, where, and how to mend it, in one or two sentences.
        retryable: the same operation may succeed later without a change by a person.
        topic, partition, offset, model, version: coordinates, as far as they are known.
    """

    exit_code: ClassVar[int] = 1

    def __init__(
        self,
        message: str,
        *,
        retryable: bool = False,
        topic: str | None = None,
        partition: int | None = None,
        offset: int | None = None,
        model: str | None = None,
        version: str | None = None,
    ) -> None:
        super().__init__(message)
        self.retryable = retryable
        self.topic = topic
        self.partition = partition
        self.offset = offset
        self.model = model
        self.version = version


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One mistake in a configuration: where it is, what it is, how to mend it."""

    message: str
    path: str = ""
    file: str = ""
    line: int | None = None
    column: int | None = None
    hint: str = ""

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.file, self.line, self.column) if part not in ("", None))
        where = f"{place}: " if place else ""
        what = f"{self.path}: {self.message}" if self.path else self.message
        return f"{where}{what}" + (f" ({self.hint})" if self.hint else "")


class ConfigError(StreamServeError):
    """The configuration is wrong. `problems` holds all mistakes that one pass could find."""

    exit_code = 78

    def __init__(self, problems: list[Problem] | str) -> None:
        self.problems = [Problem(message=problems)] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class ContractError(StreamServeError):
    """Two parts that must fit do not, such as a model's signature and the configured features."""

    exit_code = 78


class SourceError(StreamServeError):
    """Reading records failed."""


class SinkError(StreamServeError):
    """Writing or committing failed. With `retryable` the batch may be rewound and done again."""


class Fenced(SinkError):
    """Another producer took over our transactional id, or our transaction ran into its timeout."""


class BrokerUnavailable(StreamServeError):
    """No Kafka broker answers at the configured addresses."""

    exit_code = 69


class TooManyRejects(StreamServeError):
    """The share of rejects passed `dead_letter.max_ratio`: a person has to look, a restart would not help."""


class EngineError(StreamServeError):
    """Inference failed for a whole batch; the caller may bisect to find the row at fault."""


class EngineOutOfMemory(EngineError):
    """Inference ran out of (device) memory; a smaller batch may pass."""


class CacheError(StreamServeError):
    """The cache could not be read or written."""

    exit_code = 69


class RegistryError(StreamServeError):
    """A model could not be had from its repository."""

    exit_code = 78


class ModelNotFound(RegistryError):
    """The repository holds no such model, version or alias."""


class ModelCorrupt(RegistryError):
    """A model's digest, format or declared signature is not what its files hold."""
