"""A file's lines are understood by a process of its own, where there are many: it runs on another core and lets people go first.

This process reads the rows and stores the pairs; the other one knows the columns and prepares pairs, one batch ahead. What
it is asked and answers goes through a socket of the two. It ends with this process, whatever ends this one.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack
from multiprocessing.connection import Connection, Pipe
from types import TracebackType
from typing import Self

from app.errors import PrefloopError
from app.paths import ROOT
from app.services.collecting.imports.reading import batches
from app.services.collecting.imports.reading.batches import Batch
from app.services.collecting.imports.records.forms import Reader
from app.services.collecting.imports.records.roles import Role
from app.services.collecting.imports.records.rows import Row

# Its start costs a second of a core, the time of some thousand lines.
BATCHES_BEFORE = 2
NICENESS = 10


class HelperLost(PrefloopError):
    """The process that understood lines is gone."""

    status = 500
    code = "import_helper_lost"


def read(
    rows: Iterator[Row], settle: Callable[[Sequence[Row]], Mapping[str, Role]], *, worded: bool
) -> Generator[Batch]:
    """The batches of a file, in order. After the first few another process prepares them, unless this one has but one core.

    settle: what the file's columns become, asked once, with the first rows. worded: whether prompts are to be compared
    here, too. Raises HelperLost.
    """
    reader: Reader | None = None
    helper: Helper | None = None
    is_asked = False
    with ExitStack() as stack:
        for number, (batch, broken) in enumerate(batches.of_rows(rows)):
            if reader is None:
                reader = Reader(settle(batch))
            if number == BATCHES_BEFORE and _cores() > 1:
                helper = stack.enter_context(Helper())
            if helper is None or not helper.takes_over(reader):
                yield batches.understood(reader, batch, broken, worded=worded)
                continue
            before = helper.answer() if is_asked else None
            helper.ask(batch, broken)
            is_asked = True
            if before is not None:
                yield before
        if helper is not None and is_asked:
            yield helper.answer()


def _cores() -> int:
    """Those that this process may use; all, where the system doesn't say (macOS)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Helper:
    """The other process. It is asked for one batch at a time, and given the reader, with all that it counted, before the first."""

    def __init__(self) -> None:
        self._talk, theirs = Pipe()
        self._has_reader = False
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "app.services.collecting.imports.reading", str(theirs.fileno())],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._talk.close()
        self._process.kill()
        self._process.wait()

    def takes_over(self, reader: Reader) -> bool:
        """Whether it has started. The first time that it has, it is given the reader."""
        if not self._has_reader and self._talk.poll():
            self._receive()
            self._send(reader)
            self._has_reader = True
        return self._has_reader

    def ask(self, rows: Sequence[Row], broken: str) -> None:
        self._send((rows, broken))

    def answer(self) -> Batch:
        reply = self._receive()
        if not isinstance(reply, Batch):
            raise HelperLost(f"The process that reads the file failed: {reply}.")
        return reply

    def _send(self, what: object) -> None:
        try:
            self._talk.send(what)
        except OSError as error:
            raise self._lost() from error

    def _receive(self) -> object:
        try:
            return self._talk.recv()
        except (EOFError, OSError) as error:
            raise self._lost() from error

    def _lost(self) -> HelperLost:
        code = self._process.wait()
        return HelperLost(f"The process that reads the file ended with {code}; the system's log may say why.")


def serve(descriptor: int) -> None:
    """The other process: answers until nobody asks."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal tells both; the first process ends this one
    os.nice(NICENESS)
    with Connection(descriptor) as talk:
        try:
            talk.send("ready")
            reader = talk.recv()
            while True:
                rows, broken = talk.recv()
                try:
                    reply: Batch | str = batches.understood(reader, rows, broken, worded=True)
                except Exception as error:
                    reply = f"{type(error).__name__}: {error}"
                talk.send(reply)
        except (EOFError, OSError):
            pass
