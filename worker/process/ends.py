"""How a process ended by itself, in words: what it said last, its exit code, and whether the machine ran out of memory."""

import signal
from contextlib import suppress
from pathlib import Path

from app.events.types import Failed

TERMINATED = 143  # the program's exit code after SIGTERM, with its state saved


def explain(code: int, error: Failed | None, killed_for_memory: bool, program: str) -> tuple[str, str]:
    """(stable code, what happened) of a process that ended by itself. `program`: what people call it."""
    if error is not None and error.message:
        return error.reason or "failed", error.message
    if code == -signal.SIGKILL and killed_for_memory:
        return "out_of_memory", f"The system ended the {program} because memory ran out."
    if code == -signal.SIGKILL:
        return "killed", f"The {program} was killed (SIGKILL), most likely by the system because memory ran out."
    if code < 0:
        return "crashed", f"The {program} crashed ({signal.Signals(-code).name})."
    if code == TERMINATED:
        return "terminated", f"The {program} was told to end (SIGTERM) by somebody other than Prefloop."
    return "crashed", f"The {program} ended with exit code {code} and gave no reason."


def out_of_memory_kills() -> int:
    """How many processes the system has killed for memory since it started; 0 where it doesn't say."""
    with suppress(OSError, ValueError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == "oom_kill":
                return int(value)
    return 0
