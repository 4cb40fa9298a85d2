"""What a generation will take: measured, at most, or not said."""

import pytest

from app.models import GenerationPlan
from app.services.loop.generating import cost
from app.services.loop.generating.cost import Cost, Money
from app.services.loop.generating.wanted import AnswerKind, AnswerSource, Sampling

BASE = AnswerSource.base("tiny")
DEAR = AnswerSource(AnswerKind.ENDPOINT, "far", 1, "m", 3.0, 6.0, "EUR")
FREE = AnswerSource(AnswerKind.ENDPOINT, "near", 2, "m")


def plan(source: AnswerSource, **speed: float) -> GenerationPlan:
    return GenerationPlan(sources=[source.stored()], counts={"speed": {"0": speed}})


def estimate(*sources: AnswerSource, earlier: list[GenerationPlan] | None = None) -> Cost:
    return cost.estimate(
        sources=sources, prompts=100, prompt_signs=300, samples=2, sampling=Sampling(max_new_tokens=500), earlier=earlier or []
    )  # fmt: skip


def test_nothing_is_said_that_was_not_measured() -> None:
    told = estimate(BASE)
    assert (told.answers, told.seconds, told.money, told.unmeasured) == (200, None, (), ("tiny",))
    assert "nobody knows" in " ".join(told.sentences)


def test_time_is_that_of_the_newest_answers_of_the_same_source() -> None:
    newest, older = plan(BASE, made=10, tokens=1000, seconds=20), plan(BASE, made=10, tokens=1, seconds=9999)
    assert estimate(BASE, earlier=[plan(FREE, made=1, tokens=1, seconds=1), newest, older]).seconds == pytest.approx(
        400
    )


def test_longer_answers_than_may_be_are_not_reckoned_with() -> None:
    assert estimate(BASE, earlier=[plan(BASE, made=1, tokens=5000, seconds=50)]).seconds == pytest.approx(200 * 5)


def test_a_price_is_at_most_and_as_earlier_answers_were_long() -> None:
    (at_most,) = estimate(DEAR).money
    read = 200 * 100 * 3 / 1e6
    assert at_most == Money("EUR", None, pytest.approx(read + 200 * 500 * 6 / 1e6))
    (known,) = estimate(DEAR, earlier=[plan(DEAR, made=10, tokens=500, seconds=5)]).money
    assert known.expected == pytest.approx(read + 200 * 50 * 6 / 1e6)
    assert estimate(FREE).unpriced == ("near (m)",)


def test_what_was_paid_is_counted() -> None:
    made = plan(DEAR)
    made.counts = {"by_source": {"0": {"tokens": 1_000_000, "prompt_tokens": 2_000_000}}}
    assert cost.paid(made) == {"EUR": 12.0}
    assert cost.paid(plan(FREE)) == {}
