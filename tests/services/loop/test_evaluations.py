"""Evaluations: planned and hashed, seeded by the answers, asked blind, and ended by their plan."""

import io
import json
from datetime import datetime, timedelta

import pytest
from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from app.config import Settings
from app.db import read_session, write_session
from app.errors import Conflict
from app.models import (
    AuditEntry,
    Comparison,
    Container,
    Evaluation,
    EvaluationState,
    Judgment,
    Project,
    ProjectCount,
    Prompt,
    Response,
    Slot,
    SlotState,
)
from app.models.base import now
from app.services.collecting import desk, listing, recount
from app.services.collecting.imports import load
from app.services.collecting.listing import Filters
from app.services.collecting.messages import prompt_hash
from app.services.datasets import snapshots
from app.services.datasets.extracts import own
from app.services.datasets.extracts.containers import chunks
from app.services.loop import batches, evaluations, verdicts
from app.services.loop.evaluating import ballots
from app.services.loop.evaluating.wanted import BothBad, Skips, Wanted
from app.services.loop.verdict import evidence, figures
from app.services.loop.verdict.shape import Verdict
from tests.factory import Factory
from tests.services.loop.batch import Batch, is_blind, prefers_new
from tests.services.training.trained import trained


@pytest.fixture
def batch(engine: Engine, settings: Settings, factory: Factory) -> Batch:
    return Batch(engine, settings, factory)


def counts_are_right(batch: Batch) -> bool:
    with read_session(batch.engine) as session:
        return recount.check(session) == []


def test_a_plan_is_hashed_with_its_prompts_in_order(batch: Batch) -> None:
    batch.prompts(5)
    evaluation = batch.prepared(Wanted(maximum=4))
    assert evaluation.state is EvaluationState.PREPARING and len(evaluation.plan_sha256) == 64
    places = batch.pairs(evaluation)
    assert [pair.place for pair in places] == [1, 2, 3, 4]
    with read_session(batch.engine) as session:
        assert evaluations.is_as_planned(session, evaluations.get(session, evaluation.id))
    with write_session(batch.engine) as session:
        evaluations.get(session, evaluation.id).margin = 0.2
    with read_session(batch.engine) as session:
        assert not evaluations.is_as_planned(session, evaluations.get(session, evaluation.id))


def test_the_same_two_are_compared_once_at_a_time(batch: Batch) -> None:
    batch.prompts(5)
    first = batch.prepared()
    with pytest.raises(Conflict):
        batch.prepared()
    with write_session(batch.engine) as session:
        evaluations.stop(session, evaluation=evaluations.get(session, first.id), by=batch.engineer)
    assert batch.prepared().number == first.number + 1


def test_answers_become_pairs_ties_and_prompts_that_are_left_out(batch: Batch) -> None:
    def answers(place: int) -> tuple[str, str]:
        return ("Alike.", " Alike.\n") if place == 2 else (f"The new {place}", f"Old {place}")

    evaluation = batch.asking(6, answers=answers, failed=[4], cut=[5])
    assert evaluation.state is EvaluationState.ASKING and evaluation.asking_at is not None
    pairs = batch.pairs(evaluation)
    assert [pair.left_out for pair in pairs] == ["", "", "", "failed", "", ""]
    assert [pair.same for pair in pairs] == [False, True, False, False, False, False]
    assert pairs[1].value == 0.5 and pairs[1].comparison_id is None
    assert pairs[4].tells == {"new": ["at_limit"], "old": []}
    with read_session(batch.engine) as session:
        rows = session.scalars(select(Comparison).where(Comparison.evaluation_id == evaluation.id)).all()
        assert len(rows) == 4
        assert sorted(row.id for row in rows) == [pair.comparison_id for pair in pairs if pair.comparison_id]
        assert session.get_one(ProjectCount, batch.project.id).asking == 1
    assert counts_are_right(batch)


def test_an_evaluation_without_answers_is_void(batch: Batch) -> None:
    evaluation = batch.asking(2, failed=[1, 2])
    assert evaluation.state is EvaluationState.VOID and "2 without an answer" in evaluation.reason
    assert counts_are_right(batch)


