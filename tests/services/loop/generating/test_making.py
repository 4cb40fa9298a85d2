"""The end of a generation: pairs with their slots, once, under the job's lease."""

from collections.abc import Callable

import pytest
from sqlalchemy import Engine, func, select

from app.db import read_session, write_session
from app.models import (
    Arm,
    Comparison,
    Finish,
    GeneratedAnswer,
    GenerationPlan,
    Job,
    JobKind,
    Pairing,
    Project,
    ProjectCount,
    Slot,
    SourceKind,
    Split,
)
from app.models import Response as Stored
from app.services.jobs import leases
from app.services.jobs.leases import LeaseLost
from app.services.loop import generations
from app.services.loop.generating import answers, making, margins, prompts
from app.services.loop.generating.answers import Arrived
from app.services.loop.generating.arms import Arms
from app.services.loop.generating.wanted import AnswerSource, Sampling
from tests.factory import Factory

Make = Callable[..., Job]


@pytest.fixture
def project(factory: Factory) -> Project:
    return factory.project(judgments_per_comparison=2)


@pytest.fixture
def claimed(engine: Engine, project: Project) -> Job:
    """A running generation of two sources and one answer each to three prompts; the third is answered by nobody."""
    given = prompts.read_given(["One?", "Two?", "Three?"])
    ids = prompts.store(engine, project_id=project.id, given=given)
    with write_session(engine) as session:
        generations.start(
            session,
            project=session.merge(project),
            by=None,
            sources=[AnswerSource.base("tiny"), AnswerSource.base("other")],
            sampling=Sampling(),
            prompts=ids,
            pairing=Pairing.ACROSS,
        )
    with write_session(engine) as session:
        job = leases.claim(session, worker="one", kinds=[JobKind.GENERATION], lease_seconds=600)
        assert job is not None
        told = [
            Arrived(ids[0], 0, 0, 1, "It is red.", Finish.STOP, 4, 3),
            Arrived(ids[0], 1, 0, 1, "Blue, I would say.", Finish.LENGTH, 5, 3),
            Arrived(ids[1], 0, 0, 2, "The same.", Finish.STOP, 2, 3),
            Arrived(ids[1], 1, 0, 2, "The  same.", Finish.STOP, None, None),
        ]
        answers.store(session, job_id=job.id, arrived=told)
    return job


def make(engine: Engine, job: Job) -> GenerationPlan:
    lease = {"job_id": job.id, "token": job.lease_token or ""}
    making.note_missing(engine, **lease)
    making.pair(engine, **lease)
    with read_session(engine) as session:
        counts = making.tally(session, job_id=job.id)
    with write_session(engine) as session:
        making.note(session, job_id=job.id, **counts)
        return generations.get(session, job.id)


def test_answers_become_pairs_with_slots(engine: Engine, project: Project, claimed: Job) -> None:
    counts = make(engine, claimed).counts
    assert {name: counts[name] for name in ("answers", "failed", "pairs", "same_pairs", "identical", "at_limit")} == {
        "answers": 4,
        "failed": 2,
        "pairs": 1,
        "same_pairs": 1,
        "identical": 1,
        "at_limit": 1,
    }
    assert counts["by_source"]["0"] == {"answers": 2, "failed": 1, "tokens": 6, "prompt_tokens": 6}
    with read_session(engine) as session:
        pair = session.scalars(select(Comparison)).one()
        assert pair.arm is Arm.RANDOM
        assert session.scalar(select(func.count()).where(Slot.comparison_id == pair.id)) == 2
        sources = session.execute(select(Stored.source_kind, Stored.source_name).order_by(Stored.id)).tuples().all()
        assert sources == [(SourceKind.MODEL, "tiny"), (SourceKind.MODEL, "other")]
        became = session.scalars(select(GeneratedAnswer.response_id).where(GeneratedAnswer.response_id.is_not(None)))
        assert sorted(became) == [pair.first_response_id, pair.second_response_id]
        kept = session.scalar(select(ProjectCount.comparisons).where(ProjectCount.project_id == project.id))
        assert kept == 1


