"""Topics as code: the documents in `topics/*.yaml`.

Each is a Strimzi `KafkaTopic`, so `kubectl apply -f topics/` works under Strimzi as it stands. What
streamserve adds are annotations: `streamserve.io/schema` (a file beside the document), `owner`, `dlq` (the
topic of its dead letters), and `state: absent` for a topic that is to be deleted. Reads and checks;
`streamserve.kafka.topics` compares with a cluster.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path as FilePath

from streamserve.config.document import Document, Path, dotted, read_documents
from streamserve.config.wording import did_you_mean, kind_of
from streamserve.errors import ConfigError, Problem

API_VERSIONS = ("kafka.strimzi.io/v1", "kafka.strimzi.io/v1beta2")
PREFIX = "streamserve.io/"
ANNOTATIONS = ("schema", "owner", "dlq", "state")
MAX_PARTITIONS = 100_000
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicDocument:
    """One wanted topic.

    Attributes:
        name: the topic.
        partitions, replicas: how many; None leaves it to the broker.
        config: topic configuration, values as text; keys not named here are nobody's business.
        annotations: ours, without their prefix.
        file, line: where it is written.
    """

    name: str
    partitions: int | None = None
    replicas: int | None = None
    config: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    file: str = ""
    line: int = 1

    @property
    def absent(self) -> bool:
        """Whether the topic is to be deleted (`streamserve.io/state: absent`)."""
        return self.annotations.get("state") == "absent"


def read_topics(folder: FilePath) -> list[TopicDocument]:
    """Every topic in the YAML files of `folder` (not below it), in the order of their names.

    Raises:
        ConfigError: with every mistake in every file.
    """
    topics, problems = check_topics(folder)
    if problems:
        raise ConfigError(problems)
    return topics


def check_topics(folder: FilePath) -> tuple[list[TopicDocument], list[Problem]]:
    """As `read_topics`, with the mistakes as values."""
    if not folder.is_dir():
        return [], [Problem(message="no such folder", file=str(folder))]
    topics: list[TopicDocument] = []
    problems: list[Problem] = []
    for file in sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")]):
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            problems.append(Problem(message=f"cannot be read: {error}", file=str(file)))
            continue
        for document in read_documents(text, str(file)):
            topic, found = _topic(document, file)
            problems += found
            if topic is not None:
                topics.append(topic)
    problems += _twice(topics)
    return sorted(topics, key=lambda topic: topic.name), problems


def _twice(topics: Iterable[TopicDocument]) -> list[Problem]:
    first: dict[str, TopicDocument] = {}
    problems = []
    for topic in topics:
        earlier = first.setdefault(topic.name, topic)
        if earlier is not topic:
            message = f"the topic {topic.name} is also described in {earlier.file}:{earlier.line}"
            problems.append(Problem(message=message, file=topic.file, line=topic.line))
    return problems


def _topic(document: Document, file: FilePath) -> tuple[TopicDocument | None, list[Problem]]:
    if document.problems or document.data is None:
        return None, document.problems
    reading = _Reading(document, file)
    topic = reading.topic()
    return (None if reading.problems else topic), reading.problems


class _Reading:
    """One document on its way to a topic."""

    def __init__(self, document: Document, file: FilePath) -> None:
        self._document = document
        self._file = file
        self.problems: list[Problem] = []

    def topic(self) -> TopicDocument:
        top = self._mapping(self._document.data, (), ("apiVersion", "kind", "metadata", "spec", "status"))
        for key, allowed in (("apiVersion", API_VERSIONS), ("kind", ("KafkaTopic",))):
            if key not in top:
                self._add((key,), "is missing", f"{key}: {allowed[0]}")
            elif top[key] not in allowed:
                self._add((key,), f"must be {' or '.join(allowed)}")
        metadata = self._mapping(top.get("metadata", {}), ("metadata",))
        known = ("partitions", "replicas", "config", "topicName")
        spec = self._mapping(top.get("spec") or {}, ("spec",), known)
        if "topicName" in spec and spec["topicName"] != metadata.get("name"):
            self._add(("spec", "topicName"), "must be left out", "metadata.name is the topic's name")
        return TopicDocument(
            name=self._name(metadata.get("name")),
            partitions=self._count(spec, "partitions", MAX_PARTITIONS),
            replicas=self._count(spec, "replicas", 1000),
            config=self._config(spec.get("config") or {}),
            annotations=self._annotations(metadata.get("annotations") or {}),
            file=str(self._file),
            line=self._line(("metadata", "name")),
        )

    def _line(self, path: Path) -> int:
        for end in range(len(path), -1, -1):
            place = self._document.keys.get(path[:end]) or self._document.values.get(path[:end])
            if place is not None:
                return place.line
        return 1

    def _add(self, path: Path, message: str, hint: str = "") -> None:
        place = self._document.keys.get(path)
        self.problems.append(
            Problem(
                message=message,
                path=dotted(path),
                file=str(self._file),
                line=place.line if place else self._line(path),
                column=place.column if place else None,
                hint=hint,
            )
        )

    def _mapping(self, value: object, path: Path, known: tuple[str, ...] = ()) -> Mapping[str, object]:
        if not isinstance(value, dict):
            self._add(path, f"must be a mapping, not {kind_of(value)}")
            return {}
        for key in value:
            if known and key not in known:
                self._add((*path, key), "unknown key", did_you_mean(key, known))
        return value

    def _name(self, name: object) -> str:
        path = ("metadata", "name")
        if not isinstance(name, str):
            self._add(path, "is missing" if name is None else "must be text")
        elif "_" in name:
            self._add(path, "a topic name uses `.`, never `_`", f"call it {name.replace('_', '.')}")
        elif len(name) > 249 or not _NAME.fullmatch(name):
            self._add(path, "must be lower-case letters, digits, `.` and `-`, at most 249")
        return str(name)

    def _count(self, spec: Mapping[str, object], key: str, most: int) -> int | None:
        value = spec.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            self._add(("spec", key), f"must be a whole number from 1 to {most}")
            return None
        return value

    def _config(self, value: object) -> dict[str, str]:
        path = ("spec", "config")
        config = {}
        for key, inner in self._mapping(value, path).items():
            if isinstance(inner, bool):
                config[key] = str(inner).lower()
            elif isinstance(inner, (str, int, float)):
                config[key] = str(inner)
            elif isinstance(inner, list) and all(isinstance(item, str) for item in inner):
                config[key] = ",".join(inner)
            else:
                self._add((*path, key), f"must be text, a number or true or false, not {kind_of(inner)}")
        return config

    def _annotations(self, value: object) -> dict[str, str]:
        path = ("metadata", "annotations")
        ours = {}
        for key, inner in self._mapping(value, path).items():
            if not key.startswith(PREFIX):
                continue
            name = key.removeprefix(PREFIX)
            if name not in ANNOTATIONS:
                self._add((*path, key), "unknown annotation", did_you_mean(name, ANNOTATIONS))
            elif not isinstance(inner, str):
                self._add((*path, key), f"must be text, not {kind_of(inner)}")
            elif name == "state" and inner not in {"present", "absent"}:
                self._add((*path, key), "must be present or absent")
            elif name == "schema" and not (self._file.parent / inner).is_file():
                self._add((*path, key), f"there is no file {inner} beside this one")
            else:
                ours[name] = inner
        return ours
