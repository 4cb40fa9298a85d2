"""Trackers: TensorBoard's files hold the points, the others get them through their own packages."""

import math
import sys
from types import SimpleNamespace

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from worker.dpo.run.trackers import TrackerError, open_trackers


def points(folder, name: str) -> list[tuple[int, float]]:
    reader = EventAccumulator(str(folder / "runs"))
    reader.Reload()
    return [(event.step, event.value) for event in reader.Scalars(name)]


def test_tensorboard_reads_the_points_beside_the_checkpoint(tmp_path):
    trackers = open_trackers(["tensorboard"], tmp_path)
    trackers.log({"loss": 0.5, "rewards/margins": 1, "stage": "training", "best": True}, step=1)
    trackers.log({"loss": math.nan}, step=2)
    trackers.close()
    (first, second) = points(tmp_path, "loss")
    assert first == (1, 0.5) and second[0] == 2 and math.isnan(second[1])
    assert points(tmp_path, "rewards/margins") == [(1, 1.0)]
    reader = EventAccumulator(str(tmp_path / "runs"))
    reader.Reload()
    assert set(reader.Tags()["scalars"]) == {"loss", "rewards/margins"}


def test_a_resumed_run_shows_no_point_twice(tmp_path):
    killed = open_trackers("tensorboard", tmp_path)
    for step in range(1, 6):
        killed.log({"loss": step / 10}, step)
    killed.close()
    resumed = open_trackers("tensorboard", tmp_path, start_step=4)
    for step in range(4, 8):
        resumed.log({"loss": step / 100}, step)
    resumed.close()
    assert [step for step, _ in points(tmp_path, "loss")] == list(range(1, 8))


@pytest.mark.parametrize("nothing", [None, [], "none", ["none"]])
def test_no_tracker_writes_nothing(tmp_path, nothing):
    trackers = open_trackers(nothing, tmp_path)
    trackers.log({"loss": 1.0}, 1)
    trackers.close()
    assert not list(tmp_path.iterdir())


def test_an_unknown_or_missing_tracker_is_named_before_anything_is_written(tmp_path, monkeypatch):
    with pytest.raises(TrackerError, match="no tracker 'tensorbord'"):
        open_trackers(["tensorbord"], tmp_path)
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(TrackerError, match="pip install mlflow"):
        open_trackers(["tensorboard", "mlflow"], tmp_path)
    assert not list(tmp_path.iterdir())


def test_mlflow_gets_run_parameters_metrics_and_end(tmp_path, monkeypatch):
    calls = []
    record = {
        name: (lambda *args, _name=name, **kwargs: calls.append((_name, args, kwargs)))
        for name in ("start_run", "log_params", "log_metrics", "end_run")
    }
    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace(**record))
    trackers = open_trackers("mlflow", tmp_path / "run-7", config={"beta": 0.1, "long": "x" * 900})
    trackers.log({"loss": 0.5, "kl": math.inf}, step=3)
    trackers.close(succeeded=False)
    assert calls == [
        ("start_run", (), {"run_name": "run-7"}),
        ("log_params", ({"beta": "0.1", "long": "x" * 500},), {}),
        ("log_metrics", ({"loss": 0.5},), {"step": 3}),
        ("end_run", ("FAILED",), {}),
    ]


def test_wandb_gets_run_configuration_metrics_and_end(tmp_path, monkeypatch):
    calls = []
    run = SimpleNamespace(
        log=lambda metrics, step: calls.append(("log", metrics, step)),
        finish=lambda exit_code: calls.append(("finish", exit_code)),
    )

    def init(**arguments):
        calls.append(("init", arguments))
        return run

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    trackers = open_trackers(["wandb"], tmp_path, config={"beta": 0.1}, run_name="tone")
    trackers.log({"loss": 0.5}, step=3)
    trackers.close()
    assert calls == [
        ("init", {"name": "tone", "dir": str(tmp_path / "runs"), "config": {"beta": 0.1}}),
        ("log", {"loss": 0.5}, 3),
        ("finish", 0),
    ]
