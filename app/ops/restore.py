"""`prefloop restore`: a backup into an empty installation. What may have been ended since it was made stays ended."""

import os
from pathlib import Path

from sqlalchemy import delete, update
from sqlalchemy.orm import Session

from app.config import Settings
from app.db import get_engine, write_session
from app.errors import Conflict, Invalid
from app.models import ApiToken, Link, LoginAttempt, PasskeyChallenge, UserSession, Worker
from app.models.base import now as clock
from app.ops import backup, databases, migrate
from app.ops.backup import Contents, Report
from app.services.accounts import audit, passkeys
from app.storage import Storage, get_storage


def restore(
    settings: Settings, source: Path, *, keep_tokens: bool = False, report: Report = lambda line: None
) -> Contents:
    """Everything that the backup in `source` holds, after all of it was read and found whole.

    Every session and link ends, and every token unless they are to be kept: the backup doesn't know which of them were
    used up, ended or stolen after it was made. For the same reason a passkey is a second factor alone until it was used beside a
    password or link, unless tokens are kept. Raises Conflict where the installation isn't empty.
    """
    contents = backup.verify(source, report=report)
    store = get_storage(settings)
    _check(settings, contents, store)
    key = (source / "secret_key").read_bytes()
    _put_key(settings, key)
    report(f"Putting {sum(file.path.startswith('artifacts/') for file in contents.files):,} stored files back")
    for file in contents.files:
        name = file.path.removeprefix("artifacts/")
        if name != file.path and store.put_file(name, source / file.path).sha256 != file.sha256:
            raise Invalid(f"{file.path} changed while it was read.", "Restore again from a disk that is sound.")
    report("Putting the database back")
    databases.put_back(settings, source / databases.file_name(settings))
    engine = get_engine(settings)
    migrate.upgrade(engine)
    with write_session(engine) as session:
        _end_what_may_be_over(session, keep_tokens=keep_tokens)
        audit.record(
            session,
            by=None,
            action="installation.restore",
            target=f"backup of {contents.made_at}",
            tokens_kept=keep_tokens,
        )
    return contents


def _check(settings: Settings, contents: Contents, store: Storage) -> None:
    kind = "sqlite" if settings.is_sqlite else "postgresql"
    if contents.database != kind:
        raise Invalid(
            f"The backup is of {contents.database}, and PREFLOOP_DATABASE_URL leads to {kind}.",
            "Set PREFLOOP_DATABASE_URL to an empty database of the same kind.",
        )
    if contents.revision not in migrate.known_revisions():
        raise Invalid(
            f"The backup's database is at revision {contents.revision}, which this version doesn't know.",
            f"Restore it with Prefloop {contents.version} or newer.",
        )
    if not databases.is_empty(settings):
        raise Conflict(
            "This installation has a database already.", "Restore into an empty data folder and an empty database."
        )
    keys = (file.path.removeprefix("artifacts/") for file in contents.files if file.path.startswith("artifacts/"))
    taken = next((key for key in keys if store.has(key)), None)
    if taken:
        raise Conflict(
            f"The artifact store holds {taken} already.", "Restore into an empty store (PREFLOOP_STORAGE_URL)."
        )


def _put_key(settings: Settings, key: bytes) -> None:
    path = settings.data_dir / "secret_key"
    if settings.secret_key:
        if settings.secret_key.encode() != key:
            raise Conflict(
                "PREFLOOP_SECRET_KEY isn't the key of the backup, so second factors and tokens couldn't be read.",
                "Set it to what secret_key in the backup holds, or don't set it.",
            )
        return
    if path.exists() and path.read_bytes() != key:
        raise Conflict(f"{path} holds another key than the backup.", "Restore into an empty data folder.")
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(".secret_key.restored")
    fresh.touch(mode=0o600)
    fresh.write_bytes(key)
    os.replace(fresh, path)


def _end_what_may_be_over(session: Session, *, keep_tokens: bool) -> None:
    now = clock()
    tables: list[type[UserSession] | type[Link] | type[ApiToken]] = [UserSession, Link]
    if not keep_tokens:
        tables.append(ApiToken)
        passkeys.distrust(session)
    for table in tables:
        session.execute(
            update(table)
            .where(table.revoked_at.is_(None))
            .values(revoked_at=now)
            .execution_options(synchronize_session=False)
        )
    for leftover in (LoginAttempt, PasskeyChallenge, Worker):
        session.execute(delete(leftover))
