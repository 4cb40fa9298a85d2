"""Devices: looked up without torch, one job a GPU. The machine at hand may have none, so its tool is played by a script."""

from pathlib import Path

import pytest

from worker import devices
from worker.devices import Device

TWO_GPUS = "0, GPU-aaa, NVIDIA H100 80GB HBM3, 81559\n1, GPU-bbb, NVIDIA H100 80GB HBM3, 81559\n"


@pytest.fixture
def nvidia(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text(f"#!/bin/sh\nprintf '{TWO_GPUS}'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tool.parent), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.usefixtures("nvidia")
def test_gpus_are_found_with_their_memory() -> None:
    gpus = devices.find()
    assert [(device.gpu, device.memory_bytes) for device in gpus] == [
        ("GPU-aaa", 81559 * 2**20),
        ("GPU-bbb", 81559 * 2**20),
    ]
    assert devices.describe(gpus) == "2 × NVIDIA H100 80GB HBM3"


@pytest.mark.usefixtures("nvidia")
@pytest.mark.parametrize(("visible", "gpus"), [("1", ["GPU-bbb"]), ("GPU-aaa", ["GPU-aaa"]), ("", [None])])
def test_only_the_gpus_that_the_worker_may_use_are_its(
    monkeypatch: pytest.MonkeyPatch, visible: str, gpus: list[str | None]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [device.gpu for device in devices.find()] == gpus


def test_each_gpu_takes_one_job_and_is_free_again_afterwards(tmp_path: Path) -> None:
    gpus = [Device("GPU", 1, gpu="GPU-a"), Device("GPU", 1, gpu="GPU-b")]
    first, second = (devices.claim(gpus, tmp_path, every=False) for _ in range(2))
    assert [first.environment(), second.environment()] == [
        {"CUDA_VISIBLE_DEVICES": "GPU-a"},
        {"CUDA_VISIBLE_DEVICES": "GPU-b"},
    ]
    assert devices.claim(gpus, tmp_path, every=False) is None
    first.release()
    assert devices.claim(gpus, tmp_path, every=True) is None, "the other one is still in use"
    second.release()
    assert devices.claim(gpus, tmp_path, every=True).environment() == {"CUDA_VISIBLE_DEVICES": "GPU-a,GPU-b"}


def test_processor_is_shared(tmp_path: Path) -> None:
    cpu = [Device("CPU", 1)]
    assert devices.claim(cpu, tmp_path, every=False).environment() == {}
    assert devices.claim(cpu, tmp_path, every=False) is not None
