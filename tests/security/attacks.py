"""Model folders that somebody made in order to run code, read files or exhaust a machine.

Each builder writes the folder of a version. Where loading it would run code, that code makes the bait's canary:
`Bait.spring` proves that it would, so a test that finds no canary has shown something.
"""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from onnx import TensorProto, helper

from benchmarks import models
from streamserve.registry.model import sha256_of
from tests.native import build

SECRET = b"the secret of another folder"


@dataclass(frozen=True)
class Bait:
    """A place outside of every repository: `canary` exists once code from a model has run; `secret` is not to be read."""

    outside: Path

    @property
    def canary(self) -> Path:
        return self.outside / "canary"

    @property
    def secret(self) -> Path:
        return self.outside / "secret"

    def pickled(self) -> bytes:
        """A pickle that makes the canary when it is loaded."""
        return pickle.dumps(_Touch(str(self.canary)))

    def library(self) -> Path | None:
        """A shared library that makes the canary when it is loaded; None without a C compiler."""
        source = self.outside / "canary.c"
        source.write_text(
            "#include <stdio.h>\n"
            "__attribute__((constructor)) static void touch(void)"
            f' {{ FILE *file = fopen("{self.canary}", "w"); if (file) fclose(file); }}\n'
        )
        return build(source, self.outside)

    def spring(self, load: Callable[[], object]) -> None:
        """Load what was made, in earnest: the canary must appear, or the bait proves nothing."""
        load()
        assert self.canary.exists()
        self.canary.unlink()


class _Touch:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mknod, (self.path,)


def pickle_by_name(folder: Path, bait: Bait) -> None:
    (folder / "model.pkl").write_bytes(bait.pickled())


def joblib_by_name(folder: Path, bait: Bait) -> None:
    (folder / "model.joblib").write_bytes(bait.pickled())


def checkpoint_by_name(folder: Path, bait: Bait) -> None:
    _torch_save(folder / "model.ckpt", bait)


def pickle_named_onnx(folder: Path, bait: Bait) -> None:
    (folder / "model.onnx").write_bytes(bait.pickled())


def old_pickle_named_onnx(folder: Path, bait: Bait) -> None:
    """Protocol 0 is text and has no mark."""
    (folder / "model.onnx").write_bytes(pickle.dumps(_Touch(str(bait.canary)), protocol=0))


def pickle_named_ort(folder: Path, bait: Bait) -> None:
    (folder / "model.ort").write_bytes(bait.pickled())


def torch_zip_named_onnx(folder: Path, bait: Bait) -> None:
    _torch_save(folder / "model.onnx", bait)


def torch_export_untrusted(folder: Path, bait: Bait) -> None:
    _torch_archive(folder / "model.pt2", bait)


def torch_export_that_trusts_itself_unpinned(folder: Path, bait: Bait) -> None:
    _torch_archive(folder / "model.pt2", bait)
    (folder / "model.yaml").write_text(f"{_TORCH_YAML}trusted: true\n")


def torchscript_untrusted(folder: Path, bait: Bait) -> None:
    _torch_archive(folder / "model.ts", bait)
    (folder / "model.yaml").write_text(f"{_TORCH_YAML}files: {{model.ts: {sha256_of(folder / 'model.ts')}}}\n")


def torchscript_changed_after_trust(folder: Path, bait: Bait) -> None:
    (folder / "model.ts").write_bytes(b"what was trusted")
    _trust(folder)
    _torch_archive(folder / "model.ts", bait)


def external_relative(folder: Path, bait: Bait) -> None:
    _external(folder, os.path.relpath(bait.secret, folder))


def external_absolute(folder: Path, bait: Bait) -> None:
    _external(folder, str(bait.secret))


def external_symbolic_link(folder: Path, bait: Bait) -> None:
    _external(folder, "weights")
    (folder / "weights").symlink_to(bait.secret)


def external_through_linked_folder(folder: Path, bait: Bait) -> None:
    _external(folder, "weights/secret")
    (folder / "weights").symlink_to(bait.outside)


