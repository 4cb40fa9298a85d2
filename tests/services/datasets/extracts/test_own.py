"""Everything of a project, taken out and brought back: nothing is lost, and nobody's account is touched."""

import io
import json
from typing import Any

import pytest
from sqlalchemy import func, select

from app.db import read_session, write_session
from app.models import Arm, Container, ExtractForm, Judgment, JudgmentSource, Project, Split, User
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


def test_what_is_trained_on_is_the_same(factory: Factory, project: Project) -> None:
    other = factory.project()
    bring(factory, other, b"".join(chunks(taken_out(factory, project), Container.JSONL)))
    rule = Rule(soft_labels=True, weights="strength", include_flagged=True)
    with read_session(factory.engine) as session:
        decided = [
            [
                (pair.decision, pair.chosen_hash, pair.sources)
                for pair in votes.decided(session, project=one, rule=rule, collected=Collected())
            ]
            for one in (project, other)
        ]
    assert decided[0] == decided[1] and decided[0]


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
