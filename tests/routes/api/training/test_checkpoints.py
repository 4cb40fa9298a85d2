"""Checkpoints over the API: whole, in ranges, resumed, checked by hash."""

import hashlib
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
from sqlalchemy import Engine
from starlette.testclient import TestClient

from app.db import write_session
from app.errors import Invalid
from app.models import JobKind, User
from app.services.jobs import leases
from app.services.training import checkpoints, runs
from app.storage import Storage
from tests.factory import Factory

Api = Callable[[User], dict[str, str]]
WEIGHTS = bytes(range(256)) * 5000
FACTS = {
    "step": 3,
    "metrics": {"before": {"eval_loss": 0.69}, "after": {"eval_loss": 0.5}},
    "versions": {"torch": "2.13.0"},
    "seed": 42,
    "base_sha256": "b" * 64,
    "config": {"beta": 0.1},
}


@pytest.fixture
def engineer(factory: Factory, api: Api) -> dict[str, str]:
    return api(factory.engineer())


@pytest.fixture
def checkpoint_id(engine: Engine, factory: Factory, storage: Storage, tmp_path: Path) -> int:
    """As a worker publishes it; with files beside it that must not be offered."""
    out = tmp_path / "out"
    for name, content in {
        "adapter_model.safetensors": WEIGHTS,
        "prefloop.json": orjson.dumps(FACTS),
        "README.md": b"# Card\n",
        "training_args.bin": b"\x80pickle",
        "optimizer.pt": b"\x80pickle",
        "state/step-00000003/state.json": b"{}",
        ".hidden.json": b"{}",
        "empty.txt": b"",
    }.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(content)
    (out / "link.json").symlink_to("/etc/passwd")
    snapshot, user = factory.snapshot(factory.judged(4)), factory.engineer()
    stored = checkpoints.upload(storage, out, prefix="checkpoints/job-1/t")
    with write_session(engine) as session:
        runs.create(session, snapshot=session.merge(snapshot), base_model="tiny", config={}, by=session.merge(user))
        job = leases.claim(session, worker="w", kinds=list(JobKind), lease_seconds=60)
        run = runs.get(session, job.id)
        chain = checkpoints.provenance(run=run, guideline_version=1, facts=FACTS, base={"origin": "a folder"})
        row = checkpoints.publish(session, run=run, files=stored, facts=FACTS, provenance=chain)
        leases.succeed(session, job_id=job.id, token=job.lease_token)
        return row.id


@pytest.fixture
def url(checkpoint_id: int) -> str:
    return f"/api/v1/checkpoints/{checkpoint_id}"


def test_checkpoint_tells_where_it_comes_from_and_offers_nothing_pickled(
    client: TestClient, engineer: dict[str, str], url: str
) -> None:
    shown = client.get(url, headers=engineer).json()
    assert [file["name"] for file in shown["files"]] == [
        "README.md",
        "adapter_model.safetensors",
        "empty.txt",
        "prefloop.json",
    ]
    assert shown["files"][1] == {
        "name": "adapter_model.safetensors",
        "size": len(WEIGHTS),
        "sha256": hashlib.sha256(WEIGHTS).hexdigest(),
    }
    assert shown["metrics"]["after"]["eval_loss"] == 0.5
    assert (shown["provenance"]["snapshot"]["number"], shown["provenance"]["base_model"]["weights_sha256"]) == (
        1,
        "b" * 64,
    )
    assert client.get("/api/v1/checkpoints", headers=engineer).json()["total"] == 1


def test_file_comes_whole_with_its_hash(client: TestClient, engineer: dict[str, str], url: str) -> None:
    reply = client.get(f"{url}/files/adapter_model.safetensors", headers=engineer)
    digest = hashlib.sha256(WEIGHTS).hexdigest()
    assert (reply.status_code, reply.content) == (200, WEIGHTS)
    assert (reply.headers["etag"], reply.headers["x-content-sha256"]) == (f'"{digest}"', digest)
    assert reply.headers["content-disposition"].startswith('attachment; filename="adapter_model.safetensors"')
    head = client.head(f"{url}/files/adapter_model.safetensors", headers=engineer)
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(WEIGHTS)))


@pytest.mark.parametrize(
    ("wanted", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=1000-1999", 1000, 1999),
        ("bytes=1279999-", 1279999, 1279999),
        ("bytes=-5", 1279995, 1279999),
        ("bytes=1279990-9999999", 1279990, 1279999),
        ("bytes=-9999999", 0, 1279999),
    ],
)
def test_range_is_those_bytes(
    client: TestClient, engineer: dict[str, str], url: str, wanted: str, first: int, last: int
) -> None:
    reply = client.get(f"{url}/files/adapter_model.safetensors", headers=engineer | {"Range": wanted})
    assert (reply.status_code, reply.content) == (206, WEIGHTS[first : last + 1])
    assert reply.headers["content-range"] == f"bytes {first}-{last}/{len(WEIGHTS)}"


