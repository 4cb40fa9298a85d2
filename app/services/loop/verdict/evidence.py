"""What a verdict rests on: an evaluation's pairs and votes as plain values, read in one go."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session, aliased

from app.models import (
    Checkpoint,
    Choice,
    Comparison,
    Evaluation,
    EvaluationGuess,
    EvaluationPair,
    EvaluationState,
    Import,
    Judgment,
    JudgmentSource,
    Prompt,
    Response,
    Side,
    Split,
)
from app.services.loop.verdict.shape import Basis
from app.stats.loop.unblinding import Guess

NO_VOTE = "leave_out"  # of Evaluation.both_bad: such a judgment counts as none


@dataclass(frozen=True)
class Pair:
    """One prompt of the plan. `value`: its win rate, None until all of its votes are in. `ended_at`: when the last came."""

    prompt_id: int
    place: int
    value: float | None
    same: bool
    left_out: str
    tells: frozenset[str]
    longer_by: int
    parts: tuple[str, ...]
    ended_at: datetime | None
    is_eval: bool


@dataclass(frozen=True)
class Ballot:
    """One judgment that counts as a vote: 1 for the new answer, 0.5 for neither. `chose_left` is None where it chose none or
    no side is known. `seconds` from shown to judged, where that is known; `words` of both answers."""

    prompt_id: int
    user_id: int
    value: float
    chose_left: bool | None
    seconds: float | None
    words: int


@dataclass(frozen=True)
class Evidence:
    evaluation: Evaluation
    pairs: list[Pair]
    ballots: list[Ballot]
    basis: Basis
    guesses: list[Guess] = field(default_factory=list)
    picks_best: bool = False


def read(session: Session, evaluation: Evaluation) -> Evidence:
    """Everything that a verdict is computed from. It costs what the evaluation is large, whatever the project is."""
    rows, parts = _pairs(session, evaluation), _parts(session, evaluation)
    ended: dict[int, datetime] = {}
    ballots = []
    by_comparison = {pair.comparison_id: (pair, words) for pair, words, *_ in rows if pair.comparison_id is not None}
    cast: Counter[int] = Counter()
    for judgment, first_id in _judgments(session, evaluation):
        pair, words = by_comparison.get(judgment.comparison_id, (None, 0))
        # One that came late, beside the wanted ones, is kept and doesn't count.
        if pair is None or judgment.choice is Choice.SKIP or cast[pair.id] == evaluation.votes:
            continue
        cast[pair.id] += 1
        ended[pair.id] = judgment.submitted_at
        value = vote_of(judgment.choice, new_is_first=first_id == pair.new_response_id, both_bad=evaluation.both_bad)
        if value is not None and not pair.left_out:
            ballots.append(_ballot(pair.prompt_id, judgment, value, words))
    pairs = [
        Pair(
            pair.prompt_id,
            pair.place,
            0.5 if pair.same and not pair.left_out else pair.value,
            pair.same,
            pair.left_out,
            kinds_of_tells(pair.tells),
            longer_by,
            parts.get(pair.prompt_id, ()),
            ended.get(pair.id),
            split is Split.EVAL,
        )
        for pair, _, longer_by, split in rows
    ]
    return Evidence(
        evaluation,
        pairs,
        ballots,
        basis(session, evaluation),
        guesses(session, evaluation),
        _picks_best(session, evaluation),
    )


def vote_of(choice: Choice, *, new_is_first: bool, both_bad: str) -> float | None:
    """1 where the new answer won, 0.5 for neither, None for what is no vote."""
    if choice is Choice.SKIP or (choice is Choice.BOTH_BAD and both_bad == NO_VOTE):
        return None
    if choice in (Choice.TIE, Choice.BOTH_BAD):
        return 0.5
    return float((choice is Choice.FIRST) is new_is_first)


def basis(session: Session, evaluation: Evaluation) -> Basis:
    """What says whether a kept verdict still is that of now: counts over the evaluation's own rows."""
    judged = (
        select(func.count(Judgment.id), func.max(Judgment.id))
        .join(Comparison, Comparison.id == Judgment.comparison_id)
        .where(Comparison.evaluation_id == evaluation.id, ~Judgment.superseded)
    )
    counted = select(func.count(EvaluationPair.value)).where(
        EvaluationPair.evaluation_id == evaluation.id, EvaluationPair.left_out == ""
    )
    guessed = select(func.count(EvaluationGuess.id)).where(EvaluationGuess.evaluation_id == evaluation.id)
    judgments, newest = session.execute(judged).one()
    return Basis(
        state=evaluation.state.value,
        judgments=judgments,
        newest_judgment=newest or 0,
        counted=session.scalar(counted) or 0,
        guesses=session.scalar(guessed) or 0,
    )


def guesses(session: Session, evaluation: Evaluation) -> list[Guess]:
    """Each guess with what its maker had chosen: only pairs that they judged with a winner tell knowledge from taste."""
    query = (
        select(EvaluationGuess, EvaluationPair, Judgment.choice, Comparison.first_response_id)
        .join(EvaluationPair, EvaluationPair.id == EvaluationGuess.pair_id)
        .join(Comparison, Comparison.id == EvaluationPair.comparison_id)
        .join(Judgment, (Judgment.comparison_id == Comparison.id) & (Judgment.user_id == EvaluationGuess.user_id))
        .where(
            EvaluationGuess.evaluation_id == evaluation.id,
            EvaluationPair.left_out == "",
            ~Judgment.superseded,
            Judgment.choice.in_((Choice.FIRST, Choice.SECOND)),
        )
        .order_by(EvaluationGuess.id)
    )
    return [
        Guess(
            guess.user_id,
            chose_new=(choice is Choice.FIRST) == (first == pair.new_response_id),
            right=guess.response_id == pair.new_response_id,
        )
        for guess, pair, choice, first in session.execute(query)
    ]


