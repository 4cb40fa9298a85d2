"""What a snapshot would hold now, for pages: computed at once for small projects, in the background and kept for large ones."""

import hashlib
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import orjson
import structlog
from sqlalchemy import Engine, delete, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app import writer
from app.db import read_session, write_session
from app.models import KeptFigures, Project
from app.models.base import now as utc_now
from app.services.collecting import counts
from app.services.datasets import snapshots
from app.services.datasets.rules import Rule
from app.services.datasets.snapshots import Preview

log = structlog.get_logger()

# Of a small project, whose figures take no time.
MOST_JUDGMENTS = 5_000
MOST_COMPARISONS = 50_000
FRESH_SECONDS = 60.0
RESTS = 20  # times as long as figures took to compute, they are shown before they are computed again
LOST = timedelta(minutes=15)  # whoever computes for so long is gone
RULES_KEPT = 20
UNMATCHED = {"synchronize_session": False}


@dataclass(frozen=True)
class Figures:
    """`preview` is None while it is computed for the first time. `as_of` is None where it is of now. `is_due`: somebody should
    `refresh` it."""

    preview: Preview | None
    as_of: datetime | None = None
    is_due: bool = False


def look(
    session: Session, *, project: Project, rule: Mapping[str, Any] | None = None, now: datetime | None = None
) -> Figures:
    """What a snapshot by this rule would hold. Raises Invalid where the rule is."""
    applied = Rule.of(rule)
    has = counts.figures(session, project_id=project.id)
    if has.judgments <= MOST_JUDGMENTS and has.comparisons <= MOST_COMPARISONS:
        return Figures(snapshots.preview(session, project=project, rule=rule))
    row = session.get(KeptFigures, (project.id, _key(applied)))
    if row is None or row.counts is None or row.statistics is None or row.as_of is None:
        return Figures(None, None, is_due=row is None or _is_free(row, now or utc_now()))
    kept = Preview(applied, row.counts, row.statistics)
    rest = timedelta(seconds=max(FRESH_SECONDS, RESTS * row.seconds))
    moment = now or utc_now()
    return Figures(kept, row.as_of, is_due=moment - row.as_of > rest and _is_free(row, moment))


def refresh(engine: Engine, *, project_id: int, rule: Mapping[str, Any] | None = None) -> threading.Thread:
    """Computes figures in a thread of its own, unless somebody does."""
    thread = threading.Thread(
        target=_try, args=(engine, project_id, rule), name=f"figures of {project_id}", daemon=True
    )
    thread.start()
    return thread


def compute(engine: Engine, *, project_id: int, rule: Mapping[str, Any] | None = None) -> bool:
    """Computes and keeps figures; whether it did, for one at a time is enough. People who are being answered go first."""
    applied = Rule.of(rule)
    where = (KeptFigures.project_id == project_id, KeptFigures.rule_key == _key(applied))
    if not _claim(engine, project_id, applied):
        return False
    began, moment = time.monotonic(), utc_now()
    try:
        with read_session(engine) as session:
            project = session.get_one(Project, project_id)
            preview = snapshots.preview(session, project=project, rule=rule, pause=writer.give_way)
    except BaseException:
        with write_session(engine) as session:
            session.execute(update(KeptFigures).where(*where).values(began_at=None), execution_options=UNMATCHED)
        raise
    with write_session(engine) as session:
        session.execute(
            update(KeptFigures)
            .where(*where)
            .values(
                counts=preview.counts,
                statistics=preview.statistics,
                as_of=moment,
                seconds=time.monotonic() - began,
                began_at=None,
            ),
            execution_options=UNMATCHED,
        )
        kept = select(KeptFigures.rule_key).where(KeptFigures.project_id == project_id)
        newest = kept.order_by(KeptFigures.as_of.desc().nulls_last()).limit(RULES_KEPT)
        others = KeptFigures.rule_key.not_in(list(session.scalars(newest)))
        session.execute(
            delete(KeptFigures).where(KeptFigures.project_id == project_id, others), execution_options=UNMATCHED
        )
    return True


def _try(engine: Engine, project_id: int, rule: Mapping[str, Any] | None) -> None:
    try:
        compute(engine, project_id=project_id, rule=rule)
    except Exception:  # the page shows what it has, and the next one tries again
        log.exception("figures.failed", project_id=project_id)


def _claim(engine: Engine, project_id: int, rule: Rule) -> bool:
    """Marks the figures as being computed, unless somebody else computes any of this project."""
    now = utc_now()
    busy = select(KeptFigures.rule_key).where(KeptFigures.project_id == project_id, KeptFigures.began_at > now - LOST)
    key = _key(rule)
    try:
        with write_session(engine) as session:
            # One at a time on PostgreSQL too.
            session.execute(select(Project.id).where(Project.id == project_id).with_for_update(key_share=True))
            if session.scalars(busy.limit(1)).first() is not None:
                return False
            row = update(KeptFigures).where(KeptFigures.project_id == project_id, KeptFigures.rule_key == key)
            if not session.execute(row.values(began_at=now), execution_options=UNMATCHED).rowcount:  # type: ignore[attr-defined]
                session.execute(
                    insert(KeptFigures).values(
                        project_id=project_id, rule_key=key, rule=rule.as_dict(), began_at=now, seconds=0.0
                    )
                )
    except IntegrityError:
        return False
    return True


def _is_free(row: KeptFigures, now: datetime) -> bool:
    return row.began_at is None or now - row.began_at > LOST


def _key(rule: Rule) -> str:
    return hashlib.sha256(orjson.dumps(rule.as_dict(), option=orjson.OPT_SORT_KEYS)).hexdigest()
