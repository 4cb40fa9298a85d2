"""Whom an evaluation asks: nobody who knows the prompt, at the plan's share, and alone where nothing else is left."""

import random
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, select

from app.config import Settings
from app.db import read_session, write_session
from app.models import Choice, Comparison, Evaluation, Judgment, Prompt, PromptGroup, Split, User
from app.services.collecting import listing, pairs, recount
from app.services.collecting.blind import looks
from app.services.loop import evaluations
from app.services.loop.evaluating.sides import ACTIVE
from app.services.loop.evaluating.wanted import Wanted
from tests.factory import Factory
from tests.services.loop.batch import Batch, answers_of, is_blind


@pytest.fixture
def batch(engine: Engine, settings: Settings, factory: Factory) -> Batch:
    return Batch(engine, settings, factory)


def waiting(batch: Batch, user: User) -> int:
    with read_session(batch.engine) as session:
        return listing.progress(session, project=batch.project, user=user).waiting_for_me


def test_a_share_is_a_share_of_all_showings() -> None:
    order = [looks.drawn([(7, 30), (9, 20)], number) for number in range(100)]
    assert [first[0] for first in order].count(7) == 30 and [first[0] for first in order].count(9) == 20
    assert all(sorted(one, key=str) == [7, 9, None] for one in order)
    assert looks.drawn([(7, 100), (9, 100)], 99) == [7, None, 9]


def test_pairs_of_an_evaluation_come_between_ordinary_ones(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(3)
    monkeypatch.setattr("secrets.randbelow", draw.randrange)
    batch.ordinary(40)
    batch.asking(20, Wanted(share=50))
    seen = [is_blind(batch.judge(batch.evaluators[0])) for _ in range(30)]
    assert 8 <= seen.count(True) <= 20
    assert len({tuple(seen[at : at + 2]) for at in range(29)}) == 4  # in no pattern


def test_with_no_ordinary_pairs_left_they_come_alone(batch: Batch) -> None:
    batch.asking(3, Wanted(share=1))
    assert [is_blind(batch.judge(batch.evaluators[0])) for _ in range(4)] == [True, True, True, False]


def test_the_count_of_what_waits_goes_down_by_one_whatever_was_judged(batch: Batch) -> None:
    batch.ordinary(4)
    batch.asking(4, Wanted(share=50))
    user = batch.evaluators[0]
    left = [waiting(batch, user)]
    while batch.judge(user):
        left.append(waiting(batch, user))
    assert left == [8, 7, 6, 5, 4, 3, 2, 1, 0]


def test_who_judged_a_prompt_or_one_like_it_is_not_asked(batch: Batch) -> None:
    known, near = batch.prompts(2)
    (alike,) = batch.prompts(1, split=Split.EVAL)
    with write_session(batch.engine) as session:
        group = PromptGroup(project_id=batch.project.id, split=Split.EVAL)
        session.add(group)
        session.flush()
        for number in (near, alike):
            session.get_one(Prompt, number).group_id = group.id
        project = session.merge(batch.project)
        for number in (known, alike):
            prompt = session.get_one(Prompt, number)
            new = pairs.NewPair(prompt.messages, ("One.", "Two."), gold=Choice.FIRST if number == known else None)
            prompt.content_hash = new.hashes.prompt
            session.flush()
            pairs.add_many(session, project=project, pairs=[new])
    judge, fresh = batch.evaluators[:2]
    assert batch.judge(judge, "skip") and batch.judge(judge)
    batch.answered(batch.prepared(Wanted(share=100)))
    assert waiting(batch, judge) == 0 and batch.judge(judge) is None
    assert waiting(batch, fresh) == 3
    assert is_blind(batch.judge(fresh)) and is_blind(batch.judge(fresh))


def test_who_judged_a_prompt_for_one_evaluation_is_not_asked_by_another(batch: Batch) -> None:
    first = batch.asking(2, Wanted(share=100))
    assert batch.judge(batch.evaluators[0])
    with write_session(batch.engine) as session:
        evaluations.stop(session, evaluation=evaluations.get(session, first.id), by=None)
    batch.answered(batch.prepared(Wanted(share=100)), lambda place: (f"The new one, again, {place}", f"Old {place}"))
    assert waiting(batch, batch.evaluators[0]) == 1 and waiting(batch, batch.evaluators[1]) == 2


def guard_holds(batch: Batch) -> None:
    """Nobody was asked by an evaluation about a prompt group of which they had judged anything before."""
    with read_session(batch.engine) as session:
        rows = session.execute(
            select(Judgment.user_id, Prompt.id, Prompt.group_id, Comparison.evaluation_id)
            .join(Comparison, Comparison.id == Judgment.comparison_id)
            .join(Prompt, Prompt.id == Comparison.prompt_id)
            .where(~Judgment.superseded)
            .order_by(Judgment.id)
        ).all()
        assert recount.check(session) == []
    known: set[tuple[int, str]] = set()
    for user_id, prompt_id, group_id, evaluation_id in rows:
        key = user_id, f"group {group_id}" if group_id else f"prompt {prompt_id}"
        assert evaluation_id is None or key not in known, (user_id, prompt_id, group_id)
        known.add(key)


@pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)
@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.tuples(st.integers(0, 2), st.sampled_from("jjjjsuorx")), min_size=8, max_size=24))
def test_the_guard_holds_whatever_people_do(
    engine: Engine, settings: Settings, factory: Factory, steps: list[tuple[int, str]]
) -> None:
    batch = Batch(engine, settings, factory)
    with write_session(engine) as session:
        group = PromptGroup(project_id=batch.project.id, split=Split.EVAL)
        session.add(group)
        session.flush()
        project = session.merge(batch.project)
        for number, prompt_id in enumerate(batch_prompts(session, batch, 6)):
            prompt = session.get_one(Prompt, prompt_id)
            prompt.group_id = group.id if number < 3 else None
            new = pairs.NewPair(prompt.messages, ("One.", "Two."))
            prompt.content_hash = new.hashes.prompt
            session.flush()
            pairs.add_many(session, project=project, pairs=[new])
    current = batch.answered(batch.prepared(Wanted(share=50, votes=2)))
    for person, step in steps:
        current = _step(batch, batch.evaluators[person], step, current)
    guard_holds(batch)


