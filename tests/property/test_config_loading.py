"""Whatever a file, a variable or a flag holds: settings, or a ConfigError."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from streamserve.config.lint import lint
from streamserve.config.loading import load
from streamserve.config.settings import PipelineSettings
from streamserve.errors import ConfigError

BASE = {
    "pipeline": "p",
    "kafka": {"bootstrap.servers": "b:1"},
    "input": {"topics": ["a"]},
    "features": [{"name": "x"}],
    "model": {"name": "m"},
    "output": {"topic": "o"},
    "dead_letter": {"topic": "d"},
}
KEYS = sorted({key for model in (PipelineSettings,) for key in model.model_fields})
words = st.sampled_from(
    [*KEYS, "name", "topics", "field", "size", "bootstrap.servers", "group.id", "at", "order", "key"]
)
texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=8)
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | texts
    | st.sampled_from(["${A}", "${", "$$", "json", "offset"])
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words | texts, inner, max_size=4),
    max_leaves=8,
)


def attempt(content: bytes, flags=None, environ=None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "streamserve.yaml"
        path.write_bytes(content)
        try:
            lint(load(path, flags or {}, environ or {}))
        except ConfigError as error:
            problems = error.problems
        else:
            return
        assert problems
        assert all(problem.message for problem in problems)


def dump(data) -> bytes:
    stream = io.BytesIO()
    YAML(typ="safe", pure=True).dump(data, stream)
    return stream.getvalue()


@given(st.dictionaries(words, values, max_size=6))
@settings(max_examples=150, deadline=None)
def test_any_mapping_gives_settings_or_problems(changes):
    attempt(dump({**BASE, **changes}))


@given(st.binary(max_size=80) | texts.map(str.encode))
@settings(max_examples=200, deadline=None)
def test_any_bytes_give_settings_or_problems(content):
    attempt(content)


@given(
    st.lists(words | st.sampled_from(["0", "7", ""]), min_size=1, max_size=4),
    texts | st.sampled_from(["[", "{a: [}", "[a, b]", "null", "3", "{name: x}"]),
)
@settings(max_examples=200, deadline=None)
def test_any_variable_and_any_flag_give_settings_or_problems(parts, value):
    attempt(dump(BASE), environ={f"STREAMSERVE_{'__'.join(parts).upper()}": value})
    attempt(dump(BASE), flags={".".join(parts): value})
