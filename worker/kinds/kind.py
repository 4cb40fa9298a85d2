"""What a kind of job tells the process that does it. The contract between `worker.process` and `worker.kinds`.

A kind is made anew for each claim, and asked in this order:

1. `inputs(session)` in a short read session: rows become plain values, kept in the object. No file is touched.
2. `command(folder, storage)` outside of any session: files come into the work folder, and the program's command line
   comes out. The supervisor starts it in a process group of its own, in the checkout, with the work folder locked.
3. `record(session, printed)` each time that the program printed something, in the short transaction that stores it.
4. After an exit with 0: `store_result(folder, storage)` outside of any session uploads what is kept. Its
   `Result.end(session)` then writes the rows in one short transaction, and the supervisor ends the job in the same one.
   If `Result.is_published` then finds no such rows, the uploaded files are deleted.

The program prints one JSON object a line on stdout, each with `event` (`state` with `stage`, `total_steps`; `step`,
`log`, `done`, `error` with `reason` and `message`, …), and ends with

- 0: its result is whole;
- 143 after SIGTERM: it stopped as it was told, with what it needs to go on saved in its work folder;
- anything else: it failed, and its last `error` event says why.

The work folder outlives a failed, cancelled or interrupted attempt, and the next attempt finds it as it was; it is
removed when the job has succeeded. Whatever a kind raises fails the job: a PrefloopError with its code and words.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import ClassVar, Protocol

from sqlalchemy.orm import Session

from app.config import Settings
from app.events.types import Event
from app.models import Job, JobKind
from app.storage import Storage


class Need(StrEnum):
    """The devices that a job takes for itself while it runs."""

    NOTHING = "nothing"  # the processor only: its program sees no GPU
    ONE_GPU = "one_gpu"  # the processor where the machine has none
    EVERY_GPU = "every_gpu"


@dataclass(frozen=True, slots=True)
class Result:
    """What a job left, stored. `keys`: its files in the artifact store. `end` writes the rows that name them, and
    `is_published` looks whether they are there: a commit whose answer was lost may have come about."""

    end: Callable[[Session], None]
    is_published: Callable[[Session], bool]
    keys: Sequence[str] = field(default=())


class Kind(Protocol):
    """How one claimed job is done. `job` has its project and starter loaded, and holds the lease's token."""

    kind: ClassVar[JobKind]
    program: ClassVar[str]  # what people call its process, such as "training process"

    def __init__(self, job: Job, settings: Settings) -> None: ...

    @staticmethod
    def need(settings: Settings) -> Need:
        """The devices that a job of this kind takes on this installation, unless it needs none (`Job.needs_device`)."""
        ...

    def inputs(self, session: Session) -> None:
        """Read what the job needs to know, and keep it as plain values."""
        ...

    def command(self, folder: Path, storage: Storage) -> list[str]:
        """Fetch the job's files into its folder; return the program's command line."""
        ...

    def variables(self) -> Sequence[str]:
        """Names or patterns of environment variables that the program needs beyond what every program sees."""
        ...

    def secrets(self) -> Mapping[str, str]:
        """Variables of this program alone, such as a key: they stand in no file and in no command line."""
        ...

    def record(self, session: Session, printed: Sequence[Event]) -> None:
        """Keep what this kind wants of what the program printed; its events and progress are stored already."""
        ...

    def kept(self, folder: Path) -> str:
        """What a broken-off job can go on from, as a sentence that ends with what Retry does; empty if nothing."""
        ...

    def store_result(self, folder: Path, storage: Storage) -> Result:
        """Upload what the program left in its folder. Raises Invalid if that isn't a whole result."""
        ...
