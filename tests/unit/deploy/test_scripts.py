"""The scripts: strict, callable from anywhere, and the house rules find what they are there for."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import subprocess

import pytest

from tests.compose import ROOT

SCRIPTS = [*sorted(path for path in (ROOT / "scripts").iterdir() if path.is_file()), ROOT / ".ci" / "run"]
SHELL = [path for path in SCRIPTS if "bash" in path.read_text().splitlines()[0]]


def name(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("script", SCRIPTS, ids=name)
def test_a_script_can_be_run_and_says_what_it_does(script):
    assert script.stat().st_mode & 0o111
    first, second, *_ = script.read_text().splitlines()
    assert first.startswith("#!/usr/bin/env ")
    assert second.startswith(("# ", '"""'))


@pytest.mark.parametrize("script", SHELL, ids=name)
def test_a_shell_script_is_strict_and_parses(script):
    assert "\nset -euo pipefail\n" in script.read_text()
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0


@pytest.mark.parametrize("script", ["test", "check"])
def test_help_is_told_from_any_folder(script, tmp_path):
    done = subprocess.run(
        [ROOT / "scripts" / script, "--help"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert f"scripts/{script}" in done.stdout


def test_an_unknown_check_is_a_usage_error(tmp_path):
    command = [ROOT / "scripts" / "check", "nonsense"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "there is no check named nonsense" in done.stderr


@pytest.fixture(scope="module")
def rules():
    loader = importlib.machinery.SourceFileLoader("rules", str(ROOT / "scripts" / "rules"))
    spec = importlib.util.spec_from_loader("rules", loader)
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        ("x = 1  # " + "TO" + "DO: more\n", "finish it"),
        ("# see " + "/home" + "/somebody/notes\n", "somebody's machine"),
        ("pip install --" + "index-url x\n", "no package index"),
        ("x = 0\n" * 500, "500 lines"),
        ("def f():\n" + "    x = 0\n" * 70, "f has 71 lines"),
    ],
)
def test_house_rules_find(rules, monkeypatch, tmp_path, text, finding):
    monkeypatch.setattr(rules, "ROOT", tmp_path)
    path = tmp_path / "module.py"
    path.write_text(text if text.startswith(("x", "def", "#")) else f'"""{text}"""\n')
    (found,) = rules.judge(path)
    assert finding in found


def test_house_rules_let_ordinary_text_pass(rules, monkeypatch, tmp_path):
    monkeypatch.setattr(rules, "ROOT", tmp_path)
    path = tmp_path / "page.md"
    path.write_text("Send it to https://example.org/home/page, or $HOME/work, or ~/root. A to-do list is fine.\n")
    assert list(rules.judge(path)) == []
