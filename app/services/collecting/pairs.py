"""Pairs: prompts, answers and comparisons, each stored once however often it comes."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from app.errors import Invalid
from app.models import Choice, Comparison, Project, Prompt, Response, SourceKind, Split
from app.services.collecting import counts, slots
from app.services.collecting.messages import Message, Unfit, answers_of, pair_hash, prompt_hash, prompt_of, text_hash

PRIORITIES = range(-1_000_000, 1_000_001)
LONGEST_EXTERNAL_ID = LONGEST_SOURCE = 255


@dataclass(frozen=True)
class Source:
    """Where an answer comes from."""

    kind: SourceKind = SourceKind.FILE
    name: str = ""


UNKNOWN = Source()


@dataclass(frozen=True, slots=True)
class Hashes:
    """SHA-256 of a prompt, of its answers in order, and of the pair, the same whichever answer comes first."""

    prompt: str
    answers: tuple[str, str]
    pair: str


@dataclass(frozen=True)
class NewPair:
    """A pair to be stored; `messages` has checked prompt and answers. It is hashed when it is made, for the transaction
    that stores it holds the only writer. `turns`: the messages of an answer that goes on over several turns."""

    prompt: list[Message]
    responses: tuple[str, str]
    sources: tuple[Source, Source] = (UNKNOWN, UNKNOWN)
    priority: int = 0
    gold: Choice | None = None
    external_id: str | None = None
    turns: tuple[list[Message] | None, list[Message] | None] = (None, None)
    hashes: Hashes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        prompt, answers = prompt_hash(self.prompt), (text_hash(self.responses[0]), text_hash(self.responses[1]))
        object.__setattr__(self, "hashes", Hashes(prompt, answers, pair_hash(prompt, answers)))


@dataclass(frozen=True)
class Stored:
    """Where a pair ended up. `swapped`: it was there already with its answers the other way round."""

    comparison_id: int
    added: bool
    swapped: bool


def add(
    session: Session,
    *,
    project: Project,
    prompt: object,
    responses: Sequence[object],
    sources: Sequence[Source] = (UNKNOWN, UNKNOWN),
    priority: int = 0,
    gold: Choice | None = None,
    external_id: str | None = None,
    import_id: int | None = None,
) -> tuple[Comparison, bool]:
    """Stores one pair; returns (the comparison, whether it is new). Raises Invalid with the reason."""
    try:
        if len(responses) != 2 or len(sources) != 2:
            raise Unfit("not_two_answers", "A comparison has exactly two answers.")
        pair = NewPair(
            prompt_of(prompt),
            answers_of(responses[0], responses[1], ("The first answer", "The second answer")),
            (sources[0], sources[1]),
            priority,
            gold,
            external_id,
        )
    except Unfit as unfit:
        raise Invalid(unfit.message, "Fix the pair and add it again.", reason=unfit.reason) from unfit
    (stored,) = add_many(session, project=project, pairs=[pair], import_id=import_id)
    return session.get_one(Comparison, stored.comparison_id), stored.added


def add_many(
    session: Session, *, project: Project, pairs: Sequence[NewPair], import_id: int | None = None
) -> list[Stored]:
    """Stores pairs in the order given; content that the project has already isn't stored again."""
    # One writer of comparisons a project at a time, so that "look, then insert" holds on PostgreSQL too.
    session.execute(select(Project.id).where(Project.id == project.id).with_for_update(key_share=True))
    prompts, splits = _store_prompts(session, project, {pair.hashes.prompt: pair.prompt for pair in pairs})
    answers: dict[tuple[int, str], tuple[str, Source, list[Message] | None]] = {}
    for pair in pairs:
        for key, *answer in zip(pair.hashes.answers, pair.responses, pair.sources, pair.turns, strict=True):
            answers.setdefault((prompts[pair.hashes.prompt], key), (answer[0], answer[1], answer[2]))
    responses = _store_responses(session, answers)
    rows: dict[str, dict[str, Any]] = {}
    for pair in pairs:
        prompt_id = prompts[pair.hashes.prompt]
        rows.setdefault(
            pair.hashes.pair,
            {
                "project_id": project.id,
                "pair_hash": pair.hashes.pair,
                "prompt_id": prompt_id,
                "priority": pair.priority,
                "first_response_id": responses[prompt_id, pair.hashes.answers[0]],
                "second_response_id": responses[prompt_id, pair.hashes.answers[1]],
                "gold_choice": pair.gold,
                "external_id": pair.external_id,
                "import_id": import_id,
            },
        )
    known, fresh = _store_comparisons(session, project, rows)
    _count(session, project, fresh, {pair.hashes.pair: pair for pair in reversed(pairs)}, splits)
    stored = []
    for pair in pairs:
        comparison_id, first_response_id = known[pair.hashes.pair]
        swapped = first_response_id != responses[prompts[pair.hashes.prompt], pair.hashes.answers[0]]
        stored.append(Stored(comparison_id, pair.hashes.pair in fresh, swapped))
        fresh.discard(pair.hashes.pair)  # the same pair twice in one call: the second is a duplicate
    return stored


