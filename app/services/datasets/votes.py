"""A project's current votes, read in one pass and decided by a rule."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import groupby
from typing import Any

from sqlalchemy import ColumnElement, func, literal_column, or_, select
from sqlalchemy.orm import Session, aliased

from app.models import (
    Choice,
    Comparison,
    Judgment,
    JudgmentSource,
    Project,
    Prompt,
    PromptGroup,
    Response,
    Side,
    Split,
    User,
)
from app.services.collecting import exclusions, places
from app.services.collecting.exclusions import Excluded
from app.services.datasets import ancestors, members
from app.services.datasets.collected import Collected, Pair
from app.services.datasets.rules import Rule, Vote, decide

IS_KEPT = Prompt.split == literal_column("'kept'")  # in words, for the index of these


def in_force_at(moment: datetime) -> ColumnElement[bool]:
    """The judgments that counted then: whatever was superseded later was current."""
    later = aliased(Judgment)
    superseded_later = select(later.supersedes_id).where(later.submitted_at > moment)
    return (Judgment.submitted_at <= moment) & or_(~Judgment.superseded, Judgment.id.in_(superseded_later))


def decided(session: Session, *, project: Project, rule: Rule, collected: Collected) -> Iterator[Pair]:
    """The pairs that a rule makes of a project's judgments, in the order of their comparisons, from one streamed query.

    Reads votes and lengths, no texts, and keeps none. `collected` is whole once all pairs were taken.
    """
    kept, gold_kept = session.execute(
        select(func.count(), func.count(Comparison.gold_choice)).where(
            Comparison.project_id == project.id, Comparison.evaluation_id.is_(None)
        )
    ).one()
    excluded = exclusions.in_force(session, project_id=project.id)
    collected.comparisons, collected.left_out["gold"] = kept, gold_kept
    collected.left_out["excluded"] = gone = _pairs_excluded(session, project, excluded)
    collected.left_out["kept"] = for_evaluation = _kept_for_evaluation(session, project)
    leaking = frozenset[int]() if rule.include_near_duplicates else _on_both_sides(session, project)
    known = ancestors.trained_on(session, rule.new_to_checkpoint) if rule.new_to_checkpoint else {}
    judged = 0
    for comparison, rows in groupby(_votes(session, project), key=lambda row: row[:15]):
        if excluded.has_pair(comparison[0], comparison[13]):
            continue
        votes = [row[15:] for row in rows]
        counted = [vote for vote in votes if not excluded.has_vote(vote[-1], vote[0])]
        collected.excluded_judgments += len(votes) - len(counted)
        if not (votes := counted):
            continue
        collected.judgments += len(votes)
        _count_people(collected, votes)
        if comparison[4] is not None:  # a gold question
            continue
        judged += 1
        if known and comparison[2] is Split.TRAIN and members.has(known, comparison[0]):
            collected.left_out["trained_before"] += 1
            continue
        if pair := _decide(collected, comparison, votes, rule, leaking):
            collected.add(pair)
            yield pair
    collected.left_out["not_judged"] += kept - gold_kept - gone - for_evaluation - judged
    names = select(User.id, User.display_name).where(User.id.in_(collected.votes.made))
    collected.names = dict(session.execute(names).tuples().all())


def _pairs_excluded(session: Session, project: Project, excluded: Excluded) -> int:
    """How many comparisons are left out, gold questions apart."""
    if not excluded.pairs and not excluded.imports:
        return 0
    left_out = select(func.count()).where(
        Comparison.project_id == project.id,
        Comparison.gold_choice.is_(None),
        Comparison.evaluation_id.is_(None),
        places.IS_LEFT_OUT,
    )
    return session.scalar(left_out) or 0


def _kept_for_evaluation(session: Session, project: Project) -> int:
    """How many comparisons are of prompts that are kept for evaluation, gold questions and those that are left out apart."""
    kept = select(func.count()).where(
        Comparison.prompt_id.in_(select(Prompt.id).where(Prompt.project_id == project.id, IS_KEPT)),
        Comparison.gold_choice.is_(None),
        Comparison.evaluation_id.is_(None),
        ~places.IS_LEFT_OUT,
    )
    return session.scalar(kept) or 0


def _on_both_sides(session: Session, project: Project) -> frozenset[int]:
    """Groups of near-duplicate prompts of which some are trained on and some are kept for evaluation."""
    groups = (
        select(PromptGroup.id)
        .join(Prompt, Prompt.group_id == PromptGroup.id)
        .where(PromptGroup.project_id == project.id)
        .group_by(PromptGroup.id)
        .having(func.min(Prompt.split) != func.max(Prompt.split))
    )
    return frozenset(session.scalars(groups))


def _decide(
    collected: Collected, comparison: Sequence[Any], votes: Sequence[Any], rule: Rule, leaking: frozenset[int]
) -> Pair | None:
    (comparison_id, prompt_id, split, group_id, _, *answers, _, arm) = comparison
    decision = decide(
        [Vote(user_id, choice, strength, late, bool(flags)) for user_id, choice, strength, late, flags, *_ in votes],
        rule,
    )
    if decision.chosen is None:
        collected.left_out[decision.left_out] += 1
        return None
    if group_id in leaking and split is Split.TRAIN:
        collected.left_out["near_duplicate"] += 1
        return None
    chosen, rejected = (answers[:4], answers[4:]) if decision.chosen is Choice.FIRST else (answers[4:], answers[:4])
    return Pair(
        comparison_id,
        prompt_id,
        split,
        decision,
        characters=(chosen[0], rejected[0]),
        words=(chosen[1], rejected[1]),
        chosen_hash=chosen[2],
        sources=(chosen[3], rejected[3]),
        arm=arm,
    )


def _votes(session: Session, project: Project) -> Iterator[Any]:
    first, second = aliased(Response), aliased(Response)
    query = (
        select(
            Comparison.id,
            Comparison.prompt_id,
            Prompt.split,
            Prompt.group_id,
            Comparison.gold_choice,
            first.characters,
            first.words,
            first.content_hash,
            first.source_name,
            second.characters,
            second.words,
            second.content_hash,
            second.source_name,
            Comparison.import_id,
            Comparison.arm,
            Judgment.user_id,
            Judgment.choice,
            Judgment.strength,
            Judgment.late,
            Judgment.flags,
            Judgment.first_side,
            Judgment.source,
            Judgment.id,
        )
        .join(Prompt, Prompt.id == Comparison.prompt_id)
        .join(first, first.id == Comparison.first_response_id)
        .join(second, second.id == Comparison.second_response_id)
        .join(Judgment, (Judgment.comparison_id == Comparison.id) & ~Judgment.superseded)
        .where(Comparison.project_id == project.id, Comparison.evaluation_id.is_(None), ~IS_KEPT)
        .order_by(Comparison.id, Judgment.id)
    )
    yield from session.execute(query.execution_options(yield_per=2000))


def _count_people(collected: Collected, votes: Sequence[Any]) -> None:
    said = []
    for user_id, choice, _, _, _, first_side, source, _ in votes:
        if source is JudgmentSource.IMPORT:
            collected.imported += 1
            continue
        if choice is not Choice.SKIP:
            said.append((user_id, choice.value))
        if choice in (Choice.FIRST, Choice.SECOND) and first_side is not None:
            collected.sided += 1
            collected.left_picked += (choice is Choice.FIRST) == (first_side is Side.LEFT)
    collected.voted(said)
