"""The artifact store: a file is whole or not there, in a folder and in a bucket."""

import hashlib
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from app.errors import NotFound, Unavailable
from app.storage import Storage


@pytest.fixture(scope="session")
def buckets() -> Iterator[Callable[[str], str]]:
    """Makes buckets on a server that speaks S3's protocol."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "ACCESS_KEY_ID": "test",
            "SECRET_ACCESS_KEY": "test",
            "DEFAULT_REGION": "us-east-1",
            "ENDPOINT_URL": f"http://{host}:{port}",
        }.items():
            patch.setenv(f"AWS_{name}", value)

        def make(name: str) -> str:
            boto3.client("s3").create_bucket(Bucket=name)
            return f"s3://{name}/prefix"

        yield make
    server.stop()


@pytest.fixture(params=["folder", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "folder":
        return Storage(f"file://{tmp_path}/artifacts")
    return Storage(request.getfixturevalue("buckets")(f"bucket-{secrets.token_hex(8)}"))


def test_file_comes_back_whole_and_from_any_place(store: Storage, tmp_path: Path) -> None:
    content = bytes(range(256)) * 9000
    (tmp_path / "source").write_bytes(content)
    stored = store.put_file("checkpoints/job-1/adapter_model.safetensors", tmp_path / "source")
    assert (stored.size, stored.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert store.read_bytes(stored.key) == content
    with store.open(stored.key, 1_000_003) as file:
        assert file.read(10) == content[1_000_003:1_000_013]
    assert store.size(stored.key) == len(content)


def test_second_write_replaces_the_first(store: Storage) -> None:
    store.put_bytes("a/b.json", b"first, longer")
    store.put_bytes("a/b.json", b"second")
    assert store.read_bytes("a/b.json") == b"second"


def test_broken_off_write_leaves_neither_file_nor_rest(
    store: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_publish", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(Unavailable, match=r"is full\. Nothing was changed"):
        store.put_bytes("a/b.json", b"data")
    assert not store.exists("a/b.json")
    assert not [name for name in store._fs.find(store._root) if "tmp/" in name]


def test_deleting_twice_is_no_error_and_reading_then_is_not_found(store: Storage) -> None:
    store.put_bytes("a.json", b"{}")
    store.delete("a.json")
    store.delete("a.json")
    with pytest.raises(NotFound):
        store.read_bytes("a.json")


@pytest.mark.parametrize("key", ["../secret", "/etc/passwd", "a/../b", "a//b", "", ".hidden", "a/.b", "a\x00b", "a b"])
def test_key_never_leaves_the_store(store: Storage, key: str) -> None:
    with pytest.raises(ValueError, match="isn't a key"):
        store.open(key)
    with pytest.raises(ValueError, match="isn't a key"):
        store.put_bytes(key, b"")


def test_check_passes_on_a_good_store(store: Storage) -> None:
    store.check()


def test_missing_bucket_and_blocked_folder_are_explained(buckets: Callable[[str], str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    for url in (f"file://{tmp_path}/file/inside", "s3://a-bucket-that-is-not-there"):
        with pytest.raises(Unavailable, match="artifact store"):
            Storage(url).check()


def test_fetched_file_comes_with_its_size_and_hash(store: Storage, tmp_path: Path) -> None:
    data = secrets.token_bytes(3_000_000)  # several chunks
    store.put_bytes("a/b.bin", data)
    arrived = store.fetch("a/b.bin", tmp_path / "b.bin")
    assert (tmp_path / "b.bin").read_bytes() == data
    assert (arrived.key, arrived.size, arrived.sha256) == ("a/b.bin", len(data), hashlib.sha256(data).hexdigest())
    with pytest.raises(NotFound):
        store.fetch("a/absent.bin", tmp_path / "absent.bin")
