"""The answers of a generation as they arrive: each is stored once, and none that is here is asked for again."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import Text, cast, delete, func, select, update
from sqlalchemy.orm import Session

from app import paging
from app.bulk import among, insert_rows, next_ids
from app.models import Finish, GeneratedAnswer, Prompt
from app.models.base import now as utc_now

STORED_AT_ONCE = 200
LONGEST_ANSWER = 200_000  # signs
LONGEST_REASON = 500

# (prompt, source, sample): what one answer is the answer to.
Place = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Arrived:
    """An answer that a source gave, or why it gave none (`failed`). `tokens`: None where the source doesn't say."""

    prompt_id: int
    source: int
    sample: int
    seed: int
    text: str
    finish: Finish
    tokens: int | None = None
    prompt_tokens: int | None = None

    @property
    def place(self) -> Place:
        return self.prompt_id, self.source, self.sample


def store(session: Session, *, job_id: int, arrived: Sequence[Arrived]) -> int:
    """Stores answers that aren't here yet, at most `STORED_AT_ONCE` a call from whoever is careful; returns how many those were.

    One whose prompt is gone is dropped.
    """
    latest = {one.place: one for one in arrived}
    prompts = {one.prompt_id for one in latest.values()}
    there = set(session.scalars(select(Prompt.id).where(among(session, Prompt.id, prompts))))
    known = places(session, job_id=job_id, prompts=prompts)
    new = [one for place, one in latest.items() if place not in known and one.prompt_id in there]
    ids = next_ids(session, GeneratedAnswer, len(new)) if new else []
    insert_rows(
        session,
        GeneratedAnswer,
        ("id", "prompt_id", "source", "sample", "seed", "text", "tokens", "prompt_tokens", "finish", "marks"),
        [
            (
                number,
                *one.place,
                one.seed,
                storable(one.text)[: LONGEST_REASON if one.finish is Finish.FAILED else LONGEST_ANSWER],
                one.tokens,
                one.prompt_tokens,
                one.finish.value,
                "[]",
            )
            for number, one in zip(ids, new, strict=True)
        ],
        job_id=job_id,
        created_at=utc_now(),
    )
    return len(new)


def storable(text: str) -> str:
    """The text without what a database refuses: NUL characters and half surrogates."""
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()


def places(session: Session, *, job_id: int, prompts: Collection[int] | None = None, given: bool = False) -> set[Place]:
    """What is here already. `given`: without those that failed."""
    query = select(GeneratedAnswer.prompt_id, GeneratedAnswer.source, GeneratedAnswer.sample).where(
        GeneratedAnswer.job_id == job_id
    )
    if prompts is not None:
        query = query.where(among(session, GeneratedAnswer.prompt_id, prompts))
    if given:
        query = query.where(GeneratedAnswer.finish != Finish.FAILED)
    return set(session.execute(query).tuples())


def forget_failed(session: Session, *, job_id: int) -> None:
    """An attempt asks again for what none was given to."""
    session.execute(
        delete(GeneratedAnswer)
        .where(GeneratedAnswer.job_id == job_id, GeneratedAnswer.finish == Finish.FAILED)
        .execution_options(synchronize_session=False)
    )


def count(session: Session, *, job_id: int) -> int:
    """How many have arrived."""
    return session.scalar(select(func.count()).where(GeneratedAnswer.job_id == job_id)) or 0


def of_prompts(session: Session, *, job_id: int, prompts: Collection[int]) -> dict[int, list[GeneratedAnswer]]:
    """The answers to some prompts, by prompt, in order of sample and source."""
    rows = session.scalars(
        select(GeneratedAnswer)
        .where(GeneratedAnswer.job_id == job_id, among(session, GeneratedAnswer.prompt_id, prompts))
        .order_by(GeneratedAnswer.prompt_id, GeneratedAnswer.sample, GeneratedAnswer.source)
    )
    told: dict[int, list[GeneratedAnswer]] = {}
    for row in rows:
        told.setdefault(row.prompt_id, []).append(row)
    return told


def listing(
    session: Session, *, job_id: int, page: int = 1, size: int = 50, mark: str = ""
) -> paging.Page[tuple[GeneratedAnswer, Prompt]]:
    """Answers with their prompts, in the order of prompts, samples and sources. `mark`: those alone that have it."""
    query = (
        select(GeneratedAnswer, Prompt)
        .join(Prompt, Prompt.id == GeneratedAnswer.prompt_id)
        .where(GeneratedAnswer.job_id == job_id)
    )
    if mark:
        query = query.where(cast(GeneratedAnswer.marks, Text).contains(f'"{mark}"', autoescape=True))
    order = (GeneratedAnswer.prompt_id, GeneratedAnswer.sample, GeneratedAnswer.source)
    return paging.fetch(session, query.order_by(*order), page=page, size=size)


def mark(session: Session, *, job_id: int, marks: Iterable[tuple[GeneratedAnswer, Sequence[str], int | None]]) -> None:
    """Writes down what is to be known of answers: (answer, its marks, the response that it became)."""
    for row, told, response_id in marks:
        session.execute(
            update(GeneratedAnswer)
            .where(GeneratedAnswer.id == row.id, GeneratedAnswer.job_id == job_id)
            .values(marks=list(told), response_id=response_id)
            .execution_options(synchronize_session=False)
        )
