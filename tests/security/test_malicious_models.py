"""Malicious models through every public entry point: refused, nothing executed, nothing read, nothing left behind.

Failed loads that are not given back are what users of other servers report for years (triton-inference-server/server
#8969, #5841): a refused model holds no file and no folder here.
"""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from streamserve.app import Slot
from streamserve.cli import main
from streamserve.composition.models import load_engine, resolve_model
from streamserve.config.engine_settings import EngineSettings, LibrarySettings
from streamserve.config.loading import load
from streamserve.engines import build_engine
from streamserve.errors import ConfigError, ModelCorrupt, RegistryError
from streamserve.registry.model import sha256_of
from streamserve.registry.repository import FolderRepository
from streamserve.telemetry.logs import Log
from tests.native import twice
from tests.pipelines import environment
from tests.security import attacks
from tests.security.attacks import ATTACKS, SECRET, Bait

CONFIG = """
version: 1
pipeline: p
kafka: {bootstrap.servers: "127.0.0.1:1"}
input: {topics: [in]}
features: [{name: a}, {name: b}, {name: c}, {name: d}]
model: {name: m}
output: {topic: out}
dead_letter: {topic: in.dlq}
http: {port: 0}
"""


@pytest.fixture
def bait(tmp_path):
    (tmp_path / "outside").mkdir()
    bait = Bait(tmp_path / "outside")
    bait.secret.write_bytes(SECRET)
    return bait


@pytest.fixture(params=ATTACKS, ids=lambda build: build.__name__)
def attack(request, bait, tmp_path):
    """The folder of version 1 of model `m`, and what its refusal says."""
    folder = tmp_path / "models" / "m" / "1"
    folder.mkdir(parents=True)
    request.param(folder, bait)
    return folder, ATTACKS[request.param]


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "streamserve.yaml"
    path.write_text(CONFIG)
    return path


def test_the_baits_work(bait, tmp_path):
    attacks.pickle_named_onnx(tmp_path, bait)
    data = (tmp_path / "model.onnx").read_bytes()
    bait.spring(lambda: attacks.pickle.loads(data))
    attacks.torchscript_untrusted(tmp_path, bait)
    bait.spring(lambda: attacks.load_pickle_in_archive(tmp_path / "model.ts"))


def test_resolving_refuses(attack, bait):
    folder, says = attack
    with pytest.raises(ModelCorrupt, match=says) as refused:
        FolderRepository(folder.parents[1]).resolve("m", "latest")
    assert (refused.value.model, refused.value.version) == ("m", "1")
    assert SECRET.decode() not in str(refused.value)
    assert not bait.canary.exists()


def test_pushing_refuses_and_leaves_nothing(attack, bait, tmp_path):
    folder, says = attack
    repository = FolderRepository(tmp_path / "fresh")
    with pytest.raises(ModelCorrupt, match=says) as refused:
        repository.push("m", folder)
    assert ".push-" not in str(refused.value)
    assert repository.names() == []
    assert {path.name for path in (tmp_path / "fresh").iterdir()} == {".lock"}
    assert not bait.canary.exists()


def test_inspecting_and_pushing_on_the_command_line_refuse(attack, bait, tmp_path, capfd):
    folder, _ = attack
    for call in (
        ["inspect", "m", "--repository", str(folder.parents[1])],
        ["push", "m", str(folder), "--repository", str(tmp_path / "fresh")],
    ):
        with pytest.raises(SystemExit) as ended:
            main(["model", *call])
        assert ended.value.code == 78
        told = capfd.readouterr()
        assert told.out == ""
        assert "refused" in told.err or "error: " in told.err
        assert SECRET.decode() not in told.err
    assert not bait.canary.exists()


def test_a_worker_does_not_start(attack, bait, config):
    _, says = attack
    slot = Slot(load(config, {}).settings, "slot", 0, Log.open())
    with pytest.raises(ModelCorrupt, match=says):
        slot.run()
    assert not bait.canary.exists()


@pytest.mark.parametrize("build", [attacks.torchscript_untrusted, attacks.pickle_named_onnx, attacks.external_absolute])
def test_the_process_of_a_worker_ends_with_78_and_says_why(build, bait, config, tmp_path):
    folder = tmp_path / "models" / "m" / "1"
    folder.mkdir(parents=True)
    build(folder, bait)
    done = subprocess.run(
        [sys.executable, "-m", "streamserve.slot", "--config", config, "--slot-name", "s"],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=60,
        check=False,
    )
    assert "slot_failed" in done.stderr
    assert str(folder) in done.stderr
    assert done.returncode == ModelCorrupt.exit_code
    assert not bait.canary.exists()


