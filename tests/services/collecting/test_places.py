"""Places: what is next for a person, found without passing over what they have judged again and again."""

from datetime import timedelta
from typing import Any

from sqlalchemy import event, select, text

from app.db import read_session, write_session
from app.models import EvaluatorCount, Project, Slot, User
from app.models.base import now
from app.services.collecting import desk, pairs, places
from app.services.collecting.pairs import NewPair
from tests.factory import Factory


def fill(factory: Factory, project: Project, count: int, *, first: int = 0, **more: Any) -> None:
    with write_session(factory.engine) as session:
        new = [
            NewPair([{"role": "user", "content": f"{number}?"}], ("Yes.", "No."), **more)
            for number in range(first, first + count)
        ]
        pairs.add_many(session, project=session.merge(project), pairs=new)


def judge_all(factory: Factory, project: Project, user: User, choice: str = "left") -> list[int]:
    ids = []
    while judgment := factory.judge(project, user, choice):
        ids.append(judgment.comparison_id)
    return ids


def test_a_place_is_what_its_check_says(factory: Factory) -> None:
    project = factory.project(judgments_per_comparison=2)
    fill(factory, project, 1, priority=-1_000_000)
    fill(factory, project, 1, first=1, priority=1_000_000)
    with read_session(factory.engine) as session:
        slots = session.scalars(select(Slot).order_by(Slot.place)).all()
    assert [(slot.priority, slot.ordinal) for slot in slots] == [(10**6, 1), (10**6, 2), (-(10**6), 1), (-(10**6), 2)]
    assert all(slot.place == places.place_of(slot.priority, slot.ordinal, slot.comparison_id) for slot in slots)
    assert places.place_of(-1_000_000, 63, 2**31 - 1) < places.BEHIND_ALL


def test_who_has_judged_everything_gets_new_pairs_wherever_they_come_in_the_order(factory: Factory) -> None:
    project, user = factory.project(judgments_per_comparison=3), factory.user()
    fill(factory, project, 5)
    assert len(judge_all(factory, project, user)) == 5
    for first, priority in ((5, 0), (8, 7), (11, -7)):
        fill(factory, project, 3, first=first, priority=priority)
        assert len(judge_all(factory, project, user)) == 3


def test_who_has_judged_everything_gets_what_others_give_back(factory: Factory) -> None:
    project, ann, bo = factory.project(), factory.user(), factory.user()
    fill(factory, project, 4)
    assert factory.judge(project, bo)
    held = factory.shown(project, bo)
    assert held and len(judge_all(factory, project, ann)) == 2
    assert factory.shown(project, ann) is None
    factory.record(held.token, bo, "skip")
    assert judge_all(factory, project, ann) == [held.comparison_id]
    again = factory.undo(project, bo)  # of the skip: its slot is filled
    assert again and factory.record(again.token, bo, "left").late
    first = factory.undo(project, bo)
    assert first


def test_a_judgment_that_becomes_a_skip_is_offered_to_others(factory: Factory) -> None:
    project, ann, bo = factory.project(), factory.user(), factory.user()
    fill(factory, project, 2)
    made = factory.judge(project, bo)
    assert made and len(judge_all(factory, project, ann)) == 1
    again = factory.undo(project, bo)
    assert again
    factory.record(again.token, bo, "skip")
    assert judge_all(factory, project, ann) == [made.comparison_id]


def test_a_release_comes_back_after_many_others(factory: Factory) -> None:
    project, ann, bo = factory.project(), factory.user(), factory.user()
    fill(factory, project, 3)
    start = now()
    held = factory.shown(project, bo, now=start)
    assert held and len(judge_all(factory, project, ann)) == 2
    with write_session(factory.engine) as session:
        assert desk.release(session, token=held.token, user=session.merge(bo), now=start + timedelta(hours=1))
    assert factory.shown(project, ann, now=start + timedelta(hours=2)).comparison_id == held.comparison_id  # type: ignore[union-attr]


def test_own_skips_are_passed_over_once(factory: Factory) -> None:
    project, user, other = factory.project(), factory.user(), factory.user()
    fill(factory, project, 30)
    assert len(judge_all(factory, project, user, "skip")) == 30
    with read_session(factory.engine) as session:
        seen = places.look(session, project=project, user=user, now=now())
        kept = session.scalars(select(EvaluatorCount)).one()
    assert (seen.held, seen.ran_out, seen.reopened, seen.place) == (None, None, None, None)
    assert kept.place == places.BEHIND_ALL and kept.reopened_until
    assert len(judge_all(factory, project, other)) == 30


def test_what_was_passed_over_is_not_read_again(factory: Factory) -> None:
    """As the database counts them: rows that SQLite's virtual machine steps over, and buffers that PostgreSQL touches."""
    project, user = factory.project(judgments_per_comparison=2), factory.user()
    fill(factory, project, 400)
    judge_all(factory, project, user)
    assert steps(factory, project, user) < 2 * steps(factory, factory.project(), user) + 200
    with write_session(factory.engine) as session:
        session.get_one(EvaluatorCount, (project.id, user.id)).place = 0
    assert steps(factory, project, user) > 2000


def steps(factory: Factory, project: Project, user: User) -> int:
    """What one look costs, in the database's own units."""
    with read_session(factory.engine) as session:
        connection = session.connection()
        if connection.dialect.name == "sqlite":
            raw, count = connection.connection.dbapi_connection, 0

            def counted() -> int:
                nonlocal count
                count += 10
                return 0

            raw.set_progress_handler(counted, 10)
            places.look(session, project=project, user=user, now=now())
            raw.set_progress_handler(None, 0)
            return count
        plans: list[Any] = []
        # A table of 1,200 rows may be read whole or hashed as its statistics say, which come by themselves at any moment.
        for way in ("seqscan", "bitmapscan", "hashjoin", "mergejoin", "material", "memoize"):
            session.execute(text(f"SET LOCAL enable_{way} = off"))

        def explained(_c: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
            cursor.execute("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + statement, parameters)
            plans.append(cursor.fetchone()[0][0]["Plan"])

        event.listen(factory.engine, "before_cursor_execute", explained)
        places.look(session, project=project, user=user, now=now())
        event.remove(factory.engine, "before_cursor_execute", explained)
        return 5 * int(plans[0]["Shared Hit Blocks"] + plans[0]["Shared Read Blocks"])
