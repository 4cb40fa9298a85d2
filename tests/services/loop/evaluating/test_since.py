"""Prompts whose group trains later void an evaluation for what trained them: on its page, in the API, by command, for a name's rule."""

from collections.abc import Callable

import pytest
from sqlalchemy import select, update
from starlette.testclient import TestClient
from typer.testing import CliRunner

from app.cli import cli
from app.db import read_session, write_session
from app.models import (
    Alias,
    Comparison,
    Evaluation,
    EvaluationPair,
    EvaluationState,
    NeededVerdict,
    Prompt,
    PromptGroup,
    Split,
    User,
)
from app.services.loop import evaluations, gate
from app.services.loop.evaluating import since
from app.services.loop.evaluating.since import Learnt
from app.services.loop.gate import GateClosed
from tests.services.loop.evaluated import Evaluated
from tests.services.training.trained import trained_from

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def learnt(evaluated: Evaluated, row: Evaluation) -> list[Learnt]:
    with read_session(evaluated.engine) as session:
        return since.learnt(session, evaluations.get(session, row.id))


def join(evaluated: Evaluated, row: Evaluation, place: int, comparison_id: int) -> None:
    """A prompt that came later is near both: their groups become one."""
    with write_session(evaluated.engine) as session:
        group = PromptGroup(project_id=evaluated.project.id, split=Split.TRAIN)
        session.add(group)
        session.flush()
        pair = (
            select(EvaluationPair.prompt_id)
            .where(EvaluationPair.evaluation_id == row.id)
            .order_by(EvaluationPair.place)
        )
        asked = session.scalars(pair).all()[place]
        trained = session.get_one(Comparison, comparison_id).prompt_id
        session.execute(update(Prompt).where(Prompt.id.in_([asked, trained])).values(group_id=group.id))
        session.execute(update(Prompt).where(Prompt.id == trained).values(split=Split.TRAIN))


def newest_pair(evaluated: Evaluated) -> int:
    with read_session(evaluated.engine) as session:
        of_project = Comparison.project_id == evaluated.project.id
        ids = select(Comparison.id).where(of_project, Comparison.evaluation_id.is_(None))
        return session.scalars(ids.order_by(Comparison.id.desc())).all()[0]


def test_a_later_checkpoint_that_was_trained_on_a_group_and_its_children(
    evaluated: Evaluated, sign_in: Callable[[User], TestClient], api: Callable[[User], dict[str, str]]
) -> None:
    row = evaluated.evaluation("wwwl", state=EvaluationState.DECIDED, word="better")
    later = evaluated.another()
    pair = newest_pair(evaluated)
    evaluated.factory.comparison(evaluated.project)
    assert evaluated.factory.judge(evaluated.project, evaluated.engineer)
    _, child = trained_from(evaluated.engine, evaluated.settings, evaluated.project, evaluated.engineer, later)
    assert learnt(evaluated, row) == [], "nothing that it asked is near"
    join(evaluated, row, 0, pair)
    assert learnt(evaluated, row) == [Learnt(later.id, 1, False), Learnt(child.id, 1, False)]
    alias = Alias(project_id=evaluated.project.id, name="a", checkpoint_id=None, needs_verdict=NeededVerdict.BETTER)
    with read_session(evaluated.engine) as session:
        assert gate.justification(session, alias=alias, checkpoint_id=evaluated.checkpoint.id)
    page = sign_in(evaluated.engineer).get(f"/projects/{evaluated.project.slug}/evaluations/1").text
    assert f"Void for checkpoint {later.id}, which was trained since on near duplicates of one of its prompts." in page
    told = sign_in(evaluated.engineer).get(f"/api/v1/evaluations/{row.id}/verdict", headers=api(evaluated.engineer))
    assert told.json()["void_for"][0] == {"checkpoint_id": later.id, "prompts": 1, "is_side": False}
    shown = CliRunner().invoke(cli, ["verdict", str(row.id), "--wait"])
    assert f"Void for checkpoint {later.id}" in " ".join(shown.output.split()) and shown.exit_code != 3


def test_a_side_that_was_trained_on_a_group_leaves_nothing_of_the_verdict(evaluated: Evaluated) -> None:
    first = newest_pair(evaluated)
    row = evaluated.evaluation("wwwl", state=EvaluationState.DECIDED, word="better")
    join(evaluated, row, 1, first)
    assert learnt(evaluated, row) == [Learnt(evaluated.checkpoint.id, 1, True)]
    assert CliRunner().invoke(cli, ["verdict", str(row.id), "--wait"]).exit_code == 3
    alias = Alias(project_id=evaluated.project.id, name="a", checkpoint_id=None, needs_verdict=NeededVerdict.BETTER)
    with read_session(evaluated.engine) as session, pytest.raises(GateClosed, match="says nothing any more"):
        gate.justification(session, alias=alias, checkpoint_id=evaluated.checkpoint.id)