def test_listing_touches_no_content(attack, bait):
    folder, _ = attack
    (listed,) = FolderRepository(folder.parents[1]).listing("m")
    assert listed.version == 1
    assert not bait.canary.exists()


@pytest.mark.parametrize("suffix", [".pkl", ".pickle", ".joblib", ".pt", ".pth", ".ckpt", ".h5", ""])
def test_a_file_of_another_kind_is_refused_trusted_or_not(suffix, bait, tmp_path):
    path = tmp_path / f"model{suffix}"
    path.write_bytes(bait.pickled())
    for trust in (False, True):
        with pytest.raises(ModelCorrupt, match=r"never read|is no model"):
            FolderRepository(tmp_path / "fresh").push("m", path, trust=trust)
    assert not bait.canary.exists()


def test_trust_is_given_by_the_one_who_pushes_not_by_the_folder(bait, tmp_path):
    folder = tmp_path / "from-elsewhere"
    folder.mkdir()
    (folder / "model.ts").write_bytes(b"")
    attacks._torch_archive(folder / "model.ts", bait)
    attacks._trust(folder)
    repository = FolderRepository(tmp_path / "fresh")
    with pytest.raises(ModelCorrupt, match="--trust"):
        repository.push("m", folder)
    pushed = repository.push("m", folder, trust=True)
    assert (pushed.runtime, pushed.manifest.trusted) == ("torch", True)
    assert pushed.signature.inputs[0].shape == (-1, 4)
    assert not bait.canary.exists()


def test_trust_makes_no_pickle_a_model(bait, tmp_path):
    folder = tmp_path / "from-elsewhere"
    folder.mkdir()
    for name, build in (("model.pt2", attacks._torch_save), ("model.ts", attacks._torch_save)):
        build(folder / name, bait)
        (folder / "model.yaml").write_text(attacks._TORCH_YAML)
        with pytest.raises(ModelCorrupt, match=r"a file of torch\.save is a pickle"):
            FolderRepository(tmp_path / "fresh").push("m", folder, trust=True)
        (folder / name).write_bytes(bait.pickled())
        with pytest.raises(ModelCorrupt, match="is a pickle, whatever its name"):
            FolderRepository(tmp_path / "fresh").push("m", folder, trust=True)
        (folder / name).unlink()
    assert not bait.canary.exists()


