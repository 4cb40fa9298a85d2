"""The prompts of a generation: those of the project, of a split or an import, or given ones. A plan keeps their ids, so that
each attempt of its job asks the same."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import orjson
from sqlalchemy import Engine, select, update
from sqlalchemy.orm import Session

from app import writer
from app.bulk import among, insert_rows, next_ids
from app.db import read_session, write_session
from app.errors import Invalid
from app.models import Comparison, EvaluationPair, Project, Prompt, Split
from app.models.base import now as utc_now
from app.services.collecting import pairs
from app.services.collecting.duplicates import groups
from app.services.collecting.messages import Message, Unfit, prompt_hash, prompt_of
from app.services.loop.generating.wanted import MOST_PROMPTS

STORED_AT_ONCE = 500
LOOKED_AT_ONCE = 2_000


class From(StrEnum):
    """Where prompts come from."""

    PROJECT = "project"
    TRAIN = "train"
    EVAL = "eval"
    IMPORT = "import"
    GIVEN = "given"
    EVALUATION = "evaluation"


@dataclass(frozen=True, slots=True)
class Rule:
    """Which prompts of a project, and how many at most. They come in an order that is random and stays the same, from the place
    on that `seed` draws."""

    of: From = From.PROJECT
    import_id: int | None = None
    limit: int = 200
    seed: int = 0

    def stored(self) -> dict[str, Any]:
        told: dict[str, Any] = {"of": self.of.value, "limit": self.limit}
        return told | ({"import": self.import_id} if self.import_id else {})


def choose(session: Session, *, project: Project, rule: Rule) -> list[int]:
    """The ids of the prompts, none of them kept for evaluations. It reads as many rows as are wanted, however many the project
    has. Raises Invalid."""
    if not 1 <= rule.limit <= MOST_PROMPTS:
        raise Invalid(f"{rule.limit:,} prompts were wanted.", f"Choose 1 to {MOST_PROMPTS:,}.", field="limit")
    if rule.of is From.IMPORT:
        return _of_import(session, project, rule)
    query = select(Prompt.id).where(Prompt.project_id == project.id, Prompt.split != Split.KEPT)
    if rule.of in (From.TRAIN, From.EVAL):
        query = query.where(Prompt.split == Split(rule.of.value))
    # Content hashes are an order by chance, and an index has them in this order.
    start = f"{(rule.seed * 2654435761) % 2**32:08x}" if rule.seed else ""
    query = query.order_by(Prompt.content_hash)
    ids = list(session.scalars(query.where(Prompt.content_hash >= start).limit(rule.limit)))
    if start and len(ids) < rule.limit:
        ids += session.scalars(query.where(Prompt.content_hash < start).limit(rule.limit - len(ids)))
    return ids


def _of_import(session: Session, project: Project, rule: Rule) -> list[int]:
    """The import's prompts in its order, each once."""
    ids: dict[int, None] = {}
    after = 0
    while len(ids) < rule.limit:
        rows = session.execute(
            select(Comparison.id, Comparison.prompt_id, Prompt.split)
            .join(Prompt, Prompt.id == Comparison.prompt_id)
            .where(Comparison.import_id == rule.import_id, Comparison.project_id == project.id, Comparison.id > after)
            .order_by(Comparison.id)
            .limit(LOOKED_AT_ONCE)
        ).all()
        ids |= dict.fromkeys(row.prompt_id for row in rows if row.split is not Split.KEPT)
        if len(rows) < LOOKED_AT_ONCE:
            break
        after = rows[-1][0]
    return list(ids)[: rule.limit]


def of_evaluation(session: Session, *, evaluation_id: int) -> list[int]:
    """The prompts of an evaluation in its order."""
    query = select(EvaluationPair.prompt_id).where(EvaluationPair.evaluation_id == evaluation_id)
    return list(session.scalars(query.order_by(EvaluationPair.place)))


def messages_of(session: Session, *, ids: Sequence[int]) -> dict[int, list[Message]]:
    """The messages of prompts, in the order of the ids; those that are gone are left out."""
    rows = session.execute(select(Prompt.id, Prompt.messages).where(among(session, Prompt.id, ids))).tuples()
    told: dict[int, list[Message]] = dict(rows.all())
    return {number: told[number] for number in ids if number in told}


