"""The desk: the same pair until it is judged, nothing of where it comes from, and the way back."""

import io
import json
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from app.config import get_settings
from app.db import make_engine, read_session, write_session
from app.errors import Conflict, NotFound
from app.models import Base, Choice, Judgment, JudgmentSource, Project, Showing, Side, Slot, SlotState, User
from app.models.base import now
from app.services.accounts import users
from app.services.collecting import desk, judgments, listing, pairs, projects, recount
from app.services.collecting.desk import ShownPair
from app.services.collecting.imports import load
from app.services.collecting.pairs import Source, SourceKind
from tests.factory import Factory


@pytest.fixture
def project(factory: Factory) -> Project:
    return factory.project(lease_seconds=60)


def current(factory: Factory) -> list[Judgment]:
    with read_session(factory.engine) as session:
        return list(session.scalars(select(Judgment).where(~Judgment.superseded).order_by(Judgment.id)))


def progress(factory: Factory, project: Project, user: User, **more: object) -> listing.Progress:
    with read_session(factory.engine) as session:
        return listing.progress(session, project=project, user=user, **more)


def test_asking_again_gives_the_same_pair_on_the_same_sides(factory: Factory) -> None:
    project, user = factory.project(), factory.user()
    factory.comparisons(project, 5)
    first = factory.shown(project, user)
    assert first and [factory.shown(project, user).token for _ in range(3)] == [first.token] * 3  # type: ignore[union-attr]
    again = factory.shown(project, user)
    assert again and (again.left, again.right) == (first.left, first.right)


def test_sides_are_drawn_at_random_and_kept(factory: Factory) -> None:
    project, user = factory.project(), factory.user()
    factory.comparisons(project, 40)
    while pair := factory.shown(project, user):
        factory.record(pair.token, user, "left")
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


def test_coming_back_after_the_lease_ran_out_shows_the_same_pair_if_it_is_free(factory: Factory) -> None:
    project, user = factory.project(lease_seconds=60), factory.user()
    factory.comparisons(project, 3)
    start = now()
    held = factory.shown(project, user, now=start)
    again = factory.shown(project, user, now=start + timedelta(hours=3))
    assert held and again and again.token == held.token and again.leased_until == start + timedelta(hours=3, seconds=60)


def test_a_released_pair_is_there_for_others_at_once(factory: Factory) -> None:
    project, user, other = factory.project(), factory.user(), factory.user()
    factory.comparison(project)
    held = factory.shown(project, user)
    assert held
    with write_session(factory.engine) as session:
        assert desk.release(session, token=held.token, user=session.merge(user))
        assert not desk.release(session, token=held.token, user=session.merge(user))
        with pytest.raises(NotFound):
            desk.release(session, token=held.token, user=session.merge(other))
    assert factory.shown(project, other)


def test_nothing_in_a_shown_pair_tells_where_an_answer_comes_from(factory: Factory) -> None:
    project, user = factory.project(), factory.user()
    secret = ("SECRET-MODEL-A", "SECRET-MODEL-B")
    factory.comparison(
        project,
        external_id="SECRET-ID",
        gold=Choice.FIRST,
        sources=tuple(Source(SourceKind.MODEL, name) for name in secret),
    )
    assert "SECRET" not in repr(factory.shown(project, user))


def test_undo_shows_the_same_sides_and_submitting_supersedes(factory: Factory, project: Project) -> None:
    user = factory.user()
    factory.comparisons(project, 2)
    pair = factory.shown(project, user)
    first = factory.record(pair.token, user, "left")
    following = factory.shown(project, user)
    again = factory.undo(project, user)
    assert again and (again.left, again.right, again.leased_until) == (pair.left, pair.right, None)
    assert again.previous and again.previous.id == first.id
    assert factory.undo(project, user).token == again.token  # type: ignore[union-attr]
    second = factory.record(again.token, user, "right")
    assert second.supersedes_id == first.id and [row.id for row in current(factory)] == [second.id]
    assert factory.shown(project, user).token == following.token
    assert progress(factory, project, user).done == 1