@pytest.mark.parametrize("wanted", ["bytes=1280000-", "bytes=9999999-99999999", "bytes=-0"])
def test_range_beyond_the_end_is_refused(client: TestClient, engineer: dict[str, str], url: str, wanted: str) -> None:
    reply = client.get(f"{url}/files/adapter_model.safetensors", headers=engineer | {"Range": wanted})
    assert (reply.status_code, reply.headers["content-range"]) == (416, f"bytes */{len(WEIGHTS)}")


@pytest.mark.parametrize(
    "wanted", ["bytes=5-2", "bytes=-", "bytes=a-b", "lines=0-1", "bytes=0-1,5-6", "bytes=" + "9" * 30 + "-"]
)
def test_range_that_is_none_gets_the_whole(client: TestClient, engineer: dict[str, str], url: str, wanted: str) -> None:
    assert client.get(f"{url}/files/README.md", headers=engineer | {"Range": wanted}).content == b"# Card\n"


def test_broken_off_download_goes_on_only_if_the_file_is_the_same(
    client: TestClient, engineer: dict[str, str], url: str
) -> None:
    whole = client.get(f"{url}/files/README.md", headers=engineer)
    rest = engineer | {"Range": "bytes=2-"}
    assert client.get(f"{url}/files/README.md", headers=rest | {"If-Range": whole.headers["etag"]}).status_code == 206
    assert (
        client.get(f"{url}/files/README.md", headers=rest | {"If-Range": whole.headers["last-modified"]}).status_code
        == 206
    )
    assert client.get(f"{url}/files/README.md", headers=rest | {"If-Range": '"other"'}).status_code == 200
    assert (
        client.get(f"{url}/files/README.md", headers=engineer | {"If-None-Match": whole.headers["etag"]}).status_code
        == 304
    )


def test_empty_file_is_a_file(client: TestClient, engineer: dict[str, str], url: str) -> None:
    reply = client.get(f"{url}/files/empty.txt", headers=engineer)
    assert (reply.status_code, reply.content, reply.headers["content-length"]) == (200, b"", "0")
    assert client.get(f"{url}/files/empty.txt", headers=engineer | {"Range": "bytes=0-"}).status_code == 416


@pytest.mark.parametrize(
    "name",
    [
        "training_args.bin",
        "optimizer.pt",
        "../../../secret_key",
        "%2e%2e/%2e%2e/secret_key",
        "/etc/passwd",
        "state/step-00000003/state.json",
        "link.json",
        "README.md/",
        "x" * 3000,
    ],
)
def test_only_the_checkpoints_own_files_are_served(
    client: TestClient, engineer: dict[str, str], url: str, name: str
) -> None:
    assert client.get(f"{url}/files/{name}", headers=engineer).status_code == 404


def test_archive_unpacks_to_the_files_and_resumes_anywhere(
    client: TestClient, engineer: dict[str, str], url: str
) -> None:
    whole = client.get(f"{url}/archive.tar", headers=engineer)
    with tarfile.open(fileobj=io.BytesIO(whole.content)) as archive:
        unpacked = {member.name.rpartition("/")[2]: archive.extractfile(member).read() for member in archive}
    assert unpacked["adapter_model.safetensors"] == WEIGHTS
    assert set(unpacked) == {"README.md", "adapter_model.safetensors", "empty.txt", "prefloop.json"}
    for start in (0, 1, 511, 700, 4000, 900_000, len(whole.content) - 1):
        part = client.get(
            f"{url}/archive.tar", headers=engineer | {"Range": f"bytes={start}-", "If-Range": whole.headers["etag"]}
        )
        assert (part.status_code, part.content) == (206, whole.content[start:])


def test_file_that_is_gone_from_the_store_is_an_error_not_a_torn_download(
    client: TestClient, engineer: dict[str, str], url: str, storage: Storage
) -> None:
    storage.delete("checkpoints/job-1/t/README.md")
    reply = client.get(f"{url}/files/README.md", headers=engineer)
    assert (reply.status_code, reply.json()["code"]) == (404, "not_found")


def test_folder_without_a_whole_result_is_never_published(storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "adapter_model.safetensors").write_bytes(WEIGHTS)
    with pytest.raises(Invalid, match="without a whole checkpoint"):
        checkpoints.upload(storage, tmp_path, prefix="checkpoints/job-9/t")