def in_order(pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs that count, in the order in which they came to count.

    Identical answers are known at once, but an early verdict that took them all would rest on too many ties. So of these count
    those that are drawn before the next prompt, as if prompts had been judged in their order.
    """
    kept = sorted((pair for pair in pairs if not pair.left_out), key=lambda pair: pair.place)
    same = [pair for pair in kept if pair.same]
    asked = [pair for pair in kept if not pair.same]
    done = sorted((pair for pair in asked if pair.value is not None), key=_when)
    counted: list[Pair] = []
    for judged in range(len(done) + 1):
        while same and (judged == len(asked) or same[0].place < asked[judged].place):
            counted.append(same.pop(0))
        counted += done[judged : judged + 1]
    return counted


def _when(pair: Pair) -> tuple[bool, float, int]:
    return pair.ended_at is None, pair.ended_at.timestamp() if pair.ended_at else 0.0, pair.place


def kinds_of_tells(tells: Mapping[str, Any]) -> frozenset[str]:
    """What may give a side away, of whichever side: {new: [names_a_model], old: []} is {names_a_model}."""
    kinds: set[str] = set()
    for side, told in tells.items():
        if isinstance(told, list):
            kinds.update(str(kind) for kind in told)
        elif isinstance(told, dict):
            kinds.update(str(kind) for kind, yes in told.items() if yes)
        elif told:
            kinds.add(str(side))
    return frozenset(kinds)


def _pairs(session: Session, evaluation: Evaluation) -> list[tuple[EvaluationPair, int, int, Split]]:
    """(pair, words of both answers, words that the new one is longer, its prompt's split), in the drawn order."""
    new, old = aliased(Response), aliased(Response)
    query = (
        select(EvaluationPair, new.words, old.words, Prompt.split)
        .join(Prompt, Prompt.id == EvaluationPair.prompt_id)
        .outerjoin(new, new.id == EvaluationPair.new_response_id)
        .outerjoin(old, old.id == EvaluationPair.old_response_id)
        .where(EvaluationPair.evaluation_id == evaluation.id)
        .order_by(EvaluationPair.place)
    )
    return [
        (pair, (new_words or 0) + (old_words or 0), (new_words or 0) - (old_words or 0), split)
        for pair, new_words, old_words, split in session.execute(query)
    ]


def _judgments(session: Session, evaluation: Evaluation) -> list[tuple[Judgment, int]]:
    """The current judgments with the comparison's first answer, in the order in which they came."""
    query = (
        select(Judgment, Comparison.first_response_id)
        .join(Comparison, Comparison.id == Judgment.comparison_id)
        .where(
            Comparison.evaluation_id == evaluation.id,
            ~Judgment.superseded,
            Judgment.source != JudgmentSource.IMPORT,
        )
        .order_by(Judgment.submitted_at, Judgment.id)
    )
    return [(judgment, first_id) for judgment, first_id in session.execute(query)]


def _ballot(prompt_id: int, judgment: Judgment, value: float, words: int) -> Ballot:
    chose_left = None
    if judgment.choice in (Choice.FIRST, Choice.SECOND) and judgment.first_side is not None:
        chose_left = (judgment.choice is Choice.FIRST) is (judgment.first_side is Side.LEFT)
    seconds = (judgment.submitted_at - judgment.shown_at).total_seconds() if judgment.shown_at else None
    return Ballot(prompt_id, judgment.user_id, value, chose_left, seconds, words)


def _parts(session: Session, evaluation: Evaluation) -> dict[int, tuple[str, ...]]:
    """The imports that each prompt came with; prompts carry no tags of their own."""
    query = (
        select(Comparison.prompt_id, Import.filename)
        .join(Import, Import.id == Comparison.import_id)
        .join(EvaluationPair, EvaluationPair.prompt_id == Comparison.prompt_id)
        .where(EvaluationPair.evaluation_id == evaluation.id)
        .distinct()
    )
    names: dict[int, set[str]] = {}
    for prompt_id, filename in session.execute(query):
        names.setdefault(prompt_id, set()).add(filename)
    return {prompt_id: tuple(sorted(of_prompt)) for prompt_id, of_prompt in names.items()}


def _picks_best(session: Session, evaluation: Evaluation) -> bool:
    """Whether the checkpoint's run published the step that did best on its eval split."""
    provenance = session.scalar(select(Checkpoint.provenance).where(Checkpoint.id == evaluation.checkpoint_id)) or {}
    config = provenance.get("config") or {}
    publish = config.get("publish")
    return publish == "best" or (publish == "auto" and bool(config.get("early_stopping_patience")))


def left_out(pairs: Sequence[Pair]) -> dict[str, int]:
    return dict(Counter(pair.left_out for pair in pairs if pair.left_out).most_common())


def is_open(evaluation: Evaluation) -> bool:
    return evaluation.state in (EvaluationState.PREPARING, EvaluationState.ASKING)
