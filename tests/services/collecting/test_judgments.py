"""Judgments: one whatever the network does, kept when late, edited by superseding."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, Phase, given, settings
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

from app.db import make_engine, read_session, write_session
from app.errors import Conflict, Invalid, NotFound
from app.models import Base, Choice, Judgment, JudgmentSource, Project, Side, Slot, SlotState, User
from app.models.base import now
from app.services.accounts import users
from app.services.collecting import comparisons, judgments, projects
from app.services.collecting.comparisons import Lease
from app.services.collecting.judgments import Progress
from tests.factory import Factory


def lease(factory: Factory, project: Project, user: User, **more: object) -> Lease:
    with write_session(factory.engine) as session:
        found = comparisons.lease_next(session, project=session.merge(project), user=session.merge(user), **more)
        assert found
        return found


def record(factory: Factory, token: str, user: User, choice: str = "left", **more: object) -> Judgment:
    with write_session(factory.engine) as session:
        return judgments.record(session, token=token, user=session.merge(user), choice=choice, **more)  # type: ignore[arg-type]


def undo(factory: Factory, project: Project, user: User) -> Lease | None:
    with write_session(factory.engine) as session:
        return judgments.reopen_last(session, project=session.merge(project), user=session.merge(user))


def progress(factory: Factory, project: Project, user: User, **more: object) -> Progress:
    with read_session(factory.engine) as session:
        return judgments.progress(session, project=project, user=user, **more)


def current(factory: Factory) -> list[Judgment]:
    with read_session(factory.engine) as session:
        return list(session.scalars(select(Judgment).where(~Judgment.superseded).order_by(Judgment.id)))


@pytest.fixture
def project(factory: Factory) -> Project:
    return factory.project(lease_seconds=60)


@pytest.mark.parametrize(
    ("choice", "side", "stored"),
    [
        ("left", Side.LEFT, Choice.FIRST),
        ("left", Side.RIGHT, Choice.SECOND),
        ("right", Side.LEFT, Choice.SECOND),
        ("right", Side.RIGHT, Choice.FIRST),
        ("tie", Side.RIGHT, Choice.TIE),
        ("both_bad", Side.LEFT, Choice.BOTH_BAD),
    ],
)
def test_what_was_picked_is_stored_as_an_answer_and_told_back_as_a_side(
    choice: judgments.SideChoice, side: Side, stored: Choice
) -> None:
    assert judgments.choice_on(side, choice) is stored
    assert judgments.side_of(Judgment(choice=stored, first_side=side)) == choice


def test_a_judgment_keeps_what_was_seen_and_when(factory: Factory, project: Project) -> None:
    user = factory.user()
    factory.comparison(project)
    start = now()
    pair = lease(factory, project, user, now=start)
    row = record(
        factory,
        pair.token,
        user,
        "right",
        strength=3,
        rationale=" Kinder. ",
        flags=["unsafe", "broken", "unsafe"],
        source=JudgmentSource.API,
        now=start + timedelta(seconds=20),
    )
    assert (row.shown_at, row.submitted_at, row.guideline_version) == (start, start + timedelta(seconds=20), 1)
    assert (row.strength, row.rationale, row.flags, row.source, row.late) == (
        3,
        "Kinder.",
        ["broken", "unsafe"],
        JudgmentSource.API,
        False,
    )


def test_a_second_click_keeps_one_judgment(factory: Factory, project: Project) -> None:
    user = factory.user()
    factory.comparison(project)
    pair = lease(factory, project, user)
    assert record(factory, pair.token, user).id == record(factory, pair.token, user).id
    with pytest.raises(Conflict, match="already"):
        record(factory, pair.token, user, "right")
    assert len(current(factory)) == 1


def test_a_token_works_for_its_person_only(factory: Factory, project: Project) -> None:
    factory.comparison(project)
    pair = lease(factory, project, factory.user())
    for token in (pair.token, "unknown", "nul\0"):
        with pytest.raises(NotFound):
            record(factory, token, factory.user())


def test_a_late_judgment_fills_its_place_while_that_is_free(factory: Factory, project: Project) -> None:
    user = factory.user()
    factory.comparison(project)
    start = now()
    pair = lease(factory, project, user, now=start)
    row = record(factory, pair.token, user, now=start + timedelta(hours=9))
    assert not row.late and row.slot_id is not None
    assert progress(factory, project, user).done == 1


def test_a_late_judgment_is_kept_when_somebody_else_has_the_place(factory: Factory, project: Project) -> None:
    slow, quick = factory.user(), factory.user()
    factory.comparison(project)
    start = now()
    pair = lease(factory, project, slow, now=start)
    taken = lease(factory, project, quick, now=start + timedelta(seconds=61))
    late = record(factory, pair.token, slow, now=start + timedelta(seconds=62))
    assert late.late and late.slot_id is None
    assert not record(factory, taken.token, quick, now=start + timedelta(seconds=63)).late
    assert len(current(factory)) == 2 and progress(factory, project, slow).done == 1


def test_a_skipped_pair_goes_to_others_and_not_back(factory: Factory, project: Project) -> None:
    user, other = factory.user(), factory.user()
    pair_id = factory.comparison(project).id
    record(factory, lease(factory, project, user).token, user, "skip")
    with write_session(factory.engine) as session:
        assert comparisons.lease_next(session, project=session.merge(project), user=session.merge(user)) is None
    assert lease(factory, project, other).comparison_id == pair_id


def test_undo_shows_the_same_sides_and_submitting_supersedes(factory: Factory, project: Project) -> None:
    user = factory.user()
    factory.comparisons(project, 2)
    pair = lease(factory, project, user)
    first = record(factory, pair.token, user, "left")
    following = lease(factory, project, user)
    again = undo(factory, project, user)
    assert again and (again.left, again.right, again.leased_until) == (pair.left, pair.right, None)
    assert again.previous and again.previous.id == first.id
    assert undo(factory, project, user).token == again.token  # type: ignore[union-attr]
    second = record(factory, again.token, user, "right")
    assert second.supersedes_id == first.id and [row.id for row in current(factory)] == [second.id]
    assert lease(factory, project, user).token == following.token
    assert progress(factory, project, user).done == 1


def test_leaving_an_undone_pair_keeps_the_judgment(factory: Factory, project: Project) -> None:
    user = factory.user()
    factory.comparison(project)
    row = record(factory, lease(factory, project, user).token, user)
    assert undo(factory, project, user)
    assert [one.id for one in current(factory)] == [row.id]
    again = undo(factory, project, user)
    assert again and record(factory, again.token, user, "left").id == row.id  # confirmed unchanged: no new row


def test_undoing_a_skip_takes_the_place_if_it_is_free_and_is_late_if_not(factory: Factory, project: Project) -> None:
    user, other = factory.user(), factory.user()
    factory.comparisons(project, 2)
    record(factory, lease(factory, project, user).token, user, "skip")
    again = undo(factory, project, user)
    assert again and not record(factory, again.token, user, "left").late
    record(factory, lease(factory, project, user).token, user, "skip")
    again = undo(factory, project, user)
    record(factory, lease(factory, project, other).token, other, "tie")
    assert again and record(factory, again.token, user, "left").late


def test_changing_to_a_skip_frees_the_place(factory: Factory, project: Project) -> None:
    user, other = factory.user(), factory.user()
    factory.comparison(project)
    record(factory, lease(factory, project, user).token, user, "left")
    again = undo(factory, project, user)
    assert again
    record(factory, again.token, user, "skip")
    assert progress(factory, project, user).done == 0
    assert lease(factory, project, other)


def test_any_own_judgment_can_be_reopened_and_nobody_elses(factory: Factory, project: Project) -> None:
    user, other = factory.user(), factory.user()
    factory.comparisons(project, 3)
    rows = [factory.judge(project, user, "left") for _ in range(3)]
    assert rows[0] and rows[1]

    def reopen(judgment_id: int, by: User) -> Lease:
        with write_session(factory.engine) as session:
            return judgments.reopen(session, judgment=session.get_one(Judgment, judgment_id), user=session.merge(by))

    pair = reopen(rows[0].id, user)
    assert pair.comparison_id == rows[0].comparison_id
    with pytest.raises(NotFound):
        reopen(rows[1].id, other)
    record(factory, pair.token, user, "tie")
    with pytest.raises(Conflict):
        reopen(rows[0].id, user)


@pytest.mark.parametrize(
    ("choice", "more", "field"),
    [
        ("tie", {}, "choice"),
        ("both_bad", {}, "choice"),
        ("skip", {}, "choice"),
        ("middle", {}, "choice"),
        ("left", {"strength": 4}, "strength"),
        ("left", {"rationale": "x" * 4001}, "rationale"),
        ("left", {"rationale": "a\0"}, "rationale"),
        ("left", {"flags": ["boring"]}, "flags"),
    ],
)
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_what_the_project_does_not_allow_is_refused(
    factory: Factory, choice: str, more: dict[str, object], field: str
) -> None:
    project, user = factory.project(allow_tie=False, allow_both_bad=False, allow_skip=False), factory.user()
    factory.comparison(project)
    pair = lease(factory, project, user)
    with pytest.raises(Invalid) as refused:
        record(factory, pair.token, user, choice, **more)
    assert refused.value.details["field"] == field and not current(factory)
    assert record(factory, pair.token, user, "left", strength=1).strength == 1


def test_progress_counts_this_persons_day_and_what_waits(factory: Factory, project: Project) -> None:
    user, other = factory.user(), factory.user()
    factory.comparisons(project, 4)
    noon = datetime(2030, 5, 17, 12, tzinfo=UTC)
    for at in (noon - timedelta(days=1), noon):
        record(factory, lease(factory, project, user, now=at).token, user, "left", now=at)
    record(factory, lease(factory, project, user, now=noon).token, user, "skip", now=noon)
    assert progress(factory, project, user, now=noon) == Progress(
        today=2, goal=60, mine=3, done=2, wanted=4, waiting_for_me=1
    )
    lease(factory, project, other, now=noon)
    assert progress(factory, project, user, now=noon).waiting_for_me == 1
    assert progress(factory, project, other, now=noon).waiting_for_me == 2


def test_history_shows_ones_own_current_judgments_as_they_were_seen(factory: Factory, project: Project) -> None:
    user = factory.user()
    factory.comparisons(project, 3)
    pairs = []
    for _ in range(3):
        pairs.append(lease(factory, project, user))
        record(factory, pairs[-1].token, user, "right")
    factory.judge(factory.project(), factory.user())
    with read_session(factory.engine) as session:
        page = judgments.history(session, project=project, user=user, size=2)
    assert (page.total, page.pages, page.has_next) == (3, 2, True)
    assert [(entry.left, entry.right, entry.choice) for entry in page.items] == [
        (pair.left, pair.right, "right") for pair in reversed(pairs[1:])
    ]


class Desk(RuleBasedStateMachine):
    """Three people do what they like, in any order and at any time; what must hold, holds after every step."""

    engine: Engine

    def __init__(self) -> None:
        super().__init__()
        self.now = datetime(2030, 1, 1, tzinfo=UTC)
        self.tokens: list[tuple[int, str]] = []

    @initialize(wanted=st.integers(1, 2), pairs=st.integers(1, 3))
    def begin(self, wanted: int, pairs: int) -> None:
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
            for number in range(pairs):
                comparisons.add(session, project=self.project, prompt=str(number), responses=("a", "b"))
        self.wanted = wanted

    @rule(who=st.integers(0, 2))
    def ask(self, who: int) -> None:
        with write_session(self.engine) as session:
            got = comparisons.lease_next(
                session, project=session.merge(self.project), user=session.merge(self.people[who]), now=self.now
            )
        if got:
            self.tokens.append((who, got.token))

    @rule(who=st.integers(0, 2))
    def take_back(self, who: int) -> None:
        with write_session(self.engine) as session:
            got = judgments.reopen_last(
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
            comparisons.release(session, token=token, user=session.merge(self.people[who]))

    @rule(seconds=st.integers(1, 120))
    def wait(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    @invariant()
    def slots_and_judgments_fit(self) -> None:
        if not hasattr(self, "wanted"):
            return
        with read_session(self.engine) as session:
            slots = list(session.scalars(select(Slot)))
            rows = list(session.scalars(select(Judgment).where(~Judgment.superseded)))
        said = {(row.comparison_id, row.user_id): row for row in rows}
        assert len(said) == len(rows), "two current judgments of one person on one pair"
        for slot in slots:
            assert (slot.state is SlotState.OPEN) == (slot.holder_id is None) == (slot.lease_token is None)
            if slot.state is SlotState.DONE:
                assert said[slot.comparison_id, slot.holder_id].choice is not Choice.SKIP  # type: ignore[index]
            if slot.state is SlotState.LEASED:
                assert (slot.comparison_id, slot.holder_id) not in said, "a place is kept for somebody who has judged"
        done = [(slot.comparison_id, slot.holder_id) for slot in slots if slot.state is SlotState.DONE]
        assert len(done) == len(set(done))
        in_time = [row for row in rows if not row.late and row.choice is not Choice.SKIP]
        assert {(row.comparison_id, row.user_id) for row in in_time} <= set(done)


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


@given(
    strength=st.none() | st.integers(1, 3), choice=st.sampled_from(judgments.SIDE_CHOICES), side=st.sampled_from(Side)
)
def test_sides_and_answers_translate_both_ways(strength: int | None, choice: judgments.SideChoice, side: Side) -> None:
    row = Judgment(choice=judgments.choice_on(side, choice), first_side=side, strength=strength)
    assert judgments.side_of(row) == choice
