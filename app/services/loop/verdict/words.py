"""How a verdict reads: one set of sentences for the page, the card, the command line and the API. They claim what the interval carries."""

from collections.abc import Sequence

from app.models import Evaluation, EvaluationState
from app.services.loop.verdict.shape import Interval, Verdict
from app.stats.loop.decision import Goal, Stop, Word

WORDS = {
    Word.BETTER: "Better",
    Word.NOT_WORSE: "Not worse",
    Word.WORSE: "Worse",
    Word.UNDECIDED: "Undecided",
}
TELLS = {"names_a_model": "with a model's name", "at_limit": "cut at the length limit"}
LEFT_OUT = {
    "failed": "without an answer",
    "there": "asked before",
    "skipped": "skipped",
    "both_bad": "with two bad answers",
    "trained": "trained on since",
}


def headline(state: EvaluationState, verdict: Verdict | None) -> str:
    """One word, or two: what the evaluation came to."""
    if state is EvaluationState.VOID:
        return "Void"
    if state is EvaluationState.PREPARING or verdict is None:
        return "Being prepared" if state is EvaluationState.PREPARING else "Not judged yet"
    if verdict.word is Word.UNDECIDED and state is EvaluationState.STOPPED:
        return "Stopped, undecided"
    if verdict.stop is None and verdict.word is Word.UNDECIDED:
        return "Not judged yet" if not verdict.prompts else "So far"
    return WORDS[verdict.word]


def summary(evaluation: Evaluation, verdict: Verdict | None) -> str:
    """Word and figure in one sentence: what a command prints and a card begins with."""
    word = headline(evaluation.state, verdict)
    if evaluation.state is EvaluationState.VOID:
        return f"{word}. {evaluation.reason}".strip()
    if verdict is None or not verdict.prompts:
        return f"{word}."
    if word == "So far":
        return f"So far {result(verdict)}. {to_go(verdict)}".strip()
    return f"{word}. {result(verdict)}."


def result(verdict: Verdict) -> str:
    """58 % of 700 prompts, judged blind by 6 people (52–63 %, goal: above 50 %)"""
    people = f"judged blind by {many(verdict.people, 'person', 'people')} " if verdict.people else ""
    return (
        f"{percent(verdict.win_rate.value)} of {many(verdict.prompts, 'prompt')}, {people}"
        f"({span(verdict.win_rate)}, goal: {goal(verdict)})"
    )


def goal(verdict: Verdict) -> str:
    return f"above {points(verdict.bar)} %"


def goal_in_words(verdict: Verdict) -> str:
    if verdict.goal is Goal.SUPERIORITY:
        return "to be better: even the lower end of the interval above 50 %"
    return (
        f"not to be worse by more than {points(verdict.margin)} points: "
        f"even the lower end of the interval above {points(verdict.bar)} %"
    )


def to_go(verdict: Verdict) -> str:
    """About 200 more judgments (110–600) until it is decided."""
    if verdict.to_go is None:
        return ""
    median, low, high = verdict.to_go.median, verdict.to_go.low, verdict.to_go.high
    if median is None:
        return f"It will probably stay undecided within {verdict.maximum:,} prompts."
    more = many(_rough(median), "more judgment")
    if low is None or high is None:
        return f"About {more} ({_rough(low or 0):,} or more) until it is decided."
    return f"About {more} ({_rough(low):,}–{_rough(high):,}) until it is decided."


def _rough(count: int) -> int:
    """Two digits: a forecast with more of them would claim what it doesn't know."""
    digits = 10 ** max(0, len(str(count)) - 2)
    return round(count / digits) * digits


def ended(evaluation: Evaluation, verdict: Verdict | None) -> str:
    """Why nobody is asked any more; empty while people are."""
    if evaluation.state is EvaluationState.STOPPED:
        return evaluation.reason or "Somebody stopped it."
    stops = {
        Stop.GOAL: "It stopped when the goal was reached.",
        Stop.WORSE: "It stopped when it was surely worse.",
        Stop.MAXIMUM: "All prompts of the plan are judged, and both are still possible.",
    }
    if verdict is None or verdict.stop is None or evaluation.state is not EvaluationState.DECIDED:
        return ""
    if verdict.stop is Stop.MAXIMUM and verdict.word is not Word.UNDECIDED:
        return "All prompts of the plan are judged."
    return stops[verdict.stop]