def test_a_second_attempt_makes_no_pair_twice(engine: Engine, claimed: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(making, "PROMPTS_AT_ONCE", 1)
    once = make(engine, claimed).counts
    assert make(engine, claimed).counts == once
    with write_session(engine) as session:  # a worker that died before it wrote how far it was
        making.note(session, job_id=claimed.id, paired=0)
    again = make(engine, claimed).counts
    assert (again["pairs"], again["pairs_known"]) == (1, 1)
    with read_session(engine) as session:
        assert session.scalar(select(func.count()).select_from(Comparison)) == 1


def test_whoever_lost_the_lease_makes_nothing(engine: Engine, claimed: Job) -> None:
    with pytest.raises(LeaseLost):
        making.pair(engine, job_id=claimed.id, token="another")
    with read_session(engine) as session:
        assert session.scalar(select(func.count()).select_from(Comparison)) == 0


def test_the_speed_of_attempts_adds_up(engine: Engine, claimed: Job) -> None:
    with write_session(engine) as session:
        for _ in range(2):
            took = [{"source": 1, "made": 2, "tokens": 10, "seconds": 0.5}]
            making.note_speed(session, job_id=claimed.id, took=took)
        speed = generations.get(session, claimed.id).counts["speed"]
    assert speed == {"1": {"made": 4, "tokens": 20, "seconds": 1.0}}


def test_each_arm_asks_its_share_and_the_arm_stays_with_the_pair(engine: Engine, factory: Factory) -> None:
    """Half of the prompts by chance, half by the smaller margin of two pairs; those of the eval split by chance."""
    project = factory.project(eval_percent=30)
    ids = prompts.store(
        engine, project_id=project.id, given=prompts.read_given([f"Question {number}?" for number in range(120)])
    )
    arms = Arms.parse("random=0.5,margin=0.5")
    with write_session(engine) as session:
        plan = {"sources": [AnswerSource.base("tiny")], "sampling": Sampling(seed=4), "samples": 3, "prompts": ids}
        started = generations.start(
            session, project=session.merge(project), by=None, pairing=Pairing.ROUND_ROBIN, **plan
        )
        started.arms = arms.stored()  # as if the project had a checkpoint
    with write_session(engine) as session:
        job = leases.claim(session, worker="one", kinds=[JobKind.GENERATION], lease_seconds=600)
        assert job is not None
        for number in ids:
            said = ("Red is best.", "I would say green.", "Nobody knows, I fear.")
            told = [Arrived(number, 0, place, 1, f"{text} {number}", Finish.STOP) for place, text in enumerate(said)]
            answers.store(session, job_id=job.id, arrived=told)
        splits = prompts.splits_of(session, ids=ids)
    rewards = {(number, 0, sample): reward for number in ids for sample, reward in enumerate((5.0, 0.0, 0.1))}
    margins.note(engine, job_id=job.id, token=job.lease_token or "", rewards=rewards)
    counts = make(engine, job).counts
    dealt = {number: arms.of_prompt(number, splits[number], seed=4) for number in ids}
    assert counts["pairs"] + counts["not_asked"] == 360
    assert counts["arm_margin"] + counts["arm_random"] == counts["pairs"] == 180
    with read_session(engine) as session:
        pairs = session.execute(
            select(Comparison.prompt_id, Comparison.arm, Stored.text)
            .join(Stored, Stored.id == Comparison.first_response_id)
        ).tuples().all()  # fmt: skip
    assert {(dealt[prompt_id], arm) for prompt_id, arm, _ in pairs} == {(arm, arm) for arm in (Arm.RANDOM, Arm.MARGIN)}
    by_margin = [text for _, arm, text in pairs if arm is Arm.MARGIN]
    assert sum(text.startswith("I would say green") for text in by_margin) == list(dealt.values()).count(Arm.MARGIN)
    assert {arm for prompt_id, arm, _ in pairs if splits[prompt_id] is Split.EVAL} == {Arm.RANDOM}
