"""What the verdict of a checkpoint says to a name that wants to move there."""

import pytest

from app.db import read_session, write_session
from app.models import Alias, Continuation, EvaluationState, NeededVerdict
from app.services.loop import gate
from app.services.loop.gate import GateClosed
from tests.services.loop.evaluated import Evaluated

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.mark.parametrize(
    ("word", "needed", "opens"),
    [
        ("better", NeededVerdict.BETTER, True),
        ("better", NeededVerdict.NOT_WORSE, True),
        ("not_worse", NeededVerdict.NOT_WORSE, True),
        ("not_worse", NeededVerdict.BETTER, False),
        ("undecided", NeededVerdict.NOT_WORSE, False),
        ("worse", NeededVerdict.NONE, True),
    ],
)
def test_a_word_is_enough_or_not(evaluated: Evaluated, word: str, needed: NeededVerdict, opens: bool) -> None:
    row = evaluated.evaluation("w", state=EvaluationState.DECIDED, word=word)
    alias = Alias(project_id=evaluated.project.id, name="production", checkpoint_id=None, needs_verdict=needed)
    with read_session(evaluated.engine) as session:
        if not opens:
            with pytest.raises(GateClosed, match="moves only to a checkpoint that is"):
                gate.justification(session, alias=alias, checkpoint_id=evaluated.checkpoint.id)
            return
        justified = gate.justification(session, alias=alias, checkpoint_id=evaluated.checkpoint.id)
        assert (justified.id if justified else None) == (None if word == "worse" else row.id)


def test_a_name_that_means_nothing_yet_asks_for_the_base_or_the_parent(evaluated: Evaluated) -> None:
    alias = Alias(
        project_id=evaluated.project.id, name="production", checkpoint_id=None, needs_verdict=NeededVerdict.BETTER
    )
    other = evaluated.another()
    against_base = evaluated.evaluation("w", state=EvaluationState.DECIDED, word="not_worse")
    evaluated.evaluation("w", state=EvaluationState.DECIDED, word="better", opponent=other)
    checkpoint_id = evaluated.checkpoint.id
    said = f"Evaluation {against_base.number} of checkpoint {checkpoint_id} says"
    with read_session(evaluated.engine) as session, pytest.raises(GateClosed, match=said):
        gate.justification(session, alias=alias, checkpoint_id=checkpoint_id)
    with write_session(evaluated.engine) as session:
        session.add(Continuation(job_id=evaluated.checkpoint.job_id, checkpoint_id=other.id))
    with read_session(evaluated.engine) as session:
        justified = gate.justification(session, alias=alias, checkpoint_id=checkpoint_id)
        assert justified is not None and justified.opponent_id == other.id
