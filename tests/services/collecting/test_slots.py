"""Slots: one holder each, one of a comparison for a person, whatever people and threads do."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier

import pytest
from sqlalchemy import BigInteger, cast, event, func, select, text, update
from sqlalchemy.exc import IntegrityError

from app.db import read_session, write_session
from app.models import Judgment, Project, Slot, SlotState
from app.models.base import now
from app.services.collecting import pairs, projects, slots
from app.services.collecting.pairs import NewPair
from tests.factory import Factory


def at_once(count: int, action: object, *arguments: object) -> list[object]:
    """Runs `action(number, …)` in `count` threads that start together; an exception in any is raised."""
    barrier = Barrier(count)

    def run(number: int) -> object:
        barrier.wait()
        return action(number, *arguments)  # type: ignore[operator]

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


def test_two_people_get_different_pairs_when_one_judgment_is_wanted(factory: Factory) -> None:
    project = factory.project()
    factory.comparisons(project, 2)
    leases = [factory.shown(project, factory.user()) for _ in range(3)]
    assert leases[0] and leases[1] and leases[0].comparison_id != leases[1].comparison_id
    assert leases[2] is None


def test_priority_goes_first_and_then_the_order_of_arrival(factory: Factory) -> None:
    project, user = factory.project(), factory.user()
    rows = [factory.comparison(project, priority=priority) for priority in (0, 5, -1, 5)]
    got = []
    while pair := factory.shown(project, user):
        got.append(pair.comparison_id)
        factory.record(pair.token, user)
    assert got == [rows[at].id for at in (1, 3, 0, 2)]


def test_an_expired_lease_passes_to_the_next_person(factory: Factory) -> None:
    project, slow, quick = factory.project(lease_seconds=60), factory.user(), factory.user()
    factory.comparison(project)
    start = now()
    held = factory.shown(project, slow, now=start)
    assert factory.shown(project, quick, now=start + timedelta(seconds=59)) is None
    taken = factory.shown(project, quick, now=start + timedelta(seconds=61))
    assert held and taken and taken.comparison_id == held.comparison_id and taken.token != held.token
    assert factory.shown(project, slow, now=start + timedelta(seconds=62)) is None


def test_racing_people_never_share_a_slot_or_exceed_what_is_wanted(factory: Factory) -> None:
    people, wanted, pairs = 8, 2, 6
    project = factory.project(judgments_per_comparison=wanted)
    factory.comparisons(project, pairs)
    users = [factory.user() for _ in range(people)]

    def work(number: int) -> list[int]:
        done = []
        while pair := factory.shown(project, users[number]):
            factory.record(pair.token, users[number], "tie")
            done.append(pair.comparison_id)
        return done

    per_person = at_once(people, work)
    everything = [comparison_id for done in per_person for comparison_id in done]  # type: ignore[attr-defined]
    assert set(Counter(everything).values()) == {wanted} and len(set(everything)) == pairs
    assert all(len(done) == len(set(done)) for done in per_person)  # type: ignore[arg-type]
    with read_session(factory.engine) as session:
        assert session.scalar(select(func.count(Slot.id)).where(Slot.state == SlotState.DONE)) == wanted * pairs
        assert session.scalar(select(func.count(Judgment.id)).where(Judgment.late)) == 0


def test_racing_tabs_of_one_person_get_one_pair(factory: Factory) -> None:
    project, user = factory.project(judgments_per_comparison=3), factory.user()
    factory.comparisons(project, 4)
    tokens = {pair.token for pair in at_once(8, lambda _: factory.shown(project, user))}  # type: ignore[attr-defined]
    assert len(tokens) == 1


def test_racing_clicks_on_one_pair_make_one_judgment(factory: Factory) -> None:
    project, user = factory.project(), factory.user()
    factory.comparison(project)
    held = factory.shown(project, user)
    assert held
    made = {judgment.id for judgment in at_once(8, lambda _: factory.record(held.token, user))}  # type: ignore[attr-defined]
    assert len(made) == 1
    with read_session(factory.engine) as session:
        assert session.scalar(select(func.count(Judgment.id))) == 1


def test_racing_for_expired_leases_gives_each_to_one_person(factory: Factory) -> None:
    project = factory.project(lease_seconds=30)
    factory.comparisons(project, 3)
    start = now()
    for _ in range(3):
        assert factory.shown(project, factory.user(), now=start)
    users = [factory.user() for _ in range(6)]
    later = start + timedelta(minutes=5)
    pairs = at_once(6, lambda number: factory.shown(project, users[number], now=later))
    held = [one.comparison_id for one in pairs if one]  # type: ignore[attr-defined]
    assert len(held) == len(set(held)) == 3


def test_wanting_more_or_fewer_judgments_changes_the_slots_that_are_free(factory: Factory) -> None:
    project, user = factory.project(judgments_per_comparison=2), factory.user()
    factory.comparisons(project, 3)
    factory.judge(project, user)

    def places(wanted: int) -> list[tuple[int, int]]:
        with write_session(factory.engine) as session:
            projects.update(
                session, project=session.merge(project), by=session.merge(user), judgments_per_comparison=wanted
            )
        with read_session(factory.engine) as session:
            return [
                tuple(row)
                for row in session.execute(
                    select(func.count(Slot.id), func.count(Slot.id).filter(Slot.state == SlotState.DONE))
                    .group_by(Slot.comparison_id)
                    .order_by(Slot.comparison_id)
                )
            ]

    assert places(4) == [(4, 1), (4, 0), (4, 0)]
    assert places(1) == [(1, 1), (1, 0), (1, 0)]
    assert places(3) == [(3, 1), (3, 0), (3, 0)]


def open_slots(factory: Factory, project: Project) -> list[Slot]:
    with read_session(factory.engine) as session:
        return list(session.scalars(select(Slot).where(Slot.project_id == project.id).order_by(Slot.id)))


@pytest.mark.parametrize(
    ("check", "columns"),
    [
        ("ck_slots_open", "holder_id = :user"),
        ("ck_slots_open", "lease_token = 'x'"),
        ("ck_slots_open", "leased_until = CURRENT_TIMESTAMP"),
        ("ck_slots_leased", "state = 'leased', lease_token = 'x', leased_until = CURRENT_TIMESTAMP"),
        ("ck_slots_leased", "state = 'leased', holder_id = :user, leased_until = CURRENT_TIMESTAMP"),
        ("ck_slots_leased", "state = 'leased', holder_id = :user, lease_token = 'x'"),
        ("ck_slots_done", "state = 'done'"),
        ("ck_slots_done", "state = 'done', holder_id = :user, lease_token = 'x'"),
        ("ck_slots_done", "state = 'done', holder_id = :user, leased_until = CURRENT_TIMESTAMP"),
        ("ck_slots_state", "state = 'lost'"),
    ],
)
def test_the_database_refuses_a_slot_that_is_not_whole(factory: Factory, check: str, columns: str) -> None:
    project, user = factory.project(), factory.user()
    factory.comparison(project)
    with pytest.raises(IntegrityError, match=check), write_session(factory.engine) as session:
        session.execute(text(f"UPDATE slots SET {columns}"), {"user": user.id} if ":user" in columns else {})


@pytest.mark.parametrize(
    ("check", "columns"), [("ck_judgments_late", {"late": True}), ("ck_judgments_skip", {"choice": "skip"})]
)
def test_the_database_refuses_a_slot_for_what_fills_none(
    factory: Factory, check: str, columns: dict[str, object]
) -> None:
    factory.judged(1)
    with pytest.raises(IntegrityError, match=check), write_session(factory.engine) as session:
        session.execute(update(Judgment).values(**columns))


def test_a_judgment_fills_the_first_free_slot(factory: Factory) -> None:
    project, user = factory.project(judgments_per_comparison=3), factory.user()
    row = factory.comparison(project)
    for wanted in (1, 3):  # the second and third slots are made anew, after the first
        with write_session(factory.engine) as session:
            stored = session.get_one(Project, project.id)
            projects.update(session, project=stored, by=session.merge(user), judgments_per_comparison=wanted)
    with write_session(factory.engine) as session:
        # The last made is the first in order.
        session.execute(
            update(Slot).values(
                ordinal=10 - Slot.ordinal, place=Slot.place + cast(10 - 2 * Slot.ordinal, BigInteger) * 2**31
            )
        )
        changed = slots.settle(
            session, project_id=project.id, comparison_ids=[row.id], user=session.merge(user), now=now()
        )
    by_ordinal = {slot.ordinal: slot for slot in open_slots(factory, project)}
    assert changed.slots == {row.id: by_ordinal[7].id} and changed.offered == {row.id}
    assert (by_ordinal[7].state, by_ordinal[7].holder_id) == (SlotState.DONE, user.id)


def test_one_more_is_wanted_only_where_no_slot_is_open(factory: Factory) -> None:
    project = factory.project()
    row, by = factory.comparison(project, priority=7), factory.user()

    def want() -> list[tuple[SlotState, int, int]]:
        with write_session(factory.engine) as session:
            slots.want_one_more(session, comparison=session.merge(row), user=session.merge(by))
        return [(slot.state, slot.ordinal, slot.priority) for slot in open_slots(factory, project)]

    assert want() == [(SlotState.OPEN, 1, 7)]
    factory.judge(project, factory.user())
    assert want() == [(SlotState.DONE, 1, 7), (SlotState.OPEN, 2, 7)]
    assert factory.judge(project, factory.user()) and factory.judge(project, factory.user()) is None


def test_the_next_slot_is_one_index_lookup(factory: Factory) -> None:
    project, user = factory.project(judgments_per_comparison=2), factory.user()
    with write_session(factory.engine) as session:
        pairs.add_many(
            session,
            project=session.merge(project),
            pairs=[
                NewPair([{"role": "user", "content": f"{n}?"}], ("Yes.", "No."), priority=n % 7) for n in range(800)
            ],
        )
    statements: list[tuple[str, object]] = []

    def listen(_connection, _cursor, statement: str, parameters: object, *_more: object) -> None:
        if statement.startswith(("UPDATE slots", "SELECT project_counts.arrivals")):
            statements.append((statement, parameters))

    event.listen(factory.engine, "before_cursor_execute", listen)
    assert factory.shown(project, user)
    event.remove(factory.engine, "before_cursor_execute", listen)
    assert len(statements) == 2  # a look at what waits, and the lease
    on_postgresql = factory.engine.dialect.name == "postgresql"
    with factory.engine.connect() as connection:
        if on_postgresql:
            connection.exec_driver_sql("ANALYZE")
        for statement, parameters in statements:
            explain = "EXPLAIN " if on_postgresql else "EXPLAIN QUERY PLAN "
            plan = "\n".join(str(row) for row in connection.exec_driver_sql(explain + statement, parameters))
            assert "ix_slots_next" in plan, plan
            assert "TEMP B-TREE" not in plan and "Seq Scan on slots" not in plan, plan
            assert "Sort Key: slots.place" not in plan and "Sort Key: slots_3.place" not in plan, plan
