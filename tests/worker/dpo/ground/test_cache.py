"""The hash of the engine's code: part of every cache's key, so that no number outlives the code that made it."""

from pathlib import Path

import pytest

from worker.dpo.ground import cache
from worker.dpo.ground.cache import code_hash


@pytest.fixture
def rooms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An engine of two rooms and a module."""
    for name, text in {"model/head.py": "a = 1", "model/scorer.py": "b = 2", "ground/matmul.py": "c = 3"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(cache, "ENGINE", tmp_path)
    code_hash.cache_clear()
    yield tmp_path
    code_hash.cache_clear()


def hashed() -> str:
    code_hash.cache_clear()
    return code_hash("model", "ground/matmul.py")


def change_a_byte(engine: Path) -> None:
    (engine / "model" / "head.py").write_text("a = 2")


def change_the_single_module(engine: Path) -> None:
    (engine / "ground" / "matmul.py").write_text("c = 4")


def rename_a_module(engine: Path) -> None:
    (engine / "model" / "head.py").rename(engine / "model" / "top.py")


def add_a_module(engine: Path) -> None:
    (engine / "model" / "extra.py").write_text("")


def move_a_line_to_the_next_module(engine: Path) -> None:
    (engine / "model" / "head.py").write_text("a = ")
    (engine / "model" / "scorer.py").write_text("1b = 2")


@pytest.mark.parametrize(
    "change",
    [change_a_byte, change_the_single_module, rename_a_module, add_a_module, move_a_line_to_the_next_module],
)
def test_every_change_of_the_code_changes_its_hash(change, rooms):
    before = hashed()
    assert hashed() == before
    change(rooms)
    assert hashed() != before


def test_code_outside_the_rooms_changes_nothing(rooms):
    before = hashed()
    (rooms / "ground" / "stopping.py").write_text("d = 4")
    assert hashed() == before


@pytest.mark.parametrize("gone", ["model", "ground/matmul.py"])
def test_a_room_or_module_that_has_moved_is_an_error_and_not_a_shorter_key(gone, rooms):
    (rooms / gone).rename(rooms / "elsewhere")
    with pytest.raises(FileNotFoundError, match="name its room or module as it is called now"):
        hashed()


def test_a_room_without_code_is_an_error_too(rooms):
    (rooms / "empty").mkdir()
    with pytest.raises(FileNotFoundError):
        code_hash("empty")
