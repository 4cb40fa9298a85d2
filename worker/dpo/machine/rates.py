"""How fast a device multiplies matrices of each number type: measured once, kept in the cache folder.

What is kept is read without PyTorch.
"""

import json
import math
import os
import platform
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

from worker.dpo.ground.cache import cache_folder, code_hash

# Numbers of rows and columns of the matrices that are multiplied: large enough for a device's full rate.
SIZE_CPU, SIZE_GPU = 1024, 8192
REPEATS, MOST_SECONDS = 5, 1.0


def product_rates(device: str) -> dict[str, float]:
    """GFLOP/s of this device's matrix products by number type: as kept from an earlier look, or measured, in a second or two.

    device: as PyTorch names it.
    """
    import torch

    gpu = torch.cuda.get_device_name(device) if device.startswith("cuda") else device.partition(":")[0]
    rates = kept(gpu)
    if rates is None:
        rates = measure(device, types_of(device))
        _keep(gpu, rates)
    return rates


def kept(device: str) -> dict[str, float] | None:
    """What an earlier look found of a GPU, by its name, or of the processor, called `cpu`; None where there was none."""
    with suppress(OSError, ValueError, TypeError, AttributeError, KeyError):
        rates = {name: float(rate) for name, rate in json.loads(_path().read_text())[_key(device)].items()}
        # NaN is neither.
        return rates if all(0 < rate < math.inf for rate in rates.values()) else None
    return None


def _keep(device: str, rates: dict[str, float]) -> None:
    known: dict[str, dict[str, float]] = {}
    with suppress(OSError, ValueError, TypeError):
        known = dict(json.loads(_path().read_text()))
    path = _path()
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}")
        part.write_text(json.dumps(known | {_key(device): rates}, indent=1))
        part.replace(path)


def _path() -> Path:
    return cache_folder() / "product-rates.json"


def _key(device: str) -> str:
    """Device, PyTorch and code: what the rates depend on."""
    name = _processor() if device == "cpu" else device
    return f"{name}, PyTorch {version('torch')}, {code_hash('ground/matmul.py')[:12]}"


def _processor() -> str:
    """The processor with what it can do, since one name may stand for several generations."""
    described = Path("/proc/cpuinfo")
    lines = described.read_text().splitlines() if described.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    flags = next((line for line in lines if line.startswith("flags")), "").split()
    kinds = [kind for kind in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if kind in flags]
    return " ".join([names[0] if names else platform.processor() or platform.machine(), *kinds])


def types_of(device: str) -> tuple[str, ...]:
    """The types that a run may have on this device, as PyTorch names them."""
    if device.startswith("cuda"):
        return "float32", "bfloat16", "float16", "float64"
    return ("float32", "bfloat16") if device.startswith("mps") else ("float32", "bfloat16", "float64")


def measure(device: str, types: Iterable[str], *, clock: Callable[[], float] = time.perf_counter) -> dict[str, float]:
    """GFLOP/s of products by type. The types take turns, so that a busy moment meets them all; the best of each counts."""
    import torch

    from worker.dpo.ground.matmul import product

    wait = {"cuda": torch.cuda.synchronize, "mps": torch.mps.synchronize}.get(device.partition(":")[0], lambda: None)
    size = SIZE_CPU if device == "cpu" else SIZE_GPU if device.startswith("cuda") else 2 * SIZE_CPU
    matrices = {name: torch.randn(2, size, size).to(device, getattr(torch, name)) for name in types}
    seconds: dict[str, float] = {}
    for turn in range(REPEATS + 1):
        for name, (left, right) in matrices.items():
            if turn and seconds[name] > MOST_SECONDS:
                continue
            started = clock()
            product(left, right)
            wait()
            # The first call also finds a kernel.
            took = clock() - started
            seconds[name] = took if turn <= 1 else min(seconds[name], took)
    return {name: round(2 * size**3 / took / 1e9, 1) for name, took in seconds.items()}
