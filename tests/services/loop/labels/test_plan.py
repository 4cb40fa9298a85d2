"""How many trainings a plan takes, and what it is called."""

from app.services.loop.labels.plan import Plan


def test_each_share_is_planted_as_often_as_was_asked() -> None:
    plan = Plan(folds=5, shares=(0.3, 0.1, 0.1), plantings=2).checked()
    assert plan.shares == (0.1, 0.3)
    assert (plan.rounds, plan.runs) == (5, 25)
    assert Plan.of(plan.stored()) == plan
    assert plan.key != Plan(folds=5, shares=(0.1, 0.3), plantings=1).key
