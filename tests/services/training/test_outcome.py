"""What may be said of a checkpoint, and what may not."""

from typing import Any

import pytest

from app.services.training import outcome
from tests.pretend_worker import evaluation


def metrics(low: float = 0.6, high: float = 0.9, **answers: Any) -> dict[str, Any]:
    after = evaluation(20) | {"eval_rewards/accuracies_low": low, "eval_rewards/accuracies_high": high}
    return {"before": evaluation(0), "after": after, "answers": answers}


def answered(changed: int, *, ended: tuple[int, int] = (7, 7), repetition: tuple[float, float] = (0.0, 0.0)) -> Any:
    return {
        "prompts": 8,
        "changed": changed,
        "before": {"tokens": 40.0, "ended": ended[0], "repetition": repetition[0]},
        "after": {"tokens": 44.5, "ended": ended[1], "repetition": repetition[1]},
    }


@pytest.mark.parametrize(("low", "high", "tone"), [(0.6, 0.9, "good"), (0.4, 0.7, "unclear"), (0.1, 0.4, "bad")])
@pytest.mark.parametrize("answers", [{}, answered(3)])
def test_a_verdict_rests_on_the_interval_and_chance(low: float, high: float, tone: str, answers: Any) -> None:
    told = outcome.verdict(metrics(low, high, **answers))
    assert told.tone == tone
    assert told.figures[0].by_chance and told.figures[0].before is None
    assert "of 24 eval pairs as people did" in told.sentence


def test_a_model_that_ranks_well_but_answers_as_before_is_not_called_good() -> None:
    told = outcome.verdict(metrics(**answered(0)))
    assert told.tone == "unclear"
    assert "but answers as before: none of 8 greedy answers changed. More judgments" in told.sentence
    assert outcome.verdict(metrics(0.1, 0.4, **answered(0))).tone == "bad"


def test_answers_that_changed_are_not_called_better() -> None:
    told = outcome.verdict(metrics(**answered(5)))
    assert told.sentence.endswith("and 5 of 8 greedy answers changed. Whether they are better, people have to say.")
    changed, tokens, ended, repetition = told.answers
    assert (changed.after, changed.of, tokens.before, tokens.after, ended.of) == (5, 8, 40.0, 44.5, 8)
    assert repetition.share
    assert told.warnings == []


@pytest.mark.parametrize(
    ("answers", "warning"),
    [
        (answered(8, repetition=(0.02, 0.4)), "repeat themselves"),
        (answered(8, ended=(7, 3)), "Fewer answers end by themselves: 3 of 8, 7 before."),
    ],
)
def test_answers_that_went_bad_are_a_warning_however_good_the_accuracy_is(answers: Any, warning: str) -> None:
    (said,) = outcome.verdict(metrics(**answers)).warnings
    assert warning in said


def test_chosen_answers_that_became_less_likely_are_a_warning() -> None:
    figures = metrics()
    figures["after"]["eval_logps/chosen"] = figures["before"]["eval_logps/chosen"] - 3
    (said,) = outcome.verdict(figures).warnings
    assert "chosen answers became less likely too" in said


def test_a_verdict_without_eval_pairs_says_so() -> None:
    told = outcome.verdict({"before": {}, "after": {}})
    assert "kept no eval pairs" in told.sentence and told.sentence.endswith("do.")
    assert told.warnings == [] and told.answers == []