def test_one_that_was_stopped_meanwhile_is_not_seeded(batch: Batch) -> None:
    batch.prompts(3)
    evaluation = batch.prepared()
    with write_session(batch.engine) as session:
        evaluations.stop(session, evaluation=evaluations.get(session, evaluation.id), by=batch.engineer)
    assert batch.answered(evaluation).state is EvaluationState.STOPPED
    with read_session(batch.engine) as session:
        assert session.scalar(select(func.count()).select_from(Slot).where(Slot.evaluation_id.is_not(None))) == 0


def test_it_is_decided_when_its_goal_is_reached(batch: Batch) -> None:
    evaluation = batch.asking(40, Wanted(share=100))
    for number in range(40):
        batch.judge(batch.evaluators[number % 3], prefers_new)
        if number == 5:
            assert batch.settle(evaluation).state is EvaluationState.ASKING
    ended = batch.settle(evaluation)
    assert (ended.state, ended.stop, ended.word) == (EvaluationState.DECIDED, "goal", "better")
    with read_session(batch.engine) as session:
        row = evaluations.get(session, evaluation.id)
        votes = evaluations.votes(session, row)
        assert [vote.value for vote in votes] == [1.0] * 40 and all(vote.counts for vote in votes)
        assert evaluations.outcomes(session, row) == {1.0: 40}
        actions = session.scalars(select(AuditEntry.action).where(AuditEntry.target == f"evaluation {row.id}")).all()
        assert sorted(actions) == ["evaluation.asking", "evaluation.create", "evaluation.decided"]
        assert session.get_one(ProjectCount, batch.project.id).asking == 0
    assert counts_are_right(batch)


def test_it_ends_undecided_when_every_prompt_is_judged(batch: Batch) -> None:
    evaluation = batch.asking(4, Wanted(share=100))
    for number in range(4):
        batch.judge(batch.evaluators[0], "tie" if number % 2 else "both_bad")
    ended = batch.settle(evaluation)
    assert (ended.state, ended.stop, ended.word) == (EvaluationState.DECIDED, "maximum", "undecided")


def test_a_judgment_counts_when_its_maker_has_gone_on(batch: Batch) -> None:
    evaluation = batch.asking(2, Wanted(share=100))
    batch.judge(batch.evaluators[0], prefers_new)
    batch.settle(evaluation, timedelta(0))
    assert [pair.value for pair in batch.pairs(evaluation)] == [None, None]
    batch.settle(evaluation)
    assert [pair.value for pair in batch.pairs(evaluation)] == [1.0, None]
    shown = batch.factory.undo(batch.project, batch.evaluators[0])
    assert shown is not None
    batch.factory.record(shown.token, batch.evaluators[0], "tie")
    batch.settle(evaluation)
    assert batch.pairs(evaluation)[0].value == 1.0  # what was counted stays


def test_what_is_open_goes_away_with_the_end(batch: Batch) -> None:
    evaluation = batch.asking(6, Wanted(share=100))
    shown = batch.factory.shown(batch.project, batch.evaluators[0])
    assert shown is not None
    with write_session(batch.engine) as session:
        evaluations.stop(session, evaluation=evaluations.get(session, evaluation.id), by=batch.engineer)
    with read_session(batch.engine) as session:
        states = session.scalars(select(Slot.state).where(Slot.evaluation_id == evaluation.id)).all()
        assert states == [SlotState.LEASED]
    assert batch.judge(batch.evaluators[1]) is None
    assert batch.factory.record(shown.token, batch.evaluators[0]).slot_id is not None  # who looks at it may judge it
    assert counts_are_right(batch)
    with write_session(batch.engine) as session:
        again = evaluations.stop(session, evaluation=evaluations.get(session, evaluation.id), by=None)
        assert again.reason.endswith("stopped it.")


def test_several_votes_are_one_win_rate(batch: Batch) -> None:
    evaluation = batch.asking(2, Wanted(share=100, votes=2))
    for _ in range(2):
        batch.judge(batch.evaluators[0], prefers_new)
        batch.judge(batch.evaluators[1], "tie")
    assert batch.judge(batch.evaluators[2]) is None
    batch.settle(evaluation)
    assert [pair.value for pair in batch.pairs(evaluation)] == [0.75, 0.75]