def test_a_zip_bomb_is_not_unpacked(tmp_path):
    folder = tmp_path / "from-elsewhere"
    folder.mkdir()
    with zipfile.ZipFile(folder / "model.ts", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/code/x.py", "")
        archive.writestr("a/constants.pkl", b"\0" * (66 << 20))
    (folder / "model.yaml").write_text(attacks._TORCH_YAML)
    with pytest.raises(ModelCorrupt, match="zip bomb"):
        FolderRepository(tmp_path / "fresh").push("m", folder, trust=True)


def test_a_tensor_that_claims_a_terabyte_is_refused_by_the_runtime_without_it(tmp_path):
    from onnx import TensorProto, helper

    weights = TensorProto(name="w", data_type=1, dims=[1 << 38])
    x, y = (helper.make_tensor_value_info(value, TensorProto.FLOAT, ["n"]) for value in "xy")
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", [x], [y], [weights])
    (tmp_path / "m" / "1").mkdir(parents=True)
    (tmp_path / "m" / "1" / "model.onnx").write_bytes(helper.make_model(graph, ir_version=8).SerializeToString())
    files = FolderRepository(tmp_path).resolve("m", "1")
    with pytest.raises(ModelCorrupt, match="cannot load"):
        build_engine(files, EngineSettings(device="cpu"))


def test_refused_models_hold_no_file_open(bait, tmp_path):
    """triton-inference-server/server#8969: what a failed load took was never given back."""
    folders = []
    for build in ATTACKS:
        folder = tmp_path / "models" / build.__name__.replace("_", "-") / "1"
        folder.mkdir(parents=True)
        build(folder, bait)
        folders.append(folder)
    repository, fresh = FolderRepository(tmp_path / "models"), FolderRepository(tmp_path / "fresh")

    def refuse_all() -> int:
        for folder in folders:
            with pytest.raises(RegistryError):
                repository.resolve(folder.parent.name, "1")
            with pytest.raises(RegistryError):
                fresh.push("m", folder)
        return len(list(Path("/proc/self/fd").iterdir()))

    assert refuse_all() == refuse_all()


@pytest.fixture
def library(bait):
    library = bait.library()
    if library is None:
        pytest.skip("no C compiler to make a shared library with")
    return library


def custom(tmp_path):
    folder = tmp_path / "models" / "m" / "1"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(attacks.custom_operator("evil.corp").SerializeToString())
    return folder


def test_the_library_is_a_bait(bait, library):
    code = "import ctypes, sys; ctypes.CDLL(sys.argv[1])"
    bait.spring(lambda: subprocess.run([sys.executable, "-c", code, library], check=True, timeout=60))


def test_a_library_of_another_digest_is_not_loaded(bait, library, config, tmp_path, capfd):
    custom(tmp_path)
    config.write_text(CONFIG + f"engine: {{custom_ops: [{{path: {library}, sha256: {'a' * 64}}}]}}\n")
    settings = load(config, {}).settings
    with pytest.raises(ConfigError, match="it is another file than the one that was listed"):
        load_engine(settings, resolve_model(settings))
    for call in (["lint"], ["run"], ["model", "inspect", "m"]):
        with pytest.raises(SystemExit) as ended:
            main([*call, "-c", str(config)])
        assert ended.value.code == 78
        told = capfd.readouterr()
        assert "another file" in told.out + told.err
    assert not bait.canary.exists()


def test_a_link_that_was_turned_to_another_library_is_not_followed(bait, library, tmp_path):
    listed = tmp_path / "ops.so"
    shutil.copy(library, tmp_path / "good.so")
    (tmp_path / "good.so").write_bytes((tmp_path / "good.so").read_bytes() + b"\0")
    listed.symlink_to(library)
    settings = EngineSettings(
        device="cpu", custom_ops=[LibrarySettings(path=str(listed), sha256=sha256_of(tmp_path / "good.so"))]
    )
    files = FolderRepository(custom(tmp_path).parents[1], custom_operators=True).resolve("m", "1")
    with pytest.raises(ConfigError, match="another file"):
        build_engine(files, settings)
    assert not bait.canary.exists()


def test_a_listed_library_is_loaded_and_must_be_one_of_operators(bait, library, tmp_path):
    files = FolderRepository(custom(tmp_path).parents[1], custom_operators=True).resolve("m", "1")
    assert files.path.endswith("model.onnx")
    code = (
        "import sys; from types import SimpleNamespace\n"
        "from streamserve.config.engine_settings import EngineSettings, LibrarySettings\n"
        "from streamserve.engines import build_engine\n"
        "library = LibrarySettings(path=sys.argv[1], sha256=sys.argv[2])\n"
        "files = SimpleNamespace(name='m', version='1', sha256='', path=sys.argv[3])\n"
        "build_engine(files, EngineSettings(device='cpu', custom_ops=[library]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, library, sha256_of(library), files.path],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "is no library of operators" in done.stderr
    assert bait.canary.exists()


def test_a_library_of_operators_that_is_listed_is_used(config, tmp_path, capfd):
    library = twice(tmp_path)
    if library is None:
        pytest.skip("no C compiler to make a library of operators with")
    model = tmp_path / "twice.onnx"
    model.write_bytes(attacks.custom_operator("example", "Twice").SerializeToString())
    push = ["model", "push", "m", str(model), "-c", str(config)]
    with pytest.raises(SystemExit) as ended:
        main(push)
    assert ended.value.code == 78
    assert "custom operators (example::Twice)" in capfd.readouterr().err

    config.write_text(CONFIG + f"engine: {{custom_ops: [{{path: twice.so, sha256: {sha256_of(library)}}}]}}\n")
    for call in (push, ["lint", "-c", str(config)], ["model", "inspect", "m", "-c", str(config)]):
        with pytest.raises(SystemExit) as ended:
            main(call)
        assert ended.value.code == 0
    assert "operators  example\n" in capfd.readouterr().out
    settings = load(config, {}).settings
    engine = load_engine(settings, resolve_model(settings))
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    np.testing.assert_array_equal(engine.infer({"x": x})["y"], 2 * x)


def test_pushing_a_link_that_the_caller_named_copies_what_it_leads_to(tmp_path):
    from benchmarks import models

    real = models.save(models.mlp(), tmp_path / "elsewhere")
    link = tmp_path / "link.onnx"
    link.symlink_to(real)
    pushed = FolderRepository(tmp_path / "fresh").push("m", link)
    assert not Path(pushed.path).is_symlink()
    assert pushed.sha256 == sha256_of(real)
