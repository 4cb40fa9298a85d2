"""What a column says about two answers: the better one, how much better, and who said so."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from worker.dpo.data.records.plan import Plan
from worker.dpo.data.records.refusals import BadLine, number_in, shown
from worker.dpo.data.records.roles import Role, normal

FIRST, SECOND, TIE, BOTH_BAD, SKIP = "first", "second", "tie", "both_bad", "skip"
CHOICES = (FIRST, SECOND, TIE, BOTH_BAD, SKIP)
WORDS = {
    word: choice
    for choice, words in {
        FIRST: "a first left model_a assistant_a response_a",
        SECOND: "b second right model_b assistant_b response_b",
        TIE: "tie tied draw equal both same both_good",
        BOTH_BAD: "both_bad bothbad tie_bothbad tie_both_bad neither",
        SKIP: "skip skipped",
    }.items()
    for word in words.split()
}
STRENGTHS = {"slightly": 1, "slight": 1, "clearly": 2, "clear": 2, "far": 3, "much": 3}
MOST_VOTES = 1_000
SIGNED = ("overall_preference", "preference_strength")
VOTE_KEYS = {"value", "user_id", "status", "result", "completed_by", "was_cancelled"}
LeaveOut = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Vote:
    """What one person said of a pair. `rater`: who, where the file says so; `name`: what they are called. `details`: what
    else Prefloop's own form keeps of a judgment."""

    choice: str
    strength: int | None = None
    rater: str = ""
    name: str = ""
    note: str = ""
    details: dict[str, Any] | None = None

    def turned(self) -> "Vote":
        """The same vote where the answers stand the other way round."""
        return replace(self, choice={FIRST: SECOND, SECOND: FIRST}.get(self.choice, self.choice))


def word_of(value: Any) -> str:
    return re.sub(r"[^a-z0-9]+", "_", str(value).lower()).strip("_")


def choice_of(value: Any, column: str, plan: Plan, sources: tuple[Any, Any]) -> str:
    """first, second, tie, both_bad or skip. Raises BadLine with the column's name."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise _unclear(column, value)
    name = normal(column)
    if name in SIGNED and (number := _whole(value)) is not None and abs(number) <= 3:
        return FIRST if number < 0 else SECOND if number else TIE
    answer = _by_name(value, plan)
    if answer is not None:
        return (FIRST, SECOND)[answer]
    word = word_of(value)
    if word in WORDS:
        return WORDS[word]
    named = [place for place, source in enumerate(sources) if isinstance(source, str) and source and source == value]
    if len(named) == 1:
        return (FIRST, SECOND)[named[0]]
    number = _whole(value)
    if number is not None:
        if name == "labels" and plan.sides == ["a", "b"] and number in (0, 1):
            return FIRST if number == 1 else SECOND  # SHP: 1 says that A was preferred
        if plan.answers == ["summaries"] and number in (0, 1):
            return (FIRST, SECOND)[number]  # OpenAI's summaries, counted from 0
        if not any(side.isdigit() for side in plan.sides) and number in (1, 2) and name == "preference":
            return (FIRST, SECOND)[number - 1]
    raise _unclear(column, value)


def _by_name(value: Any, plan: Plan) -> int | None:
    """Which of two answer columns a value names: the whole name, or its letter or number."""
    if len(plan.answers) != 2:
        return None
    number = _whole(value)
    words = {str(number)} if number is not None else {str(value), word_of(value)}
    for place, (column, side) in enumerate(zip(plan.answers, plan.sides, strict=True)):
        if column in words or normal(column) in words or (side and side in words):
            return place
    return None


def _whole(value: Any) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    if isinstance(value, str) and re.fullmatch(r"-?\d{1,3}(\.0*)?", value.strip()):
        return int(float(value))
    return None


def _unclear(column: str, value: Any) -> BadLine:
    return BadLine(
        "bad_field",
        f"`{column}` is {shown(value)}, which doesn't say which answer is better. Write first, second, tie or both_bad.",
    )


def strength_of(value: Any, column: str) -> int | None:
    """1 slightly, 2 clearly, 3 far better. Raises BadLine."""
    if value is None:
        return None
    number = STRENGTHS.get(word_of(value)) if isinstance(value, str) else None
    number = number or _whole(value)
    if number is None or not 1 <= abs(number) <= 3:
        raise BadLine(
            "bad_field", f"`{column}` is {shown(value)}, not a strength of 1 (slightly), 2 (clearly) or 3 (far)."
        )
    return abs(number)


def one_vote(row: dict[str, Any], plan: Plan, sources: tuple[Any, Any]) -> Vote | None:
    """What the line's one vote says; None where it has none."""
    by_role = plan.by_role
    strength = None
    if Role.VOTE in by_role:
        column = by_role[Role.VOTE]
        choice = choice_of(row[column], column, plan, sources)
        if normal(column) in SIGNED and choice is not TIE:
            strength = strength_of(row[column], column)
    elif Role.VOTE_FIRST in by_role:
        choice = _of_flags(row, plan)
    elif Role.FIRST_SCORE in by_role:
        first, second = (number_in(row[by_role[role]], by_role[role]) for role in (Role.FIRST_SCORE, Role.SECOND_SCORE))
        choice = FIRST if first > second else SECOND if second > first else TIE
    elif plan.judged_by == Role.CHOSEN.value:
        choice = FIRST
    else:
        return None
    if Role.STRENGTH in by_role and choice in (FIRST, SECOND):
        strength = strength_of(row[by_role[Role.STRENGTH]], by_role[Role.STRENGTH])
    rater, note = _who_and_why(row, plan)
    return Vote(choice, strength, rater, rater, note)


