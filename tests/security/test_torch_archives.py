"""Real torch archives: refused unopened without trust, served with it; what `torch.save` writes is never served."""

import shutil
from pathlib import Path

import pytest

from streamserve.config.engine_settings import EngineSettings
from streamserve.engines import build_engine
from streamserve.errors import ModelCorrupt
from streamserve.registry.formats import check_archive
from streamserve.registry.model import Manifest, render_manifest, sha256_of
from streamserve.registry.repository import FolderRepository
from streamserve.registry.version import tensors
from tests.security.attacks import Bait, _Touch

pytestmark = pytest.mark.torch


@pytest.fixture
def model():
    from tests import torch_models

    return torch_models.mlp()


@pytest.fixture(params=["pt2", "ts"])
def folder(request, model, tmp_path):
    """A model as somebody exported it, with its signature."""
    folder = model.save(tmp_path / "exported", request.param).parent
    declared = Manifest(inputs=tensors(model.signature.inputs), outputs=tensors(model.signature.outputs))
    (folder / "model.yaml").write_text(render_manifest(declared))
    return folder


def test_an_archive_is_refused_without_trust_and_served_with_it(folder, model, tmp_path):
    repository = FolderRepository(tmp_path / "models")
    with pytest.raises(ModelCorrupt, match=r"counts as code.*--trust"):
        repository.push("m", folder)
    pushed = repository.push("m", folder, trust=True, alias="canary")
    assert pushed.runtime == pushed.manifest.runtime == "torch"
    assert pushed.signature == model.signature
    engine = build_engine(repository.resolve("m", "canary"), EngineSettings(device="cpu"))
    engine.warm([1, 2])
    engine.close()


def test_an_archive_that_changed_since_it_was_trusted_is_refused(folder, tmp_path):
    repository = FolderRepository(tmp_path / "models")
    path = Path(repository.push("m", folder, trust=True).path)
    with path.open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ModelCorrupt, match="changed or damaged"):
        repository.resolve("m", "1")


def test_a_truncated_archive_is_refused_when_it_is_pushed(folder, tmp_path):
    (path,) = folder.glob("model.[pt]*")
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ModelCorrupt, match=r"is truncated, or no|is truncated or no"):
        FolderRepository(tmp_path / "models").push("m", folder, trust=True)


def test_an_archive_of_the_other_kind_is_refused(folder, tmp_path):
    (path,) = folder.glob("model.[pt]*")
    other = path.with_suffix(".ts" if path.suffix == ".pt2" else ".pt2")
    path.rename(other)
    with pytest.raises(ModelCorrupt, match=r"or no archive of torch\.(export|jit)\.save"):
        check_archive(other)


@pytest.mark.parametrize("name", ["model.pt2", "model.ts", "model.onnx", "model.ort", "model.pt"])
@pytest.mark.parametrize("zipped", [True, False])
def test_what_torch_save_writes_is_never_loaded(tmp_path, name, zipped):
    import torch

    bait = Bait(tmp_path)
    (tmp_path / "saved").mkdir()
    path = tmp_path / "saved" / name
    torch.save({"weights": _Touch(str(bait.canary))}, path, _use_new_zipfile_serialization=zipped)
    bait.spring(lambda: torch.load(path, weights_only=False))
    runtime = "torch" if name in {"model.pt2", "model.ts"} else "onnx"
    listed = f"files: {{{name}: {sha256_of(path)}}}\n"
    (path.parent / "model.yaml").write_text(
        f"runtime: {runtime}\ntrusted: true\ninputs: [{{name: x, dtype: float32, shape: [-1]}}]\n{listed}"
    )
    repository = FolderRepository(tmp_path / "models")
    for source in (path, path.parent):
        with pytest.raises(ModelCorrupt):
            repository.push("m", source, trust=True)
    home = tmp_path / "models" / "m" / "1"
    shutil.copytree(path.parent, home)
    with pytest.raises(ModelCorrupt, match=r"is a pickle|a pickle runs code|zip archive"):
        repository.resolve("m", "1")
    assert not bait.canary.exists()