def external_hard_link(folder: Path, bait: Bait) -> None:
    _external(folder, "weights")
    (folder / "weights").hardlink_to(bait.secret)


def external_fifo(folder: Path, bait: Bait) -> None:
    """Whoever opens it waits for ever."""
    _external(folder, "weights")
    os.mkfifo(folder / "weights")


def external_device(folder: Path, bait: Bait) -> None:
    _external(folder, "/dev/zero")


def external_memory_address(folder: Path, bait: Bait) -> None:
    """ONNX Runtime's own mark for tensors that lie at an address in memory."""
    _external(folder, "*/_ORT_MEM_ADDR_/*")


def model_is_a_link(folder: Path, bait: Bait) -> None:
    (folder / "model.onnx").symlink_to(bait.secret)


def model_is_a_fifo(folder: Path, bait: Bait) -> None:
    os.mkfifo(folder / "model.onnx")


def manifest_is_a_fifo(folder: Path, bait: Bait) -> None:
    models.save(models.mlp(), folder)
    os.mkfifo(folder / "model.yaml")


def manifest_is_a_link(folder: Path, bait: Bait) -> None:
    models.save(models.mlp(), folder)
    (folder / "model.yaml").symlink_to(bait.secret)


def manifest_lists_a_file_outside(folder: Path, bait: Bait) -> None:
    model = models.save(models.mlp(), folder)
    listed = f"model.onnx: {sha256_of(model)}, ../../../outside/secret: {sha256_of(bait.secret)}"
    (folder / "model.yaml").write_text(f"files: {{{listed}}}\n")


def manifest_too_large(folder: Path, bait: Bait) -> None:
    models.save(models.mlp(), folder)
    (folder / "model.yaml").write_bytes(b"source: " + b"x" * (1 << 20))


def manifest_too_deep(folder: Path, bait: Bait) -> None:
    models.save(models.mlp(), folder)
    (folder / "model.yaml").write_text("[" * 500)


def manifest_makes_objects(folder: Path, bait: Bait) -> None:
    models.save(models.mlp(), folder)
    (folder / "model.yaml").write_text(f"source: !!python/object/apply:os.mknod ['{bait.canary}']\n")


def truncated(folder: Path, bait: Bait) -> None:
    model = models.save(models.mlp(), folder)
    model.write_bytes(model.read_bytes()[:-100])


def wrong_digest(folder: Path, bait: Bait) -> None:
    models.save(models.mlp(), folder)
    (folder / "model.yaml").write_text(f"files: {{model.onnx: {'a' * 64}}}\n")


def huge_length(folder: Path, bait: Bait) -> None:
    """A graph that says it is a terabyte."""
    (folder / "model.onnx").write_bytes(b"\x3a\x80\x80\x80\x80\x80\x20" + b"x" * 100)


def huge_offsets_in_ort(folder: Path, bait: Bait) -> None:
    (folder / "model.ort").write_bytes(b"\xf0\xff\xff\x7fORTM" + b"\xff" * 100)


def two_models(folder: Path, bait: Bait) -> None:
    models.save(models.mlp(), folder)
    _torch_archive(folder / "model.pt2", bait)


def operators_of_a_library(folder: Path, bait: Bait) -> None:
    (folder / "model.onnx").write_bytes(custom_operator("evil.corp").SerializeToString())


def operators_hidden_in_a_function(folder: Path, bait: Bait) -> None:
    inner = helper.make_node("Run", ["a"], ["b"], domain="evil.corp")
    imports = [helper.make_opsetid("evil.corp", 1)]
    function = helper.make_function("local", "Wrap", ["a"], ["b"], [inner], imports)
    model = custom_operator("local", "Wrap")
    model.functions.append(function)
    (folder / "model.onnx").write_bytes(model.SerializeToString())


def compiled_for_a_device(folder: Path, bait: Bait) -> None:
    (folder / "model.onnx").write_bytes(custom_operator("com.microsoft", "EPContext").SerializeToString())