def batch_prompts(session: object, batch: Batch, count: int) -> list[int]:
    rows = [
        Prompt(
            project_id=batch.project.id,
            content_hash=f"{random.getrandbits(256):064x}",
            messages=[{"role": "user", "content": f"What of {random.getrandbits(60)}?"}],
            split=Split.EVAL,
        )
        for _ in range(count)
    ]
    session.add_all(rows)  # type: ignore[attr-defined]
    session.flush()  # type: ignore[attr-defined]
    return [row.id for row in rows]


def _step(batch: Batch, user: User, step: str, current: Evaluation) -> Evaluation:
    """j: judge; s: skip; u: take the last one back and judge it anew; o: look; r: give it back; x: another evaluation."""
    doings: dict[str, Callable[[], object]] = {
        "j": lambda: batch.judge(user),
        "s": lambda: batch.judge(user, "skip"),
        "o": lambda: batch.factory.shown(batch.project, user),
        "u": lambda: _again(batch, user),
        "r": lambda: _release(batch, user),
    }
    if step != "x":
        doings[step]()
        return current
    with write_session(batch.engine) as session:
        row = evaluations.get(session, current.id)
        if row.state in ACTIVE:
            evaluations.stop(session, evaluation=row, by=None)
    again = batch.prepared(Wanted(share=50))
    return batch.answered(again, lambda place: (answers_of(place)[0] + str(again.id), answers_of(place)[1]))


def _again(batch: Batch, user: User) -> None:
    pair = batch.factory.undo(batch.project, user)
    if pair is not None:
        batch.factory.record(pair.token, user, "tie")


def _release(batch: Batch, user: User) -> None:
    from app.services.collecting import desk

    pair = batch.factory.shown(batch.project, user)
    if pair is not None:
        with write_session(batch.engine) as session:
            desk.release(session, token=pair.token, user=session.merge(user))
