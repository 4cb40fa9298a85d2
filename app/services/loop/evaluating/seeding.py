"""Both sides' answers as they arrived, made pairs that people judge: in the transaction that ends the job."""

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.bulk import among, insert_rows, next_ids
from app.models import (
    Comparison,
    Evaluation,
    EvaluationPair,
    Finish,
    GeneratedAnswer,
    Project,
    Prompt,
    Response,
    SourceKind,
)
from app.services.collecting.blind import slots as blind_slots
from app.services.collecting.messages import pair_hash, text_hash
from app.services.collecting.pairs import LONGEST_SOURCE
from app.services.loop.evaluating import tells

NEW, OLD = 0, 1  # the sources of an evaluation's answers
TIE = 0.5


@dataclass
class Seeded:
    """What became of a prompt: `new` and `old` are (text, hash) of its answers; the pair is told its response ids later."""

    pair: EvaluationPair
    prompt_hash: str
    new: tuple[str, str]
    old: tuple[str, str]

    @property
    def pair_hash(self) -> str:
        return pair_hash(self.prompt_hash, (self.new[1], self.old[1]))


def seed(session: Session, evaluation: Evaluation, *, now: datetime) -> Counter[str]:
    """Stores answers, pairs and slots. Returns how many prompts are `asked`, the `same`, or left out, by reason."""
    # As `pairs.add_many` does: one writer of a project's pairs at a time, so that "look, then insert" holds.
    session.execute(
        update(Project)
        .where(Project.id == evaluation.project_id)
        .values(pairs_version=Project.pairs_version + 1)
        .execution_options(synchronize_session=False)
    )
    counts: Counter[str] = Counter()
    seeded = _answered(session, evaluation, counts)
    there = _stored_pairs(session, evaluation, [one.pair_hash for one in seeded if not one.pair.same])
    asked = []
    for one in seeded:
        if one.pair.same:
            counts["same"] += 1
        elif one.pair_hash in there:
            counts["there"] += 1
            one.pair.left_out = "there"
        else:
            asked.append(one)
    responses = _store_responses(session, evaluation, [one for one in seeded if not one.pair.left_out], now)
    for one in seeded:
        one.pair.new_response_id = responses.get((one.pair.prompt_id, one.new[1]))
        one.pair.old_response_id = responses.get((one.pair.prompt_id, one.old[1]))
    _store_comparisons(session, evaluation, asked, now)
    counts["asked"] = len(asked)
    session.flush()
    return counts


def _answered(session: Session, evaluation: Evaluation, counts: Counter[str]) -> list[Seeded]:
    """The prompts that both sides answered, in the drawn order, with what may give a side away."""
    given = {
        (prompt_id, source): (text, finish)
        for prompt_id, source, text, finish in session.execute(
            select(
                GeneratedAnswer.prompt_id, GeneratedAnswer.source, GeneratedAnswer.text, GeneratedAnswer.finish
            ).where(GeneratedAnswer.job_id == evaluation.job_id, GeneratedAnswer.sample == 0)
        )
    }
    rows = session.execute(
        select(EvaluationPair, Prompt.content_hash)
        .join(Prompt, Prompt.id == EvaluationPair.prompt_id)
        .where(EvaluationPair.evaluation_id == evaluation.id)
        .order_by(EvaluationPair.place)
    )
    names = [evaluation.opponent_model] if evaluation.opponent_model else []
    seeded = []
    for pair, prompt_hash in rows:
        new, old = (given.get((pair.prompt_id, source)) for source in (NEW, OLD))
        if new is None or old is None or Finish.FAILED in (new[1], old[1]):
            counts["failed"] += 1
            pair.left_out = "failed"
            continue
        pair.same = new[0].split() == old[0].split()
        pair.value = TIE if pair.same else None
        cut = new[1] is Finish.LENGTH, old[1] is Finish.LENGTH
        pair.tells = {} if pair.same else tells.of_pair(new[0], old[0], cut=cut, names=names)
        seeded.append(Seeded(pair, prompt_hash, (new[0], text_hash(new[0])), (old[0], text_hash(old[0]))))
    return seeded


def _stored_pairs(session: Session, evaluation: Evaluation, hashes: list[str]) -> set[str]:
    """Pairs that the project has already: judged, or asked for otherwise."""
    query = select(Comparison.pair_hash).where(
        Comparison.project_id == evaluation.project_id, among(session, Comparison.pair_hash, hashes)
    )
    return set(session.scalars(query))


def _store_responses(
    session: Session, evaluation: Evaluation, seeded: list[Seeded], now: datetime
) -> Mapping[tuple[int, str], int]:
    """Ids by (prompt, hash), of answers that are there and of those that are new."""
    prompts = {one.pair.prompt_id for one in seeded}
    known = {
        (prompt_id, content_hash): number
        for prompt_id, content_hash, number in session.execute(
            select(Response.prompt_id, Response.content_hash, Response.id).where(
                among(session, Response.prompt_id, prompts)
            )
        )
    }
    opponent = (
        (SourceKind.CHECKPOINT, f"checkpoint {evaluation.opponent_id}")
        if evaluation.opponent_id is not None
        else (SourceKind.MODEL, evaluation.opponent_model)
    )
    sources = (SourceKind.CHECKPOINT, f"checkpoint {evaluation.checkpoint_id}"), opponent
    new: dict[tuple[int, str], tuple[str, SourceKind, str]] = {}
    for one in seeded:
        for (text, content_hash), (kind, name) in zip((one.new, one.old), sources, strict=True):
            key = one.pair.prompt_id, content_hash
            if key not in known and key not in new:
                new[key] = text, kind, name[:LONGEST_SOURCE]
    ids = next_ids(session, Response, len(new)) if new else []
    insert_rows(
        session,
        Response,
        ("id", "prompt_id", "content_hash", "text", "characters", "words", "source_kind", "source_name"),
        [
            (number, *key, text, len(text), len(text.split()), kind.value, name)
            for number, (key, (text, kind, name)) in zip(ids, new.items(), strict=True)
        ],
        created_at=now,
    )
    return known | dict(zip(new, ids, strict=True))


def _store_comparisons(session: Session, evaluation: Evaluation, asked: list[Seeded], now: datetime) -> None:
    """In the drawn order, which is that of their ids and of asking. Which answer stands first is drawn too: nobody who sees
    the row learns the side from it."""
    ids = next_ids(session, Comparison, len(asked)) if asked else []
    draw = random.Random(evaluation.seed)  # noqa: S311 - no secret
    rows = []
    for number, one in zip(ids, asked, strict=True):
        sides = [one.pair.new_response_id, one.pair.old_response_id]
        draw.shuffle(sides)
        rows.append((number, one.pair.prompt_id, *sides, one.pair_hash))
    insert_rows(
        session,
        Comparison,
        ("id", "prompt_id", "first_response_id", "second_response_id", "pair_hash"),
        rows,
        project_id=evaluation.project_id,
        evaluation_id=evaluation.id,
        priority=0,
        created_at=now,
    )
    for number, one in zip(ids, asked, strict=True):
        one.pair.comparison_id = number
    blind_slots.seed(
        session,
        project_id=evaluation.project_id,
        evaluation_id=evaluation.id,
        comparison_ids=ids,
        votes=evaluation.votes,
    )