def test_what_both_bad_and_skip_do_is_the_plans(batch: Batch) -> None:
    wanted = Wanted(share=100, both_bad=BothBad.LEAVE_OUT, skips=Skips.LEAVE_OUT)
    evaluation = batch.asking(4, wanted)
    for choice in ("both_bad", "skip", "tie"):
        batch.judge(batch.evaluators[0], choice)
    batch.settle(evaluation)
    assert [pair.left_out for pair in batch.pairs(evaluation)] == ["both_bad", "skipped", "", ""]
    assert [pair.value for pair in batch.pairs(evaluation)] == [None, None, 0.5, None]
    assert counts_are_right(batch)


def test_others_are_asked_what_somebody_skipped(batch: Batch) -> None:
    evaluation = batch.asking(1, Wanted(share=100))
    assert is_blind(batch.judge(batch.evaluators[0], "skip"))
    assert batch.judge(batch.evaluators[0]) is None
    assert is_blind(batch.judge(batch.evaluators[1], prefers_new))
    assert batch.settle(evaluation).state is EvaluationState.DECIDED
    assert counts_are_right(batch)


def test_the_sweeper_settles_what_came_in(batch: Batch) -> None:
    evaluation = batch.asking(1, Wanted(share=100))
    later = now() + timedelta(minutes=10)
    assert batches.settle_all(batch.engine, now=later) == []
    batch.judge(batch.evaluators[0], prefers_new)
    assert batches.settle_all(batch.engine, now=later) == [evaluation.id]
    assert batches.settle_all(batch.engine, now=later) == []


def test_a_rule_of_the_project_changes_no_slot_of_an_evaluation(batch: Batch) -> None:
    evaluation = batch.asking(3, Wanted(votes=2))
    from app.services.collecting import projects

    with write_session(batch.engine) as session:
        projects.update(session, project=session.merge(batch.project), by=batch.engineer, judgments_per_comparison=3)
    with read_session(batch.engine) as session:
        slots = select(func.count()).select_from(Slot).where(Slot.evaluation_id == evaluation.id)
        assert session.scalar(slots) == 6
        assert session.scalar(select(func.count()).select_from(Judgment)) == 4
    assert counts_are_right(batch)


def test_what_was_said_in_an_evaluation_is_in_no_dataset(batch: Batch, settings: Settings) -> None:
    with read_session(batch.engine) as session:
        project = session.get_one(Project, batch.project.id)
        before = snapshots.preview(session, project=project), listing.comparisons(session, project=project).total
    evaluation = batch.asking(3, Wanted(share=100))
    for _ in range(3):
        batch.judge(batch.evaluators[0], prefers_new)
    with read_session(batch.engine) as session:
        project = session.get_one(Project, batch.project.id)
        assert (
            snapshots.preview(session, project=project),
            listing.comparisons(session, project=project).total,
        ) == before
        filters = Filters(text="The new way")
        assert listing.comparisons(session, project=project, filters=filters).items == []
    rows = list(own.rows(batch.engine, project_id=batch.project.id))
    apart = [row for row in rows if "evaluation" in row]
    assert len(rows) == 7 and [row["evaluation"] for row in apart] == [evaluation.number] * 3
    assert all("responses" not in row and len(row["compared"]) == 2 and row["judgments"] for row in apart)
    other = batch.factory.project()
    for container in Container:
        row = load.load(
            batch.engine,
            project_id=other.id,
            user_id=batch.engineer.id,
            stream=io.BytesIO(b"".join(chunks(rows, container))),
            filename="own",
            settings=settings,
        )
        assert row.rejected == 3 and row.added + row.duplicates == 4


