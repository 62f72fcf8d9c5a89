import http.server
import threading
from pathlib import Path

import fsspec
import pytest

from benchmarks import models
from streamserve.errors import ConfigError, ModelCorrupt, ModelNotFound, RegistryError
from streamserve.registry.download import described, download
from streamserve.registry.model import sha256_of
from streamserve.registry.repository import FolderRepository


@pytest.fixture
def repository(tmp_path):
    return FolderRepository(tmp_path / "models")


@pytest.fixture
def model(tmp_path):
    return models.save(models.mlp(), tmp_path / "trained")


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, and `/endless.onnx`, which never ends and says it is short."""

    def do_GET(self):
        if not self.path.startswith("/endless"):
            super().do_GET()
            return
        self.send_response(200)
        self.end_headers()
        try:
            while True:
                self.wfile.write(b"\0" * 65536)
        except OSError:
            self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path, model):
    handler = lambda *args: Handler(*args, directory=model.parent)  # noqa: E731
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_file_by_http_is_pushed_and_its_credentials_are_not_kept(repository, model, server):
    pushed = repository.push("m", server.replace("//", "//user:secret@") + "/model.onnx?token=abc")
    assert pushed.sha256 == sha256_of(model)
    assert pushed.manifest.source == f"{server}/model.onnx"


def test_what_is_not_there_or_never_ends_is_refused(repository, server):
    with pytest.raises(ModelNotFound, match=r"nothing is at http://127.*/gone.onnx"):
        repository.push("m", f"{server}/gone.onnx")
    with pytest.raises(ModelCorrupt, match=r"endless.onnx is larger than 3 MiB \(--max-mb\)"):
        repository.push("m", f"{server}/endless.onnx", max_bytes=3 << 20)
    assert repository.names() == []


def test_a_server_that_is_not_there_is_told_as_such(repository):
    with pytest.raises(RegistryError, match=r"http://127.0.0.1:1/m.onnx cannot be fetched") as caught:
        repository.push("m", "http://127.0.0.1:1/m.onnx")
    assert caught.value.retryable


def test_a_file_url_is_a_file_or_a_folder(repository, model):
    assert repository.push("m", model.as_uri()).version == "1"
    assert repository.push("m", model.parent.as_uri()).version == "2"
    with pytest.raises(ModelNotFound):
        repository.push("m", (model.parent / "gone").as_uri())


def test_a_folder_in_an_object_store_comes_with_all_that_is_below_it(repository, tmp_path):
    store = fsspec.filesystem("memory")
    store.pipe("/bucket/run/best/model.onnx", models.with_external_data("parts/w.bin").SerializeToString())
    store.pipe("/bucket/run/best/parts/w.bin", b"\0" * 16)
    pushed = repository.push("m", "memory://bucket/run/best")
    assert set(pushed.manifest.files) == {"model.onnx", "parts/w.bin"}
    with pytest.raises(ModelCorrupt, match="larger than 0 MiB"):
        repository.push("m", "memory://bucket/run/best", max_bytes=100)


def test_names_from_a_store_lead_nowhere_else(tmp_path, monkeypatch):
    store = fsspec.filesystem("memory")
    store.pipe("/evil/model.onnx", b"x")
    found = type(store).find
    monkeypatch.setattr(type(store), "find", lambda self, path: [*found(self, path), "/evil/../../escaped"])
    (tmp_path / "into").mkdir()
    with pytest.raises(ModelCorrupt, match="leads out of the folder"):
        download("memory://evil", tmp_path / "into", max_bytes=100)
    assert not (tmp_path / "escaped").exists()


def test_a_folder_of_very_many_files_is_no_model(tmp_path):
    store = fsspec.filesystem("memory")
    for n in range(1001):
        store.pipe(f"/many/{n}", b"")
    with pytest.raises(ModelCorrupt, match="holds 1,001 files"):
        download("memory://many", tmp_path, max_bytes=100)


@pytest.mark.parametrize(
    "url",
    [
        "github://org:repo@main/model.onnx",
        "reference://x",
        "zip://model.onnx::http://127.0.0.1/x.zip",
        "memory://x::file:///etc/passwd",
        "python://os",
        "ftp://127.0.0.1/model.onnx",
    ],
)
def test_other_protocols_and_chains_are_refused(repository, url):
    with pytest.raises(RegistryError, match="use one of file, memory, http"):
        repository.push("m", url)


def test_without_the_client_the_message_is_the_pip_command(repository, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "fsspec.core", None)
    with pytest.raises(ConfigError, match=r"pip install 'streamserve\[remote\]', and s3fs for s3"):
        repository.push("m", "s3://bucket/model.onnx")


def test_a_path_with_a_colon_is_no_url(repository, tmp_path):
    path = models.save(models.mlp(), tmp_path / "a:b")
    assert repository.push("m", Path(path)).version == "1"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://u:p@host:8080/a/b.onnx?sig=x#y", "https://host:8080/a/b.onnx"),
        ("s3://bucket/a/b", "s3://bucket/a/b"),
    ],
)
def test_a_url_is_shown_without_what_may_be_secret(url, shown):
    assert described(url) == shown
