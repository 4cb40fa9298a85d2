"""Drafts: files that were sent and wait for a person to say what their columns become."""

import re
import secrets
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from sqlalchemy.orm import Session

from app.config import Settings
from app.errors import Conflict, Gone
from app.models import Import, ImportState, Project, User
from app.services.collecting.imports import load, mapping

TOKEN = re.compile(r"[0-9a-f]{32}\Z")
KEPT_SECONDS = 24 * 3600


def keep(settings: Settings, stream: BinaryIO) -> str:
    """Copies a file to where drafts wait, and removes those that nobody came back to within a day; the new one's name."""
    folder = _folder(settings)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    _forget_old(folder)
    token = secrets.token_hex(16)
    with (folder / token).open("xb") as file:
        try:
            shutil.copyfileobj(stream, file, 1 << 20)
        except BaseException:
            (folder / token).unlink(missing_ok=True)
            raise
    return token


def _folder(settings: Settings) -> Path:
    return settings.data_dir / "uploads"


def _forget_old(folder: Path) -> None:
    for path in folder.iterdir():
        try:
            if TOKEN.match(path.name) and time.time() - path.stat().st_mtime > KEPT_SECONDS:
                path.unlink()
        except FileNotFoundError:
            continue  # somebody else's upload removed it


def create(session: Session, *, project: Project, by: User, filename: str, upload: str) -> Import:
    row = Import(
        project_id=project.id, user_id=by.id, filename=load.clean(filename), state=ImportState.DRAFT, upload=upload
    )
    session.add(row)
    session.flush()
    return row


def say(session: Session, *, row: Import, given: Mapping[str, str]) -> None:
    """Notes what a person said that columns become. Raises Conflict once the import runs, Invalid for what can't be."""
    if row.state is not ImportState.DRAFT:
        raise Conflict(f"Import {row.id} was started already.", "Look at its page.", import_id=row.id)
    mapping.checked(given)
    row.mapping = dict(given)


def open_upload(settings: Settings, row: Import) -> BinaryIO:
    """The file of a draft. Raises Gone where it isn't there any more."""
    path = _folder(settings) / row.upload
    if not TOKEN.match(row.upload) or not path.is_file():
        raise Gone(
            f"The file of import {row.id} is gone: a file that nobody imports is removed after a day.", "Send it again."
        )
    return path.open("rb")


def discard(session: Session, *, settings: Settings, row: Import) -> None:
    """Removes a draft with its file. Raises Conflict once the import runs."""
    if row.state is not ImportState.DRAFT:
        raise Conflict(f"Import {row.id} was started already.", "Stop it on its page.", import_id=row.id)
    forget(settings, row)
    session.delete(row)


def forget(settings: Settings, row: Import) -> None:
    """Removes the file of a draft that was read or discarded."""
    if TOKEN.match(row.upload):
        (_folder(settings) / row.upload).unlink(missing_ok=True)
