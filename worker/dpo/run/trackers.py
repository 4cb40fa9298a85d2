"""Metrics to TensorBoard event files beside the checkpoint, and to MLflow and Weights & Biases where installed."""

import importlib
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from worker.dpo.ground.errors import BadSetting

TRACKERS = ("tensorboard", "mlflow", "wandb")
FOLDER = "runs"


class TrackerError(BadSetting):
    """A tracker that doesn't exist or whose package is missing. The text says what to install."""


class Tracker(Protocol):
    """Where metrics go."""

    def log(self, metrics: Mapping[str, float], step: int) -> None: ...
    def close(self, succeeded: bool = True) -> None: ...


class Trackers:
    """All trackers of a run as one. Only numbers are passed on; NaN and infinities are, too: they are the news."""

    def __init__(self, trackers: Iterable[Tracker]) -> None:
        self._trackers = list(trackers)

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        numbers = {
            name: float(value)
            for name, value in metrics.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }
        if numbers:
            for tracker in self._trackers:
                tracker.log(numbers, step)

    def close(self, succeeded: bool = True) -> None:
        for tracker in self._trackers:
            tracker.close(succeeded)


def open_trackers(
    report_to: str | Iterable[str] | None,
    out: str | Path,
    *,
    config: Mapping[str, Any] | None = None,
    run_name: str | None = None,
    start_step: int = 0,
) -> Trackers:
    """Open the trackers that `report_to` names: `tensorboard`, `mlflow`, `wandb`, or nothing (`none`, empty).

    TensorBoard's files go to OUT/runs; the others read their server and keys from their own environment variables.
    start_step: where a resumed run goes on, so that points written after its last training state are not shown twice.
    Raises TrackerError before anything was opened.
    """
    names = [report_to] if isinstance(report_to, str) else list(report_to or [])
    names = [name for name in dict.fromkeys(names) if name != "none"]
    modules = {name: _module(name) for name in names}
    run_name = run_name or Path(out).name
    opened: list[Tracker] = []
    for name, module in modules.items():
        if name == "tensorboard":
            opened.append(_TensorBoard(module, Path(out) / FOLDER, start_step))
        elif name == "mlflow":
            opened.append(_MLflow(module, run_name, config or {}))
        else:
            opened.append(_Wandb(module, run_name, Path(out) / FOLDER, config or {}))
    return Trackers(opened)


def _module(name: str) -> ModuleType:
    if name not in TRACKERS:
        raise TrackerError(f"There is no tracker '{name}': report_to takes {', '.join(TRACKERS)} or none.")
    try:
        importlib.import_module(name)
        return importlib.import_module("torch.utils.tensorboard" if name == "tensorboard" else name)
    except ImportError as error:
        raise TrackerError(f"report_to names {name}, which can't be imported ({error}): pip install {name}.") from error


class _TensorBoard:
    def __init__(self, module: Any, folder: Path, start_step: int) -> None:
        self._writer = module.SummaryWriter(str(folder), purge_step=start_step or None)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self, succeeded: bool = True) -> None:
        self._writer.close()


class _MLflow:
    def __init__(self, module: Any, run_name: str, config: Mapping[str, Any]) -> None:
        self._mlflow = module
        self._mlflow.start_run(run_name=run_name)
        # MLflow refuses longer values.
        self._mlflow.log_params({name: str(value)[:500] for name, value in config.items()})

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        # Some of its stores refuse what isn't finite.
        self._mlflow.log_metrics({n: v for n, v in metrics.items() if math.isfinite(v)}, step=step)

    def close(self, succeeded: bool = True) -> None:
        self._mlflow.end_run("FINISHED" if succeeded else "FAILED")


class _Wandb:
    def __init__(self, module: Any, run_name: str, folder: Path, config: Mapping[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._run = module.init(name=run_name, dir=str(folder), config=dict(config))

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self._run.log(dict(metrics), step=step)

    def close(self, succeeded: bool = True) -> None:
        self._run.finish(exit_code=0 if succeeded else 1)
