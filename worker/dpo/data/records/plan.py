"""Which column of a line becomes what: decided once for each set of columns, then used for every line that has it."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from worker.dpo.data.records.messages import is_conversation, is_from_assistant, is_message
from worker.dpo.data.records.refusals import BadLine
from worker.dpo.data.records.roles import (
    ANSWER_SIDE,
    BESIDE,
    BY_NAME,
    PROMPTS,
    SCORE_SIDE,
    SOURCE_SIDE,
    UNFOLDED,
    Role,
    normal,
    side_of,
)

LONE_SIDES = {"a": Role.FIRST_SOURCE, "first": Role.FIRST_SOURCE, "b": Role.SECOND_SOURCE, "second": Role.SECOND_SOURCE}
MANY = (Role.PROMPT, Role.LEFT_OUT, Role.EMPTY)  # every other role has one column of a line
JUDGED = (Role.JUDGMENTS, Role.VOTE, Role.VOTE_FIRST, Role.RANKS, Role.SCORES, Role.FIRST_SCORE)
PREFERENCE = re.compile(r"prefer|best|choose|choice|winner|better|compar|rank|pairwise")


@dataclass(slots=True)
class Plan:
    """What the columns of a line become. `answers`: the columns of the answers, the chosen one first where they are judged.
    `prompts`: columns that may hold the prompt, the first of which is taken. `unknown`: columns of text that nothing
    was recognised in. `lines`: how many lines were read by it."""

    roles: dict[str, Role]
    prompts: list[str] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    sides: list[str] = field(default_factory=list)
    by_role: dict[Role, str] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    values: list[tuple[Role, str]] = field(default_factory=list)
    refusal: BadLine | None = None
    lines: int = 0
    judged_by: str = ""


KEPT = tuple(
    map(Role, ("id", "priority", "gold", "arm", "excluded", "tools", "weight", "p_chosen", "votes", "votes_chosen"))
)


def unfolded(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with the fields of objects that hold columns as columns of their own, `input.messages`."""
    flat: dict[str, Any] = {}
    for column, value in row.items():
        if column in UNFOLDED and type(value) is dict and not is_message(value):
            flat.update((f"{column}.{key}", part) for key, part in value.items())
        elif column == "responses" and type(value) is dict and "fields" in row:
            # Argilla's records: the answers to each question, by its name.
            flat.update((f"responses.{key}", part) for key, part in value.items())
        else:
            flat[column] = value
    return flat


def plan_of(row: Mapping[str, Any], given: Mapping[str, Role]) -> Plan:
    """What the columns of a row become. `given`: what a person said of some of them."""
    roles = {column: _given_or_known(column, value, given) for column, value in row.items()}
    _number_sides(roles, row, given)
    _one_of_each(roles, given)
    _find_votes(roles, row, given)
    plan = Plan(roles)
    plan.prompts = _prompts(roles, row)
    for column, role in roles.items():
        if (
            role is not Role.PROMPT
            and plan.by_role.setdefault(role, column) != column
            and role not in (Role.ANSWERS, *MANY)
        ):
            roles[column] = Role.LEFT_OUT
    _settle(plan, row)
    plan.values = [(role, plan.by_role[role]) for role in KEPT if role in plan.by_role]
    plan.unknown = [
        column
        for column, role in roles.items()
        if role is Role.LEFT_OUT
        and column not in given
        and not isinstance(row[column], bool | int | float)
        and normal(column) not in BESIDE
        and not normal(column).endswith(("_id", "_model", "_name", "_source", "_at", "_type"))
    ]
    return plan


def _given_or_known(column: str, value: Any, given: Mapping[str, Role]) -> Role:
    if value is None:
        return Role.EMPTY
    if column in given:
        return given[column]
    name = normal(column)
    if column.startswith("responses.") or (column.endswith(".responses") and isinstance(value, list)):
        return Role.LEFT_OUT  # Argilla's; looked at with the other votes
    if name in PROMPTS:
        return Role.PROMPT
    role = BY_NAME.get(name, Role.LEFT_OUT)
    if role in (Role.JUDGMENTS, Role.SCORES, Role.ANSWERS) and not isinstance(value, list):
        return Role.LEFT_OUT
    if role is Role.EXCLUDED and not isinstance(value, dict):
        return Role.LEFT_OUT  # not Prefloop's own: who knows what it says
    if role is Role.VOTE and ((isinstance(value, float) and not value.is_integer()) or isinstance(value, dict | list)):
        return Role.LEFT_OUT if name != "choose_best" else Role.JUDGMENTS
    return role


