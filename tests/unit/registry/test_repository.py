import os
import pickle
from pathlib import Path

import pytest
from onnx import TensorProto, helper
from typer.testing import CliRunner

from benchmarks import models
from streamserve.cli import main
from streamserve.cli.model import app
from streamserve.errors import ModelCorrupt, ModelNotFound
from streamserve.ports import TensorSpec
from streamserve.registry.model import (
    Manifest,
    Tensor,
    parse_aliases,
    parse_manifest,
    render_manifest,
    sha256_of,
)
from streamserve.registry.onnx_file import read_onnx
from streamserve.registry.repository import FolderRepository


@pytest.fixture
def root(tmp_path):
    """Three plain versions of `flight-delay`, `stable` being 2."""
    for number in (1, 2, 10):
        models.save(models.mlp(seed=number), tmp_path / "flight-delay" / str(number))
    (tmp_path / "flight-delay" / "aliases.yaml").write_text("stable: 2\ncanary: 7\n")
    return tmp_path


def manifest_of(folder, **more):
    files = {p.name: sha256_of(p) for p in folder.iterdir() if p.name != "model.yaml"}
    return Manifest(files=files, **more)


def write_manifest(folder, **more):
    (folder / "model.yaml").write_text(render_manifest(manifest_of(folder, **more)))


def external(root, location, content=b"\0" * 16):
    folder = root / "ext" / "1"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(models.with_external_data(location).SerializeToString())
    if content is not None:
        (folder / "weights.bin").write_bytes(content)
    return folder


@pytest.mark.parametrize(("wanted", "found"), [("latest", "10"), ("2", "2"), ("stable", "2"), (1, "1")])
def test_a_version_is_found_by_latest_number_and_alias(root, wanted, found):
    version = FolderRepository(root).resolve("flight-delay", wanted)
    assert version.version == found
    assert version.path == str(root / "flight-delay" / found / "model.onnx")
    assert version.sha256 == sha256_of(root / "flight-delay" / found / "model.onnx")


def test_versions_and_aliases_are_listed(root):
    repository = FolderRepository(root)
    assert repository.versions("flight-delay") == [1, 2, 10]
    assert repository.aliases("flight-delay") == {"stable": 2, "canary": 7}


def test_a_plain_folder_has_a_manifest_derived_from_the_file(root):
    version = FolderRepository(root).resolve("flight-delay", "1")
    assert version.manifest.inputs == (Tensor(name="x", dtype="float32", shape=(-1, 16)),)
    assert version.manifest.files == {"model.onnx": version.sha256}
    assert version.size_bytes == Path(version.path).stat().st_size


@pytest.mark.parametrize(
    ("name", "version", "message"),
    [
        ("flight-dely", "latest", "there are flight-delay; did you mean 'flight-delay'"),
        ("flight-delay", "11", r"there are versions 1, 2, 10; aliases canary \(7\), stable \(2\)"),
        ("flight-delay", "stabel", "did you mean 'stable'"),
        ("flight-delay", "canary", "alias canary means 7"),
        ("../flight-delay", "1", "no model"),
        ("flight-delay", "01", "no version '01'"),
        ("flight-delay", "../1", "no version"),
    ],
)
def test_what_is_not_there_says_what_is(root, name, version, message):
    with pytest.raises(ModelNotFound, match=message):
        FolderRepository(root).resolve(name, version)


def test_a_repository_that_is_not_there_says_so(tmp_path):
    with pytest.raises(ModelNotFound, match="the folder does not exist"):
        FolderRepository(tmp_path / "no").resolve("m", "latest")


def test_every_listed_file_is_checked(root):
    folder = root / "flight-delay" / "1"
    (folder / "reference.json").write_text("{}")
    write_manifest(folder, metrics={"auc": 0.9})
    assert FolderRepository(root).resolve("flight-delay", "1").manifest.metrics == {"auc": 0.9}
    (folder / "reference.json").write_text("{ }")
    with pytest.raises(ModelCorrupt, match="changed or damaged") as caught:
        FolderRepository(root).resolve("flight-delay", "1")
    assert (caught.value.model, caught.value.version) == ("flight-delay", "1")
    (folder / "reference.json").unlink()
    with pytest.raises(ModelCorrupt, match=r"listed in model\.yaml but not there"):
        FolderRepository(root).resolve("flight-delay", "1")


def test_a_swapped_model_is_found_by_its_digest(root):
    folder = root / "flight-delay" / "1"
    write_manifest(folder)
    models.save(models.mlp(seed=99), folder)
    with pytest.raises(ModelCorrupt, match="promises"):
        FolderRepository(root).resolve("flight-delay", "1")


