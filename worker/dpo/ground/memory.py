"""The machine's memory: what is free, held, freed and returned, and whether it ran out."""

import ctypes
import os
import resource
from contextlib import suppress
from pathlib import Path

import psutil
import torch

CGROUP_FILES = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)
# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def memory_available(device: torch.device) -> int:
    """Bytes that this process may still take: free on the GPU, or its share of what the machine or container has left."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    neighbours = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    limits = [limit // neighbours for limit in (psutil.virtual_memory().available, *_cgroup_room())]
    address_space = resource.getrlimit(resource.RLIMIT_AS)[0]
    if address_space != resource.RLIM_INFINITY:
        limits.append(address_space - psutil.Process().memory_info().vms)
    return max(0, min(limits))


def _cgroup_room() -> list[int]:
    """What a container's limit leaves, for control groups of version 2 and 1."""
    rooms = []
    for limit, used in CGROUP_FILES:
        try:
            text = Path(limit).read_text().strip()
            if text != "max" and int(text) < 2**60:
                rooms.append(int(text) - int(Path(used).read_text()))
        except (OSError, ValueError):
            continue
    return rooms


def keep_freed_memory() -> None:
    """Have the C library reuse what was freed rather than return it to the system at once, where it is glibc's.

    A training step takes and frees the same blocks again and again; returned, each would come back page by page, zeroed.
    """
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(_M_TRIM_THRESHOLD, -1)


def memory_used(device: torch.device) -> int:
    """Bytes held now: allocated on the GPU, or resident on a CPU."""
    if device.type == "cpu":
        give_back_freed_memory()
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else resident_memory()


def resident_memory() -> int:
    """Bytes of this process that are in the machine's memory now."""
    return psutil.Process().memory_info().rss


def give_back_freed_memory() -> None:
    """Have the C library return what was freed to the system, so that no phase holds what an earlier one needed."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def peak_memory(device: torch.device) -> int:
    """The most that this process ever held, in bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with suppress(OSError):
        # Not `ru_maxrss`, which starts at what the process that started this one held.
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def is_out_of_memory(problem: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or on the CPU."""
    if isinstance(problem, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(problem, RuntimeError) and (
        "can't allocate memory" in str(problem) or "not enough memory" in str(problem)
    )