def splits_of(session: Session, *, ids: Sequence[int]) -> dict[int, Split]:
    """The splits of prompts."""
    rows = session.execute(select(Prompt.id, Prompt.split).where(among(session, Prompt.id, ids))).tuples()
    return dict(rows.all())


def read_given(given: Sequence[object]) -> list[list[Message]]:
    """Prompts that somebody gave, each a text or a list of messages. Raises Invalid with the number of the first that isn't one."""
    if len(given) > MOST_PROMPTS:
        raise Invalid(f"{len(given):,} prompts were given.", f"Give up to {MOST_PROMPTS:,}.", field="prompts")
    read = []
    for number, one in enumerate(given, 1):
        try:
            read.append(prompt_of(one))
        except Unfit as unfit:
            raise Invalid(
                f"Prompt {number} can't be used. {unfit.message}", "Mend or leave it out.", field="prompts"
            ) from unfit
    return read


def store(
    engine: Engine, *, project_id: int, given: Sequence[Sequence[Message]], split: Split | None = None
) -> list[int]:
    """Stores prompts that the project hasn't yet, in short transactions. Returns the ids of all, each once. split: that of those to
    which nothing is near, where it isn't to be drawn."""
    ids: dict[int, None] = {}
    for first in range(0, len(given), STORED_AT_ONCE):
        batch = {prompt_hash(list(one)): list(one) for one in given[first : first + STORED_AT_ONCE]}
        writer.give_way()
        with read_session(engine) as session:
            looked = _look(session, session.get_one(Project, project_id), batch)
        with write_session(engine) as session:
            stored = _store(session, session.get_one(Project, project_id), batch, looked, split)
        ids |= dict.fromkeys(stored[key] for key in batch)
    return list(ids)


def without_kept(session: Session, *, ids: Sequence[int]) -> list[int]:
    """Those that aren't kept for evaluations, in their order: who judged an answer to one could no longer be asked about it."""
    kept = select(Prompt.id).where(among(session, Prompt.id, ids), Prompt.split == Split.KEPT)
    left_out = set(session.scalars(kept))
    return [number for number in ids if number not in left_out]


@dataclass(frozen=True, slots=True)
class _Looked:
    version: int
    ids: dict[str, int]
    near: groups.Looked


def _look(session: Session, project: Project, batch: Mapping[str, list[Message]]) -> _Looked:
    version = session.scalars(select(Project.pairs_version).where(Project.id == project.id)).one()
    there = select(Prompt.content_hash, Prompt.id).where(
        Prompt.project_id == project.id, among(session, Prompt.content_hash, batch)
    )
    ids = dict(session.execute(there).tuples().all())
    new = {key: messages for key, messages in batch.items() if key not in ids}
    return _Looked(version, ids, groups.look(session, project=project, new=new))


def _store(
    session: Session, project: Project, batch: Mapping[str, list[Message]], looked: _Looked, split: Split | None
) -> dict[str, int]:
    """One writer of a project's prompts at a time, as `pairs.add_many` has it."""
    version = session.scalars(
        update(Project)
        .where(Project.id == project.id)
        .values(pairs_version=Project.pairs_version + 1)
        .returning(Project.pairs_version),
        execution_options={"synchronize_session": False},
    ).one()
    if looked.version != version - 1:
        looked = _look(session, project, batch)
    new = [key for key in batch if key not in looked.ids]
    if not new:
        return looked.ids
    ids = dict(zip(new, next_ids(session, Prompt, len(new)), strict=True))
    alone = {key: split or pairs.split_of(key, project.eval_percent) for key in new}
    placed = groups.place(session, project=project, looked=looked.near, ids=ids, alone=alone)
    insert_rows(
        session,
        Prompt,
        ("id", "content_hash", "messages", "split", "group_id"),
        [
            (ids[key], key, orjson.dumps(batch[key]).decode(), placed[key].split.value, placed[key].group_id)
            for key in new
        ],
        project_id=project.id,
        created_at=utc_now(),
    )
    return looked.ids | ids
