"""YAML with the line of everything: text in, plain values and positions out.

Owns what the product accepts as YAML: the plain types of YAML 1.2 (a date stays text), anchors, aliases and
merge keys within bounds, no tags of any language, no key twice. Refuses nothing by exception: every mistake
is a `Problem` with its line, so that one reading finds all of them. `loading` reads the configuration with
it, `topic_documents` the topics.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from streamserve.errors import Problem

MAX_BYTES = 1 << 20
MAX_DEPTH = 40
MAX_VALUES = 50_000
_TAG = "tag:yaml.org,2002:"

Path = tuple[str | int, ...]
"""Where a value is: keys of mappings and positions in lists, from the top."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """A place in a file, both counted from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One YAML document.

    Attributes:
        data: mappings with text keys, lists, text, numbers, booleans, None; None when nothing could be read.
        keys: where each key (or list item) stands.
        values: where each value begins.
        problems: every mistake found.
    """

    data: object = None
    keys: dict[Path, Position] = field(default_factory=dict)
    values: dict[Path, Position] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


class VariableError(ValueError):
    """A variable in a value cannot be replaced.

    Args:
        message: what is wrong with it.
        hint: how to mend it.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


Expand = Callable[[str], str]
"""Replaces the variables in a value. Raises: VariableError."""