def test_what_one_evaluation_cannot_do_keeps_no_other_from_its_end(
    batch: Batch, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = batch.asking(1, Wanted(share=100))
    assert is_blind(batch.judge(batch.evaluators[0], prefers_new))
    batch.factory.comparison(batch.project)
    assert batch.judge(batch.engineer)
    _, other = trained(batch.engine, settings, batch.project, batch.engineer)
    batch.prompts(1)
    fine = batch.answered(batch.prepared(Wanted(share=100), opponent=str(other.id)))
    for person in batch.evaluators:
        while batch.judge(person, prefers_new):
            pass
    real = ballots.close

    def close(session: Session, evaluation: Evaluation, *, now: datetime) -> ballots.Closing:
        if evaluation.id == broken.id:
            raise ValueError("a row that nobody understands")
        return real(session, evaluation, now=now)

    monkeypatch.setattr(ballots, "close", close)
    assert batches.settle_all(batch.engine, now=now() + timedelta(minutes=10)) == [fine.id]


def test_what_is_given_up_after_the_end_is_wanted_no_more(batch: Batch) -> None:
    evaluation = batch.asking(3, Wanted(share=100))
    given_back, ran_out = (batch.factory.shown(batch.project, person) for person in batch.evaluators[:2])
    assert given_back is not None and ran_out is not None
    with write_session(batch.engine) as session:
        evaluations.stop(session, evaluation=evaluations.get(session, evaluation.id), by=None)
    with write_session(batch.engine) as session:
        desk.release(session, token=given_back.token, user=session.merge(batch.evaluators[0]))
    batches.settle_all(batch.engine, now=now() + timedelta(days=2))
    with read_session(batch.engine) as session:
        assert session.scalar(select(func.count()).where(Slot.evaluation_id == evaluation.id)) == 0
        told = listing.progress(session, project=batch.project, user=batch.evaluators[0])
        assert told.wanted == told.done
    assert batch.factory.record(ran_out.token, batch.evaluators[1]).late
    assert counts_are_right(batch)


def test_a_look_at_a_batch_changes_no_word_of_its_end(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    """The verdict is computed between transactions, and a batch may be decided or void by then."""
    evaluation = batch.asking(40, Wanted(share=100))
    for number in range(40):
        batch.judge(batch.evaluators[number % 3], prefers_new)
    real = figures.compute

    def slow(given: evidence.Evidence, *, as_of: datetime) -> Verdict:
        monkeypatch.setattr(figures, "compute", real)
        told = real(given, as_of=as_of)
        assert batch.settle(evaluation).word == "better"
        return told

    monkeypatch.setattr(figures, "compute", slow)
    assert verdicts.compute(batch.engine, evaluation.id).word == "better"
    assert (batch.now(evaluation).word, batch.now(evaluation).outcome) == ("better", "better")
    with write_session(batch.engine) as session:
        row = evaluations.get(session, evaluation.id)
        evaluations._void(session, row, "It was trained on.", now=now())
    verdicts.compute(batch.engine, evaluation.id)
    assert (batch.now(evaluation).word, batch.now(evaluation).outcome) == ("", "void")


@pytest.mark.parametrize("votes", [True, False])
def test_a_pair_that_is_asked_blind_is_refused_by_an_import(batch: Batch, settings: Settings, votes: bool) -> None:
    """It would never be trained on, and a vote of the file would take the place of a blind one."""
    batch.prompts(1)
    with write_session(batch.engine) as session:
        for prompt in session.scalars(select(Prompt).where(Prompt.split == "eval")):
            prompt.content_hash = prompt_hash(prompt.messages)
    evaluation = batch.answered(batch.prepared(Wanted(share=100)))
    with read_session(batch.engine) as session:
        pair = session.scalars(select(Comparison).where(Comparison.evaluation_id == evaluation.id)).one()
        texts = [session.get_one(Response, key).text for key in (pair.second_response_id, pair.first_response_id)]
        messages = session.get_one(Prompt, pair.prompt_id).messages
    judged = {"chosen": texts[0], "rejected": texts[1]} if votes else {"responses": texts, "gold": "first"}
    lines = [{"prompt": messages} | judged, {"prompt": "Another?", "responses": ["One.", "Two."]}]
    row = load.load(
        batch.engine,
        project_id=batch.project.id,
        user_id=batch.engineer.id,
        stream=io.BytesIO("\n".join(map(json.dumps, lines)).encode()),
        filename="own.jsonl",
        settings=settings,
    )
    assert (row.added, row.duplicates, row.rejected) == (1, 0, 1)
    assert [one["reason"] for one in row.rejections] == ["in_evaluation"]
    with read_session(batch.engine) as session:
        assert session.get_one(Comparison, pair.id).gold_choice is None
    assert is_blind(batch.judge(batch.evaluators[0], prefers_new))
    assert batch.settle(evaluation).state is EvaluationState.DECIDED
    assert counts_are_right(batch)
