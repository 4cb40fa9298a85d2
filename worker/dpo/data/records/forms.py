"""A line's columns as one pair or several, in every form that data sets of preferences have.

A `Reader` decides once for each set of columns what becomes of them (`plan`), and reads every line by that. A line is
understood whole or refused with a column's name, and what isn't used is counted by its column.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from worker.dpo.data.records.answers import Answer, listed, picked_answer
from worker.dpo.data.records.conversation import Sides, sides_of
from worker.dpo.data.records.messages import Message, is_conversation
from worker.dpo.data.records.plan import Plan, joined, plan_of, unfolded
from worker.dpo.data.records.question import asked, turns_in_lists
from worker.dpo.data.records.refusals import BadLine, shown
from worker.dpo.data.records.roles import UNFOLDED, Role, normal
from worker.dpo.data.records.votes import FIRST, SECOND, TIE, Vote, many_votes, one_vote, ranked_vote

MOST_ANSWERS = 16
MOST_PLANS = 500
MOST_COLUMNS = 1_000


@dataclass(slots=True)
class Reading:
    """One pair of a line. `votes`: what was said of it, none where it waits for a judgment. `values`: what else the line
    says, by its role, as it stands. `plain`: prompt and answers as texts that no template wraps, where they are."""

    prompt: list[Message]
    first: list[Message]
    second: list[Message]
    votes: list[Vote]
    sources: tuple[Any, Any]
    values: dict[Role, Any]
    plain: tuple[str, str, str] | None = None


class Reader:
    """Reads lines, and keeps count of what became of their columns.

    given: roles that a person gave columns. `notes` counts what was done that a line doesn't say by itself.
    """

    def __init__(self, given: Mapping[str, Role] | None = None) -> None:
        self.given = dict(given or {})
        self.notes: dict[str, int] = {}
        self._inner: dict[str, int] = {}
        self._counted: dict[str, dict[str, int]] = {}
        self._plans: dict[tuple[Any, ...], Plan] = {}
        self._folded: set[tuple[Any, ...]] = set()

    def read(self, row: dict[str, Any]) -> list[Reading]:
        """The pairs of one line. Raises BadLine."""
        plan, row = self._plan(row)
        if plan.refusal is not None:
            raise BadLine(plan.refusal.reason, plan.refusal.message)
        if Role.ANSWERS in plan.by_role:
            readings = self._several(row, plan)
        elif (
            isinstance(row[plan.answers[1]], list)
            and _texts_only(row[plan.answers[1]])
            and Role.REJECTED in plan.by_role
        ):
            readings = self._many_rejected(row, plan)
        else:
            sources = (
                row.get(plan.by_role.get(Role.FIRST_SOURCE, "")),
                row.get(plan.by_role.get(Role.SECOND_SOURCE, "")),
            )
            if Role.SOURCES in plan.by_role:
                one, other = _one_each(row[plan.by_role[Role.SOURCES]], 2, plan.by_role[Role.SOURCES])
                sources = one, other
            values = row[plan.answers[0]], row[plan.answers[1]]
            readings = [self._pair(row, plan, values, sources)]
        plan.lines += 1
        return readings

    def columns(self) -> dict[str, dict[str, int]]:
        """What became of each column of the lines that were read: how many lines, by role."""
        told = {column: dict(roles) for column, roles in self._counted.items()}
        for column, roles in joined(self._plans.values()).items():
            counts = told.setdefault(column, {})
            for role, lines in roles.items():
                counts[role] = counts.get(role, 0) + lines
        return told | {column: {Role.LEFT_OUT.value: lines} for column, lines in self._inner.items()}

    def leave_out(self, column: str) -> None:
        """Counts something within a column, such as `answers[].length`, that a line's pairs don't use."""
        if column in self._inner or len(self._inner) < MOST_COLUMNS:
            self._inner[column] = self._inner.get(column, 0) + 1
        else:
            self.note("columns_uncounted")

    def plan(self, row: dict[str, Any]) -> Plan:
        """What the columns of a line become."""
        return self._plan(row)[0]

    def prompt(self, row: dict[str, Any]) -> Sides:
        """The prompt of a line, whether or not it has answers; `plain` where it is a text alone. Raises BadLine."""
        plan, row = self._plan(row)
        asking = asked(row, plan)
        if not asking.messages and plan.refusal is None:
            reading = self.read(row)[0]
            return Sides(reading.prompt, [], [], reading.plain)
        lists = any(isinstance(row[column], list | dict) for column in plan.answers)
        plain = None
        if (
            asking.text is not None
            and not lists
            and normal(plan.prompts[0]) == "prompt"
            and not plan.by_role.get(Role.FIRST)
        ):
            plain = (asking.text, "", "")
        return Sides(asking.messages, [], [], plain)

    def _plan(self, row: dict[str, Any]) -> tuple[Plan, dict[str, Any]]:
        if len(row) > MOST_COLUMNS:
            raise BadLine("bad_field", f"The line has {len(row):,} columns; up to {MOST_COLUMNS:,} are read.")
        key = (*row, *map(type, row.values()))
        plan = self._plans.get(key)
        if plan is None:
            if key in self._folded or any(type(row.get(column)) is dict for column in (*UNFOLDED, "responses")):
                flat = unfolded(row)
                if flat.keys() != row.keys():
                    self._folded.add(key)
                    return self._plan(flat)
            if len(self._plans) >= MOST_PLANS:
                self._forget()
            plan = self._plans[key] = plan_of(row, self.given)
        return plan, row

    def _forget(self) -> None:
        """Makes room in a file with ever new columns, and keeps what the plans counted."""
        for column, roles in joined(self._plans.values()).items():
            if column not in self._counted and len(self._counted) >= MOST_COLUMNS:
                self.note("columns_uncounted")
                continue
            counts = self._counted.setdefault(column, {})
            for role, lines in roles.items():
                counts[role] = counts.get(role, 0) + lines
        self._plans.clear()
        self._folded.clear()

    def note(self, what: str, count: int = 1) -> None:
        self.notes[what] = self.notes.get(what, 0) + count

    def _pair(self, row: dict[str, Any], plan: Plan, values: tuple[Any, Any], sources: tuple[Any, Any]) -> Reading:
        """The pair of a line with two answers, with its votes."""
        columns = (plan.answers[0], plan.answers[-1])
        sides = self._sides(row, plan, values, columns)
        if plan.judged_by == Role.JUDGMENTS.value:
            votes = many_votes(row, plan, sources, self.leave_out)
        else:
            vote = one_vote(row, plan, sources)
            votes = [vote] if vote is not None else []
        return self._reading(row, plan, sides, votes, sources)

    def _sides(self, row: dict[str, Any], plan: Plan, values: tuple[Any, Any], columns: tuple[str, str]) -> Sides:
        if len(plan.prompts) == 1 and isinstance(values[0], str | list) and not is_conversation(values[0]):
            question = row[plan.prompts[0]]
            if isinstance(question, list) or (isinstance(question, str) and question[:1] == "["):
                question, *both = turns_in_lists(question, *values)
                if question is None:
                    system = asked({**row, plan.prompts[0]: []}, plan)
                    return sides_of(system, (both[0], both[1]), plan, columns)
        return sides_of(asked(row, plan, values[0]), values, plan, columns)

    def _reading(
        self, row: dict[str, Any], plan: Plan, sides: Sides, votes: list[Vote], sources: tuple[Any, Any]
    ) -> Reading:
        values = {role: row[column] for role, column in plan.values} if plan.values else {}
        return Reading(sides.prompt, sides.first, sides.second, votes, sources, values, sides.plain)

    def _many_rejected(self, row: dict[str, Any], plan: Plan) -> list[Reading]:
        """One chosen answer and a list of rejected ones: a pair for each of these."""
        chosen, rejected = row[plan.answers[0]], row[plan.answers[1]]
        if not 0 < len(rejected) <= MOST_ANSWERS:
            raise BadLine(
                "too_many_answers", f"`{plan.answers[1]}` has {len(rejected)} answers; up to {MOST_ANSWERS} are read."
            )
        source = row.get(plan.by_role.get(Role.FIRST_SOURCE, ""))
        others = [row.get(plan.by_role.get(Role.SECOND_SOURCE, ""))] * len(rejected)
        if Role.SOURCES in plan.by_role:
            source, *others = _one_each(row[plan.by_role[Role.SOURCES]], 1 + len(rejected), plan.by_role[Role.SOURCES])
        return [
            self._pair(row, plan, (chosen, one), (source, other)) for one, other in zip(rejected, others, strict=True)
        ]

    def _several(self, row: dict[str, Any], plan: Plan) -> list[Reading]:
        """The pairs of a list of answers: two are one pair; of more, every two of different rank are a pair, the better
        one chosen; without ranks every two wait for a judgment."""
        answers = listed(row, plan, self.leave_out)
        if len(answers) < 2:
            raise BadLine("not_two_answers", f"`{plan.answers[0]}` has fewer than two answers.")
        if len(answers) > MOST_ANSWERS:
            raise BadLine(
                "too_many_answers", f"`{plan.answers[0]}` has {len(answers)} answers; up to {MOST_ANSWERS} are read."
            )
        if len(answers) == 2 and answers[0].rank is None:
            one, other = answers
            return [self._pair(row, plan, (one.value, other.value), (one.source, other.source))]
        if plan.judged_by in (Role.JUDGMENTS, Role.VOTE_FIRST, Role.FIRST_SCORE):
            raise BadLine(
                "bad_field", f"`{plan.by_role[Role(plan.judged_by)]}` judges two answers, and there are more."
            )
        picked = picked_answer(row, plan, answers)
        if picked is not None:
            for place, answer in enumerate(answers):
                answer.rank = float(place != picked)
        column = (plan.answers[0], plan.answers[0])
        readings = []
        for one, other in combinations(answers, 2):
            vote = _ranked(one, other, alone=len(answers) == 2)
            if vote is None:
                continue
            if one.value == other.value and len(answers) > 2:
                self.note("equal_answers")
                continue
            if vote == SECOND:
                one, other = other, one
            sides = self._sides(row, plan, (one.value, other.value), column)
            votes = [] if vote == "" else [ranked_vote(TIE if vote == TIE else FIRST, row, plan, self.leave_out)]
            readings.append(self._reading(row, plan, sides, votes, (one.source, other.source)))
        if not readings:
            raise BadLine("identical_answers", f"`{plan.answers[0]}` has no two answers that differ in text and rank.")
        return readings


def _texts_only(value: list[Any]) -> bool:
    return bool(value) and all(isinstance(one, str) for one in value)


def _one_each(value: Any, answers: int, column: str) -> list[Any]:
    """A list's members, one for each answer. Raises BadLine where they are more or fewer, or no list."""
    if not isinstance(value, list) or len(value) != answers:
        raise BadLine("bad_field", f"`{column}` is {shown(value)}, not a list of {'two' if answers == 2 else answers}.")
    return value


def _ranked(one: Answer, other: Answer, *, alone: bool) -> str | None:
    """first or second for the better one of two, "" where nobody said, None where they aren't to be paired."""
    if one.rank is None or other.rank is None:
        return ""
    if one.rank == other.rank:
        return TIE if alone else None
    return FIRST if one.rank < other.rank else SECOND
