"""The engine's tests keep their caches to themselves, and print their events where a test can read them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from worker.dpo.commands.cli import main
from worker.dpo.machine import rates


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    # Tiny matrices: a second thread costs more than it does.
    torch.set_num_threads(1)
    # What this machine multiplies fast must not decide what a test computes in, nor what a process that it starts does.
    alike = {"float32": 100.0, "bfloat16": 100.0, "float64": 50.0}
    monkeypatch.setattr(rates, "product_rates", lambda device: alike)
    rates._keep("cpu", alike)


@pytest.fixture
def engine(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, list[dict[str, Any]]]]:
    """`python -m worker.dpo …` in this process: (exit code, the JSON lines that it printed)."""

    def call(*arguments: str | Path) -> tuple[int, list[dict[str, Any]]]:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        lines = capsys.readouterr().out.splitlines()
        return code, [json.loads(line) for line in lines if line.startswith("{")]

    return call