def test_a_declared_signature_must_be_the_files(root):
    folder = root / "flight-delay" / "1"
    write_manifest(folder, inputs=(Tensor(name="x", dtype="float32", shape=(-1, 17)),))
    with pytest.raises(ModelCorrupt, match=r"declares x float32\[-1, 17\].*has x float32\[-1, 16\]"):
        FolderRepository(root).resolve("flight-delay", "1")


def test_a_model_truncated_anywhere_is_corrupt(root):
    path = root / "flight-delay" / "1" / "model.onnx"
    whole = path.read_bytes()
    for size in [*range(200), *range(200, len(whole), 997)]:
        path.write_bytes(whole[:size])
        with pytest.raises(ModelCorrupt):
            FolderRepository(root).resolve("flight-delay", "1")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps({"a": 1}), "pickle"),
        (b"PK\x03\x04rest", "zip archive"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"\x08\x00\x00\x00ORTM", "ORT format"),
        (b"hello world, hello world", "cannot be loaded"),
    ],
)
def test_what_is_no_onnx_is_named(root, content, message):
    (root / "flight-delay" / "1" / "model.onnx").write_bytes(content)
    with pytest.raises(ModelCorrupt, match=message):
        FolderRepository(root).resolve("flight-delay", "1")


@pytest.mark.parametrize("file", ["model.pkl", "model.joblib", "model.pt", "model.pt2", "model.ts"])
def test_formats_that_run_code_are_refused_with_the_reason(tmp_path, file):
    folder = tmp_path / "m" / "1"
    folder.mkdir(parents=True)
    (folder / file).write_bytes(b"x")
    with pytest.raises(ModelCorrupt, match="code"):
        FolderRepository(tmp_path).resolve("m", "latest")


def test_external_data_inside_the_folder_is_fine(tmp_path):
    folder = external(tmp_path, "weights.bin")
    version = FolderRepository(tmp_path).resolve("ext", "1")
    assert version.size_bytes == Path(version.path).stat().st_size + 16
    write_manifest(folder)
    assert FolderRepository(tmp_path).resolve("ext", "1").sha256 == version.sha256


def test_external_data_must_be_under_digest_when_digests_are_given(tmp_path):
    folder = external(tmp_path, "weights.bin")
    files = {"model.onnx": sha256_of(folder / "model.onnx")}
    (folder / "model.yaml").write_text(render_manifest(Manifest(files=files)))
    with pytest.raises(ModelCorrupt, match=r"lists no sha256 of weights\.bin"):
        FolderRepository(tmp_path).resolve("ext", "1")


@pytest.mark.parametrize(
    "location", ["/etc/passwd", "../../secret", "a/../../b", "", "*/_ORT_MEM_ADDR_/*", "gone.bin", "."]
)
def test_external_data_elsewhere_is_refused(tmp_path, location):
    (tmp_path / "secret").write_bytes(b"s" * 16)
    external(tmp_path, location)
    with pytest.raises(ModelCorrupt, match="external data, which is refused"):
        FolderRepository(tmp_path).resolve("ext", "1")


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_external_data_through_a_link_is_refused(tmp_path, link):
    secret = tmp_path / "secret"
    secret.write_bytes(b"s" * 16)
    folder = external(tmp_path, "weights.bin", content=None)
    link(secret, folder / "weights.bin")
    with pytest.raises(ModelCorrupt, match="link"):
        FolderRepository(tmp_path).resolve("ext", "1")


def test_external_data_is_found_wherever_a_tensor_may_stand(tmp_path):
    def hidden(location):
        tensor = TensorProto(name="t", data_type=1, dims=[1], data_location=1)
        tensor.external_data.add(key="location", value=location)
        return tensor

    body = helper.make_graph(
        [helper.make_node("Constant", [], ["c"], value=hidden("in-branch"))],
        "body",
        [],
        [helper.make_tensor_value_info("c", 1, [1])],
        [hidden("in-sub-initializer")],
    )
    graph = helper.make_graph(
        [helper.make_node("If", ["b"], ["y"], then_branch=body, else_branch=body)],
        "g",
        [helper.make_tensor_value_info("b", TensorProto.BOOL, [])],
        [helper.make_tensor_value_info("y", 1, [1])],
        [hidden("in-initializer")],
    )
    graph.sparse_initializer.add().values.CopyFrom(hidden("in-sparse"))
    node = helper.make_node("Constant", [], ["z"], value=hidden("in-function"))
    function = helper.make_function("f", "F", [], ["z"], [node], [helper.make_opsetid("", 17)])
    model = helper.make_model(graph, functions=[function])
    model.training_info.add().initialization.initializer.add().CopyFrom(hidden("in-training"))
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    places = {"branch", "sub-initializer", "initializer", "sparse", "function", "training"}
    assert read_onnx(path).external == {f"in-{place}" for place in places}


