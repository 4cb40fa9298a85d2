"""All checkpoints of a project on one scale: the numbers of app.stats.loop.ranking, which evalica checks."""

import pytest

from app.db import write_session
from app.models import Evaluation, EvaluationState
from app.services.loop import progress
from tests.services.loop.evaluated import Evaluated, outcomes


def test_rounds_stand_on_one_scale_against_the_base(evaluated: Evaluated) -> None:
    first, second = evaluated.checkpoint, evaluated.another()
    evaluated.evaluation(outcomes(60, 30, 8, 2), state=EvaluationState.DECIDED)
    evaluated.evaluation(outcomes(55, 40, seed=2), state=EvaluationState.STOPPED, checkpoint=second, opponent=first)
    evaluated.evaluation("w" * 9, checkpoint=second)  # still asked: it says nothing yet
    evaluated.evaluation("w" * 9, state=EvaluationState.VOID, checkpoint=second)
    told = progress.current(evaluated.engine, project=evaluated.project)
    assert [row.name for row in told.rounds] == ["tiny", f"Checkpoint {first.id}", f"Checkpoint {second.id}"]
    assert (told.anchor, told.evaluations, told.prompts) == ("tiny", 2, 195)
    assert [row.win_rate.value for row in told.rounds[:2]] == [0.5, pytest.approx(0.65, abs=0.01)]
    step = told.rounds[2].from_previous
    assert step is not None and step.value == pytest.approx(55 / 95, abs=0.01) and step.low < 0.58 < step.high
    assert told.rounds[2].win_rate.low > told.rounds[1].win_rate.low - 0.05


def test_it_is_computed_again_when_another_evaluation_ends(
    evaluated: Evaluated, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = evaluated.evaluation(outcomes(6, 4))
    assert progress.current(evaluated.engine, project=evaluated.project).rounds == []
    with write_session(evaluated.engine) as session:
        session.get_one(Evaluation, row.id).state = EvaluationState.DECIDED
    told = progress.current(evaluated.engine, project=evaluated.project)
    assert len(told.rounds) == 2
    monkeypatch.setattr(progress, "compute", lambda given: 1 / 0)
    assert progress.current(evaluated.engine, project=evaluated.project) == told


def test_what_no_chain_connects_has_no_place(evaluated: Evaluated) -> None:
    second, third = evaluated.another(), evaluated.another()
    evaluated.evaluation("wl", state=EvaluationState.DECIDED)
    evaluated.evaluation("wl", state=EvaluationState.DECIDED, checkpoint=third, opponent=second)
    told = progress.current(evaluated.engine, project=evaluated.project)
    assert [row.connected for row in told.rounds] == [True, True, False, False]
    assert told.model_dump_json()


def test_nothing_is_computed_within_a_write_transaction(evaluated: Evaluated) -> None:
    with write_session(evaluated.engine), pytest.raises(RuntimeError):
        progress.current(evaluated.engine, project=evaluated.project)
