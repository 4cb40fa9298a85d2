"""What this machine can train on, looked up without loading torch, and who uses it: one job a GPU."""

import fcntl
import json
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO

import psutil

from app.paths import ROOT
from worker.dpo.machine import rates

PACKAGES = ("torch", "transformers", "peft", "accelerate")


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU by its UUID, which no order of devices changes, or the processor (`gpu` is None)."""

    name: str
    memory_bytes: int
    gpu: str | None = None


def find() -> list[Device]:
    """The NVIDIA GPUs that this process may use, else the processor."""
    return _gpus() or [Device(_processor(), _memory())]


def describe(devices: list[Device]) -> str:
    """In words, e.g. `2 × NVIDIA H100 80GB HBM3`."""
    names = [device.name for device in devices]
    return ", ".join(
        f"{names.count(name)} × {name}" if names.count(name) > 1 else name for name in dict.fromkeys(names)
    )


def versions() -> dict[str, str]:
    """Python and what trains, without importing it."""
    numbers = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            numbers[package] = version(package)
        except PackageNotFoundError:
            numbers[package] = "not installed"
    return numbers


def product_rates(own: list[Device]) -> dict[str, float]:
    """GFLOP/s by number type of the first device, as an earlier look found it; empty where there was none yet."""
    gpu = next((device.name for device in own if device.gpu is not None), None)
    return rates.kept(gpu or "cpu") or {}


def measure_products(own: list[Device]) -> dict[str, float]:
    """`product_rates`, measured by the engine where they aren't known; empty where it can't. It takes some seconds."""
    known = product_rates(own)
    if known:
        return known
    command = [sys.executable, "-m", "worker.dpo", "rates"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=True)
        return {str(name): float(rate) for name, rate in json.loads(done.stdout).items()}
    except (OSError, subprocess.SubprocessError, ValueError, AttributeError, TypeError):
        return {}


NO_GPU = {"CUDA_VISIBLE_DEVICES": ""}  # what keeps a job's process off the GPUs


class Claim:
    """Devices that this worker holds for one job. A worker that dies lets go of them, however it dies."""

    def __init__(self, devices: list[Device], locks: list[IO[str]]) -> None:
        self.devices = devices
        self._locks = locks

    def environment(self) -> dict[str, str]:
        """What confines a job's process to these devices."""
        gpus = [device.gpu for device in self.devices if device.gpu is not None]
        return {"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else {}

    def release(self) -> None:
        """Let others have them. Releasing twice is fine."""
        for lock in self._locks:
            lock.close()


def claim(devices: list[Device], folder: Path, *, every: bool) -> Claim | None:
    """A free device, or with `every` all of them (one job over several GPUs). None if they are in use.

    The processor is shared: whoever starts two workers on it wants two jobs on it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    held: list[Device] = []
    locks: list[IO[str]] = []
    for device in devices:
        if device.gpu is None:
            held.append(device)
            continue
        lock = (folder / f"{device.gpu}.lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            continue
        held.append(device)
        locks.append(lock)
        if not every:
            break
    taken = Claim(held, locks)
    if not held or (every and len(held) < len(devices)):
        taken.release()
        return None
    return taken


def _gpus() -> list[Device]:
    query = ["nvidia-smi", "--query-gpu=index,uuid,name,memory.total", "--format=csv,noheader,nounits"]
    try:
        lines = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    allowed = None if visible is None else [name.strip() for name in visible.split(",")]
    devices = []
    for line in lines:
        index, uuid, name, mebibytes = (part.strip() for part in line.split(",", 3))
        if allowed is None or index in allowed or uuid in allowed:
            devices.append(Device(name, int(float(mebibytes)) * 1024 * 1024, gpu=uuid))
    return devices


def _processor() -> str:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return f"CPU, {cores} {'core' if cores == 1 else 'cores'} ({platform.machine()})"


def _memory() -> int:
    """Bytes that this process may use: the machine's, or less where a control group limits it."""
    total = int(psutil.virtual_memory().total)
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return total
    return min(total, int(limit)) if limit.isdigit() else total