def test_the_reader_sees_the_same_signature_as_the_builder(tmp_path):
    found = read_onnx(models.save(models.words_and_numbers(), tmp_path)).signature
    assert found.inputs == (
        TensorSpec(name="carrier", dtype="str", shape=(-1, 1)),
        TensorSpec(name="dense", dtype="float32", shape=(-1, 3)),
    )
    assert found.outputs[1] == TensorSpec(name="total", dtype="float32", shape=(-1, 1))


def test_deep_nesting_is_refused(tmp_path):
    # Each level is an attribute (5) of a node (1) of a graph, holding a graph (6).
    inner = b""
    for _ in range(200):
        for tag in (0x32, 0x2A, 0x0A):
            size, head = len(inner), bytearray([tag])
            while size >= 0x80:
                head.append(size & 0x7F | 0x80)
                size >>= 7
            head.append(size)
            inner = bytes(head) + inner
    size, head = len(inner), bytearray([0x3A])
    while size >= 0x80:
        head.append(size & 0x7F | 0x80)
        size >>= 7
    head.append(size)
    path = tmp_path / "m.onnx"
    path.write_bytes(bytes(head) + inner)
    with pytest.raises(ModelCorrupt, match="deep"):
        read_onnx(path)


def test_a_tag_beyond_32_bits_cannot_hide_a_field(tmp_path):
    tag = (13 << 3 | 2) + (1 << 32)
    data = bytearray()
    while tag >= 0x80:
        data.append(tag & 0x7F | 0x80)
        tag >>= 7
    data.append(tag)
    path = tmp_path / "m.onnx"
    path.write_bytes(bytes(data) + b"\x00")
    with pytest.raises(ModelCorrupt):
        read_onnx(path)


def test_a_manifest_reads_back_as_it_was_written():
    manifest = Manifest(
        files={"model.onnx": "a" * 64},
        inputs=(Tensor(name="x", dtype="float32", shape=(-1, 16)),),
        metrics={"auc": 0.75, "brier": 0.1},
        created="2026-01-02T03:04:05Z",
        source="a: b # c",
    )
    assert parse_manifest(render_manifest(manifest), "model.yaml") == manifest


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "files: 3",
        "files: {model.onnx: abc}",
        "files: {../x: " + "a" * 64 + "}",
        "{",
        "files: {a: b}\nfiles: {}",
    ],
)
def test_a_manifest_that_makes_no_sense_is_corrupt(text):
    with pytest.raises(ModelCorrupt, match=r"model\.yaml"):
        parse_manifest(text, "model.yaml")


def test_an_unknown_key_of_a_manifest_is_left_alone():
    text = f"files: {{model.onnx: {'a' * 64}}}\nnew_in_a_later_release: 1\n"
    assert parse_manifest(text, "model.yaml").files == {"model.onnx": "a" * 64}


@pytest.mark.parametrize("text", ["latest: 1", "'3': 1", "stable: 0", "stable: x", "A B: 1", "- stable"])
def test_an_alias_that_could_be_mistaken_is_refused(text):
    with pytest.raises(ModelCorrupt):
        parse_aliases(text, "aliases.yaml")


def test_inspect_shows_a_model_as_text_and_json(root):
    write_manifest(root / "flight-delay" / "2", metrics={"auc": 0.9}, source="x\x1b[31m")
    call = ["inspect", "flight-delay", "--repository", str(root), "--version", "stable"]
    shown = CliRunner().invoke(app, call)
    assert shown.exit_code == 0, shown.output
    assert "x float32[-1, 16]" in shown.output
    assert "auc 0.9" in shown.output
    assert "CPUExecutionProvider" in shown.output
    assert "\x1b" not in shown.output
    assert '"version": "2"' in CliRunner().invoke(app, [*call, "--format", "json"]).output


def test_inspect_takes_a_path_and_fails_with_the_contracts_exit_code(root):
    shown = CliRunner().invoke(app, ["inspect", str(root / "flight-delay" / "10" / "model.onnx")])
    assert "flight-delay version 10" in shown.output
    with pytest.raises(SystemExit) as ended:
        main(["model", "inspect", "nothing", "--repository", str(root)])
    assert ended.value.code == 78
