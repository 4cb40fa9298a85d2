"""The figures of a verdict are those of app.stats.loop on what counts."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from app.db import read_session
from app.models import EvaluationState
from app.services.loop import verdicts
from app.services.loop.verdict import evidence, figures
from app.services.loop.verdict.shape import Verdict
from app.stats.loop import sequential
from app.stats.loop.decision import Stop, Word
from app.stats.loop.estimate import tally
from app.stats.loop.unblinding import Guess
from tests.services.loop.evaluated import Evaluated, outcomes

AS_OF = datetime(2026, 3, 2, tzinfo=UTC)
pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def told(evaluated: Evaluated, letters: str, guesses: list[Guess] | None = None, **more: object) -> Verdict:
    row = evaluated.evaluation(letters, **more)
    with read_session(evaluated.engine) as session:
        given = evidence.read(session, verdicts.get(session, row.id))
    return figures.compute(replace(given, guesses=guesses or []), as_of=AS_OF)


def test_the_interval_is_the_sequences(evaluated: Evaluated) -> None:
    verdict = told(evaluated, outcomes(25, 15, 6, 4))
    expected = sequential.interval(tally([1.0] * 25 + [0.0] * 15 + [0.5] * 10))
    assert (verdict.win_rate.value, verdict.win_rate.low, verdict.win_rate.high) == (
        pytest.approx(expected.value),
        pytest.approx(expected.low),
        pytest.approx(expected.high),
    )


def test_worse_stops_it_and_so_does_the_maximum(evaluated: Evaluated) -> None:
    worse = told(evaluated, outcomes(10, 60), state=EvaluationState.DECIDED)
    assert (worse.word, worse.stop) == (Word.WORSE, Stop.WORSE)
    undecided = told(evaluated, outcomes(21, 19), state=EvaluationState.DECIDED)
    assert (undecided.word, undecided.stop, undecided.to_go) == (Word.UNDECIDED, Stop.MAXIMUM, None)


def test_non_inferiority_has_a_lower_bar(evaluated: Evaluated) -> None:
    verdict = told(evaluated, outcomes(0, 0, 300), goal="non_inferiority", margin=0.1)
    assert (verdict.bar, verdict.word, verdict.stop) == (pytest.approx(0.4), Word.NOT_WORSE, Stop.GOAL)


def test_what_is_to_go_counts_judgments_and_identical_answers_cost_none(evaluated: Evaluated) -> None:
    plain = told(evaluated, outcomes(24, 16), open_pairs=400).to_go
    thrice = told(evaluated, outcomes(24, 16), open_pairs=400, votes=3).to_go
    assert plain and thrice and plain.median and thrice.median
    assert thrice.median == 3 * plain.median
    assert plain.goal + plain.worse + plain.maximum == pytest.approx(1)
    assert told(evaluated, "", open_pairs=10).to_go is None


def test_a_length_that_decides_is_told_apart(evaluated: Evaluated) -> None:
    verdict = told(evaluated, outcomes(30, 20), longer=12)
    assert verdict.equal_length is not None and verdict.longer_by == pytest.approx(12, abs=3)
    assert told(evaluated, "wl").equal_length is None


def test_answers_that_tell_are_listed_and_left_out_once_more(evaluated: Evaluated) -> None:
    verdict = told(evaluated, "w" * 8 + "l" * 8, tells={0: ["names_a_model"], 1: ["names_a_model", "at_limit"]})
    assert verdict.telling is not None
    assert (verdict.telling.pairs, verdict.telling.kinds) == (2, {"names_a_model": 2, "at_limit": 1})
    assert verdict.telling.win_rate.count == 14
    assert verdict.telling.win_rate.value == pytest.approx(6 / 14)
    assert told(evaluated, "wl").telling is None


def test_guesses_are_told_beyond_taste(evaluated: Evaluated) -> None:
    knows = [Guess(1, chose_new, True) for chose_new in (True, False)] * 20
    verdict = told(evaluated, "wl", knows)
    assert verdict.guessed is not None and verdict.guessed.sign and verdict.guessed.guesses == 40
    taste = [Guess(1, chose_new, chose_new) for chose_new in (True, True, False)] * 20
    blind = told(evaluated, "wl", taste).guessed
    assert blind is not None and not blind.sign and blind.accuracy.value == pytest.approx(0.5)


def test_without_somebody_identical_answers_stay(evaluated: Evaluated) -> None:
    verdict = told(evaluated, "wwwlll" + "=" * 6, people=2)
    assert [one.win_rate.count for one in verdict.without] == [9, 9]
    assert told(evaluated, "wl", people=1).without == []


def test_nothing_judged_is_a_verdict_too(evaluated: Evaluated) -> None:
    verdict = told(evaluated, "", open_pairs=4)
    assert (verdict.word, verdict.prompts, verdict.win_rate.value, verdict.looks) == (Word.UNDECIDED, 0, None, [])