def test_leaving_an_undone_pair_keeps_the_judgment(factory: Factory, project: Project) -> None:
    user = factory.user()
    factory.comparison(project)
    row = factory.record(factory.shown(project, user).token, user)
    assert factory.undo(project, user)
    assert [one.id for one in current(factory)] == [row.id]
    again = factory.undo(project, user)
    assert again and factory.record(again.token, user, "left").id == row.id  # confirmed unchanged: no new row


def test_confirming_a_late_judgment_unchanged_changes_nothing(factory: Factory, project: Project) -> None:
    slow, quick = factory.user(), factory.user()
    factory.comparison(project)
    start = now()
    pair = factory.shown(project, slow, now=start)
    other = factory.shown(project, quick, now=start + timedelta(seconds=61))
    late = factory.record(pair.token, slow, now=start + timedelta(seconds=62))
    factory.record(other.token, quick, "skip", now=start + timedelta(seconds=63))  # its place is free now
    again = factory.undo(project, slow)
    assert factory.record(again.token, slow, "left").id == late.id
    assert progress(factory, project, slow).done == 0
    again = factory.undo(project, slow)
    assert not factory.record(again.token, slow, "right").late and progress(factory, project, slow).done == 1


def test_undoing_a_skip_takes_the_place_if_it_is_free_and_is_late_if_not(factory: Factory, project: Project) -> None:
    user, other = factory.user(), factory.user()
    factory.comparisons(project, 2)
    factory.record(factory.shown(project, user).token, user, "skip")
    again = factory.undo(project, user)
    assert again and not factory.record(again.token, user, "left").late
    factory.record(factory.shown(project, user).token, user, "skip")
    again = factory.undo(project, user)
    factory.record(factory.shown(project, other).token, other, "tie")
    assert again and factory.record(again.token, user, "left").late


def test_any_own_judgment_can_be_reopened_and_nobody_elses(factory: Factory, project: Project) -> None:
    user, other = factory.user(), factory.user()
    factory.comparisons(project, 3)
    rows = [factory.judge(project, user, "left") for _ in range(3)]
    assert rows[0] and rows[1]

    def reopen(judgment_id: int, by: User) -> ShownPair:
        with write_session(factory.engine) as session:
            return desk.reopen(session, judgment=session.get_one(Judgment, judgment_id), user=session.merge(by))

    pair = reopen(rows[0].id, user)
    assert pair.comparison_id == rows[0].comparison_id
    with pytest.raises(NotFound):
        reopen(rows[1].id, other)
    factory.record(pair.token, user, "tie")
    with pytest.raises(Conflict):
        reopen(rows[0].id, user)


def waiting_for(session: Session, project: Project, person: User, at: datetime) -> set[int]:
    """Comparisons with a slot that this person could get or holds, and that they haven't judged, looked for one by one."""
    rows = session.scalars(select(Slot).where(Slot.project_id == project.id))
    judged = set(session.scalars(select(Judgment.comparison_id).where(Judgment.user_id == person.id)))
    return {
        slot.comparison_id
        for slot in rows
        if slot.comparison_id not in judged
        and slot.state is not SlotState.DONE
        and (slot.state is SlotState.OPEN or slot.holder_id == person.id or slot.leased_until < at)
    }


