"""A folder that follows an alias: whole copies, switched in one step, in the form of vLLM's LoRA resolver."""

import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from app.errors import Conflict, Invalid
from app.services.loop import following
from app.storage import Storage, StoredFile

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
CONFIG = {"peft_type": "LORA", "base_model_name_or_path": "/models/tiny", "r": 16}


def adapter(storage: Storage, text: str) -> list[StoredFile]:
    return [
        storage.put_bytes(f"checkpoints/{text}/{name}", data, name=name)
        for name, data in (
            ("adapter_config.json", json.dumps(CONFIG).encode()),
            ("adapter_model.safetensors", text.encode()),
        )
    ]


def test_what_the_name_means_is_there_whole_under_its_name(storage: Storage, tmp_path: Path) -> None:
    folder = tmp_path / "served"
    placed = following.place(
        folder, alias="production", copy="checkpoint-1", files=adapter(storage, "one"), storage=storage
    )
    assert placed.switched and placed.link == folder / "production"
    assert json.loads((placed.link / "adapter_config.json").read_text()) == CONFIG
    assert (placed.link / "adapter_model.safetensors").read_text() == "one"
    assert [path.name for path in folder.iterdir() if not path.name.startswith(".")] == ["production"]
    assert not os.readlink(placed.link).startswith("/"), "the folder may be mounted elsewhere"


def test_the_link_is_switched_by_a_rename_and_back_again(storage: Storage, tmp_path: Path) -> None:
    def place(text: str) -> following.Placed:
        return following.place(tmp_path, alias="p", copy=text, files=adapter(storage, text), storage=storage)

    place("one")
    opened = (tmp_path / "p" / "adapter_model.safetensors").open()
    assert place("two").switched and not place("two").switched
    assert opened.read() == "one" and (tmp_path / "p" / "adapter_model.safetensors").read_text() == "two"
    assert place("one").switched
    assert (tmp_path / "p" / "adapter_model.safetensors").read_text() == "one"
    assert following.remove(tmp_path, alias="p") and not following.remove(tmp_path, alias="p")


def test_the_base_is_named_as_it_is_served(storage: Storage, tmp_path: Path) -> None:
    files = adapter(storage, "one")
    placed = following.place(tmp_path, alias="p", copy="one", files=files, storage=storage, base_model="org/tiny")
    facts = json.loads((placed.link / "adapter_config.json").read_text())
    assert facts == CONFIG | {"base_model_name_or_path": "org/tiny"}
    with pytest.raises(Invalid, match="Only an adapter"):
        following.place(tmp_path, alias="q", copy="x", files=files[1:], storage=storage, base_model="org/tiny")


def test_nothing_is_switched_to_a_file_that_is_damaged(storage: Storage, tmp_path: Path) -> None:
    good = adapter(storage, "one")
    following.place(tmp_path, alias="p", copy="one", files=good, storage=storage)
    damaged = [StoredFile(file.name, file.key, file.size, "0" * 64) for file in adapter(storage, "two")]
    with pytest.raises(Conflict, match="isn't what was stored"):
        following.place(tmp_path, alias="p", copy="two", files=damaged, storage=storage)
    assert (tmp_path / "p" / "adapter_model.safetensors").read_text() == "one"
    assert [path.name for path in (tmp_path / ".checkpoints" / "p").glob("[!.]*")] == ["one"]
    assert not list((tmp_path / ".checkpoints" / "p").glob(".making-*"))


def test_a_folder_of_somebody_elses_is_left_alone(storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    with pytest.raises(Conflict, match="isn't a link"):
        following.place(tmp_path, alias="p", copy="one", files=adapter(storage, "one"), storage=storage)


def test_only_the_newest_copies_stay(storage: Storage, tmp_path: Path) -> None:
    for place, text in enumerate(("one", "two", "three", "four")):
        placed = following.place(tmp_path, alias="p", copy=text, files=adapter(storage, text), storage=storage)
        os.utime(placed.copy, (place, place))
    assert {path.name for path in (tmp_path / ".checkpoints" / "p").glob("[!.]*")} == {"two", "three", "four"}


def test_two_that_follow_into_one_folder_at_once_make_one_copy(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, fill, made, both = adapter(storage, "one"), following._fill, [], threading.Barrier(2)

    def place() -> following.Placed:
        both.wait(timeout=20)
        return following.place(tmp_path, alias="p", copy="one", files=files, storage=storage)

    def slow(into: Path, *rest: object) -> None:
        fill(into, *rest)  # type: ignore[arg-type]
        made.append(into)
        with suppress(threading.BrokenBarrierError):
            both.wait(timeout=0.3)  # the other one would come here too, were it not kept out

    monkeypatch.setattr(following, "_fill", slow)
    with ThreadPoolExecutor(2) as pool:
        first, second = [task.result() for task in [pool.submit(place), pool.submit(place)]]
    assert len(made) == 1 and sorted([first.switched, second.switched]) == [False, True]
    assert (tmp_path / "p" / "adapter_model.safetensors").read_text() == "one"


def test_what_a_killed_one_had_begun_goes(storage: Storage, tmp_path: Path) -> None:
    copies = tmp_path / ".checkpoints" / "p"
    for name in (".making-killed", ".link-killed"):
        (copies / name / "one").mkdir(parents=True)
        (copies / name / "one" / "adapter_model.safetensors").write_text("half")
    following.place(tmp_path, alias="p", copy="one", files=adapter(storage, "one"), storage=storage)
    assert {path.name for path in copies.iterdir()} == {"one", ".lock"}