def lines(verdict: Verdict) -> list[str]:
    """What stands beside the verdict, a sentence each: length, people, blinding, identical answers, what to mind."""
    said = [at_equal_length(verdict), without(verdict), blinding(verdict), same(verdict), telling(verdict)]
    if verdict.below_half and verdict.word is Word.NOT_WORSE:
        said.append("Its win rate is surely below 50 %, within the margin that the plan allows.")
    if verdict.picked_by_eval:
        said.append("These eval prompts also picked the checkpoint's best step, which flatters it a little.")
    return [line for line in said if line]


def at_equal_length(verdict: Verdict) -> str:
    if verdict.equal_length is None:
        return ""
    rate = verdict.equal_length.win_rate
    return f"At equal length {percent(rate.value)} ({span(rate)})."


def without(verdict: Verdict) -> str:
    if not verdict.without:
        return ""
    values = sorted(one.win_rate.value for one in verdict.without if one.win_rate.value is not None)
    if not values:
        return ""
    low, high = points(values[0]), points(values[-1])
    spread = f"{low} %" if low == high else f"{low}–{high} %"
    tipping = sum(one.tips for one in verdict.without)
    hangs = f" By one look it hangs on {many(tipping, 'person', 'people')}." if tipping else ""
    return f"Without any one person: {spread}.{hangs}"


def blinding(verdict: Verdict) -> str:
    told = verdict.guessed
    if told is None or told.accuracy.value is None:
        return ""
    count = many(told.guesses, "guess", "guesses")
    if told.sign:
        return (
            f"A sign that people could tell which was new: {percent(told.accuracy.value)} right beyond their taste "
            f"(at least {percent(told.accuracy.low)}, {count})."
        )
    return f"No sign that people could tell which was new; at most {percent(told.accuracy.high)} ({count})."


def same(verdict: Verdict) -> str:
    return f"{verdict.same:,} of {verdict.prompts:,}: same answer." if verdict.same else ""


def telling(verdict: Verdict) -> str:
    told = verdict.telling
    if told is None:
        return ""
    kinds = ", ".join(f"{count:,} {kind_of_tell(kind)}" for kind, count in told.kinds.items())
    without_them = f"{WORDS[told.word].lower()}, {percent(told.win_rate.value)} ({span(told.win_rate)})"
    pairs = f"{many(told.pairs, 'pair')} might give a side away ({kinds})"
    return f"{pairs}; without {'them' if told.pairs > 1 else 'it'}: {without_them}."


def kind_of_tell(kind: str) -> str:
    """What such a pair has: `only_lists` is formatting that the other side hasn't."""
    if kind.startswith("only_"):
        return f"with {kind.removeprefix('only_').replace('_', ' ')} on one side alone"
    return TELLS.get(kind, kind.replace("_", " "))


def left_out(verdict: Verdict) -> str:
    if not verdict.left_out:
        return ""
    reasons = ", ".join(
        f"{count:,} {LEFT_OUT.get(reason, reason.replace('_', ' '))}" for reason, count in verdict.left_out.items()
    )
    return f"Left out: {reasons}."


def against(evaluation: Evaluation) -> str:
    """The opponent, as a heading names it."""
    return f"checkpoint {evaluation.opponent_id}" if evaluation.opponent_id else evaluation.opponent_model


def percent(value: float | None) -> str:
    return "–" if value is None else f"{points(value)} %"


def points(value: float) -> int:
    return round(100 * value)


def span(interval: Interval) -> str:
    """52–63 %; both ends rounded, and never to the same number as a bar that the end lies beyond."""
    return f"{_end(interval.low)}–{_end(interval.high)} %"


def _end(value: float) -> str:
    """An end in whole points, or in tenths where rounding would put it on one half."""
    whole = points(value)
    return f"{100 * value:.1f}" if whole == 50 and abs(value - 0.5) > 1e-9 else str(whole)


def many(count: int, noun: str, plural: str = "") -> str:
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def listed(names: Sequence[str]) -> str:
    return ", ".join(names)
