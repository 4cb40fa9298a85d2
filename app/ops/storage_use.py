"""What takes how much room: the database, the stored files of each kind, and the parts of the data folder."""

import shutil
import threading
import time
from dataclasses import dataclass

from app.config import Settings
from app.db import get_engine, read_session
from app.ops import databases, stored
from app.ops.prune import size_of

FRESH_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Part:
    """Something that takes room. `note` says what removes it."""

    name: str
    bytes: int
    files: int | None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Use:
    """`free` and `total`: bytes of the disk that holds the data folder."""

    parts: tuple[Part, ...]
    free: int
    total: int


_lock = threading.Lock()
_latest: dict[str, tuple[float, Use]] = {}


def measure(settings: Settings) -> Use:
    """The room that everything takes, measured at most once a minute: it reads the sizes of many files."""
    with _lock:
        known = _latest.get(str(settings.data_dir))
        if known is None or time.monotonic() - known[0] > FRESH_SECONDS:
            known = (time.monotonic(), _measure(settings))
            _latest[str(settings.data_dir)] = known
    return known[1]


def _measure(settings: Settings) -> Use:
    engine = get_engine(settings)
    sizes: dict[str, dict[str, int]] = {
        "snapshots": {},
        "checkpoints": {},
        "exports": {},
        "label checks": {},
        "extracts": {},
    }
    with read_session(engine) as session:
        for kind, file in stored.files(session):
            sizes[kind][file.key] = file.size
    parts = [Part("Database", databases.size(engine), None)]
    notes = {"extracts": f"Pruned after {settings.keep_extracts_days} days."}
    parts += [Part(kind.capitalize(), sum(of.values()), len(of), notes.get(kind, "")) for kind, of in sizes.items()]
    folder = settings.data_dir
    parts += [
        Part("Base models", size_of(settings.models), None, "Remove a model's folder to be rid of it."),
        Part(
            "Work folders",
            size_of(folder / "work"),
            None,
            f"Of failed runs: pruned after {settings.keep_failed_days} days.",
        ),
        Part("Caches", size_of(folder / "cache"), None, f"Pruned after {settings.keep_cache_days} days without use."),
        Part("Logs", size_of(folder / "logs"), None, f"{settings.log_files} files beside the newest."),
    ]
    disk = shutil.disk_usage(folder)
    return Use(tuple(parts), disk.free, disk.total)
