"""Everything of a project, taken out and brought back: nothing is lost, and nobody's account is touched."""

import io
import json
from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.db import read_session, write_session
from app.models import (
    Arm,
    Comparison,
    Container,
    ExclusionKind,
    ExtractForm,
    Judgment,
    JudgmentSource,
    Project,
    Slot,
    SlotState,
    Split,
    User,
)
from app.services.collecting import exclusions, recount
from app.services.collecting.imports import load
from app.services.datasets import votes
from app.services.datasets.collected import Collected
from app.services.datasets.extracts import extracts, own
from app.services.datasets.extracts.containers import chunks
from app.services.datasets.rules import Rule
from app.storage import get_storage
from tests.factory import Factory


def taken_out(factory: Factory, project: Project) -> list[dict[str, Any]]:
    return list(own.rows(factory.engine, project_id=project.id))


def bring(factory: Factory, project: Project, data: bytes) -> Any:
    return load.load(
        factory.engine,
        project_id=project.id,
        user_id=factory.engineer().id,
        stream=io.BytesIO(data),
        filename="x",
        settings=factory.settings,
    )


@pytest.fixture
def project(factory: Factory) -> Project:
    """A project with all that people do: several votes, a change of mind, a skip, strengths, reasons, flags, gold."""
    project = factory.project(judgments_per_comparison=3)
    factory.comparison(project, prompt="A gold one?", gold="first", priority=7, external_id="g-1")
    asked = factory.comparisons(project, 3)[2]
    with write_session(factory.engine) as session:
        session.merge(asked).arm = Arm.MARGIN
    ada, bob = factory.user(), factory.user()
    for number, choice in enumerate(("left", "right", "skip", "tie")):
        factory.judge(
            project, ada, choice, strength=2, rationale=f"Because {number}.", flags=["broken"] if number == 1 else []
        )
    factory.judge(project, bob, "both_bad")
    shown = factory.undo(project, bob)
    assert shown
    factory.record(shown.token, bob, "left", strength=3)
    bring(
        factory,
        project,
        b'{"prompt": "From a file?", "response_a": "a", "response_b": "b", "winner": "a", "judge": "Ada", "model_a": "m"}',
    )
    return project


def test_everything_comes_back_in_every_kind_of_file(factory: Factory, project: Project) -> None:
    rows = taken_out(factory, project)
    assert len(rows) == 5 and sum(len(row.get("judgments", [])) for row in rows) == 7
    for container in Container:
        other = factory.project(judgments_per_comparison=3)
        data = b"".join(chunks(rows, container))
        row = bring(factory, other, data)
        assert (row.added, row.rejected, row.report.differences) == (5, 0, [])
        assert taken_out(factory, other) == rows
        again = bring(factory, other, data)
        assert (again.added, again.judged, again.duplicates, again.filled) == (0, 0, 5, 0)
        assert taken_out(factory, other) == rows


def test_answers_that_go_on_over_several_turns_stay_conversations(factory: Factory) -> None:
    project = factory.project(eval_percent=0)
    bring(
        factory,
        project,
        b'{"prompt": "[\\"q1\\", \\"q2\\"]", "response_a": "[\\"a1\\", \\"a2\\"]", "response_b": "[\\"b1\\", \\"b2\\"]", "winner": "a"}',
    )
    (row,) = taken_out(factory, project)
    assert [message["content"] for message in row["responses"][0]["messages"]] == ["a1", "q2", "a2"]
    snapshot = factory.snapshot(project)
    storage = get_storage(factory.settings)
    rows = extracts.rows(
        factory.engine, storage, form=ExtractForm.TRL, project_id=project.id, snapshot=snapshot, split=Split.TRAIN
    )
    (line,) = list(rows)
    assert line["chosen"] == row["responses"][0]["messages"] and line["prompt"] == [{"role": "user", "content": "q1"}]


def decided(session: Session, project: Project, rule: Rule | None = None) -> list[Any]:
    return [
        (pair.decision, pair.chosen_hash, pair.sources)
        for pair in votes.decided(session, project=project, rule=rule or Rule(), collected=Collected())
    ]


def test_what_is_trained_on_is_the_same(factory: Factory, project: Project) -> None:
    other = factory.project()
    bring(factory, other, b"".join(chunks(taken_out(factory, project), Container.JSONL)))
    rule = Rule(soft_labels=True, weights="strength", include_flagged=True)
    with read_session(factory.engine) as session:
        mine, theirs = decided(session, project, rule), decided(session, other, rule)
    assert mine == theirs and mine


def test_raters_are_not_the_local_people_of_that_name(factory: Factory, project: Project) -> None:
    other = factory.project()
    with read_session(factory.engine) as session:
        accounts = session.scalar(select(func.count(User.id)).where(~User.is_imported))
    bring(factory, other, b"".join(chunks(taken_out(factory, project), Container.JSONL)))
    with read_session(factory.engine) as session:
        made = session.execute(
            select(User.is_imported, User.display_name, Judgment.source)
            .join(User, User.id == Judgment.user_id)
            .where(Judgment.project_id == other.id)
        )
        assert {(imported, source) for imported, _, source in made} == {(True, JudgmentSource.IMPORT)}
        # The importing engineer is the one account more.
        assert session.scalar(select(func.count(User.id)).where(~User.is_imported)) == (accounts or 0) + 1


