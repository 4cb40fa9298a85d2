"""Prefloop's own form: a project's pairs with every vote on them, one JSON object a pair, which an import reads back whole.

Pairs of evaluations are told apart: they have `compared` in place of `responses`, and the `evaluation`'s number. An import refuses these
lines, so that no way leads from an evaluation into what is trained on. While the evaluation asks, its answers lack their `source`, and
`sources_hidden` says so: who judges may take an extract out too. One that is taken out later has them.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session, aliased

from app.db import read_session
from app.models import Comparison, Evaluation, Exclusion, ExclusionKind, Judgment, Prompt, Response, SourceKind, User
from app.services.collecting.blind import hidden
from app.services.collecting.exclusions import COLUMNS, IN_FORCE
from app.services.collecting.imports.raters import key_of

PAGE = 500
HIDDEN = "Sources are hidden while evaluation {} asks blind. Take the project out again when it has ended."
LeftOut = dict[tuple[ExclusionKind, int], dict[str, str]]


def rows(engine: Engine, *, project_id: int) -> Iterator[dict[str, Any]]:
    """Every pair that the project has when this begins, in the order in which they came.

    Each page is a short look of its own, so that a slow reader holds no connection.
    """
    with read_session(engine) as session:
        newest = session.scalar(select(func.max(Comparison.id)).where(Comparison.project_id == project_id)) or 0
    after = 0
    while after < newest:
        with read_session(engine) as session:
            page = _page(session, project_id, after, newest)
        if not page:
            return
        after = page[-1][0]
        yield from (row for _, row in page)


def _page(session: Session, project_id: int, after: int, newest: int) -> list[tuple[int, dict[str, Any]]]:
    first, second = aliased(Response), aliased(Response)
    pairs = session.execute(
        select(Comparison, Prompt.messages, first, second, Evaluation.number)
        .join(Prompt, Prompt.id == Comparison.prompt_id)
        .join(first, first.id == Comparison.first_response_id)
        .join(second, second.id == Comparison.second_response_id)
        .outerjoin(Evaluation, Evaluation.id == Comparison.evaluation_id)
        .where(Comparison.project_id == project_id, Comparison.id > after, Comparison.id <= newest)
        .order_by(Comparison.id)
        .limit(PAGE)
    ).all()
    votes: dict[int, list[tuple[Judgment, User]]] = {}
    said = (
        select(Judgment, User)
        .join(User, User.id == Judgment.user_id)
        .where(Judgment.comparison_id.in_([pair[0].id for pair in pairs]))
    )
    for judgment, user in session.execute(said).tuples():
        votes.setdefault(judgment.comparison_id, []).append((judgment, user))
    left_out = _left_out(session, project_id, [pair[0] for pair in pairs], votes)
    blind = hidden.numbers(session, {answer.id for _, _, *answers, _ in pairs for answer in answers})
    return [
        (pair.id, _row(pair, messages, (one, other), votes.get(pair.id, []), number, left_out, blind))
        for pair, messages, one, other, number in pairs
    ]


def _left_out(
    session: Session,
    project_id: int,
    pairs: Sequence[Comparison],
    votes: Mapping[int, Sequence[tuple[Judgment, User]]],
) -> LeftOut:
    """What is left out now of these pairs and their votes: (kind, id) to what a line says of it."""
    of_pairs = [vote for of_one in votes.values() for vote in of_one]
    about = {
        ExclusionKind.PAIR: {pair.id for pair in pairs},
        ExclusionKind.IMPORT: {pair.import_id for pair in pairs if pair.import_id is not None},
        ExclusionKind.JUDGMENT: {judgment.id for judgment, _ in of_pairs},
        ExclusionKind.PERSON: {user.id for _, user in of_pairs},
    }
    left_out: LeftOut = {}
    for kind, numbers in about.items():
        column = getattr(Exclusion, COLUMNS[kind])
        rows = select(column, Exclusion.at, Exclusion.reason).where(
            Exclusion.project_id == project_id, column.in_(numbers), IN_FORCE
        )
        for number, at, reason in session.execute(rows).tuples():
            left_out[kind, number] = {"at": at.isoformat()} | ({"reason": reason} if reason else {})
    return left_out


def _row(
    pair: Comparison,
    messages: list[Any],
    answers: tuple[Response, Response],
    votes: list[tuple[Judgment, User]],
    evaluation: int | None,
    left_out: LeftOut,
    blind: Mapping[int, int],
) -> dict[str, Any]:
    told = [_answer(answer, is_hidden=answer.id in blind) for answer in answers]
    row: dict[str, Any] = {"prompt": messages}
    row |= {"responses": told} if evaluation is None else {"compared": told, "evaluation": evaluation}
    if asked := [blind[answer.id] for answer in answers if answer.id in blind]:
        row["sources_hidden"] = HIDDEN.format(asked[0])
    if pair.external_id:
        row["id"] = pair.external_id
    if pair.priority:
        row["priority"] = pair.priority
    if pair.gold_choice:
        row["gold"] = pair.gold_choice.value
    if pair.arm:
        row["arm"] = pair.arm.value
    excluded = left_out.get((ExclusionKind.PAIR, pair.id))
    if excluded := excluded or left_out.get((ExclusionKind.IMPORT, pair.import_id or 0)):
        row["excluded"] = excluded
    if votes:
        # Not by id: an import numbers them anew, and its own extract is to be the same file.
        votes.sort(key=lambda vote: (vote[0].submitted_at, key_of(vote[1]), not vote[0].superseded, vote[0].id))
        row["judgments"] = [_vote(judgment, user, left_out) for judgment, user in votes]
    return row


def _answer(answer: Response, *, is_hidden: bool) -> dict[str, Any]:
    said: dict[str, Any] = {"messages": answer.turns} if answer.turns else {"text": answer.text}
    if is_hidden or (answer.source_kind is SourceKind.FILE and not answer.source_name):
        return said
    return said | {"source": {"kind": answer.source_kind.value, "name": answer.source_name}}


def _vote(judgment: Judgment, user: User, left_out: LeftOut) -> dict[str, Any]:
    excluded: dict[str, Any] | None = left_out.get((ExclusionKind.JUDGMENT, judgment.id))
    if excluded is None and (of_all := left_out.get((ExclusionKind.PERSON, user.id))):
        excluded = of_all | {"of": "person"}
    vote: dict[str, Any] = {
        "rater": key_of(user),
        "name": user.display_name,
        "choice": judgment.choice.value,
        "strength": judgment.strength,
        "rationale": judgment.rationale,
        "flags": judgment.flags,
        "first_side": judgment.first_side.value if judgment.first_side else None,
        "shown_at": judgment.shown_at.isoformat() if judgment.shown_at else None,
        "submitted_at": judgment.submitted_at.isoformat(),
        "guideline_version": judgment.guideline_version,
        "late": judgment.late,
        "superseded": judgment.superseded,
        "excluded": excluded,
    }
    return {key: value for key, value in vote.items() if value not in (None, "", [], False) or key == "choice"}
