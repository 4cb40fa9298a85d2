"""Wins and losses side by side, once nobody judges any more."""

from app.db import read_session
from app.models import EvaluationState
from app.paging import Page
from app.services.loop import verdicts
from app.services.loop.verdict import pairs
from app.services.loop.verdict.pairs import Outcome, Shown
from tests.services.loop.evaluated import Evaluated

LETTERS = "wwllt=xb"


def listed(evaluated: Evaluated, evaluation_id: int, shown: Shown) -> Page[Outcome]:
    with read_session(evaluated.engine) as session:
        return pairs.listing(session, verdicts.get(session, evaluation_id), shown=shown)


def test_each_kind_is_listed_in_the_drawn_order(evaluated: Evaluated) -> None:
    row = evaluated.evaluation(LETTERS, state=EvaluationState.DECIDED, tells={0: ["at_limit"], 2: ["names_a_model"]})
    places = {shown: [one.place for one in listed(evaluated, row.id, shown).items] for shown in Shown}
    assert places == {
        Shown.LOST: [2, 3],
        Shown.WON: [0, 1],
        Shown.TIED: [4, 7],
        Shown.SAME: [5],
        Shown.TELLING: [0, 2],
    }
    first = listed(evaluated, row.id, Shown.WON).items[0]
    assert first.new.startswith("Open Reports") and first.old.startswith("You can export")
    assert first.prompt[0]["role"] == "user" and first.tells == ["at_limit"]


def test_nobody_sees_which_is_new_while_people_judge(evaluated: Evaluated) -> None:
    row = evaluated.evaluation(LETTERS)
    assert listed(evaluated, row.id, Shown.WON).total == 0
