"""Base models as the product sees them: listed, found by name, added from a folder or from a hub."""

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from app.config import Settings
from app.errors import Conflict, Invalid, NotFound, Unavailable
from app.services.training import base_models
from tests.worker.dpo.tiny import save_tiny

COMMIT = "c0ffee" * 6 + "c0ff"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data")


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return save_tiny(tmp_path / "tiny")


def test_a_folder_becomes_a_base_model_with_progress(settings: Settings, tiny: Path) -> None:
    messages: list[str] = []
    model = base_models.add(settings, "mine", str(tiny), progress=messages.append)
    assert any("Copying model.safetensors" in message for message in messages)
    assert model == base_models.get(settings, "mine") and base_models.list_models(settings) == [model]
    assert base_models.path(settings, "mine") == settings.data_dir / "models" / "mine"
    assert (model.path / "model.safetensors").stat().st_size == model.bytes
    assert model.origin == f"folder {tiny}" and model.has_chat_template and model.licence == "not stated"


def test_the_models_folder_can_lie_elsewhere(tmp_path: Path, tiny: Path) -> None:
    settings = Settings(data_dir=tmp_path / "data", models_dir=tmp_path / "big disk")
    assert base_models.add(settings, "mine", str(tiny)).path == tmp_path / "big disk" / "mine"


def test_an_unknown_name_says_what_there_is_and_how_to_add_it(settings: Settings) -> None:
    with pytest.raises(NotFound, match=r"there: none yet.*prefloop models add smollm2-135m-instruct$"):
        base_models.path(settings, "smollm2-135m-instruct")


@pytest.mark.parametrize("manifest", ["", "{", "{}", "[]", '{"name": "bad", "weights": 3}', "[" * 5000])
def test_a_broken_manifest_takes_one_model_away_and_not_the_others(
    settings: Settings, tiny: Path, manifest: str
) -> None:
    model = base_models.add(settings, "mine", str(tiny))
    (settings.models / "bad").mkdir()
    (settings.models / "bad" / base_models.MANIFEST).write_text(manifest)
    assert base_models.list_models(settings) == [model]
    with pytest.raises(base_models.BrokenModel, match="The base model bad can't be used") as refusal:
        base_models.get(settings, "bad")
    assert "prefloop models add bad" in refusal.value.next_step
    assert [problem.what for problem in base_models.broken(settings)] == [refusal.value.what]


@pytest.mark.parametrize("name", ["..", "../outside", "a/b", "/etc", "", ".hidden", "Upper", "x" * 65])
def test_a_name_is_never_a_way_out_of_the_folder(settings: Settings, tiny: Path, name: str) -> None:
    (settings.data_dir / "outside").mkdir(parents=True)
    (settings.data_dir / "outside" / "prefloop-model.json").write_text("{}")
    with pytest.raises(NotFound):
        base_models.get(settings, name)
    with pytest.raises(Invalid):
        base_models.add(settings, name, str(tiny))


def test_a_refused_folder_is_an_error_with_a_next_step(settings: Settings, tiny: Path) -> None:
    (tiny / "model.safetensors").rename(tiny / "pytorch_model.bin")
    with pytest.raises(Invalid, match="pickled") as refusal:
        base_models.add(settings, "mine", str(tiny))
    assert "save_pretrained" in refusal.value.next_step
    assert base_models.list_models(settings) == []


def test_a_name_that_is_taken_by_another_source_is_a_conflict(settings: Settings, tiny: Path, tmp_path: Path) -> None:
    base_models.add(settings, "mine", str(tiny))
    with pytest.raises(Conflict, match="from another source"):
        base_models.add(settings, "mine", str(save_tiny(tmp_path / "other", seed=1)))


def test_a_model_that_is_there_is_returned_without_starting_anything(
    settings: Settings, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = base_models.add(settings, base_models.DEMO_MODEL, str(tiny))
    monkeypatch.setattr(base_models.subprocess, "Popen", None)
    assert base_models.add(settings, base_models.DEMO_MODEL) == model


@pytest.mark.parametrize("source", ["no-such-thing", "a/b/c", "owner/na me", ""])
def test_a_source_that_is_neither_folder_nor_hub_id_is_refused(settings: Settings, source: str) -> None:
    with pytest.raises(Invalid):
        base_models.add(settings, "mine", source)


def test_a_folder_that_is_missing_is_named(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="no folder"):
        base_models.add(settings, "mine", str(tmp_path / "gone"))


def test_a_crash_is_told_by_its_last_line(settings: Settings, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tiny))
    (tiny / "safetensors.py").write_text("raise RuntimeError('broken installation')")
    with pytest.raises(Unavailable, match="broken installation"):
        base_models.add(settings, "mine", str(tiny))