def ranked_vote(choice: str, row: dict[str, Any], plan: Plan, leave_out: LeaveOut) -> Vote:
    """What ranks say of one pair of a line. A strength would be said of all its pairs, so it is left out."""
    if Role.STRENGTH in plan.by_role:
        leave_out(plan.by_role[Role.STRENGTH])
    rater, note = _who_and_why(row, plan)
    return Vote(choice, None, rater, rater, note)


def _who_and_why(row: dict[str, Any], plan: Plan) -> tuple[str, str]:
    by_role = plan.by_role
    rater = _said_by(row[by_role[Role.RATER]], by_role[Role.RATER]) if Role.RATER in by_role else ""
    note = row[by_role[Role.NOTE]] if Role.NOTE in by_role else ""
    if not isinstance(note, str):
        raise BadLine("not_text", f"`{by_role[Role.NOTE]}` isn't text but {shown(note)}.")
    return rater, note


def _of_flags(row: dict[str, Any], plan: Plan) -> str:
    """The vote of three columns of which one is 1, as the arena's data sets have it."""
    columns = [plan.by_role.get(role) for role in (Role.VOTE_FIRST, Role.VOTE_SECOND, Role.VOTE_TIE)]
    flags = [
        _whole(int(row[column]) if isinstance(row[column], bool) else row[column]) if column else 0
        for column in columns
    ]
    if sorted(flag if flag is not None else -1 for flag in flags) != [0, 0, 1]:
        named = ", ".join(f"`{column}`" for column in columns if column)
        raise BadLine("bad_field", f"Of {named} not exactly one is 1.")
    return (FIRST, SECOND, TIE)[flags.index(1)]


def _said_by(value: Any, column: str) -> str:
    if value is None or value == "":
        return ""
    if isinstance(value, dict):  # Label Studio's accounts
        value = value.get("email") or value.get("username") or value.get("id")
    if isinstance(value, bool) or not isinstance(value, str | int) or len(str(value)) > 255:
        raise BadLine("bad_field", f"`{column}` is {shown(value)}, not a name of up to 255 characters.")
    return str(value)


