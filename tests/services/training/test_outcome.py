"""What may be said of a checkpoint."""

import pytest

from app.services.training import outcome
from tests.pretend_worker import evaluation


@pytest.mark.parametrize(("low", "high", "tone"), [(0.6, 0.9, "good"), (0.4, 0.7, "unclear"), (0.1, 0.4, "bad")])
def test_a_verdict_rests_on_the_interval_and_chance(low: float, high: float, tone: str) -> None:
    after = evaluation(20) | {"eval_rewards/accuracies_low": low, "eval_rewards/accuracies_high": high}
    told = outcome.verdict({"before": evaluation(0), "after": after})
    assert told.tone == tone
    assert told.figures[0].by_chance and told.figures[0].before is None


def test_a_verdict_without_eval_pairs_says_so() -> None:
    assert "Not evaluated" in outcome.verdict({"before": {}, "after": {}}).sentence
