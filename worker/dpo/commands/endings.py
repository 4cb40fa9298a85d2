"""How an error ends a command: its exit code, its reason, and what it says to people."""

import traceback

from worker.dpo.ground.errors import OUT_OF_MEMORY, UNEXPECTED, BadSetting, OutOfMemory, RunError
from worker.dpo.ground.values import ConfigError


def explain(problem: BaseException) -> tuple[int, str, str]:
    """(exit code, stable reason, what happened and what to do) of an error; an unforeseen one is traced to stderr."""
    from worker.dpo.ground.memory import is_out_of_memory

    if isinstance(problem, RunError):
        return problem.exit_code, problem.reason, str(problem)
    if isinstance(problem, ConfigError):
        return BadSetting.exit_code, BadSetting.reason, str(problem)
    if is_out_of_memory(problem):
        message = f"Memory ran out: {problem} Choose a smaller model, max_length or batch_size."
        return OUT_OF_MEMORY, OutOfMemory.reason, message
    traceback.print_exception(problem)
    return UNEXPECTED, RunError.reason, f"{type(problem).__name__}: {problem}"
