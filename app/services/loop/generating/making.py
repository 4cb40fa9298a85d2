"""The end of a generation: pairs of the answers that arrived, some prompts at a time, and what it came to.

Each transaction is short and under the job's lease. A worker that died in the middle left a note of how far it was.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BigInteger, Engine, String, func, select
from sqlalchemy.orm import Session

from app import writer
from app.bulk import given as given_rows
from app.db import read_session, write_session
from app.models import Arm, Finish, GeneratedAnswer, GenerationPlan, Job, Project, Response, SourceKind, Split
from app.services.collecting import pairs
from app.services.collecting.messages import Message, text_hash
from app.services.collecting.pairs import NewPair, Source
from app.services.jobs import leases
from app.services.loop.generating import answers, arms, evidence, pairing, prompts
from app.services.loop.generating.answers import Arrived
from app.services.loop.generating.arms import Arms, Candidate
from app.services.loop.generating.pairing import Given
from app.services.loop.generating.wanted import AnswerKind, AnswerSource

PROMPTS_AT_ONCE = 100  # among whose pairs each arm chooses
NO_ARM = "none"
LEFT_OUT = "The source left this prompt out; the log says why."


@dataclass(frozen=True, slots=True)
class _Batch:
    """Some prompts' answers with their marks, and the pairs to be made of them."""

    rows: list[GeneratedAnswer]
    marks: list[list[str]]
    pairs: list[NewPair]
    counts: Counter[str]


def note(session: Session, *, job_id: int, **counts: Any) -> None:
    """Write down counts of a plan, beside those that it has."""
    plan = session.scalars(select(GenerationPlan).where(GenerationPlan.job_id == job_id).with_for_update()).one()
    plan.counts = plan.counts | counts
    session.flush()


def note_speed(session: Session, *, job_id: int, took: Iterable[Mapping[str, Any]]) -> None:
    """Add to what each source made and in how many seconds: {source, made, tokens, seconds}."""
    plan = session.scalars(select(GenerationPlan).where(GenerationPlan.job_id == job_id).with_for_update()).one()
    speed = {key: dict(value) for key, value in plan.counts.get("speed", {}).items()}
    for one in took:
        mine = speed.setdefault(str(one["source"]), {"made": 0, "tokens": 0, "seconds": 0.0})
        for name in mine:
            mine[name] += one.get(name) or 0
    plan.counts = plan.counts | {"speed": speed}
    session.flush()


def note_missing(engine: Engine, *, job_id: int, token: str) -> None:
    """Store a failed answer for each that no source gave, so that nobody waits for it."""
    with read_session(engine) as session:
        plan = session.get_one(GenerationPlan, job_id)
        known = answers.places(session, job_id=job_id)
    wanted = (
        (prompt_id, source, sample)
        for prompt_id in plan.prompts["ids"]
        for source in range(len(plan.sources))
        for sample in range(plan.samples)
    )
    missing = [Arrived(*place, 0, LEFT_OUT, Finish.FAILED) for place in wanted if place not in known]
    for first in range(0, len(missing), answers.STORED_AT_ONCE):
        with write_session(engine) as session:
            leases.hold(session, job_id=job_id, token=token)
            answers.store(session, job_id=job_id, arrived=missing[first : first + answers.STORED_AT_ONCE])


def pair(engine: Engine, *, job_id: int, token: str) -> None:
    """Make the pairs of every prompt by the plan's rule, from where an earlier attempt was on."""
    with read_session(engine) as session:
        plan = session.get_one(GenerationPlan, job_id)
        project = session.scalars(select(Project).join(Job, Job.project_id == Project.id).where(Job.id == job_id)).one()
        asked = evidence.asked(session, project=project) if Arm.DIVERSITY in Arms.stored_as(plan.arms).shares else []
    ids = plan.prompts["ids"]
    for first in range(plan.counts.get("paired", 0), len(ids), PROMPTS_AT_ONCE):
        with read_session(engine) as session:
            batch = _batch(session, plan, project, ids[first : first + PROMPTS_AT_ONCE], asked)
            looked = pairs.look(session, project=project, pairs=batch.pairs) if batch.pairs else None
        writer.give_way()
        with write_session(engine) as session:
            leases.hold(session, job_id=job_id, token=token)
            _store(session, job_id, batch, looked, paired=min(first + PROMPTS_AT_ONCE, len(ids)))


def _batch(
    session: Session, plan: GenerationPlan, project: Project, ids: Sequence[int], asked: list[frozenset[str]]
) -> _Batch:
    messages = prompts.messages_of(session, ids=ids)
    by_prompt = answers.of_prompts(session, job_id=plan.job_id, prompts=ids)
    sources = [AnswerSource.of(stored) for stored in plan.sources]
    names = {name for source in sources for name in (source.name, source.model)}
    batch = _Batch([], [], [], Counter())
    dealt_pairs: list[tuple[GeneratedAnswer, GeneratedAnswer]] = []
    for rows in by_prompt.values():
        given = [Given(row.source, row.sample, row.text, row.finish) for row in rows]
        dealt = pairing.deal(given, plan.pairing, names=names)
        batch.rows.extend(rows)
        batch.marks.extend(dealt.marks)
        batch.counts.update(mark for marks in dealt.marks for mark in marks)
        batch.counts.update(same_pairs=dealt.same, near_pairs=dealt.near)
        dealt_pairs += [(rows[one], rows[other]) for one, other in dealt.pairs]
    for place, arm in _chosen(session, plan, project, dealt_pairs, messages, asked):
        two = dealt_pairs[place]
        batch.pairs.append(
            NewPair(
                messages[two[0].prompt_id],
                (two[0].text, two[1].text),
                (_named(sources[two[0].source]), _named(sources[two[1].source])),
                arm=arm,
            )
        )
        batch.counts[f"arm_{arm.value if arm else NO_ARM}"] += 1
    batch.counts["not_asked"] += len(dealt_pairs) - len(batch.pairs)
    return batch


