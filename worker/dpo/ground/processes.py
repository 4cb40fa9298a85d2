"""What several processes of one run tell each other. With one process, each function gives what it was given.

All of them are collective: every process calls them at the same place.
"""

from typing import TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

T = TypeVar("T")


def everyones(accelerator: Accelerator, value: T) -> list[T]:
    """The value of every process, in the order of their ranks."""
    if accelerator.num_processes == 1:
        return [value]
    values: list = [None] * accelerator.num_processes
    torch.distributed.all_gather_object(values, value)
    return values


def first_ones(accelerator: Accelerator, value: T) -> T:
    """The value of the first process."""
    return value if accelerator.num_processes == 1 else broadcast_object_list([value])[0]


def any_of(accelerator: Accelerator, flag: bool) -> bool:
    """Whether the flag is set in any process."""
    if accelerator.num_processes == 1:
        return flag
    count = torch.tensor([float(flag)], device=accelerator.device)
    return bool(accelerator.reduce(count, reduction="sum").item())


def summed(accelerator: Accelerator, sums: dict[str, float]) -> dict[str, float]:
    """The sums over all processes by name; a process may lack some names."""
    parts = everyones(accelerator, sums)
    names = {name for part in parts for name in part}
    return {name: sum(part.get(name, 0.0) for part in parts) for name in names}
