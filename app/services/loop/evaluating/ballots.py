"""The votes of an evaluation: read in three statements, however many there are, and made win rates of prompts."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby

from sqlalchemy import Select, func, or_, select
from sqlalchemy.orm import Session

from app.models import (
    Checkpoint,
    Choice,
    Comparison,
    Evaluation,
    EvaluationPair,
    Judgment,
    JudgmentSource,
    Prompt,
    Side,
    Snapshot,
    Split,
    TrainingRun,
)
from app.services.loop.evaluating.wanted import BothBad, Skips
from app.stats.loop.decision import Goal, Plan
from app.stats.loop.estimate import Outcomes, tally

# A judgment may be taken back meanwhile: it counts when its maker has gone on. A value never changes after that, for what
# changed after a look isn't what the sequence bet on.
GRACE = timedelta(minutes=2)


@dataclass(frozen=True, slots=True)
class Vote:
    """What one person said of one pair. `value`: 1 for the new answer, ½ for a tie, 0 for the old one. `both_bad` is a tie by what
    was picked. `seconds` from shown to judged. `counts`: its prompt's win rate is settled, and it is in it."""

    pair_id: int
    prompt_id: int
    user_id: int
    value: float
    both_bad: bool
    left_was_new: bool
    seconds: float | None
    submitted_at: datetime
    counts: bool


@dataclass(frozen=True, slots=True)
class Closing:
    """What became of prompts since the last look: `values` and `left_out` (why) by pair id, and the comparisons of both."""

    values: dict[int, float]
    left_out: dict[int, str]
    comparisons: list[int]

    def __bool__(self) -> bool:
        return bool(self.values or self.left_out)


@dataclass(frozen=True, slots=True)
class _Said:
    """A current judgment of a pair, with what is needed to read it."""

    pair: EvaluationPair
    judgment: Judgment
    first_is_new: bool


def votes(session: Session, evaluation: Evaluation) -> list[Vote]:
    """Every vote, skips apart, in the order of prompts and of judging; at most as many of a prompt as the plan wants."""
    told = []
    for pair, said in _by_pair(session, _current(evaluation)):
        for one in _votes_of(said, evaluation):
            told.append(
                Vote(
                    pair.id,
                    pair.prompt_id,
                    one.judgment.user_id,
                    _value(one),
                    one.judgment.choice is Choice.BOTH_BAD,
                    (one.judgment.first_side is not Side.RIGHT) == one.first_is_new,
                    (one.judgment.submitted_at - one.judgment.shown_at).total_seconds()
                    if one.judgment.shown_at
                    else None,
                    one.judgment.submitted_at,
                    pair.value is not None and not pair.left_out and _is_vote(one, evaluation),
                )
            )
    return told


def close(session: Session, evaluation: Evaluation, *, now: datetime) -> Closing:
    """The prompts that have all their votes by now, and those that can't count any more. It changes nothing."""
    closing = Closing({}, {}, [])
    open_pairs = _current(evaluation).where(EvaluationPair.value.is_(None), EvaluationPair.left_out == "")
    for pair, said in _by_pair(session, open_pairs):
        settled = [one for one in said if one.judgment.submitted_at <= now - GRACE]
        if evaluation.skips == Skips.LEAVE_OUT and any(one.judgment.choice is Choice.SKIP for one in settled):
            closing.left_out[pair.id] = "skipped"
        else:
            cast = _votes_of(settled, evaluation)
            if len(cast) < evaluation.votes:
                continue
            values = [_value(one) for one in cast if _is_vote(one, evaluation)]
            if values:
                closing.values[pair.id] = round(sum(values) / len(values), 12)
            else:
                closing.left_out[pair.id] = "both_bad"
        if pair.comparison_id is not None:
            closing.comparisons.append(pair.comparison_id)
    for pair_id, comparison_id in _trained(session, evaluation):
        closing.left_out[pair_id] = "trained"
        closing.values.pop(pair_id, None)
        if comparison_id is not None:
            closing.comparisons.append(comparison_id)
    return closing


def outcomes(pairs: Iterable[tuple[int, bool, float | None]]) -> Outcomes:
    """How often each win rate came up, of pairs that aren't left out: (place, whether both answers are the same, value).

    Identical answers are known at once; all of them together would speak of answers that nobody gave yet. So of these count
    those that are drawn before the next prompt, as if prompts had been judged in their order.
    """
    rows = sorted(pairs, key=lambda pair: pair[0])
    asked = [(place, value) for place, same, value in rows if not same]
    judged = [value for _, value in asked if value is not None]
    next_place = asked[len(judged)][0] if len(judged) < len(asked) else None
    ties = [0.5 for place, same, _ in rows if same and (next_place is None or place < next_place)]
    return tally([*judged, *ties])


