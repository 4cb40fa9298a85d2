"""How a verdict reads: no sentence claims more than the interval carries."""

from datetime import UTC, datetime
from typing import Any

import pytest

from app.models import Evaluation, EvaluationState
from app.services.loop.verdict import words
from app.services.loop.verdict.shape import Basis, Guessed, Interval, Telling, ToGo, Verdict, Without
from app.stats.loop.decision import Goal, Stop, Word


def interval(value: float | None, low: float = 0.0, high: float = 1.0, count: int = 60) -> Interval:
    return Interval(value=value, low=low, high=high, count=count)


def verdict(**more: Any) -> Verdict:
    return Verdict(
        **{
            "word": Word.BETTER,
            "stop": Stop.GOAL,
            "goal": Goal.SUPERIORITY,
            "bar": 0.5,
            "margin": 0.05,
            "confidence": 0.95,
            "maximum": 800,
            "win_rate": interval(0.58, 0.52, 0.63, 700),
            "below_half": False,
            "prompts": 700,
            "planned": 800,
            "left_out": {},
            "same": 0,
            "won": 400,
            "lost": 288,
            "tied": 12,
            "judgments": 700,
            "people": 6,
            "to_go": None,
            "equal_length": None,
            "longer_by": None,
            "parts_by": "",
            "parts": [],
            "by_person": [],
            "without": [],
            "sides": [],
            "speed": [],
            "guessed": None,
            "telling": None,
            "looks": [],
            "picked_by_eval": False,
            "basis": Basis(),
            "as_of": datetime(2026, 3, 2, tzinfo=UTC),
            **more,
        }
    )


def evaluation(state: EvaluationState = EvaluationState.DECIDED, **more: Any) -> Evaluation:
    return Evaluation(**{"state": state, "reason": "", "opponent_id": None, "opponent_model": "tiny", **more})


def test_better_reads_as_drawn() -> None:
    assert words.summary(evaluation(), verdict()) == (
        "Better. 58 % of 700 prompts, judged blind by 6 people (52–63 %, goal: above 50 %)."
    )


def test_undecided_says_how_many_more() -> None:
    going = verdict(
        word=Word.UNDECIDED,
        stop=None,
        prompts=150,
        win_rate=interval(0.58, 0.46, 0.70, 150),
        to_go=ToGo(median=200, low=110, high=600, goal=0.8, worse=0.05, maximum=0.15),
    )
    assert words.summary(evaluation(EvaluationState.ASKING), going) == (
        "So far 58 % of 150 prompts, judged blind by 6 people (46–70 %, goal: above 50 %). "
        "About 200 more judgments (110–600) until it is decided."
    )


@pytest.mark.parametrize(
    ("median", "low", "high", "expected"),
    [
        (200, 110, None, "About 200 more judgments (110 or more) until it is decided."),
        (None, 110, None, "It will probably stay undecided within 800 prompts."),
        (1, 1, 4, "About 1 more judgment (1–4) until it is decided."),
    ],
)
def test_futures_that_stay_open_are_said(median: int | None, low: int | None, high: int | None, expected: str) -> None:
    to_go = ToGo(median=median, low=low, high=high, goal=0.4, worse=0.1, maximum=0.5)
    assert words.to_go(verdict(to_go=to_go)) == expected


@pytest.mark.parametrize(
    ("state", "word", "stop", "expected"),
    [
        (EvaluationState.DECIDED, Word.WORSE, Stop.WORSE, "Worse"),
        (EvaluationState.DECIDED, Word.NOT_WORSE, Stop.MAXIMUM, "Not worse"),
        (EvaluationState.DECIDED, Word.UNDECIDED, Stop.MAXIMUM, "Undecided"),
        (EvaluationState.STOPPED, Word.UNDECIDED, None, "Stopped, undecided"),
        (EvaluationState.STOPPED, Word.BETTER, Stop.GOAL, "Better"),
        (EvaluationState.ASKING, Word.UNDECIDED, None, "So far"),
        (EvaluationState.PREPARING, Word.UNDECIDED, None, "Being prepared"),
        (EvaluationState.VOID, Word.BETTER, Stop.GOAL, "Void"),
    ],
)
def test_the_headline_follows_state_and_word(
    state: EvaluationState, word: Word, stop: Stop | None, expected: str
) -> None:
    assert words.headline(state, verdict(word=word, stop=stop)) == expected
    assert words.headline(EvaluationState.ASKING, None) == "Not judged yet"


def test_an_end_that_only_rounds_to_one_half_is_shown_in_tenths() -> None:
    assert words.span(interval(0.55, 0.5004, 0.6)) == "50.0–60 %"
    assert words.span(interval(0.55, 0.504, 0.6)) == "50.4–60 %"
    assert words.span(interval(0.5, 0.5, 0.5)) == "50–50 %"


def test_signs_of_unblinding_are_never_called_proof() -> None:
    def guessed(sign: bool) -> Guessed:
        accuracy = interval(0.55 if not sign else 0.72, 0.48 if not sign else 0.63, 0.61 if not sign else 0.8)
        return Guessed(accuracy=accuracy, p_value=0.2, sign=sign, guesses=60, chose_new=None, chose_old=None)

    assert words.blinding(verdict(guessed=guessed(False))) == (
        "No sign that people could tell which was new; at most 61 % (60 guesses)."
    )
    assert words.blinding(verdict(guessed=guessed(True))) == (
        "A sign that people could tell which was new: 72 % right beyond their taste (at least 63 %, 60 guesses)."
    )
    assert words.blinding(verdict()) == ""


def test_the_lines_say_what_to_mind() -> None:
    without = [
        Without(user_id=1, votes=90, win_rate=interval(0.55, 0.49, 0.6), tips=True),
        Without(user_id=2, votes=80, win_rate=interval(0.60, 0.52, 0.66), tips=False),
    ]
    telling = Telling(pairs=3, kinds={"names_a_model": 3}, word=Word.BETTER, win_rate=interval(0.57, 0.51, 0.62))
    shown = words.lines(verdict(without=without, same=31, telling=telling, picked_by_eval=True))
    assert shown == [
        "Without any one person: 55–60 %. By one look it hangs on 1 person.",
        "31 of 700: same answer.",
        "3 pairs might give a side away (3 with a model's name); without them: better, 57 % (51–62 %).",
        "These eval prompts also picked the checkpoint's best step, which flatters it a little.",
    ]


def test_why_it_ended_is_said() -> None:
    stopped = evaluation(EvaluationState.STOPPED, reason="Ada stopped it.")
    assert words.ended(evaluation(), verdict()) == "It stopped when the goal was reached."
    assert words.ended(stopped, verdict()) == "Ada stopped it."
    assert words.ended(evaluation(EvaluationState.ASKING), verdict(stop=None)) == ""
    both = "All prompts of the plan are judged, and both are still possible."
    assert words.ended(evaluation(), verdict(word=Word.UNDECIDED, stop=Stop.MAXIMUM)) == both
