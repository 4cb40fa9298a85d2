"""The verdicts in a model card."""

from app.db import read_session
from app.models import EvaluationState
from app.services.loop import verdicts
from app.services.loop.verdict import card
from tests.services.loop.evaluated import Evaluated, outcomes


def test_the_card_says_what_the_page_says_and_names_nobody(evaluated: Evaluated) -> None:
    done = evaluated.evaluation(outcomes(60, 20, 10, 10), state=EvaluationState.DECIDED)
    going = evaluated.evaluation("wl", open_pairs=3)
    void = evaluated.evaluation("wl", state=EvaluationState.VOID, reason="Its prompts were trained on.")
    for row in (done, going, void):
        verdicts.current(evaluated.engine, row.id)
    with read_session(evaluated.engine) as session:
        text = card.text(verdicts.ended_of(session, checkpoint_id=evaluated.checkpoint.id))
    assert "Better. 70 % of 100 prompts, judged blind by 3 people" in text
    assert "- 60 won, 20 lost, 20 tied; 90 judgments." in text
    assert "Void. Its prompts were trained on." in text
    assert text.count("### Against tiny") == 2
    assert "Judge-" not in text
    assert card.text([]) == ""