def dotted(path: Path) -> str:
    """A path as people write it: `features[2].min`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def read_documents(text: str, file: str, expand: Expand | None = None) -> list[Document]:
    """Read every document in `text`.

    Args:
        text: YAML, at most `MAX_BYTES` long.
        file: what to call it in problems.
        expand: replaces variables in values (never in keys).

    Returns:
        One `Document` each. Where the text itself is no YAML, the last one holds the problem and no data.
    """
    if len(text.encode(errors="replace")) > MAX_BYTES:
        return [Document(problems=[Problem(message=f"larger than {MAX_BYTES >> 20} MiB", file=file)])]
    documents: list[Document] = []
    try:
        # Extended as the generator goes: a syntax error later in the text keeps what was read before it.
        documents.extend(_Reading(file, expand).document(node) for node in _nodes(text))
    except MarkedYAMLError as error:
        documents.append(Document(problems=[_syntax(error, file)]))
    except (YAMLError, ValueError, RecursionError, OverflowError) as error:
        what = "nested too deeply" if isinstance(error, RecursionError) else _first_line(error)
        documents.append(Document(problems=[Problem(message=f"not YAML: {what}", file=file)]))
    return documents


def read_document(text: str, file: str, expand: Expand | None = None) -> Document:
    """Read the only document in `text`; several are a mistake."""
    documents = read_documents(text, file, expand)
    if not documents:
        return Document()
    first = documents[0]
    if len(documents) > 1:
        more = [problem for document in documents[1:] for problem in document.problems]
        first.problems.extend(more or [Problem(message="more than one YAML document", file=file)])
    return first


def _nodes(text: str) -> Iterator[Node]:
    # Composed but not constructed: only nodes know their lines, and no tag is ever acted upon.
    yield from (node for node in YAML(typ="safe", pure=True).compose_all(text) if node is not None)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _syntax(error: MarkedYAMLError, file: str) -> Problem:
    mark = error.problem_mark or error.context_mark
    parts = [str(part) for part in (error.context, error.problem) if part]
    return Problem(
        message=f"not YAML: {', '.join(parts) or 'syntax error'}",
        file=file,
        line=mark.line + 1 if mark else None,
        column=mark.column + 1 if mark else None,
    )


class _TooMuch(Exception):
    """The bounds on depth or size are passed."""


class _Reading:
    """One document on its way from nodes to values."""

    def __init__(self, file: str, expand: Expand | None) -> None:
        self._file = file
        self._expand = expand
        self._count = 0
        self._yaml = YAML(typ="safe", pure=True)
        self._result = Document()

    def document(self, node: Node) -> Document:
        self._result.values[()] = _position(node)
        try:
            data = self._value(node, ())
        except _TooMuch as error:
            self._problem(str(error), (), node)
            data = None
        return Document(
            data=data,
            keys=self._result.keys,
            values=self._result.values,
            problems=self._result.problems,
        )

    def _problem(self, message: str, path: Path, node: Node, hint: str = "") -> None:
        place = _position(node)
        self._result.problems.append(
            Problem(
                message=message,
                path=dotted(path),
                file=self._file,
                line=place.line,
                column=place.column,
                hint=hint,
            )
        )

    def _value(self, node: Node, path: Path) -> object:
        self._count += 1
        if self._count > MAX_VALUES:
            raise _TooMuch(f"more than {MAX_VALUES} values once every alias is expanded")
        if len(path) > MAX_DEPTH:
            raise _TooMuch(f"nested more than {MAX_DEPTH} levels deep")
        if isinstance(node, MappingNode):
            return self._mapping(node, path)
        if isinstance(node, SequenceNode):
            return self._sequence(node, path)
        return self._scalar(node, path)

    def _sequence(self, node: SequenceNode, path: Path) -> list[object]:
        items = []
        for index, item in enumerate(node.value):
            here = (*path, index)
            self._result.keys[here] = self._result.values[here] = _position(item)
            items.append(self._value(item, here))
        return items

    def _mapping(self, node: MappingNode, path: Path) -> dict[str, object]:
        data: dict[str, object] = {}
        for merged in self._merged(node, path):
            data |= merged
        first: dict[str, Position] = {}
        for key, value in node.value:
            if str(key.tag) == f"{_TAG}merge":
                continue
            if not isinstance(key, ScalarNode):
                self._problem("a key must be plain text", path, key)
                continue
            name, here = str(key.value), (*path, str(key.value))
            if name in first:
                self._problem(f"given twice, first in line {first[name].line}", here, key)
                continue
            first[name] = self._result.keys[here] = _position(key)
            self._result.values[here] = _position(value)
            data[name] = self._value(value, here)
        return data

    def _merged(self, node: MappingNode, path: Path) -> Iterator[dict[str, object]]:
        for key, value in node.value:
            if str(key.tag) != f"{_TAG}merge":
                continue
            # Of a list the first wins, so it is applied last.
            sources = list(reversed(value.value)) if isinstance(value, SequenceNode) else [value]
            for source in sources:
                if isinstance(source, MappingNode):
                    for merged_key, _ in source.value:
                        self._result.keys[*path, str(merged_key.value)] = _position(key)
                    merged = self._value(source, path)
                    if isinstance(merged, dict):
                        yield merged
                else:
                    self._problem("`<<` takes a mapping or a list of mappings", path, value)

    def _scalar(self, node: Node, path: Path) -> object:
        text, tag = str(node.value), str(node.tag)
        if self._expand is not None and "$" in text:
            try:
                expanded = self._expand(text)
            except VariableError as error:
                self._problem(str(error), path, node, error.hint)
                return text
            if expanded != text and isinstance(node, ScalarNode) and node.style is None:
                tag = str(self._yaml.resolver.resolve(ScalarNode, expanded, (True, False)))
            text = expanded
        kind = tag.removeprefix(_TAG)
        if kind in {"str", "timestamp"}:
            return text
        if kind in {"null", "bool", "int", "float"}:
            return self._number(kind, text, node, path)
        self._problem(f"the tag `{kind}` is not allowed", path, node, "plain values only")
        return text

    def _number(self, kind: str, text: str, node: Node, path: Path) -> object:
        if kind == "null":
            return None
        scalar = ScalarNode(f"{_TAG}{kind}", text, node.start_mark, node.end_mark)
        constructor = self._yaml.constructor
        build = {
            "bool": constructor.construct_yaml_bool,
            "int": constructor.construct_yaml_int,
            "float": constructor.construct_yaml_float,
        }[kind]
        try:
            value: object = build(scalar)
        except (ValueError, KeyError, OverflowError, ArithmeticError):
            self._problem(f"not a {kind}", path, node)
            return text
        return value


def _position(node: Node) -> Position:
    mark = node.start_mark
    return Position(line=mark.line + 1, column=mark.column + 1) if mark else Position(line=1, column=1)
