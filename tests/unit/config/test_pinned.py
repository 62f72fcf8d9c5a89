import hashlib
import os

import pytest

from streamserve.config.lint import lint
from streamserve.config.loading import load
from streamserve.config.pinned import pinned_file
from streamserve.errors import ConfigError

CODE = b"def after(outputs): return outputs\n"
DIGEST = hashlib.sha256(CODE).hexdigest()
CONFIG = """
version: 1
pipeline: p
kafka: {{bootstrap.servers: "localhost:9092"}}
input: {{topics: [in]}}
features: [{{name: a}}]
model: {{name: m}}
output: {{topic: out}}
dead_letter: {{topic: in.dlq}}
engine: {{custom_ops: [{{path: ops.so, sha256: {0}}}]}}
hooks: {{after: {{path: hooks/score.py, sha256: {0}, function: after}}}}
"""


@pytest.fixture
def code(tmp_path):
    path = tmp_path / "code.py"
    path.write_bytes(CODE)
    return path


def test_the_file_that_was_pinned_is_given_by_its_real_path(code, tmp_path):
    (tmp_path / "link").symlink_to(code)
    assert pinned_file(str(tmp_path / "link"), DIGEST) == str(code)


def test_another_file_is_refused_with_both_digests(code):
    code.write_bytes(CODE + b"\n")
    with pytest.raises(ConfigError, match=f"has sha256 [0-9a-f]{{64}}, not {DIGEST}: it is another file"):
        pinned_file(str(code), DIGEST)


def test_what_is_no_file_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for name, says in (("fifo", "is not a file"), ("", "is not a file"), ("gone", "is not there")):
        with pytest.raises(ConfigError, match=says):
            pinned_file(str(tmp_path / name), DIGEST)


def test_lint_finds_libraries_and_hooks_that_are_not_what_was_pinned(tmp_path):
    config = tmp_path / "streamserve.yaml"
    config.write_text(CONFIG.format(DIGEST))
    (tmp_path / "hooks").mkdir()
    (tmp_path / "hooks" / "score.py").write_bytes(CODE + b"# changed")
    told = {issue.problem.path: str(issue) for issue in lint(load(config, {})) if issue.severity == "error"}
    assert set(told) == {"engine.custom_ops[0].path", "hooks.after.path"}
    assert f"{tmp_path / 'ops.so'} is not there" in told["engine.custom_ops[0].path"]
    assert "it is another file" in told["hooks.after.path"]
    assert "sha256sum" in told["hooks.after.path"]
    (tmp_path / "ops.so").write_bytes(CODE)
    (tmp_path / "hooks" / "score.py").write_bytes(CODE)
    assert not [issue for issue in lint(load(config, {})) if issue.severity == "error"]
