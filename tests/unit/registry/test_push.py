import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import onnxruntime
import pytest

from benchmarks import models
from streamserve.drift.reference import Reference
from streamserve.errors import ModelCorrupt, ModelNotFound, RegistryError
from streamserve.registry.model import parse_manifest, sha256_of
from streamserve.registry.references import FolderReferences
from streamserve.registry.repository import FolderRepository
from streamserve.registry.staging import PREFIX, staged

DEMO = Path(__file__).parents[3] / "streamserve" / "demo" / "flights" / "models" / "flight-delay" / "1"


@pytest.fixture
def repository(tmp_path):
    return FolderRepository(tmp_path / "models")


@pytest.fixture
def model(tmp_path):
    return models.save(models.mlp(), tmp_path / "trained", "best.onnx")


def as_ort(model: Path, path: Path) -> Path:
    """The model as ONNX Runtime writes its own format."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(path)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession(str(model), options)
    return path


def test_a_file_becomes_version_1_with_digest_signature_and_origin(repository, model):
    pushed = repository.push("flight-delay", model, alias="canary", metrics={"auc": 0.9})
    assert (pushed.name, pushed.version, pushed.runtime) == ("flight-delay", "1", "onnx")
    assert pushed.sha256 == sha256_of(model)
    assert pushed.manifest.files == {"model.onnx": pushed.sha256}
    assert pushed.manifest.signature() == pushed.signature
    assert pushed.manifest.metrics == {"auc": 0.9}
    assert pushed.manifest.source == str(model)
    assert pushed.manifest.created.endswith("+00:00")
    assert repository.resolve("flight-delay", "canary") == pushed
    assert sorted(p.name for p in Path(pushed.path).parent.iterdir()) == ["model.onnx", "model.yaml"]


def test_pushes_count_on_and_leave_the_older_as_they_are(repository, model):
    assert [repository.push("m", model).version for _ in range(3)] == ["1", "2", "3"]
    assert repository.push("m", model, version=10).version == "10"
    assert repository.push("m", model, created_from="training of May").manifest.source == "training of May"
    assert repository.versions("m") == [1, 2, 3, 10, 11]


def test_the_folder_of_a_version_comes_with_card_reference_and_what_it_says(repository):
    pushed = repository.push("other", DEMO, metrics={"test_auc": 0.5, "new": 1.0})
    folder = Path(pushed.path).parent
    assert (folder / "README.md").read_bytes() == (DEMO / "README.md").read_bytes()
    assert set(pushed.manifest.files) == {"model.onnx", "README.md"}
    before = parse_manifest((DEMO / "model.yaml").read_text(), "model.yaml")
    assert pushed.manifest.metrics == before.metrics | {"test_auc": 0.5, "new": 1.0}
    assert (pushed.manifest.created, pushed.manifest.source) == (before.created, before.source)


def test_a_reference_becomes_that_of_the_new_version_and_may_be_made_anew(repository, tmp_path):
    repository.push("other", DEMO)
    repository.push("other", DEMO)
    references = FolderReferences(tmp_path / "models")
    moved, made = references.find("other", "2"), Reference.from_json((DEMO / "reference.json").read_bytes(), "demo")
    assert (moved.model, moved.version, moved.rows) == ("other", "2", made.rows)
    references.write(moved)
    assert repository.resolve("other", "2").version == "2"


def test_external_data_comes_along_by_its_name(repository, tmp_path):
    folder = tmp_path / "trained"
    (folder / "parts").mkdir(parents=True)
    (folder / "best.onnx").write_bytes(models.with_external_data("parts/weights.bin").SerializeToString())
    (folder / "parts" / "weights.bin").write_bytes(b"\0" * 16)
    (folder / "notes.txt").write_text("not asked for")
    pushed = repository.push("m", folder / "best.onnx")
    assert set(pushed.manifest.files) == {"model.onnx", "parts/weights.bin"}
    assert not (Path(pushed.path).parent / "notes.txt").exists()
    assert repository.push("m", Path(pushed.path).parent).manifest.files == pushed.manifest.files


def test_the_ort_format_is_pushed_with_the_signature_in_the_file(repository, model, tmp_path):
    pushed = repository.push("m", as_ort(model, tmp_path / "best.ort"))
    assert pushed.path.endswith("model.ort")
    assert pushed.runtime == "onnx"
    assert pushed.signature == repository.push("m", model).signature


def test_a_signature_that_the_source_declares_must_be_the_files(repository, model, tmp_path):
    folder = tmp_path / "trained"
    model.rename(folder / "model.onnx")
    (folder / "model.yaml").write_text("inputs: [{name: x, dtype: float32, shape: [-1, 17]}]\n")
    with pytest.raises(ModelCorrupt, match=r"trained/model\.yaml declares x float32\[-1, 17\]"):
        repository.push("m", folder)


def test_a_version_never_changes(repository, model, tmp_path):
    first = repository.push("m", model, version=3)
    again = repository.push("m", model, version=3, alias="stable")
    assert again == first
    assert repository.aliases("m") == {"stable": 3}
    other = models.save(models.mlp(seed=1), tmp_path / "other")
    with pytest.raises(RegistryError, match="m 3 exists and is another model: a version never changes"):
        repository.push("m", other, version=3)
    assert repository.resolve("m", "3") == first


def test_pushes_at_once_get_numbers_of_their_own(repository, tmp_path):
    files = [models.save(models.mlp(seed=n), tmp_path / str(n)) for n in range(12)]
    with ThreadPoolExecutor(12) as pool:
        pushed = list(pool.map(lambda path: repository.push("m", path, alias=f"a{path.parent.name}"), files))
    assert sorted(int(version.version) for version in pushed) == list(range(1, 13))
    assert repository.aliases("m") == {f"a{n}": int(version.version) for n, version in enumerate(pushed)}
    for path, version in zip(files, pushed, strict=True):
        assert repository.resolve("m", version.version).sha256 == sha256_of(path)


def test_two_processes_that_push_at_once_get_two_numbers(repository, model, tmp_path):
    code = (
        "import sys; from streamserve.registry.repository import FolderRepository\n"
        "for _ in range(5): print(FolderRepository(sys.argv[1]).push('m', sys.argv[2]).version)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "models"), str(model)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    told = [process.communicate(timeout=60)[0].split() for process in both]
    assert sorted(int(version) for side in told for version in side) == list(range(1, 11))


@pytest.mark.parametrize("step", ["source.copy", "repository.write", "repository.place"])
def test_a_push_that_is_killed_leaves_nothing_that_resolves(repository, model, tmp_path, step):
    module, name = step.split(".")
    code = (
        f"import os, signal, sys; import streamserve.registry.{module} as module\n"
        f"module.{name} = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "from streamserve.registry.repository import FolderRepository\n"
        "FolderRepository(sys.argv[1]).push('m', sys.argv[2], alias='stable')\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path / "models"), str(model)], timeout=60, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert list((tmp_path / "models").glob(f"{PREFIX}*"))
    with pytest.raises(ModelNotFound):
        repository.resolve("m", "latest")
    assert repository.push("m", model).version == "1"
    assert not list((tmp_path / "models").glob(f"{PREFIX}*"))
    assert repository.aliases("m") == {}


def test_a_push_that_is_still_at_work_is_not_swept_away(repository, model, tmp_path):
    repository.push("m", model)
    with staged(tmp_path / "models") as stage:
        repository.push("m", model)
        assert stage.is_dir()
    assert not stage.exists()


def test_an_alias_moves_at_once_and_only_to_what_is_there(repository, model):
    repository.push("m", model)
    repository.push("m", model)
    repository.set_alias("m", "stable", 1)
    repository.set_alias("m", "null", 2)
    repository.set_alias("m", "1.5", 2)
    repository.set_alias("m", "stable", 2)
    assert repository.aliases("m") == {"stable": 2, "null": 2, "1.5": 2}
    with pytest.raises(ModelNotFound, match="no version '7'"):
        repository.set_alias("m", "stable", 7)
    for alias in ("latest", "3", "A", "a b", ""):
        with pytest.raises(RegistryError, match="cannot be an alias"):
            repository.set_alias("m", alias, 1)
    assert repository.resolve("m", "stable").version == "2"


def test_a_push_under_aliases_that_make_no_sense_leaves_nothing(repository, model, tmp_path):
    repository.push("m", model)
    (tmp_path / "models" / "m" / "aliases.yaml").write_text("stable: x")
    with pytest.raises(ModelCorrupt, match=r"aliases\.yaml"):
        repository.push("m", model, alias="canary")
    assert repository.versions("m") == [1]


def test_a_repository_that_cannot_be_written_to_says_so(model, tmp_path):
    (tmp_path / "models").write_text("a file")
    with pytest.raises(RegistryError, match=r"models cannot be written to: .*File exists"):
        FolderRepository(tmp_path / "models").push("m", model)


@pytest.mark.parametrize("name", ["../m", "M", "", ".push-x", "a/b", "a\0"])
def test_a_name_that_is_no_name_is_refused(repository, model, name):
    with pytest.raises(RegistryError, match="cannot be a model's name"):
        repository.push(name, model)


def test_a_source_that_is_not_there_says_so(repository, tmp_path):
    with pytest.raises(ModelNotFound, match=r"gone\.onnx does not exist"):
        repository.push("m", tmp_path / "gone.onnx")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelNotFound, match=r"holds no model\.onnx.*nothing"):
        repository.push("m", tmp_path / "empty")


def test_a_refusal_names_the_source_however_it_was_given(repository, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("t").mkdir()
    Path("t", "model.ts").write_bytes(b"PK\x03\x04")
    with pytest.raises(ModelCorrupt) as refused:
        repository.push("m", Path("t"))
    assert str(refused.value).startswith(f"{tmp_path}/t/model.ts is refused: a torch archive may carry pickles")


def test_a_torch_archive_by_itself_lacks_its_signature(repository, tmp_path):
    (tmp_path / "best.pt2").write_bytes(b"PK\x03\x04")
    with pytest.raises(ModelCorrupt, match="declares `inputs` and `outputs`"):
        repository.push("m", tmp_path / "best.pt2", trust=True)


def mlflow(folder, text):
    folder.mkdir()
    (folder / "MLmodel").write_text(text)
    models.save(models.mlp(), folder)
    return folder


def test_an_mlflow_directory_with_the_onnx_flavour_is_taken(repository, tmp_path):
    folder = mlflow(
        tmp_path / "logged",
        "artifact_path: model\n"
        "flavors:\n"
        "  onnx: {data: model.onnx, onnx_version: 1.17.0, providers: [CPUExecutionProvider]}\n"
        "  python_function: {loader_module: mlflow.onnx, data: model.onnx}\n"
        "run_id: 0a1b2c\n"
        "utc_time_created: '2026-05-01 10:00:00.000000'\n"
        f"signature: {json.dumps({'inputs': '[]'})}\n",
    )
    pushed = repository.push("m", folder)
    assert pushed.manifest.source == "MLflow run 0a1b2c"
    assert pushed.manifest.created == "2026-05-01 10:00:00.000000"
    assert pushed.sha256 == sha256_of(folder / "model.onnx")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "flavors: {sklearn: {pickled_model: model.pkl}, python_function: {}}",
            r"flavours \(python_function, sklearn\) are loaded by running",
        ),
        ("flavors: {onnx: {data: ../model.onnx}}", "no file of this directory"),
        ("flavors: {onnx: {data: /etc/passwd}}", "no file of this directory"),
        ("flavors: {onnx: {data: [1]}}", "no file of this directory"),
        ("flavors: {onnx: {data: gone.onnx}}", "cannot be read"),
        ("flavors: {onnx: {data: model.pkl}}", "a pickle runs code"),
        ("flavors: [onnx]", "MLmodel: Expected `object`"),
        ("flavors: {onnx: !!python/object/apply:os.abort []}", "MLmodel: could not determine a constructor"),
        ("", "MLmodel: Expected `object`"),
    ],
)
def test_an_mlflow_directory_of_another_kind_is_refused_with_the_reason(repository, tmp_path, text, says):
    folder = mlflow(tmp_path / "logged", text)
    (folder / "model.pkl").write_bytes(b"\x80\x04.")
    with pytest.raises(ModelCorrupt, match=says):
        repository.push("m", folder)


def test_an_mlflow_model_that_is_a_link_is_refused(repository, tmp_path):
    folder = mlflow(tmp_path / "logged", "flavors: {onnx: {}}")
    (folder / "model.onnx").rename(tmp_path / "elsewhere.onnx")
    (folder / "model.onnx").symlink_to(tmp_path / "elsewhere.onnx")
    with pytest.raises(ModelCorrupt, match="a link to outside its folder"):
        repository.push("m", folder)


def test_a_listing_reads_no_model(repository, model, tmp_path):
    repository.push("m", model, alias="stable", metrics={"auc": 0.9})
    (tmp_path / "models" / "m" / "2").mkdir()
    (tmp_path / "models" / "m" / "2" / "model.pkl").touch()
    (tmp_path / "models" / "m" / "3").mkdir()
    os.mkfifo(tmp_path / "models" / "m" / "3" / "model.onnx")
    one, two, three = repository.listing("m")
    assert (one.version, one.aliases, one.runtime, one.metrics) == (1, ("stable",), "onnx", {"auc": 0.9})
    assert one.size_bytes > model.stat().st_size
    assert (two.version, two.runtime) == (2, "")
    assert "a pickle runs code" in two.problem
    assert three.version == 3
