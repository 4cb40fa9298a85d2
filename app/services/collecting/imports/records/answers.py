# Written by `make run-config` from worker/dpo/data/records/answers.py: change it there.
"""A line's answers where it has a list of them, with their sources and ranks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from app.services.collecting.imports.records.messages import is_message
from app.services.collecting.imports.records.plan import Plan
from app.services.collecting.imports.records.refusals import BadLine, number_in, shown
from app.services.collecting.imports.records.roles import ANSWER_SIDE, Role, normal, side_of

TEXT_KEYS = ("text", "answer", "response", "completion", "output", "generation", "content", "value", "messages")
SOURCE_KEYS = ("source", "model", "model_name", "policy", "generator")
# Ranks count from the best, scores to it.
RANK_KEYS, SCORE_KEYS = ("rank", "ranking", "position"), ("overall_score", "score", "rating", "reward")
LeaveOut = Callable[[str], None]


@dataclass(slots=True)
class Answer:
    """One of a line's answers as it stands, with where it comes from and how it was ranked: the lower the better."""

    value: Any
    source: Any = None
    rank: float | None = None


def listed(row: dict[str, Any], plan: Plan, leave_out: LeaveOut) -> list[Answer]:
    """The answers of a line with their sources and ranks."""
    if len(plan.answers) > 1:
        answers = [Answer(row[column]) for column in plan.answers if row[column] is not None]
    else:
        column = plan.answers[0]
        value = row[column]
        if not isinstance(value, list):
            raise BadLine("not_two_answers", f"`{column}` is {shown(value)}, not a list of answers.")
        answers = [_answer(one, column, leave_out) for one in value]
    by_role = plan.by_role
    sources = row[by_role[Role.SOURCES]] if Role.SOURCES in by_role else None
    for role, place in ((Role.FIRST_SOURCE, 0), (Role.SECOND_SOURCE, 1)):
        if role in by_role and len(answers) == 2:
            answers[place].source = row[by_role[role]]
        elif role in by_role:
            leave_out(by_role[role])
    if sources is not None:
        if not isinstance(sources, list) or len(sources) != len(answers):
            raise BadLine("bad_field", f"`{by_role.get(Role.SOURCES, 'sources')}` isn't a list of {len(answers)}.")
        for answer, source in zip(answers, sources, strict=True):
            if answer.source is not None and answer.source != source:
                leave_out(by_role[Role.SOURCES])  # what stands at the answer itself is surer
            answer.source = source if answer.source is None else answer.source
    for role, sign in ((Role.RANKS, 1), (Role.SCORES, -1)):
        if role in by_role:
            _forget_ranks(answers, plan, leave_out)
            _rank(answers, row[by_role[role]], by_role[role], sign)
    if plan.judged_by in (Role.VOTE, Role.VOTE_FIRST, Role.JUDGMENTS, Role.FIRST_SCORE):
        _forget_ranks(answers, plan, leave_out)
    ranked = sum(answer.rank is not None for answer in answers)
    if 0 < ranked < len(answers):
        leave_out(f"{plan.answers[0]}[] without a rank")
        answers = [answer for answer in answers if answer.rank is not None]
    return answers


def _forget_ranks(answers: Sequence[Answer], plan: Plan, leave_out: LeaveOut) -> None:
    """Leaves out the ranks that stand at the answers, where a column says who is better."""
    for answer in answers:
        if answer.rank is not None:
            answer.rank = None
            leave_out(f"{plan.answers[0]}[].rank")


def _rank(answers: Sequence[Answer], ranks: Any, column: str, sign: int) -> None:
    if not isinstance(ranks, list) or len(ranks) != len(answers):
        raise BadLine("bad_field", f"`{column}` isn't a list of {len(answers)} numbers, one for each answer.")
    for answer, rank in zip(answers, ranks, strict=True):
        if rank is not None:
            answer.rank = sign * number_in(rank, column)


def _answer(value: Any, column: str, leave_out: LeaveOut) -> Answer:
    """One item of a list of answers: a text, messages, or an object with text, source and rank."""
    if not isinstance(value, dict) or is_message(value):
        return Answer(value)
    words = next((key for key in TEXT_KEYS if key in value), None)
    if words is None:
        raise BadLine("not_text", f"`{column}` holds an answer without text: {shown(value)}.")
    by = next((key for key in SOURCE_KEYS if value.get(key) is not None), None)
    place = next((key for key in RANK_KEYS + SCORE_KEYS if value.get(key) is not None), None)
    rank = number_in(value[place], f"{column}[].{place}") if place else None
    for key in value.keys() - {words, by, place}:
        leave_out(f"{column}[].{key}")
    return Answer(value[words], value[by] if by else None, -rank if rank is not None and place in SCORE_KEYS else rank)


def picked_answer(row: dict[str, Any], plan: Plan, answers: Sequence[Answer]) -> int | None:
    """Which of several answers a vote names; None where there is none."""
    if Role.VOTE not in plan.by_role or any(answer.rank is not None for answer in answers):
        return None
    column = plan.by_role[Role.VOTE]
    value = str(row[column])
    if len(plan.answers) > 1:
        for place, name in enumerate(plan.answers):
            sided = side_of(ANSWER_SIDE, normal(name))
            if value in (name, normal(name)) or (sided and value.removesuffix(".0") == sided[1]):
                return place
    named = [place for place, answer in enumerate(answers) if answer.source == row[column]]
    if len(named) == 1:
        return named[0]
    raise BadLine("bad_field", f"`{column}` is {shown(row[column])}, which names none of the {len(answers)} answers.")