def counting(session: Session, evaluation: Evaluation) -> Sequence[tuple[int, bool, float | None]]:
    """(place, whether both answers are the same, value) of the prompts that aren't left out."""
    query = select(EvaluationPair.place, EvaluationPair.same, EvaluationPair.value).where(
        EvaluationPair.evaluation_id == evaluation.id, EvaluationPair.left_out == ""
    )
    return session.execute(query.order_by(EvaluationPair.place)).tuples().all()


def is_open(session: Session, evaluation: Evaluation) -> bool:
    """Whether a prompt still waits for its win rate."""
    waits = select(EvaluationPair.id).where(
        EvaluationPair.evaluation_id == evaluation.id, EvaluationPair.left_out == "", EvaluationPair.value.is_(None)
    )
    return session.scalar(waits.limit(1)) is not None


def plan(evaluation: Evaluation, prompts: int) -> Plan:
    """As the statistics know it, for the prompts that can count."""
    maximum = max(1, min(evaluation.maximum, prompts))
    return Plan(Goal(evaluation.goal), maximum, evaluation.margin, evaluation.confidence)


def cast_since(session: Session, *, project_id: int, since: datetime) -> int:
    """How many judgments blind batches of a project got since then, edits apart. Costs what the batches of that time are large."""
    return (
        session.scalar(
            select(func.count())
            .select_from(Evaluation)
            .join(EvaluationPair, EvaluationPair.evaluation_id == Evaluation.id)
            .join(Judgment, Judgment.comparison_id == EvaluationPair.comparison_id)
            .where(
                Evaluation.project_id == project_id,
                or_(Evaluation.ended_at.is_(None), Evaluation.ended_at >= since),
                Judgment.submitted_at >= since,
                Judgment.supersedes_id.is_(None),
            )
        )
        or 0
    )


def _current(evaluation: Evaluation) -> Select[EvaluationPair, Judgment, int]:
    return (
        select(EvaluationPair, Judgment, Comparison.first_response_id)
        .join(Judgment, Judgment.comparison_id == EvaluationPair.comparison_id)
        .join(Comparison, Comparison.id == EvaluationPair.comparison_id)
        .where(
            EvaluationPair.evaluation_id == evaluation.id,
            ~Judgment.superseded,
            Judgment.source != JudgmentSource.IMPORT,
        )
        .order_by(EvaluationPair.place, Judgment.submitted_at, Judgment.id)
    )


def _by_pair(
    session: Session, query: Select[EvaluationPair, Judgment, int]
) -> Iterable[tuple[EvaluationPair, list[_Said]]]:
    rows = session.execute(query).tuples()
    for pair, of_pair in groupby(rows, key=lambda row: row[0]):
        yield pair, [_Said(pair, judgment, first == pair.new_response_id) for _, judgment, first in of_pair]


def _votes_of(said: Sequence[_Said], evaluation: Evaluation) -> list[_Said]:
    """The first votes, as many as are wanted: one that came late, beside the wanted ones, is kept and doesn't count."""
    return [one for one in said if one.judgment.choice is not Choice.SKIP][: evaluation.votes]


def _is_vote(one: _Said, evaluation: Evaluation) -> bool:
    return one.judgment.choice is not Choice.BOTH_BAD or evaluation.both_bad == BothBad.TIE


def _value(one: _Said) -> float:
    if one.judgment.choice not in (Choice.FIRST, Choice.SECOND):
        return 0.5
    return float((one.judgment.choice is Choice.FIRST) == one.first_is_new)


def _trained(session: Session, evaluation: Evaluation) -> list[tuple[int, int | None]]:
    """(pair, comparison) of prompts that are near duplicates of one on which either side was trained: groups may join later."""
    frozen = select(func.max(Snapshot.created_at)).where(
        Snapshot.id.in_(
            select(TrainingRun.snapshot_id)
            .join(Checkpoint, Checkpoint.job_id == TrainingRun.job_id)
            .where(Checkpoint.id.in_([evaluation.checkpoint_id, evaluation.opponent_id or 0]))
        )
    )
    asked, learnt = Prompt, Prompt.__table__.alias("learnt")
    query = (
        select(EvaluationPair.id, EvaluationPair.comparison_id)
        .join(asked, asked.id == EvaluationPair.prompt_id)
        .join(learnt, learnt.c.group_id == asked.group_id)
        .where(
            EvaluationPair.evaluation_id == evaluation.id,
            EvaluationPair.left_out == "",
            learnt.c.split == Split.TRAIN,
            learnt.c.created_at <= frozen.scalar_subquery(),
        )
        .distinct()
    )
    return list(session.execute(query).tuples())
