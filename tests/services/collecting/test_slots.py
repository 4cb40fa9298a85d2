"""Slots: one holder each, one of a comparison for a person, whatever people and threads do."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier

from sqlalchemy import func, select

from app.db import read_session, write_session
from app.models import Judgment, Slot, SlotState
from app.models.base import now
from app.services.collecting import projects
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
    while showing := factory.shown(project, user):
        got.append(showing.comparison_id)
        factory.record(showing.token, user)
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
        while showing := factory.shown(project, users[number]):
            factory.record(showing.token, users[number], "tie")
            done.append(showing.comparison_id)
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
    tokens = {showing.token for showing in at_once(8, lambda _: factory.shown(project, user))}  # type: ignore[attr-defined]
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
    showings = at_once(6, lambda number: factory.shown(project, users[number], now=later))
    held = [one.comparison_id for one in showings if one]  # type: ignore[attr-defined]
    assert len(held) == len(set(held)) == 3


def test_wanting_more_or_fewer_judgments_changes_the_slots_that_are_free(factory: Factory) -> None:
    project, user = factory.project(judgments_per_comparison=2), factory.user()
    factory.comparisons(project, 3)
    factory.judge(project, user)

    def slots(wanted: int) -> list[tuple[int, int]]:
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

    assert slots(4) == [(4, 1), (4, 0), (4, 0)]
    assert slots(1) == [(1, 1), (1, 0), (1, 0)]
    assert slots(3) == [(3, 1), (3, 0), (3, 0)]