# Each inserts what is missing and then looks its ids up: RETURNING in order would be one statement a row on SQLite.


def _store_prompts(
    session: Session, project: Project, wanted: dict[str, list[Message]]
) -> tuple[dict[str, int], dict[str, Split]]:
    """({prompt hash: id}, {prompt hash: split})."""
    query = select(Prompt.content_hash, Prompt.id, Prompt.split).where(Prompt.project_id == project.id)
    rows = list(session.execute(query.where(Prompt.content_hash.in_(wanted))).tuples())
    there = {key for key, _, _ in rows}
    missing = [key for key in wanted if key not in there]
    if missing:
        session.execute(
            insert(Prompt),
            [
                {
                    "project_id": project.id,
                    "content_hash": key,
                    "messages": wanted[key],
                    "split": split_of(key, project.eval_percent),
                }
                for key in missing
            ],
        )
        rows += session.execute(query.where(Prompt.content_hash.in_(missing))).tuples()
    return {key: row_id for key, row_id, _ in rows}, {key: split for key, _, split in rows}


def split_of(content_hash: str, eval_percent: int) -> Split:
    """A prompt's split from its content alone, so that the same prompt is never trained on in one project's
    history and evaluated on in another part of it."""
    return Split.EVAL if int(content_hash[:12], 16) % 100 < eval_percent else Split.TRAIN


def _store_responses(
    session: Session, wanted: dict[tuple[int, str], tuple[str, Source, list[Message] | None]]
) -> dict[tuple[int, str], int]:
    query = select(Response.prompt_id, Response.content_hash, Response.id).where(
        Response.prompt_id.in_({prompt_id for prompt_id, _ in wanted}),
        Response.content_hash.in_({key for _, key in wanted}),
    )
    ids = {(prompt_id, key): response_id for prompt_id, key, response_id in session.execute(query)}
    missing = [key for key in wanted if key not in ids]
    if missing:
        session.execute(
            insert(Response),
            [
                {
                    "prompt_id": prompt_id,
                    "content_hash": key,
                    "text": text,
                    "turns": turns,
                    "characters": len(text),
                    "words": len(text.split()),
                    "source_kind": source.kind,
                    "source_name": source.name,
                }
                for (prompt_id, key), (text, source, turns) in ((key, wanted[key]) for key in missing)
            ],
        )
        ids = {(prompt_id, key): response_id for prompt_id, key, response_id in session.execute(query)}
    return ids


def _store_comparisons(
    session: Session, project: Project, rows: dict[str, dict[str, Any]]
) -> tuple[dict[str, tuple[int, int]], set[str]]:
    """({pair hash: (comparison id, its first response's id)}, hashes of the new ones)."""
    query = select(Comparison.pair_hash, Comparison.id, Comparison.first_response_id).where(
        Comparison.project_id == project.id
    )
    known = {
        key: (row_id, first_id)
        for key, row_id, first_id in session.execute(query.where(Comparison.pair_hash.in_(rows)))
    }
    missing = [key for key in rows if key not in known]
    if missing:
        session.execute(insert(Comparison), [rows[key] for key in missing])
        known |= {
            key: (row_id, first_id)
            for key, row_id, first_id in session.execute(query.where(Comparison.pair_hash.in_(missing)))
        }
        slots.seed(session, project=project, priorities={known[key][0]: rows[key]["priority"] for key in missing})
    return known, set(missing)


def _count(
    session: Session,
    project: Project,
    fresh: Collection[str],
    by_hash: Mapping[str, NewPair],
    splits: Mapping[str, Split],
) -> None:
    new = [by_hash[key] for key in fresh]
    counts.note(
        session,
        project_id=project.id,
        comparisons=len(new),
        golds=sum(pair.gold is not None for pair in new),
        evals=sum(splits[pair.hashes.prompt] is Split.EVAL for pair in new),
    )
