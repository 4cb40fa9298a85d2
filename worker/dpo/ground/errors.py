"""How a run can end, and the exit code of each end. `docs/engine.md` lists the same codes."""

DONE = 0
UNEXPECTED = 1
BAD_SETTING = 2
BAD_DATA = 3
OUT_OF_MEMORY = 4
NOT_FINITE = 5
DISK_FULL = 6
EXPORT_DIFFERS = 7
TERMINATED = 143

EXIT_CODES = {
    DONE: "done: the output is published",
    UNEXPECTED: "an error that nobody foresaw; the trace is on standard error",
    BAD_SETTING: "bad arguments, settings, model or adapter",
    BAD_DATA: "no usable data",
    OUT_OF_MEMORY: "out of memory, after every smaller token budget was tried",
    NOT_FINITE: "the loss, the gradient or the weights became NaN or infinite; nothing was published",
    DISK_FULL: "the disk is full; the last training state is whole",
    EXPORT_DIFFERS: "the export isn't the trained model; nothing was published",
    TERMINATED: "stopped by SIGTERM or Ctrl-C; the training state was saved",
}


class RunError(Exception):
    """An end with a reason that people can act on. `reason` is a stable code, the text says what to do next."""

    exit_code = UNEXPECTED
    reason = "unexpected"


class BadSetting(RunError, ValueError):
    """Arguments, settings, a model or an adapter that a run can't begin with."""

    exit_code, reason = BAD_SETTING, "bad_setting"


class BadData(RunError, ValueError):
    """A file without usable pairs."""

    exit_code, reason = BAD_DATA, "bad_data"


class DataFileError(BadData):
    """A file that can't be used as a whole: missing, damaged, or without a single usable pair."""


class OutOfMemory(RunError):
    """No token budget was small enough for the memory at hand."""

    exit_code, reason = OUT_OF_MEMORY, "out_of_memory"


class NotFinite(RunError):
    """The loss, the gradient or the weights became NaN or infinite. Nothing was published."""

    exit_code, reason = NOT_FINITE, "not_finite"


class DiskFull(RunError):
    """There was no room to write. The training state before is whole."""

    exit_code, reason = DISK_FULL, "disk_full"


class Terminated(RunError):
    """SIGTERM or Ctrl-C. The training state was saved, if there was anything to save."""

    exit_code, reason = TERMINATED, "terminated"
