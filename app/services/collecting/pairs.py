"""Pairs: prompts, answers and comparisons, each stored once however often it comes."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

import orjson
from sqlalchemy import BigInteger, String, select, update
from sqlalchemy.orm import Session

from app.bulk import among, given, insert_rows, next_ids
from app.errors import Invalid
from app.models import Arm, Choice, Comparison, Project, Prompt, Response, SourceKind, Split, User
from app.models.base import now as utc_now
from app.services.collecting import counts, slots
from app.services.collecting.duplicates import groups
from app.services.collecting.duplicates.near import Wording
from app.services.collecting.messages import Message, Unfit, answers_of, pair_hash, prompt_hash, prompt_of, text_hash

PRIORITIES = range(-1_000_000, 1_000_001)
LONGEST_EXTERNAL_ID = LONGEST_SOURCE = 255
OF_COMPARISON = ("prompt_id", "first_response_id", "second_response_id", "priority", "gold_choice", "external_id", "arm")  # fmt: skip


@dataclass(frozen=True)
class Source:
    """Where an answer comes from."""

    kind: SourceKind = SourceKind.FILE
    name: str = ""


UNKNOWN = Source()


class Hashes(NamedTuple):
    """SHA-256 of a prompt, of its answers in order, and of the pair, the same whichever answer comes first."""

    prompt: str
    answers: tuple[str, str]
    pair: str


@dataclass(frozen=True)
class NewPair:
    """A pair to be stored; `messages` has checked prompt and answers. It is hashed and counted when it is made, for the
    transaction that stores it holds the only writer. `turns`: the messages of an answer that goes on over several turns.
    `as_json` is the prompt, `words` are those of the answers."""

    prompt: list[Message]
    responses: tuple[str, str]
    sources: tuple[Source, Source] = (UNKNOWN, UNKNOWN)
    priority: int = 0
    gold: Choice | None = None
    external_id: str | None = None
    turns: tuple[list[Message] | None, list[Message] | None] = (None, None)
    arm: Arm | None = None
    hashes: Hashes = field(init=False, repr=False, compare=False)
    as_json: str = field(init=False, repr=False, compare=False)
    words: tuple[int, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        prompt, answers = prompt_hash(self.prompt), (text_hash(self.responses[0]), text_hash(self.responses[1]))
        object.__setattr__(self, "hashes", Hashes(prompt, answers, pair_hash(prompt, answers)))
        object.__setattr__(self, "as_json", orjson.dumps(self.prompt).decode())
        object.__setattr__(self, "words", (len(self.responses[0].split()), len(self.responses[1].split())))


@dataclass(frozen=True)
class Looked:
    """What a project had of some pairs at a version of its pairs: ids and splits of prompts by hash, ids of responses by prompt and hash,
    (id, first response's id) of comparisons by hash, and what is near the prompts that it hadn't."""

    version: int
    prompts: dict[str, int]
    splits: dict[str, Split]
    responses: dict[tuple[int, str], int]
    comparisons: dict[str, tuple[int, int]]
    near: groups.Looked


@dataclass(frozen=True)
class Stored:
    """Where a pair ended up. `swapped`: it was there already with its answers the other way round. `slot_id`: the slot that was
    filled when it was added."""

    comparison_id: int
    added: bool
    swapped: bool
    slot_id: int | None = None


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
        answers = answers_of(responses[0], responses[1], ("The first answer", "The second answer"))
        pair = NewPair(prompt_of(prompt), answers, (sources[0], sources[1]), priority, gold, external_id)
    except Unfit as unfit:
        raise Invalid(unfit.message, "Fix the pair and add it again.", reason=unfit.reason) from unfit
    (stored,) = add_many(session, project=project, pairs=[pair], import_id=import_id)
    return session.get_one(Comparison, stored.comparison_id), stored.added


def look(
    session: Session, *, project: Project, pairs: Sequence[NewPair], worded: Mapping[str, Wording] | None = None
) -> Looked:
    """What a project has of these pairs, so that the transaction that stores them only inserts. worded: known wordings by prompt."""
    version = session.scalars(select(Project.pairs_version).where(Project.id == project.id)).one()
    texts = {pair.hashes.prompt: pair.prompt for pair in pairs}
    of_project = select(Prompt.content_hash, Prompt.id, Prompt.split).where(Prompt.project_id == project.id)
    there = session.execute(of_project.where(among(session, Prompt.content_hash, texts))).all()
    prompts = {key: number for key, number, _ in there}
    new = {key: messages for key, messages in texts.items() if key not in prompts}
    known = [pair for pair in pairs if pair.hashes.prompt in prompts]
    answers = given(
        session,
        [(prompts[pair.hashes.prompt], key) for pair in known for key in pair.hashes.answers],
        prompt=BigInteger,
        hash=String,
    )
    responses = session.execute(
        select(Response.prompt_id, Response.content_hash, Response.id).join(
            answers, (Response.prompt_id == answers.c.prompt) & (Response.content_hash == answers.c.hash)
        )
    )
    comparisons = session.execute(
        select(Comparison.pair_hash, Comparison.id, Comparison.first_response_id).where(
            Comparison.project_id == project.id,
            among(session, Comparison.pair_hash, {pair.hashes.pair for pair in known}),
        )
    )
    return Looked(
        version,
        prompts,
        {key: split for key, _, split in there},
        {(prompt_id, key): number for prompt_id, key, number in responses},
        {key: (number, first_id) for key, number, first_id in comparisons},
        groups.look(session, project=project, new=new, known=worded),
    )


def add_many(
    session: Session,
    *,
    project: Project,
    pairs: Sequence[NewPair],
    import_id: int | None = None,
    looked: Looked | None = None,
    filled: Collection[str] = (),
    by: User | None = None,
) -> list[Stored]:
    """Stores pairs in the order given; content that the project has already isn't stored again.

    looked: what `look` said of these pairs before this transaction. It is looked again where others stored pairs since.
    filled: hashes of pairs of which, where they are new, a judgment `by` this person comes in the same transaction.
    """
    # One writer of a project's pairs at a time, so that "look, then insert" holds on PostgreSQL too.
    version = session.scalars(
        update(Project)
        .where(Project.id == project.id)
        .values(pairs_version=Project.pairs_version + 1)
        .returning(Project.pairs_version),
        execution_options={"synchronize_session": False},
    ).one()
    if looked is None or looked.version != version - 1:
        looked = look(session, project=project, pairs=pairs, worded=looked.near.wordings if looked else None)
    now = utc_now()
    prompts, splits = _store_prompts(session, project, pairs, looked, now)
    responses = _store_responses(session, pairs, prompts, looked, now)
    kept = {prompts[key] for key, split in splits.items() if split is Split.KEPT}
    comparisons, asked = _store_comparisons(session, project, pairs, prompts, responses, looked, import_id, now, kept)
    fresh = comparisons.keys() - looked.comparisons.keys()
    done = {comparisons[key][0] for key in filled if key in fresh}
    filled_slots = slots.seed(session, project=project, priorities=asked, filled=done, by=by)
    _count(session, project, fresh, pairs, splits)
    stored = []
    for pair in pairs:
        comparison_id, first_response_id = comparisons[pair.hashes.pair]
        swapped = first_response_id != responses[prompts[pair.hashes.prompt], pair.hashes.answers[0]]
        stored.append(Stored(comparison_id, pair.hashes.pair in fresh, swapped, filled_slots.get(comparison_id)))
        fresh.discard(pair.hashes.pair)  # the same pair twice in one call: the second is a duplicate
    return stored


def split_of(content_hash: str, eval_percent: int) -> Split:
    """The split of a prompt that has no near duplicates, from its content alone, so that the same prompt is never trained on
    in one project and evaluated with in another."""
    return Split.EVAL if int(content_hash[:12], 16) % 100 < eval_percent else Split.TRAIN


# Each returns the ids of what was there and of what it inserted. Ids are taken first, since rows name each other.


def _store_prompts(
    session: Session, project: Project, pairs: Sequence[NewPair], looked: Looked, now: datetime
) -> tuple[dict[str, int], dict[str, Split]]:
    """With the split of each."""
    new = {pair.hashes.prompt: pair.as_json for pair in pairs if pair.hashes.prompt not in looked.prompts}
    if not new:
        return looked.prompts, looked.splits
    ids = dict(zip(new, next_ids(session, Prompt, len(new)), strict=True))
    alone = {key: split_of(key, project.eval_percent) for key in new}
    placed = groups.place(session, project=project, looked=looked.near, ids=ids, alone=alone)
    insert_rows(
        session,
        Prompt,
        ("id", "content_hash", "messages", "split", "group_id"),
        [(ids[key], key, text, placed[key].split.value, placed[key].group_id) for key, text in new.items()],
        project_id=project.id,
        created_at=now,
    )
    return looked.prompts | ids, looked.splits | {key: place.split for key, place in placed.items()}


def _store_responses(
    session: Session, pairs: Sequence[NewPair], prompts: Mapping[str, int], looked: Looked, now: datetime
) -> dict[tuple[int, str], int]:
    new: dict[tuple[int, str], tuple[Any, ...]] = {}
    for pair in pairs:
        prompt_id = prompts[pair.hashes.prompt]
        for key, text, words, source, turns in zip(
            pair.hashes.answers, pair.responses, pair.words, pair.sources, pair.turns, strict=True
        ):
            if (prompt_id, key) not in looked.responses and (prompt_id, key) not in new:
                told = orjson.dumps(turns).decode() if turns else None
                kind = SourceKind(source.kind).value
                new[prompt_id, key] = (prompt_id, key, text, told, len(text), words, kind, source.name)
    ids = next_ids(session, Response, len(new)) if new else []
    insert_rows(
        session,
        Response,
        ("id", "prompt_id", "content_hash", "text", "turns", "characters", "words", "source_kind", "source_name"),
        [(number, *row) for number, row in zip(ids, new.values(), strict=True)],
        created_at=now,
    )
    return looked.responses | dict(zip(new, ids, strict=True))


def _store_comparisons(
    session: Session,
    project: Project,
    pairs: Sequence[NewPair],
    prompts: Mapping[str, int],
    responses: Mapping[tuple[int, str], int],
    looked: Looked,
    import_id: int | None,
    now: datetime,
    kept: Collection[int],
) -> tuple[dict[str, tuple[int, int]], dict[int, int]]:
    """(comparison id, its first response's id) by pair hash, and the priorities of new comparisons. Nobody is asked about pairs of
    `kept` prompts."""
    new: dict[str, tuple[Any, ...]] = {}
    for pair in pairs:
        if pair.hashes.pair in looked.comparisons or pair.hashes.pair in new:
            continue
        prompt_id = prompts[pair.hashes.prompt]
        first_id, second_id = (responses[prompt_id, key] for key in pair.hashes.answers)
        gold = Choice(pair.gold).value if pair.gold else None
        arm = pair.arm.value if pair.arm else None
        new[pair.hashes.pair] = (prompt_id, first_id, second_id, pair.priority, gold, pair.external_id, arm)
    ids = next_ids(session, Comparison, len(new)) if new else []
    columns = ("id", "pair_hash", *OF_COMPARISON)
    rows = [(number, key, *row) for number, (key, row) in zip(ids, new.items(), strict=True)]
    insert_rows(session, Comparison, columns, rows, project_id=project.id, import_id=import_id, created_at=now)
    asked = {number: row[3] for number, row in zip(ids, new.values(), strict=True) if row[0] not in kept}
    counts.note(session, project_id=project.id, judged=len(new) - len(asked))  # as `recount` has it: none waits
    stored = {key: (number, row[1]) for number, (key, row) in zip(ids, new.items(), strict=True)}
    return looked.comparisons | stored, asked


def _count(
    session: Session, project: Project, fresh: Collection[str], pairs: Sequence[NewPair], splits: Mapping[str, Split]
) -> None:
    new = {pair.hashes.pair: pair for pair in reversed(pairs) if pair.hashes.pair in fresh}.values()
    counts.note(
        session,
        project_id=project.id,
        comparisons=len(new),
        golds=sum(pair.gold is not None for pair in new),
        evals=sum(splits[pair.hashes.prompt] is Split.EVAL for pair in new),
    )