def many_votes(row: dict[str, Any], plan: Plan, sources: tuple[Any, Any], leave_out: LeaveOut) -> list[Vote]:
    """The votes of several people: Prefloop's own, Argilla's and Label Studio's. Raises BadLine."""
    column = plan.by_role[Role.JUDGMENTS]
    value = row[column]
    if not isinstance(value, list) or len(value) > MOST_VOTES:
        raise BadLine("bad_field", f"`{column}` is {shown(value)}, not a list of up to {MOST_VOTES} votes.")
    if Role.RATERS in plan.by_role or Role.STATUSES in plan.by_role or not all(isinstance(one, dict) for one in value):
        value = _joined(row, plan, value)
    votes = []
    for one in value:
        if not isinstance(one, dict):
            raise BadLine("bad_field", f"`{column}` holds {shown(one)}, not a vote.")
        vote = _vote_of(one, column, plan, sources)
        if vote is None:
            leave_out(f"{column}[] that weren't submitted")
            continue
        votes.append(vote)
        if "choice" not in one:
            for key in one.keys() - VOTE_KEYS:
                leave_out(f"{column}[].{key}")
    return votes


def _joined(row: dict[str, Any], plan: Plan, values: list[Any]) -> list[dict[str, Any]]:
    """Argilla's flattened columns, one list each, as one vote for each place."""
    users = row[plan.by_role[Role.RATERS]] if Role.RATERS in plan.by_role else [None] * len(values)
    statuses = row[plan.by_role[Role.STATUSES]] if Role.STATUSES in plan.by_role else [None] * len(values)
    if not (isinstance(users, list) and isinstance(statuses, list) and len(users) == len(statuses) == len(values)):
        raise BadLine(
            "bad_field", f"`{plan.by_role[Role.JUDGMENTS]}` and the columns of its people don't have one length."
        )
    return [
        {"value": value, "user_id": user, "status": status}
        for value, user, status in zip(values, users, statuses, strict=True)
    ]


def _vote_of(one: dict[str, Any], column: str, plan: Plan, sources: tuple[Any, Any]) -> Vote | None:
    """One vote; None for a draft, a discarded or a cancelled one."""
    if "choice" in one:
        return _own_vote(one, column)
    if one.get("was_cancelled") or one.get("status") in ("draft", "discarded", "pending"):
        return None
    if "result" in one:
        value = _selected(one["result"], column)
        rater = _said_by(one.get("completed_by"), f"{column}[].completed_by")
    elif "value" not in one:
        raise BadLine("bad_field", f"`{column}` holds {shown(one)}, not a vote.")
    else:
        value = one["value"]
        rater = _said_by(one.get("user_id"), f"{column}[].user_id")
    if value is None:
        return None
    if isinstance(value, dict):
        value = value.get("selected", value.get("value"))
    return Vote(choice_of(value, column, plan, sources), None, rater, rater)


def _selected(result: Any, column: str) -> Any:
    """What was picked in a Label Studio annotation; None where nothing was."""
    if not isinstance(result, list):
        raise BadLine("bad_field", f"`{column}[].result` is {shown(result)}, not a list.")
    for part in result:
        value = part.get("value") if isinstance(part, dict) else None
        if isinstance(value, dict) and "selected" in value:
            return value["selected"]
        if isinstance(value, dict) and part.get("type") == "choices" and isinstance(value.get("choices"), list):
            return value["choices"][0] if value["choices"] else None
    return None


def _own_vote(one: dict[str, Any], column: str) -> Vote:
    if one["choice"] not in CHOICES:
        raise BadLine("bad_field", f"`{column}[].choice` is {shown(one['choice'])}, none of {', '.join(CHOICES)}.")
    strength = strength_of(one.get("strength"), f"{column}[].strength")
    rater = _said_by(one.get("rater"), f"{column}[].rater")
    name = _said_by(one.get("name"), f"{column}[].name")
    note = one.get("rationale") or ""
    if not isinstance(note, str):
        raise BadLine("not_text", f"`{column}[].rationale` isn't text.")
    known = ("choice", "strength", "rater", "name", "rationale")
    return Vote(
        one["choice"], strength, rater or name, name or rater, note, {k: v for k, v in one.items() if k not in known}
    )
