"""A verdict goes into JSON and comes back the same."""

from datetime import UTC, datetime

from app.db import read_session
from app.models import EvaluationState
from app.services.loop import verdicts
from app.services.loop.verdict import evidence, figures
from app.services.loop.verdict.shape import Verdict
from tests.services.loop.evaluated import Evaluated, outcomes


def test_a_verdict_survives_json(evaluated: Evaluated) -> None:
    row = evaluated.evaluation(outcomes(20, 12, 4, 4), open_pairs=60, tells={3: ["names_a_model"]})
    with read_session(evaluated.engine) as session:
        given = evidence.read(session, verdicts.get(session, row.id))
    verdict = figures.compute(given, as_of=datetime(2026, 3, 2, tzinfo=UTC))
    assert given.evaluation.state is EvaluationState.ASKING
    assert Verdict.model_validate_json(verdict.model_dump_json()) == verdict
    assert Verdict.model_validate(verdict.model_dump(mode="json")) == verdict
