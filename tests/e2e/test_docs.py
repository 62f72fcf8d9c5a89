"""The documentation keeps its word: links lead somewhere, configurations lint, snippets run, commands exist."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import typer
from ruamel.yaml import YAML

from streamserve.cli import build_app
from streamserve.config.lint import lint
from streamserve.config.loading import load
from streamserve.config.settings import PipelineSettings
from streamserve.registry.model import parse_manifest
from tests.markdown import PAGES, ROOT, Block, anchors, blocks, commands, links, prose

SHELL = blocks("sh", "bash", "")
MINIMAL = {
    "pipeline": "p",
    "kafka": {"bootstrap.servers": "localhost:9092"},
    "input": {"topics": ["a"]},
    "features": [{"name": "x"}],
    "model": {"name": "m"},
    "output": {"topic": "b"},
    "dead_letter": {"topic": "c"},
}


def place(value: Block | Path) -> str:
    return value.place if isinstance(value, Block) else str(value.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=place)
def test_links_lead_somewhere(page):
    for path, anchor in links(page):
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{path} does not exist"
        if anchor:
            assert anchor in anchors(target), f"{path or page.name} has no heading #{anchor}"


@pytest.mark.parametrize("block", blocks("yaml"), ids=place)
def test_yaml_is_accepted(block, tmp_path):
    document = YAML(typ="safe").load(block.text)
    if "version" in document:
        path = tmp_path / "streamserve.yaml"
        path.write_text(block.text)
        (tmp_path / "models" / document["model"]["name"]).mkdir(parents=True)
        assert [str(issue) for issue in lint(load(path, environ={}))] == []
    elif "runtime" in document:
        parse_manifest(block.text, block.place)
    else:
        PipelineSettings.model_validate({**MINIMAL, **document})


@pytest.mark.parametrize("block", blocks("json"), ids=place)
def test_json_is_json(block):
    json.loads(block.text)


@pytest.mark.parametrize("block", blocks("python"), ids=place)
def test_python_runs(block):
    code = compile(block.text, block.place, "exec")
    if "streamserve" in block.text:
        exec(code, {"__name__": "__main__"})  # noqa: S102  our own documentation


@pytest.mark.parametrize("block", [block for block in SHELL if "streamserve" in block.text], ids=place)
def test_shell_commands_exist_with_their_options(block):
    for words in commands(block.text):
        check_command(words)


@pytest.mark.parametrize("page", PAGES, ids=place)
def test_commands_in_prose_exist(page):
    for code in re.findall(r"`(streamserve [a-z][^`]*|scripts/[^`]*|python -m streamserve[^`]*)`", prose(page)):
        for alternative in alternatives(code.replace("\n", " ")):
            check_command(alternative)


def alternatives(code: str) -> list[list[str]]:
    """`a b|c d` is `a b d` and `a c d`; `dlq ls | show` is a list of verbs as well."""
    found: list[list[str]] = [[]]
    for word in code.replace(" | ", "|").split():
        options = [word] if word.startswith("-") else word.split("|")
        found = [[*words, option] for words in found for option in options]
    return found


def check_command(words: list[str]) -> None:
    """What a reader would type exists: the program, the nouns and verbs, the options, the files of this repository."""
    program, *rest = words
    if program.startswith(("scripts/", ".ci/")):
        assert (ROOT / program).stat().st_mode & 0o100, f"{program} cannot be run"
        rest = ["demo", *rest] if program == "scripts/demo" else []
    elif words[:2] == ["python", "-m"]:
        assert (ROOT / f"{words[2].replace('.', '/')}").exists() or (ROOT / f"{words[2].replace('.', '/')}.py").exists()
        rest = []
    for word in rest:
        if "examples/" in word:
            assert (ROOT / word[word.index("examples/") :]).exists(), f"{word} does not exist"
    if program not in {"streamserve", "scripts/demo"}:
        return
    command = typer.main.get_command(build_app())
    while rest and hasattr(command, "commands") and not rest[0].startswith("-"):
        assert rest[0] in command.commands, f"{' '.join(words)}: no command {rest[0]}"
        command, rest = command.commands[rest[0]], rest[1:]
    known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
    known |= {"--help", "-h", "-v", "-q", "--delete"}
    for word in rest:
        if re.match(r"--?[a-z]", word):
            assert word.split("=")[0] in known, f"{' '.join(words)}: no option {word}"