class Desk(RuleBasedStateMachine):
    """Three people do what they like, in any order and at any time; what must hold, holds after every step."""

    engine: Engine

    def __init__(self) -> None:
        super().__init__()
        self.now = datetime(2030, 1, 1, tzinfo=UTC)
        self.tokens: list[tuple[int, str]] = []

    @initialize(wanted=st.integers(1, 2), count=st.integers(1, 3))
    def begin(self, wanted: int, count: int) -> None:
        with write_session(self.engine) as session:
            for table in reversed(Base.metadata.sorted_tables):
                session.execute(table.delete())
            self.people = [
                users.create(session, username=name, display_name=name, role="evaluator")
                for name in ("ann", "bo", "cy")
            ]
            self.project = projects.create(
                session, slug="p", name="P", by=self.people[0], judgments_per_comparison=wanted, lease_seconds=60
            )
            for number in range(count):
                pairs.add(session, project=self.project, prompt=str(number), responses=("a", "b"))

    @rule(who=st.integers(0, 2))
    def ask(self, who: int) -> None:
        with write_session(self.engine) as session:
            got = desk.show_next(
                session, project=session.merge(self.project), user=session.merge(self.people[who]), now=self.now
            )
        if got:
            self.tokens.append((who, got.token))

    @rule(who=st.integers(0, 2))
    def take_back(self, who: int) -> None:
        with write_session(self.engine) as session:
            got = desk.undo(
                session, project=session.merge(self.project), user=session.merge(self.people[who]), now=self.now
            )
        if got:
            self.tokens.append((who, got.token))

    @precondition(lambda self: self.tokens)
    @rule(data=st.data(), choice=st.sampled_from(judgments.SIDE_CHOICES))
    def judge(self, data: st.DataObject, choice: judgments.SideChoice) -> None:
        who, token = data.draw(st.sampled_from(self.tokens))
        with write_session(self.engine) as session:
            try:
                judgments.record(
                    session, token=token, user=session.merge(self.people[who]), choice=choice, now=self.now
                )
            except Conflict:
                assert session.scalar(select(Judgment.id).where(Judgment.lease_token == token))

    @precondition(lambda self: self.tokens)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        who, token = data.draw(st.sampled_from(self.tokens))
        with write_session(self.engine) as session:
            desk.release(session, token=token, user=session.merge(self.people[who]), now=self.now)

    @rule(who=st.integers(0, 2), number=st.integers(0, 2), chosen=st.sampled_from("ab"))
    def bring(self, who: int, number: int, chosen: str) -> None:
        """Imports a judged pair, one that is there or a new one."""
        line = {"prompt": str(number), "chosen": chosen, "rejected": "b" if chosen == "a" else "a"}
        load.load(
            self.engine,
            project_id=self.project.id,
            user_id=self.people[who].id,
            stream=io.BytesIO(json.dumps(line).encode()),
            filename="",
            settings=get_settings(),
        )

    @rule(wanted=st.integers(1, 3))
    def want(self, wanted: int) -> None:
        with write_session(self.engine) as session:
            project, by = session.get_one(Project, self.project.id), session.get_one(User, self.people[0].id)
            self.project = projects.update(session, project=project, by=by, judgments_per_comparison=wanted)

    @rule(seconds=st.integers(1, 120))
    def wait(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    @invariant()
    def kept_counts_are_what_counting_gives(self) -> None:
        if not hasattr(self, "project"):
            return
        with read_session(self.engine) as session:
            assert recount.check(session) == []
            for person in self.people:
                shown = listing.progress(session, project=self.project, user=person, now=self.now)
                assert shown.waiting_for_me == len(waiting_for(session, self.project, person, self.now))

    @invariant()
    def slots_and_judgments_fit(self) -> None:
        if not hasattr(self, "project"):
            return
        with read_session(self.engine) as session:
            slots = list(session.scalars(select(Slot)))
            rows = list(session.scalars(select(Judgment).where(~Judgment.superseded)))
        said = {(row.comparison_id, row.user_id): row for row in rows}
        assert len(said) == len(rows), "two current judgments of one person on one pair"
        done = {(slot.id, slot.comparison_id, slot.holder_id) for slot in slots if slot.state is SlotState.DONE}
        assert {(row.slot_id, row.comparison_id, row.user_id) for row in rows if row.slot_id is not None} == done
        for slot in slots:
            assert (slot.state is SlotState.OPEN) == (slot.holder_id is None)
            assert (slot.state is SlotState.LEASED) == (slot.lease_token is not None) == (slot.leased_until is not None)
            if slot.state is SlotState.LEASED:
                assert (slot.comparison_id, slot.holder_id) not in said, "a place is kept for somebody who has judged"
        for row in rows:
            without_slot = row.late or row.choice is Choice.SKIP or row.source is JudgmentSource.IMPORT
            assert without_slot or row.slot_id is not None
        # More than wanted where the project wants fewer by now and a slot that somebody held was opened again.
        assert all(
            count >= self.project.judgments_per_comparison
            for count in Counter(slot.comparison_id for slot in slots).values()
        )


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_no_order_of_requests_breaks_the_desk(database_url: str) -> None:
    Desk.engine = make_engine(database_url)
    run_state_machine_as_test(
        Desk,
        settings=settings(
            max_examples=30,
            stateful_step_count=20,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
    Desk.engine.dispose()