ATTACKS: dict[Callable[[Path, Bait], None], str] = {
    pickle_by_name: "a pickle runs code",
    joblib_by_name: "a pickle runs code",
    checkpoint_by_name: "a pickle runs code",
    pickle_named_onnx: "is a pickle, whatever its name",
    old_pickle_named_onnx: "cannot be loaded: it is no protobuf",
    pickle_named_ort: "is a pickle, whatever its name",
    torch_zip_named_onnx: "is a zip archive",
    torch_export_untrusted: "counts as code",
    torch_export_that_trusts_itself_unpinned: "lists no sha256 of model.pt2|counts as code",
    torchscript_untrusted: "counts as code",
    torchscript_changed_after_trust: "changed or damaged|is not the file of which",
    external_relative: "relative path inside the model's folder",
    external_absolute: "relative path inside the model's folder",
    external_symbolic_link: "is a symbolic link",
    external_through_linked_folder: "is a symbolic link",
    external_hard_link: "is a hard link",
    external_fifo: "it is not a file",
    external_device: "relative path inside the model's folder",
    external_memory_address: "external data, which is refused",
    model_is_a_link: "is a link to outside its folder",
    model_is_a_fifo: "is not a regular file",
    manifest_is_a_fifo: "is not a regular file",
    manifest_is_a_link: "is a link to outside its folder",
    manifest_lists_a_file_outside: "not inside the model's folder",
    manifest_too_large: "larger than 1 MiB",
    manifest_too_deep: "nests too deep",
    manifest_makes_objects: "could not determine a constructor",
    truncated: "truncated",
    wrong_digest: "changed or damaged|is not the file of which",
    huge_length: "truncated",
    huge_offsets_in_ort: "truncated or no ORT model",
    two_models: "model.onnx and model.pt2",
    operators_of_a_library: r"custom operators \(evil.corp::Run\)",
    operators_hidden_in_a_function: r"custom operators \(evil.corp::Run\)",
    compiled_for_a_device: "native code compiled for one",
}
"""Builder -> what the refusal says."""


def custom_operator(domain: str, name: str = "Run") -> object:
    """`x` float32[n, 4] -> `y` float32[n, 4] by one operator of a domain."""
    node = helper.make_node(name, ["x"], ["y"], domain=domain)
    x, y = (helper.make_tensor_value_info(value, TensorProto.FLOAT, ["n", 4]) for value in "xy")
    imports = [helper.make_opsetid("", 17), helper.make_opsetid(domain, 1)]
    return helper.make_model(helper.make_graph([node], "g", [x], [y]), opset_imports=imports, ir_version=8)


def load_pickle_in_archive(path: Path) -> object:
    """What `torch.load` of old does with such a file."""
    with zipfile.ZipFile(path) as archive:
        name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
        return pickle.loads(archive.read(name))  # noqa: S301  made here, to show that it bites


_TORCH_YAML = (
    "runtime: torch\n"
    "inputs: [{name: x, dtype: float32, shape: [-1, 4]}]\n"
    "outputs: [{name: y, dtype: float32, shape: [-1, 1]}]\n"
)


def _trust(folder: Path) -> None:
    digest = sha256_of(folder / "model.ts")
    (folder / "model.yaml").write_text(f"{_TORCH_YAML}trusted: true\nfiles: {{model.ts: {digest}}}\n")


def _torch_save(path: Path, bait: Bait) -> None:
    """The layout of `torch.save`: a zip with a pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", bait.pickled())
        archive.writestr("archive/version", "3\n")


def _torch_archive(path: Path, bait: Bait) -> None:
    """The layouts of `torch.export.save` and `torch.jit.save`, both of which may hold pickles."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", bait.pickled())
        archive.writestr("archive/constants.pkl", bait.pickled())
        archive.writestr("archive/code/__torch__.py", "")
        archive.writestr("archive/archive_format", "pt2")


def _external(folder: Path, location: str) -> None:
    model = models.with_external_data(location, count=len(SECRET) // 4)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
