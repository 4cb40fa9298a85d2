"""What a plan can decide is said in words before it starts."""

from app.services.loop.evaluating.promise import Promise, promise
from app.stats.loop.decision import Goal, Plan


def test_a_promise_names_what_is_decided_and_what_more_would_take() -> None:
    told = promise(Plan(Goal.SUPERIORITY, 121))
    assert told.prompts == 120 and told.decides is not None and 0.62 < told.decides < 0.72
    assert told.smaller == 0.65 and told.needed is not None and 100 < told.needed < 200
    assert told.sentence.startswith(
        "With 120 prompts a true win rate of 67 % or more is decided in 80 % of cases; for 65 %"
    )
    assert promise(Plan(Goal.SUPERIORITY, 119)) is told  # few are ever computed


def test_too_few_prompts_decide_nothing() -> None:
    assert Promise(3, None, None, None).sentence == "With 3 prompts no win rate is decided in 80 % of cases."