def _chosen(
    session: Session,
    plan: GenerationPlan,
    project: Project,
    two: Sequence[tuple[GeneratedAnswer, GeneratedAnswer]],
    messages: Mapping[int, list[Message]],
    asked: list[frozenset[str]],
) -> list[tuple[int, Arm | None]]:
    """Which of the pairs are asked, and by which arm. `asked` gets the words of those that are."""
    chosen = Arms.stored_as(plan.arms)
    if not chosen.chooses:
        return [(place, Arm.RANDOM) for place in range(len(two))]
    seed = int(plan.sampling["seed"])
    ids = {one.prompt_id for one, _ in two}
    splits = prompts.splits_of(session, ids=list(ids))
    of = {number: chosen.of_prompt(number, splits.get(number, Split.TRAIN), seed=seed) for number in ids}
    judged = {number for number, arm in of.items() if arm is Arm.DISAGREEMENT}
    differed = evidence.disagreement(session, project=project, prompts=judged) if judged else {}
    candidates = [
        Candidate(
            (one.prompt_id, one.source, one.sample, other.source, other.sample),
            of[one.prompt_id],
            margin=abs(one.reward - other.reward) if one.reward is not None and other.reward is not None else None,
            disagreement=differed.get(one.prompt_id),
            words=evidence.words(messages[one.prompt_id], (one.text, other.text))
            if of[one.prompt_id] is Arm.DIVERSITY
            else frozenset(),
        )
        for one, other in two
    ]
    told = arms.choose(candidates, keep=chosen.keep, seed=seed, asked=asked)
    asked += [words for place, _ in told if (words := candidates[place].words)]
    del asked[: -arms.COMPARED]
    return told


def _named(source: AnswerSource) -> Source:
    kind = SourceKind.CHECKPOINT if source.kind is AnswerKind.CHECKPOINT else SourceKind.MODEL
    return Source(kind, source.title[: pairs.LONGEST_SOURCE])


def _store(session: Session, job_id: int, batch: _Batch, looked: pairs.Looked | None, *, paired: int) -> None:
    plan = session.scalars(select(GenerationPlan).where(GenerationPlan.job_id == job_id).with_for_update()).one()
    counts = Counter({name: value for name, value in plan.counts.items() if isinstance(value, int)})
    counts.update(batch.counts)
    if batch.pairs:
        job = session.get_one(Job, job_id)
        project = session.get_one(Project, job.project_id)
        stored = pairs.add_many(session, project=project, pairs=batch.pairs, looked=looked)
        added = sum(one.added for one in stored)
        counts.update(pairs=added, pairs_known=len(stored) - added)
    responses = _responses(session, batch.rows) if batch.pairs else {}
    answers.mark(
        session,
        job_id=job_id,
        marks=[
            (row, marks, responses.get((row.prompt_id, text_hash(row.text))))
            for row, marks in zip(batch.rows, batch.marks, strict=True)
            if marks or responses
        ],
    )
    plan.counts = plan.counts | dict(counts) | {"paired": paired}
    session.flush()


def _responses(session: Session, rows: Sequence[GeneratedAnswer]) -> dict[tuple[int, str], int]:
    """The stored answers that these became, by prompt and hash."""
    asked = given_rows(session, [(row.prompt_id, text_hash(row.text)) for row in rows], prompt=BigInteger, hash=String)
    stored = select(Response.prompt_id, Response.content_hash, Response.id).join(
        asked, (Response.prompt_id == asked.c.prompt) & (Response.content_hash == asked.c.hash)
    )
    return {(prompt_id, key): number for prompt_id, key, number in session.execute(stored)}


def tally(session: Session, *, job_id: int) -> dict[str, Any]:
    """What arrived, in all and of each source: answers, those that failed, tokens read and written."""
    rows = session.execute(
        select(
            GeneratedAnswer.source,
            func.count(),
            func.count().filter(GeneratedAnswer.finish == Finish.FAILED),
            func.sum(GeneratedAnswer.tokens),
            func.sum(GeneratedAnswer.prompt_tokens),
        )
        .where(GeneratedAnswer.job_id == job_id)
        .group_by(GeneratedAnswer.source)
        .order_by(GeneratedAnswer.source)
    ).all()
    by_source = {
        str(source): {
            "answers": count - failed,
            "failed": failed,
            "tokens": int(made or 0),
            "prompt_tokens": int(read or 0),
        }
        for source, count, failed, made, read in rows
    }
    totals = Counter[str]()
    for one in by_source.values():
        totals.update(one)
    return dict(totals) | {"by_source": by_source}
