"""A project's current votes, read in one pass and decided by a rule."""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session, aliased

from app.models import Choice, Comparison, Judgment, JudgmentSource, Project, Prompt, Response, Side, User
from app.services.datasets.report import Collected, Pair
from app.services.datasets.rules import Rule, Vote, decide


def collect(session: Session, *, project: Project, rule: Rule) -> Collected:
    """Decides every judged comparison of a project, in the order of their ids, from one streamed query; counts the rest.

    Reads votes and lengths, no texts.
    """
    kept, gold_kept = session.execute(
        select(func.count(), func.count(Comparison.gold_choice)).where(Comparison.project_id == project.id)
    ).one()
    collected = Collected(comparisons=kept, left_out=Counter(gold=gold_kept))
    judged = 0
    for comparison, rows in groupby(_votes(session, project), key=lambda row: row[:12]):
        votes = [row[12:] for row in rows]
        collected.judgments += len(votes)
        _count_people(collected, comparison[0], votes)
        if comparison[3] is None:  # no gold question
            judged += 1
            _decide(collected, comparison, votes, rule)
    collected.left_out["not_judged"] += kept - gold_kept - judged
    people = {user_id for _, user_id, _ in collected.votes}
    names = select(User.id, User.display_name).where(User.id.in_(people))
    collected.names = dict(session.execute(names).tuples().all())
    return collected


def _decide(collected: Collected, comparison: Sequence[Any], votes: Sequence[Any], rule: Rule) -> None:
    (comparison_id, prompt_id, split, _, *answers) = comparison
    decision = decide(
        [Vote(user_id, choice, strength, late, bool(flags)) for user_id, choice, strength, late, flags, _, _ in votes],
        rule,
    )
    if decision.chosen is None:
        collected.left_out[decision.left_out] += 1
        return
    chosen, rejected = (answers[:4], answers[4:]) if decision.chosen is Choice.FIRST else (answers[4:], answers[:4])
    collected.pairs.append(
        Pair(
            comparison_id,
            prompt_id,
            split,
            decision,
            characters=(chosen[0], rejected[0]),
            words=(chosen[1], rejected[1]),
            chosen_hash=chosen[2],
            sources=(chosen[3], rejected[3]),
        )
    )


def _votes(session: Session, project: Project) -> Iterator[Any]:
    first, second = aliased(Response), aliased(Response)
    query = (
        select(
            Comparison.id,
            Comparison.prompt_id,
            Prompt.split,
            Comparison.gold_choice,
            first.characters,
            first.words,
            first.content_hash,
            first.source_name,
            second.characters,
            second.words,
            second.content_hash,
            second.source_name,
            Judgment.user_id,
            Judgment.choice,
            Judgment.strength,
            Judgment.late,
            Judgment.flags,
            Judgment.first_side,
            Judgment.source,
        )
        .join(Prompt, Prompt.id == Comparison.prompt_id)
        .join(first, first.id == Comparison.first_response_id)
        .join(second, second.id == Comparison.second_response_id)
        .join(Judgment, (Judgment.comparison_id == Comparison.id) & ~Judgment.superseded)
        .where(Comparison.project_id == project.id)
        .order_by(Comparison.id, Judgment.id)
    )
    yield from session.execute(query.execution_options(yield_per=2000))


def _count_people(collected: Collected, comparison_id: int, votes: Sequence[Any]) -> None:
    for user_id, choice, _, _, _, first_side, source in votes:
        if source is JudgmentSource.IMPORT:
            collected.imported += 1
            continue
        if choice is not Choice.SKIP:
            collected.votes.append((comparison_id, user_id, choice.value))
        if choice in (Choice.FIRST, Choice.SECOND) and first_side is not None:
            collected.sided += 1
            collected.left_picked += (choice is Choice.FIRST) == (first_side is Side.LEFT)
