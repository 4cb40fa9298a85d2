"""Judgments: one whatever the network does, kept when late, edited by superseding."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from app.db import read_session, write_session
from app.errors import Conflict, Invalid, NotFound
from app.models import Choice, Judgment, JudgmentSource, Project, Side, User
from app.models.base import now
from app.services.collecting import desk, judgments, listing
from tests.factory import Factory


def progress(factory: Factory, project: Project, user: User, **more: object) -> listing.Progress:
    with read_session(factory.engine) as session:
        return listing.progress(session, project=project, user=user, **more)


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
    pair = factory.shown(project, user, now=start)
    row = factory.record(
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
    pair = factory.shown(project, user)
    assert factory.record(pair.token, user).id == factory.record(pair.token, user).id
    with pytest.raises(Conflict, match="already"):
        factory.record(pair.token, user, "right")
    assert len(current(factory)) == 1


def test_a_token_works_for_its_person_only(factory: Factory, project: Project) -> None:
    factory.comparison(project)
    pair = factory.shown(project, factory.user())
    for token in (pair.token, "unknown", "nul\0"):
        with pytest.raises(NotFound):
            factory.record(token, factory.user())


def test_a_late_judgment_fills_its_place_while_that_is_free(factory: Factory, project: Project) -> None:
    user = factory.user()
    factory.comparison(project)
    start = now()
    pair = factory.shown(project, user, now=start)
    row = factory.record(pair.token, user, now=start + timedelta(hours=9))
    assert not row.late and row.slot_id is not None
    assert progress(factory, project, user).done == 1


def test_a_late_judgment_is_kept_when_somebody_else_has_the_place(factory: Factory, project: Project) -> None:
    slow, quick = factory.user(), factory.user()
    factory.comparison(project)
    start = now()
    pair = factory.shown(project, slow, now=start)
    taken = factory.shown(project, quick, now=start + timedelta(seconds=61))
    late = factory.record(pair.token, slow, now=start + timedelta(seconds=62))
    assert late.late and late.slot_id is None
    assert not factory.record(taken.token, quick, now=start + timedelta(seconds=63)).late
    assert len(current(factory)) == 2 and progress(factory, project, slow).done == 1


def test_a_skipped_pair_goes_to_others_and_not_back(factory: Factory, project: Project) -> None:
    user, other = factory.user(), factory.user()
    pair_id = factory.comparison(project).id
    factory.record(factory.shown(project, user).token, user, "skip")
    with write_session(factory.engine) as session:
        assert desk.show_next(session, project=session.merge(project), user=session.merge(user)) is None
    assert factory.shown(project, other).comparison_id == pair_id


def test_changing_to_a_skip_frees_the_place(factory: Factory, project: Project) -> None:
    user, other = factory.user(), factory.user()
    factory.comparison(project)
    factory.record(factory.shown(project, user).token, user, "left")
    again = factory.undo(project, user)
    assert again
    factory.record(again.token, user, "skip")
    assert progress(factory, project, user).done == 0
    assert factory.shown(project, other)


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
    pair = factory.shown(project, user)
    with pytest.raises(Invalid) as refused:
        factory.record(pair.token, user, choice, **more)
    assert refused.value.details["field"] == field and not current(factory)
    assert factory.record(pair.token, user, "left", strength=1).strength == 1


@given(
    strength=st.none() | st.integers(1, 3), choice=st.sampled_from(judgments.SIDE_CHOICES), side=st.sampled_from(Side)
)
def test_sides_and_answers_translate_both_ways(strength: int | None, choice: judgments.SideChoice, side: Side) -> None:
    row = Judgment(choice=judgments.choice_on(side, choice), first_side=side, strength=strength)
    assert judgments.side_of(row) == choice
