"""`prefloop backup`: everything that can't be made again, in one folder, consistent while people work, and verified.

The database is copied first. Stored files never change under their key, so those that the copy names are fetched after it.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from app import __version__
from app.config import Settings
from app.db import get_engine
from app.errors import Conflict, Invalid, Unavailable
from app.ops import databases, migrate, stored
from app.services.training import base_models
from app.storage import StoredFile, get_storage

MANIFEST = "prefloop-backup.json"
FORM = 1
Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Kept:
    """A file of a backup: its path in the folder, its bytes, its SHA-256 in hex."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Contents:
    """What a backup holds. `database` is the kind: `sqlite` or `postgresql`. `models` are named, not kept: their weights
    come again from where they came."""

    form: int
    version: str
    revision: str
    database: str
    made_at: str
    files: tuple[Kept, ...]
    models: tuple[dict[str, Any], ...]

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)


def make(settings: Settings, target: Path, *, report: Report = lambda line: None) -> Contents:
    """A backup in the new folder `target`, which appears when all of it is there and was read again.

    Raises Conflict where `target` exists, Unavailable where a stored file is missing or isn't what was stored.
    """
    target = target.resolve()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise Conflict(f"{target} is there already.", "Name a folder that doesn't exist yet.")
    if target.is_relative_to(settings.data_dir):
        raise Invalid(f"{target} is in the data folder.", "A backup belongs on another disk.")
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True, mode=0o700)
    try:
        contents = _write(settings, partial, report)
        verify(partial, report=report)
        if target.exists():
            target.rmdir()
        os.replace(partial, target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return contents


def _write(settings: Settings, folder: Path, report: Report) -> Contents:
    current, _ = migrate.revisions(get_engine(settings))
    if current is None:
        raise Invalid("There is no database to back up.", "Run: prefloop migrate")
    report("Copying the database")
    database = folder / databases.file_name(settings)
    with databases.copied(settings, database) as session:
        files = [
            _kept(database, folder),
            *_artifacts(settings, folder, {f.key: f for _, f in stored.files(session)}, report),
        ]
    key = folder / "secret_key"
    key.touch(mode=0o600)
    key.write_bytes(settings.secret)
    files.append(_kept(key, folder))
    contents = Contents(
        FORM,
        __version__,
        current,
        "sqlite" if settings.is_sqlite else "postgresql",
        datetime.now(UTC).isoformat(timespec="seconds"),
        tuple(files),
        tuple(
            {"name": model.name, "source": model.source, "weights_sha256": model.weights_sha256}
            for model in base_models.list_models(settings)
        ),
    )
    (folder / MANIFEST).write_text(json.dumps(asdict(contents), indent=1, default=str))
    return contents


def _artifacts(settings: Settings, folder: Path, named: dict[str, StoredFile], report: Report) -> list[Kept]:
    store, kept = get_storage(settings), []
    for number, (key, file) in enumerate(sorted(named.items()), start=1):
        target = folder / "artifacts" / key
        target.parent.mkdir(parents=True, exist_ok=True)
        fetched = store.fetch(key, target)
        if fetched.sha256 != file.sha256:
            raise Unavailable(
                f"{key} in the artifact store isn't what was stored: its SHA-256 differs.",
                "Put the file back, or delete what it belongs to; nothing was backed up.",
            )
        kept.append(Kept(f"artifacts/{key}", fetched.size, fetched.sha256))
        if number % 100 == 0 or number == len(named):
            report(f"Copied {number:,} of {len(named):,} stored files")
    return kept


def read(folder: Path) -> Contents:
    """What the backup in a folder says that it holds. Raises Invalid."""
    try:
        facts = json.loads((folder / MANIFEST).read_text())
        if facts["form"] > FORM:
            raise Invalid(
                f"{folder} was made by a newer Prefloop ({facts['version']}).", "Restore it with that version."
            )
        files = tuple(Kept(**file) for file in facts["files"])
        return Contents(**facts | {"files": files, "models": tuple(facts["models"])})
    except FileNotFoundError:
        raise Invalid(
            f"{folder} is no backup: it has no {MANIFEST}.", "Name the folder that `prefloop backup` made."
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Invalid(
            f"{MANIFEST} in {folder} can't be read ({type(error).__name__}).", "Take another backup."
        ) from error


def verify(folder: Path, *, report: Report = lambda line: None) -> Contents:
    """Reads every file of a backup again. Raises Invalid with the first that is missing or has changed."""
    contents = read(folder)
    report(f"Reading {len(contents.files):,} files again")
    for file in contents.files:
        path = folder / file.path
        if not path.resolve().is_relative_to(folder.resolve()):
            raise Invalid(f"{file.path} leads out of {folder}.", "Take another backup.")
        if not path.is_file() or path.stat().st_size != file.size or _sha256(path) != file.sha256:
            raise Invalid(f"{file.path} in {folder} is missing or has changed.", "Take another backup.")
    databases.check(next(folder / file.path for file in contents.files if file.path in databases.FILES))
    return contents


def _kept(path: Path, folder: Path) -> Kept:
    return Kept(path.relative_to(folder).as_posix(), path.stat().st_size, _sha256(path))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