def test_votes_brought_back_to_their_own_project_add_nothing(factory: Factory, project: Project) -> None:
    before = taken_out(factory, project)
    row = bring(factory, project, b"".join(chunks(before, Container.JSONL)))
    assert (row.added, row.judged, row.report.differences) == (0, 0, [])
    assert taken_out(factory, project) == before


def test_pages_end_where_the_project_ended_when_it_began(factory: Factory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own, "PAGE", 2)
    project = factory.project()
    factory.comparisons(project, 5)
    rows = own.rows(factory.engine, project_id=project.id)
    first = next(rows)
    late = factory.comparison(project)
    assert len([first, *rows]) == 5 and late.id
    assert json.loads(json.dumps(first)) == first


def test_an_empty_project_is_an_empty_file(factory: Factory) -> None:
    assert taken_out(factory, factory.project()) == []


def test_what_is_left_out_stays_left_out_and_a_second_import_adds_nothing(factory: Factory, project: Project) -> None:
    """A pair, a vote, all votes of a person, and what an undone import left."""
    lead = factory.engineer()
    undone = bring(
        factory, project, b'{"prompt": "Undone?", "response_a": "a", "response_b": "b", "winner": "b", "judge": "Cy"}'
    )
    with write_session(factory.engine) as session:
        pair_id = session.scalars(select(Comparison.id).order_by(Comparison.id)).all()[1]
        vote = session.scalars(select(Judgment).where(Judgment.comparison_id != pair_id, ~Judgment.superseded)).first()
        cy = session.scalars(select(User.id).where(User.display_name == "Cy")).one()
        for kind, number, reason in (
            (ExclusionKind.PAIR, pair_id, "Names a customer."),
            (ExclusionKind.JUDGMENT, vote.id, ""),
            (ExclusionKind.PERSON, cy, "Guessed."),
            (ExclusionKind.IMPORT, undone.id, "The wrong file."),
        ):
            exclusions.exclude(
                session,
                project=session.merge(project),
                kind=kind,
                subject_id=number,
                by=session.merge(lead),
                reason=reason,
            )
    rows = taken_out(factory, project)
    assert [row["excluded"]["reason"] for row in rows if "excluded" in row] == ["Names a customer.", "The wrong file."]
    of_votes = [one["excluded"] for row in rows for one in row.get("judgments", ()) if "excluded" in one]
    assert [(one.get("reason"), one.get("of")) for one in of_votes] == [(None, None), ("Guessed.", "person")]
    for container in (Container.JSONL, Container.PARQUET):
        other = factory.project(judgments_per_comparison=3)
        data = b"".join(chunks(rows, container))
        assert bring(factory, other, data).added == len(rows)
        assert taken_out(factory, other) == rows
        with read_session(factory.engine) as session:
            in_force = exclusions.in_force(session, project_id=other.id)
            left_out = select(Slot.comparison_id).where(
                Slot.comparison_id.in_(in_force.pairs), Slot.state != SlotState.DONE
            )
            assert session.scalars(left_out).all() == []
            assert [len(some) for some in (in_force.pairs, in_force.judgments, in_force.people)] == [2, 1, 1]
            assert recount.check(session, project_id=other.id) == []
            mine, theirs = decided(session, project), decided(session, other)
            assert mine and theirs == mine
        again = bring(factory, other, data)
        assert (again.added, again.judged, again.duplicates) == (0, 0, len(rows))
        with read_session(factory.engine) as session:
            assert exclusions.in_force(session, project_id=other.id) == in_force


def test_a_pair_that_is_there_is_not_left_out_by_a_file_and_the_report_says_so(factory: Factory) -> None:
    project = factory.project()
    line = b'{"prompt": "Q?", "responses": [{"text": "a"}, {"text": "b"}]%s}'
    assert bring(factory, project, line % b"").added == 1
    row = bring(factory, project, line % b', "excluded": {"at": "2026-01-31T12:00:00+00:00", "reason": "Old."}')
    assert [(one.field, one.stored, one.given) for one in row.report.differences] == [("excluded", "no", "Old.")]
    with read_session(factory.engine) as session:
        assert exclusions.in_force(session, project_id=project.id) == exclusions.Excluded()


@pytest.mark.parametrize(
    "said", ["{}", '{"at": "yesterday"}', '{"at": "2026-01-31", "why": "x"}', '{"at": "2026-01-31", "reason": 5}']
)
def test_what_does_not_say_when_a_pair_was_left_out_is_refused(factory: Factory, said: str) -> None:
    line = f'{{"prompt": "Q?", "responses": [{{"text": "a"}}, {{"text": "b"}}], "excluded": {said}}}'
    row = bring(factory, factory.project(), line.encode())
    if said == "{}":
        assert row.added == 1  # it says nothing
    else:
        assert row.added == 0 and row.rejections[0]["reason"] == "bad_field" and "excluded" in row.error
