"""People whose votes come with a file: their name is kept, they have no account, and a second import adds nothing."""

import json
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from app.db import read_session, write_session
from app.errors import NotFound
from app.models import Import, Judgment, JudgmentSource, Project, Prompt, Response, Slot, SlotState, User
from app.services.accounts import users
from app.services.collecting import recount
from app.services.collecting.imports import raters
from tests.factory import Factory
from tests.services.collecting.imports.test_load import load


def line(*votes: dict[str, Any], prompt: str = "q") -> bytes:
    return json.dumps({"prompt": prompt, "responses": ["a", "b"], "judgments": list(votes)}).encode()


def said(factory: Factory) -> list[tuple[str, str, int | None, bool]]:
    with read_session(factory.engine) as session:
        rows = session.execute(
            select(User.display_name, Judgment.choice, Judgment.strength, Judgment.superseded)
            .join(User, User.id == Judgment.user_id)
            .order_by(Judgment.id)
        )
        return [(name, choice.value, strength, superseded) for name, choice, strength, superseded in rows]


ADA = {"rater": "ada", "name": "Ada", "choice": "first", "strength": 2, "rationale": "Shorter."}
BOB = {"rater": "bob", "name": "Bob", "choice": "tie"}


def test_votes_come_whole_with_who_made_them_and_once(factory: Factory) -> None:
    project, engineer = factory.project(judgments_per_comparison=2), factory.engineer()
    row = load(factory, project, line(ADA, BOB), engineer)
    assert (row.added, row.judged) == (1, 1)
    assert said(factory) == [("Ada", "first", 2, False), ("Bob", "tie", None, False)]
    again = load(factory, project, line(ADA, BOB), engineer)
    assert (again.added, again.judged, again.duplicates, again.report.differences) == (0, 0, 1, [])
    with read_session(factory.engine) as session:
        assert set(session.scalars(select(Judgment.source))) == {JudgmentSource.IMPORT}
        assert set(session.scalars(select(Slot.state))) == {SlotState.DONE}


def test_a_rater_has_no_account_and_is_nobody_who_has_one(factory: Factory) -> None:
    local = factory.user(username="ada")
    load(factory, factory.project(), line(ADA | {"name": local.display_name}))
    with write_session(factory.engine) as session:
        (rater,) = session.scalars(select(User).where(User.is_imported))
        assert rater.id != local.id and rater.display_name == local.display_name
        assert not rater.active and rater.password_hash is None
        assert rater.id not in [person.id for person in users.listing(session)]
        with pytest.raises(NotFound):
            users.get(session, rater.username)
        assert not session.scalars(select(Judgment).where(Judgment.user_id == local.id)).all()
    with pytest.raises(IntegrityError), write_session(factory.engine) as session:
        session.get_one(User, rater.id).active = True


def test_a_vote_that_was_changed_brings_what_it_was_before(factory: Factory) -> None:
    before = ADA | {"choice": "second", "superseded": True}
    load(factory, factory.project(), line(before, ADA))
    assert said(factory) == [("Ada", "second", 2, True), ("Ada", "first", 2, False)]
    with read_session(factory.engine) as session:
        first, second = session.scalars(select(Judgment).order_by(Judgment.id))
    assert second.supersedes_id == first.id and first.slot_id is None and second.slot_id is not None


def test_a_vote_that_differs_is_named_and_the_first_one_stays(factory: Factory) -> None:
    project = factory.project()
    load(factory, project, line(ADA))
    row = load(factory, project, line(ADA | {"choice": "second"}))
    assert [(one.field, one.stored, one.given) for one in row.report.differences] == [
        ("vote of Ada", "first", "second")
    ]
    assert said(factory) == [("Ada", "first", 2, False)]


def test_votes_on_answers_the_other_way_round_are_turned(factory: Factory) -> None:
    project = factory.project()
    load(factory, project, line(ADA))
    turned = json.dumps({"prompt": "q", "responses": ["b", "a"], "judgments": [BOB | {"choice": "second"}]}).encode()
    assert load(factory, project, turned).judged == 1
    assert said(factory)[1][:2] == ("Bob", "first")


def test_votes_that_come_back_to_where_they_were_made_are_found(factory: Factory) -> None:
    project = factory.judged(1)
    with read_session(factory.engine) as session:
        judgment = session.scalars(select(Judgment)).one()
        key = raters.key_of(session.get_one(User, judgment.user_id))
        messages = session.scalars(select(Prompt.messages)).one()
        texts = list(session.scalars(select(Response.text).order_by(Response.id)))
    row = json.dumps(
        {
            "prompt": messages,
            "responses": texts,
            "judgments": [{"rater": key, "name": "x", "choice": judgment.choice.value}],
        }
    ).encode()
    known = load(factory, project, row)
    assert (known.duplicates, known.judged) == (1, 0)
    assert len(said(factory)) == 1
    elsewhere: Import = load(factory, factory.project(), row)
    assert elsewhere.judged == 1 and said(factory)[1][0] == "x"


def test_skips_and_late_votes_fill_no_slot_and_kept_counts_stay_right(factory: Factory) -> None:
    load(factory, factory.project(), line(ADA | {"choice": "skip"}, BOB | {"late": True}))
    load(factory, factory.project(), line(ADA | {"choice": "second", "superseded": True}, ADA, BOB))
    more = {"prompt": "q", "responses": ["a", "b"], "priority": 3, "gold": "first"}
    load(factory, factory.project(judgments_per_comparison=3), line(ADA, BOB) + b"\n" + json.dumps(more).encode())
    with read_session(factory.engine) as session:
        recount.at_one_moment(session)
        assert recount.check(session) == []
    with read_session(factory.engine) as session:
        first = select(Project.id).order_by(Project.id).limit(1).scalar_subquery()
        assert set(session.scalars(select(Judgment.slot_id).where(Judgment.project_id == first))) == {None}
        assert set(session.scalars(select(Slot.state).where(Slot.project_id == first))) == {SlotState.OPEN}
