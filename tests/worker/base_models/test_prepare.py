"""Preparing a base model: once, whole or not at all, however often and by however many it is asked for."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.worker.base_models.adding import from_folder
from tests.worker.dpo.tiny import save_tiny
from worker.base_models.folder import Refused


def test_adding_the_same_again_changes_nothing_and_another_is_refused(
    tiny: Path, models_dir: Path, tmp_path: Path
) -> None:
    first = from_folder(models_dir, tiny)
    (tiny / "config.json").unlink()  # not even looked at again
    assert from_folder(models_dir, tiny) == first
    with pytest.raises(Refused, match="from another source") as refusal:
        from_folder(models_dir, save_tiny(tmp_path / "other", seed=1))
    assert refusal.value.code == "conflict"


def test_a_folder_that_somebody_else_put_there_is_left_alone(tiny: Path, models_dir: Path) -> None:
    (models_dir / "mine").mkdir(parents=True)
    (models_dir / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(Refused, match="was not prepared"):
        from_folder(models_dir, tiny)
    assert (models_dir / "mine" / "thesis.txt").read_text() == "precious"


def test_a_killed_preparation_leaves_no_model_and_is_cleared_by_the_next(tiny: Path, models_dir: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "worker.base_models.prepare",
        "--models-dir",
        str(models_dir),
        "--name",
        "mine",
        "--folder",
        str(tiny),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        first = json.loads(process.stdout.readline())
        process.kill()
    assert first["event"] == "progress"
    assert not (models_dir / "mine").exists()
    assert list(models_dir.glob(".mine.*.partial"))
    from_folder(models_dir, tiny)
    assert not list(models_dir.glob(".mine.*.partial"))


def test_two_at_once_prepare_it_once(tiny: Path, models_dir: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "worker.base_models.prepare",
        "--models-dir",
        str(models_dir),
        "--name",
        "mine",
        "--folder",
        str(tiny),
    ]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(2)]
    done = [[json.loads(line) for line in process.communicate()[0].splitlines()][-1] for process in both]
    assert [event["event"] for event in done] == ["done", "done"]
    assert done[0]["model"] == done[1]["model"]