def _number_sides(roles: dict[str, Role], row: Mapping[str, Any], given: Mapping[str, Role]) -> None:
    """Columns that come in twos or more, such as response_a and response_b, and what goes with them."""
    names = {column: normal(column) for column, role in roles.items() if role is Role.LEFT_OUT and column not in given}
    answers = _sided(ANSWER_SIDE, names)
    if len(answers) < 2 or not all(isinstance(row[column], str | list | dict) for column, _ in answers):
        answers = []
    if len(answers) == 2:
        roles[answers[0][0]], roles[answers[1][0]] = Role.FIRST, Role.SECOND
    else:
        roles.update((column, Role.ANSWERS) for column, _ in answers)
    for pattern, first, second in (
        (SOURCE_SIDE, Role.FIRST_SOURCE, Role.SECOND_SOURCE),
        (SCORE_SIDE, Role.FIRST_SCORE, Role.SECOND_SCORE),
    ):
        sided = _sided(pattern, names)
        if len(sided) == 2:
            roles[sided[0][0]], roles[sided[1][0]] = first, second
        elif pattern is SOURCE_SIDE and not sided:  # one of the two sources may be missing
            for column, name in names.items():
                side = (side_of(pattern, name) or ("", ""))[1]
                if side in LONE_SIDES:
                    roles[column] = LONE_SIDES[side]


def _sided(pattern: re.Pattern[str], names: Mapping[str, str]) -> list[tuple[str, str]]:
    """(column, side) of the largest family of columns that differ in their letter or number only, in order."""
    families: dict[str, list[tuple[str, str]]] = {}
    for column, name in names.items():
        if (sided := side_of(pattern, name)) is not None:
            families.setdefault(sided[0], []).append((column, sided[1]))
    fitting = [family for family in families.values() if len({side for _, side in family}) == len(family) > 1]
    largest = max(fitting, key=lambda family: len(family), default=[])
    return sorted(largest, key=lambda one: one[1])


def _one_of_each(roles: dict[str, Role], given: Mapping[str, Role]) -> None:
    """One column for each role that a line has once: what a person said, else the name that is known best."""
    for role in Role:
        if role in MANY:
            continue
        columns = [column for column, its in roles.items() if its is role]
        if len(columns) < 2 or (role is Role.ANSWERS and all(side_of(ANSWER_SIDE, normal(one)) for one in columns)):
            continue
        best = min(columns, key=lambda column: (column not in given, _rank(column)))
        roles.update((column, Role.LEFT_OUT) for column in columns if column is not best)


def _rank(column: str) -> int:
    names = list(BY_NAME)
    name = normal(column)
    return names.index(name) if name in names else len(names)


def _find_votes(roles: dict[str, Role], row: Mapping[str, Any], given: Mapping[str, Role]) -> None:
    """Columns with the votes of several people: Argilla's questions, plain or flattened."""
    if any(role in (Role.JUDGMENTS, Role.CHOSEN) for role in roles.values()):
        return
    free = [column for column, role in roles.items() if role in (Role.LEFT_OUT, Role.VOTE) and column not in given]
    asked = [
        column
        for column in free
        if _is_votes(row[column]) or (column.endswith(".responses") and isinstance(row[column], list))
    ]
    asked.sort(key=lambda column: PREFERENCE.search(column.lower()) is None)
    if not asked or (len(asked) > 1 and not PREFERENCE.search(asked[0].lower())):
        return
    roles[asked[0]] = Role.JUDGMENTS
    for suffix, role in ((".users", Role.RATERS), (".status", Role.STATUSES)):
        if asked[0] + suffix in roles:
            roles[asked[0] + suffix] = role


def _is_votes(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(one, dict) and "value" in one and ("user_id" in one or "status" in one) for one in value)
    )


def _prompts(roles: dict[str, Role], row: Mapping[str, Any]) -> list[str]:
    """The columns of the prompt, the one that is taken first; `input` after an instruction is its second part."""
    columns = [column for column, role in roles.items() if role is Role.PROMPT]
    order = {name: place for place, name in enumerate(PROMPTS)}
    columns.sort(key=lambda column: order.get(normal(column), -1))
    kept = list(columns)
    for column in columns:
        name, value = normal(column), row[column]
        others = [other for other in kept if other is not column]
        if name == "input" and others and not isinstance(value, list | dict):
            roles[column] = Role.INPUT
            kept.remove(column)
        elif name == "history" and isinstance(value, list) and not is_conversation(value):
            roles[column] = Role.HISTORY
            kept.remove(column)
        elif others and ((name == "context" and isinstance(value, str)) or _holds_no_messages(value)):
            roles[column] = Role.LEFT_OUT
            kept.remove(column)
    return kept


