"""Leases: one holder a slot, one slot of a comparison for a person, whatever people and threads do."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier

import pytest
from sqlalchemy import Engine, func, select

from app.db import read_session, write_session
from app.errors import Invalid, NotFound
from app.models import Choice, Judgment, Project, Prompt, Response, Showing, Side, Slot, SlotState, Split, User
from app.models.base import now
from app.services.collecting import comparisons, judgments, projects
from app.services.collecting.comparisons import Filters, Lease, Source, SourceKind
from tests.factory import Factory


def lease(engine: Engine, project: Project, user: User, **more: object) -> Lease | None:
    with write_session(engine) as session:
        return comparisons.lease_next(session, project=session.merge(project), user=session.merge(user), **more)


def record(engine: Engine, token: str, user: User, choice: str = "left", **more: object) -> Judgment:
    with write_session(engine) as session:
        return judgments.record(session, token=token, user=session.merge(user), choice=choice, **more)


def at_once(count: int, action: object, *arguments: object) -> list[object]:
    """Runs `action(number, …)` in `count` threads that start together; an exception in any is raised."""
    barrier = Barrier(count)

    def run(number: int) -> object:
        barrier.wait()
        return action(number, *arguments)  # type: ignore[operator]

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


def test_the_same_pair_is_stored_once_whichever_answer_comes_first(factory: Factory) -> None:
    project = factory.project()
    one = factory.comparison(project, prompt="Why?", answers=("A.", "B."))
    with write_session(factory.engine) as session:
        other, added = comparisons.add(session, project=session.merge(project), prompt="Why?", responses=("B.", "A."))
        assert (other.id, added) == (one.id, False)
        assert session.scalar(select(func.count(Prompt.id))) == 1
        assert session.scalar(select(func.count(Response.id))) == 2


def test_an_answer_is_shared_by_the_pairs_that_it_is_in(factory: Factory) -> None:
    project = factory.project()
    for answers in (("A.", "B."), ("B.", "C."), ("C.", "A.")):
        factory.comparison(project, prompt="Why?", answers=answers)
    with read_session(factory.engine) as reading:
        assert reading.scalar(select(func.count(Response.id))) == 3
        assert reading.scalar(select(func.count(Prompt.id))) == 1


@pytest.mark.parametrize(
    ("prompt", "answers", "reason"),
    [
        ("", ("A", "B"), "empty_prompt"),
        ("Q", ("A", "A "), "identical_answers"),
        ("Q", ("A", " "), "empty_answer"),
        ("Q", ("A", "B\0"), "nul_character"),
        ("Q", ("A", "B", "C"), "not_two_answers"),
        ([{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}], ("A", "B"), "bad_roles"),
        ([{"role": "king", "content": "Q"}], ("A", "B"), "bad_roles"),
    ],
)
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_an_unfit_pair_is_refused_with_its_reason(
    factory: Factory, prompt: object, answers: tuple[str, ...], reason: str
) -> None:
    project = factory.project()
    with write_session(factory.engine) as session, pytest.raises(Invalid) as refused:
        comparisons.add(session, project=session.merge(project), prompt=prompt, responses=answers)
    assert refused.value.details["reason"] == reason


def test_a_prompt_keeps_its_split_when_the_project_changes_its_share(factory: Factory) -> None:
    project = factory.project(eval_percent=0)
    factory.comparison(project, prompt="Same?")
    with write_session(factory.engine) as session:
        projects.update(
            session, project=session.merge(project), by=session.get_one(User, project.created_by_id), eval_percent=50
        )
    project.eval_percent = 50
    with write_session(factory.engine) as session:
        for number in range(40):
            comparisons.add(
                session,
                project=session.merge(project),
                prompt="Same?" if number == 0 else f"{number}?",
                responses=(f"x{number}", "y"),
            )
    with read_session(factory.engine) as session:
        found = [(prompt.messages[0]["content"], prompt.split) for prompt in session.scalars(select(Prompt))]
    assert dict(found)["Same?"] is Split.TRAIN
    assert Split.EVAL in dict(found).values()


def test_the_split_follows_from_the_content_alone() -> None:
    from app.services.collecting.messages import prompt_hash

    splits = [
        comparisons.split_of(prompt_hash([{"role": "user", "content": str(number)}]), 10) for number in range(2000)
    ]
    assert splits == [
        comparisons.split_of(prompt_hash([{"role": "user", "content": str(number)}]), 10) for number in range(2000)
    ]
    assert 140 < splits.count(Split.EVAL) < 260


def test_asking_again_gives_the_same_pair_on_the_same_sides(factory: Factory) -> None:
    project, user = factory.project(), factory.user()
    factory.comparisons(project, 5)
    first = lease(factory.engine, project, user)
    assert first and [lease(factory.engine, project, user).token for _ in range(3)] == [first.token] * 3  # type: ignore[union-attr]
    again = lease(factory.engine, project, user)
    assert again and (again.left, again.right) == (first.left, first.right)


def test_two_people_get_different_pairs_when_one_judgment_is_wanted(factory: Factory) -> None:
    project = factory.project()
    factory.comparisons(project, 2)
    leases = [lease(factory.engine, project, factory.user()) for _ in range(3)]
    assert leases[0] and leases[1] and leases[0].comparison_id != leases[1].comparison_id
    assert leases[2] is None


def test_priority_goes_first_and_then_the_order_of_arrival(factory: Factory) -> None:
    project, user = factory.project(), factory.user()
    rows = [factory.comparison(project, priority=priority) for priority in (0, 5, -1, 5)]
    got = []
    while found := lease(factory.engine, project, user):
        got.append(found.comparison_id)
        record(factory.engine, found.token, user)
    assert got == [rows[at].id for at in (1, 3, 0, 2)]


def test_sides_are_drawn_at_random_and_kept(factory: Factory) -> None:
    project, user = factory.project(), factory.user()
    factory.comparisons(project, 40)
    while found := lease(factory.engine, project, user):
        record(factory.engine, found.token, user, "left")
    with read_session(factory.engine) as session:
        rows = session.execute(
            select(Judgment.choice, Judgment.first_side, Showing.first_side).join(
                Showing, Showing.token == Judgment.lease_token
            )
        ).all()
    assert all(
        choice is (Choice.FIRST if side is Side.LEFT else Choice.SECOND) and side is drawn
        for choice, side, drawn in rows
    )
    assert 5 < sum(side is Side.LEFT for _, side, _ in rows) < 35  # outside by chance: 2 in a million


def test_an_expired_lease_passes_to_the_next_person(factory: Factory) -> None:
    project, slow, quick = factory.project(lease_seconds=60), factory.user(), factory.user()
    factory.comparison(project)
    start = now()
    held = lease(factory.engine, project, slow, now=start)
    assert lease(factory.engine, project, quick, now=start + timedelta(seconds=59)) is None
    taken = lease(factory.engine, project, quick, now=start + timedelta(seconds=61))
    assert held and taken and taken.comparison_id == held.comparison_id and taken.token != held.token
    assert lease(factory.engine, project, slow, now=start + timedelta(seconds=62)) is None


def test_coming_back_after_the_lease_ran_out_shows_the_same_pair_if_it_is_free(factory: Factory) -> None:
    project, user = factory.project(lease_seconds=60), factory.user()
    factory.comparisons(project, 3)
    start = now()
    held = lease(factory.engine, project, user, now=start)
    again = lease(factory.engine, project, user, now=start + timedelta(hours=3))
    assert held and again and again.token == held.token and again.leased_until == start + timedelta(hours=3, seconds=60)


def test_a_released_pair_is_there_for_others_at_once(factory: Factory) -> None:
    project, user, other = factory.project(), factory.user(), factory.user()
    factory.comparison(project)
    held = lease(factory.engine, project, user)
    assert held
    with write_session(factory.engine) as session:
        assert comparisons.release(session, token=held.token, user=session.merge(user))
        assert not comparisons.release(session, token=held.token, user=session.merge(user))
        with pytest.raises(NotFound):
            comparisons.release(session, token=held.token, user=session.merge(other))
    assert lease(factory.engine, project, other)


def test_nothing_in_a_lease_tells_where_an_answer_comes_from(factory: Factory) -> None:
    project, user = factory.project(), factory.user()
    secret = ("SECRET-MODEL-A", "SECRET-MODEL-B")
    factory.comparison(
        project,
        external_id="SECRET-ID",
        gold=Choice.FIRST,
        sources=tuple(Source(SourceKind.MODEL, name) for name in secret),
    )
    assert "SECRET" not in repr(lease(factory.engine, project, user))


def test_racing_people_never_share_a_slot_or_exceed_what_is_wanted(factory: Factory) -> None:
    people, wanted, pairs = 8, 2, 6
    project = factory.project(judgments_per_comparison=wanted)
    factory.comparisons(project, pairs)
    users = [factory.user() for _ in range(people)]

    def work(number: int) -> list[int]:
        done = []
        while found := lease(factory.engine, project, users[number]):
            record(factory.engine, found.token, users[number], "tie")
            done.append(found.comparison_id)
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
    tokens = {found.token for found in at_once(8, lambda _: lease(factory.engine, project, user))}  # type: ignore[attr-defined]
    assert len(tokens) == 1


def test_racing_clicks_on_one_pair_make_one_judgment(factory: Factory) -> None:
    project, user = factory.project(), factory.user()
    factory.comparison(project)
    held = lease(factory.engine, project, user)
    assert held
    made = {judgment.id for judgment in at_once(8, lambda _: record(factory.engine, held.token, user))}  # type: ignore[attr-defined]
    assert len(made) == 1
    with read_session(factory.engine) as session:
        assert session.scalar(select(func.count(Judgment.id))) == 1


def test_racing_for_expired_leases_gives_each_to_one_person(factory: Factory) -> None:
    project = factory.project(lease_seconds=30)
    factory.comparisons(project, 3)
    start = now()
    for _ in range(3):
        assert lease(factory.engine, project, factory.user(), now=start)
    users = [factory.user() for _ in range(6)]
    later = start + timedelta(minutes=5)
    found = at_once(6, lambda number: lease(factory.engine, project, users[number], now=later))
    held = [one.comparison_id for one in found if one]  # type: ignore[attr-defined]
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


def test_the_listing_filters_by_state_split_source_and_text(factory: Factory) -> None:
    project = factory.project()
    one = factory.comparison(project, answers=("50% off", "No."), sources=(Source(SourceKind.MODEL, "alpha"), Source()))
    other = factory.comparison(project, answers=("500 off", "Yes."))
    factory.judge(project, factory.user())

    def ids(**filters: object) -> list[int]:
        with read_session(factory.engine) as session:
            return [
                row.comparison.id
                for row in comparisons.listing(
                    session, project=session.merge(project, load=False), filters=Filters(**filters)
                ).items
            ]  # type: ignore[arg-type]

    assert ids() == [one.id, other.id]
    assert (ids(state="judged"), ids(state="waiting")) == ([one.id], [other.id])
    assert ids(source="alpha") == [one.id]
    assert ids(text="50%") == [one.id]
    assert ids(split=Split.TRAIN) + ids(split=Split.EVAL) in ([one.id, other.id], [other.id, one.id])
    with read_session(factory.engine) as session:
        (row,) = comparisons.listing(
            session, project=session.merge(project, load=False), filters=Filters(state="judged")
        ).items
    assert (row.wanted, row.done, sum(row.votes.values())) == (1, 1, 1)