# --- the hub ------------------------------------------------------------------------------------------------------


class Hub:
    """The two addresses of a model hub that a download uses, served from a folder. `refuse` breaks off weights."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.refuse = False
        self.served: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_args: object) -> None:
                pass

            def do_HEAD(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                path = self.path.split("?")[0]
                if path.startswith("/api/models/team/tiny"):
                    files = [{"rfilename": file.name, "size": file.stat().st_size} for file in hub.folder.iterdir()]
                    body = json.dumps({"id": "team/tiny", "sha": COMMIT, "siblings": files, "private": False}).encode()
                    return self.answer(200, body, {"Content-Type": "application/json"})
                if path.startswith("/api/models/team/gated"):
                    return self.answer(403, b"{}", {"X-Error-Code": "GatedRepo"})
                if path.startswith(f"/team/tiny/resolve/{COMMIT}/"):
                    file = hub.folder / path.rsplit("/", 1)[-1]
                    if self.command == "GET":
                        hub.served.append(file.name)
                        if hub.refuse and file.suffix == ".safetensors":
                            return self.answer(503, b"", {})
                    body = file.read_bytes()
                    return self.answer(
                        200, body, {"ETag": f'"{hashlib.sha256(body).hexdigest()}"', "X-Repo-Commit": COMMIT}
                    )
                return self.answer(401, b"{}", {"X-Error-Code": "RepoNotFound"})

            def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
                self.send_response(status)
                for name, value in (headers | {"Content-Length": str(len(body))}).items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def hub(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    hub = Hub(tiny)
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub-home"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    yield hub
    hub.server.shutdown()
    hub.server.server_close()


def test_a_hub_model_is_fetched_at_one_commit_and_only_what_is_needed(hub: Hub, settings: Settings) -> None:
    (hub.folder / "pytorch_model.bin").write_bytes(b"pickled")
    (hub.folder / "modeling_tiny.py").write_text("raise SystemExit")
    model = base_models.add(settings, "tiny", "team/tiny")
    assert model.source == {"kind": "hub", "id": "team/tiny", "revision": "main", "commit": COMMIT}
    assert model.origin == f"team/tiny at {COMMIT[:12]} on the model hub"
    assert not {"pytorch_model.bin", "modeling_tiny.py"} & set(hub.served)
    assert not (model.path / ".cache").exists()


def test_a_download_that_broke_off_is_resumed(hub: Hub, settings: Settings) -> None:
    hub.refuse = True
    with pytest.raises(Unavailable, match="resumes where it stopped"):
        base_models.add(settings, "tiny", "team/tiny")
    assert base_models.list_models(settings) == [] and "config.json" in hub.served
    hub.refuse, hub.served = False, []
    assert base_models.add(settings, "tiny", "team/tiny").name == "tiny"
    assert "config.json" not in hub.served and "model.safetensors" in hub.served


def test_only_pickled_weights_on_the_hub_are_refused_before_anything_is_fetched(hub: Hub, settings: Settings) -> None:
    (hub.folder / "model.safetensors").rename(hub.folder / "pytorch_model.bin")
    with pytest.raises(Invalid, match="pickled"):
        base_models.add(settings, "tiny", "team/tiny")
    assert hub.served == []


@pytest.mark.parametrize(
    ("identifier", "error", "reason"),
    [
        ("team/absent", NotFound, "knows no model team/absent"),
        ("team/gated", Invalid, "accepted its terms"),
    ],
)
def test_a_hub_that_says_no_is_quoted_in_words(
    hub: Hub, settings: Settings, identifier: str, error: type, reason: str
) -> None:
    with pytest.raises(error, match=reason):
        base_models.add(settings, "tiny", identifier)


def test_without_a_network_the_hub_is_named_and_the_folder_offered(hub: Hub, settings: Settings) -> None:
    hub.server.server_close()
    with pytest.raises(Unavailable, match=r"can't be reached.*from a folder"):
        base_models.add(settings, "tiny", "team/tiny")


@pytest.mark.parametrize("source", [None, "owner/name"])
def test_only_an_adapter_in_a_folder_is_merged(settings: Settings, source: str | None) -> None:
    with pytest.raises(Invalid, match="--from FOLDER --on BASE"):
        base_models.add(settings, "mine", source, on="tiny")


def test_the_base_of_an_adapter_has_a_name(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="can't be the name"):
        base_models.add(settings, "mine", str(tmp_path), on="../elsewhere")