def _holds_no_messages(value: Any) -> bool:
    """Whether a list holds something else than messages or texts, such as turns in a program's own form."""
    return isinstance(value, list) and any(isinstance(item, dict) and not is_message(item) for item in value)


def _settle(plan: Plan, row: Mapping[str, Any]) -> None:
    """Which columns are the answers, and what decides between them."""
    by_role = plan.by_role
    if Role.REJECTED in by_role and Role.CHOSEN not in by_role and len(plan.prompts) == 1:
        whole = row[plan.prompts[0]]
        if is_conversation(whole) and is_from_assistant(whole[-1]):
            column = plan.prompts.pop()  # a conversation that ends with the chosen answer, as ms-swift has it
            plan.roles[column] = Role.CHOSEN
            by_role[Role.CHOSEN] = column
    if Role.CHOSEN in by_role and Role.REJECTED in by_role:
        plan.answers = [by_role[Role.CHOSEN], by_role[Role.REJECTED]]
        plan.judged_by = Role.CHOSEN.value
        _leave_out(
            plan, Role.FIRST, Role.SECOND, Role.ANSWERS, Role.VOTE_SECOND, Role.VOTE_TIE, Role.SECOND_SCORE, *JUDGED
        )
    elif Role.FIRST in by_role and Role.SECOND in by_role:
        plan.answers = [by_role[Role.FIRST], by_role[Role.SECOND]]
        plan.sides = [(side_of(ANSWER_SIDE, normal(column)) or ("", ""))[1] for column in plan.answers]
        _leave_out(plan, Role.ANSWERS, Role.CHOSEN, Role.REJECTED, Role.RANKS, Role.SCORES)
        _first_judge(plan)
    elif Role.ANSWERS in by_role:
        plan.answers = [column for column, role in plan.roles.items() if role is Role.ANSWERS]
        plan.sides = [(side_of(ANSWER_SIDE, normal(column)) or ("", ""))[1] for column in plan.answers]
        _leave_out(plan, Role.CHOSEN, Role.REJECTED, Role.FIRST, Role.SECOND)
        _first_judge(plan)
    else:
        plan.refusal = _unknown(row)
    if Role.SOURCES in by_role and Role.ANSWERS in by_role:
        _leave_out(plan, Role.FIRST_SOURCE, Role.SECOND_SOURCE)
    elif Role.FIRST_SOURCE in by_role or Role.SECOND_SOURCE in by_role:
        _leave_out(plan, Role.SOURCES)
    if not plan.judged_by:
        _leave_out(plan, Role.STRENGTH, Role.RATER, Role.NOTE)
    if by_role.get(Role.JUDGMENTS) is None:
        _leave_out(plan, Role.RATERS, Role.STATUSES)


def _first_judge(plan: Plan) -> None:
    """One thing decides between answers: votes of people before one vote, that before ranks, these before scores."""
    judges = [role for role in JUDGED if role in plan.by_role]
    if Role.FIRST_SCORE in judges and Role.SECOND_SCORE not in plan.by_role:
        judges.remove(Role.FIRST_SCORE)
    if judges:
        plan.judged_by = judges[0].value
    for role in JUDGED:
        if not judges or role is not judges[0]:
            _leave_out(plan, role, *({Role.FIRST_SCORE: (Role.SECOND_SCORE,)}.get(role, ())))
    if not judges or judges[0] is not Role.VOTE_FIRST:
        _leave_out(plan, Role.VOTE_SECOND, Role.VOTE_TIE)


def _leave_out(plan: Plan, *roles: Role) -> None:
    for role in roles:
        if plan.by_role.pop(role, None) is not None:
            plan.roles.update((column, Role.LEFT_OUT) for column, its in plan.roles.items() if its is role)


def _unknown(row: Mapping[str, Any]) -> BadLine:
    columns = ", ".join(f"`{column}`" for column in list(row)[:12])[:300] or "none"
    if "completion" in row and isinstance(row.get("label"), bool):
        return BadLine(
            "unknown_form",
            "`completion` with `label` is one answer with a thumb, not a pair. Bring two answers to each prompt.",
        )
    return BadLine(
        "unknown_form",
        f"No columns are known as two answers: {columns}. Say what they are, as chosen, rejected, first, second or answers.",
    )


def joined(plans: Iterable[Plan]) -> dict[str, dict[str, int]]:
    """What became of each column: the number of lines by role."""
    told: dict[str, dict[str, int]] = {}
    for plan in plans:
        if plan.lines:
            for column, role in plan.roles.items():
                counts = told.setdefault(column, {})
                counts[role.value] = counts.get(role.value, 0) + plan.lines
    return told
