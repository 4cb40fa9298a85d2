"""Progress over rounds: all checkpoints of a project on one scale, from every blind comparison of them (Bradley–Terry)."""

import threading
from dataclasses import dataclass
from datetime import datetime

from pydantic import BaseModel, Field
from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from app.db import is_writing, read_session
from app.models import Checkpoint, Evaluation, EvaluationPair, EvaluationState, Job, Project, TrainingRun
from app.services.loop.verdict.shape import Interval
from app.stats.loop import ranking
from app.stats.loop.ranking import Match, Standing

ENDED = (EvaluationState.DECIDED, EvaluationState.STOPPED)
MOST_CHECKPOINTS = 60  # the newest: a chart of more says nothing
MOST_KEPT = 100
_KEPT: dict[tuple[str, int], tuple["_Basis", "Progress"]] = {}
_LOCK = threading.Lock()

_Basis = tuple[int, int, int, int]


class Round(BaseModel):
    """One model on the scale. `win_rate`: against the anchor, with its interval; `from_previous`: against the one before it."""

    checkpoint_id: int | None = Field(description="Null for a base model.")
    name: str
    comparisons: int = Field(description="Prompts on which it was compared with another.")
    connected: bool = Field(
        description="Whether a chain of comparisons leads to the anchor; without one it has no place."
    )
    log_odds: float | None
    win_rate: Interval
    from_previous: Interval | None
    made_at: datetime | None


class Progress(BaseModel):
    """Rounds in the order in which they were made; the first is the anchor."""

    anchor: str
    rounds: list[Round]
    evaluations: int
    prompts: int


@dataclass(frozen=True)
class _Given:
    basis: _Basis
    order: list[int | str]
    made_at: dict[int | str, datetime | None]
    matches: list[Match]
    evaluations: int


def current(engine: Engine, *, project: Project) -> Progress:
    """The scale by all evaluations that have ended. It computes between sessions of its own, once for what was judged by then:
    never call it within a transaction."""
    if is_writing():
        raise RuntimeError("a scale is computed within a write transaction: everybody else would wait for it")
    key = (str(engine.url), project.id)
    with read_session(engine) as session:
        basis = _basis(session, project)
        kept = _KEPT.get(key)
        if kept is not None and kept[0] == basis:
            return kept[1]
        given = _read(session, project, basis)
    progress = compute(given)
    with _LOCK:
        while len(_KEPT) >= MOST_KEPT:
            _KEPT.pop(next(iter(_KEPT)))
        _KEPT[key] = (basis, progress)
    return progress


def compute(given: _Given) -> Progress:
    """From matches to places. Nothing evaluated: no rounds."""
    if not given.matches:
        return Progress(anchor="", rounds=[], evaluations=0, prompts=0)
    standings = ranking.ranking(given.matches, order=given.order)
    rounds = [_round(standing, given.made_at) for standing in standings.values()]
    return Progress(
        anchor=rounds[0].name,
        rounds=rounds,
        evaluations=given.evaluations,
        prompts=len({match.prompt for match in given.matches}),
    )


def _round(standing: Standing, made_at: dict[int | str, datetime | None]) -> Round:
    side = standing.checkpoint
    assert isinstance(side, int | str)
    connected = standing.log_odds.value is not None
    return Round(
        checkpoint_id=side if isinstance(side, int) else None,
        name=f"Checkpoint {side}" if isinstance(side, int) else side,
        comparisons=standing.comparisons,
        connected=connected,
        log_odds=standing.log_odds.value,
        win_rate=Interval.of(standing.win_rate),
        from_previous=Interval.of(standing.from_previous) if standing.from_previous else None,
        made_at=made_at.get(side),
    )


def _basis(session: Session, project: Project) -> _Basis:
    """What says whether a kept scale still is that of now."""
    ended = select(func.count(Evaluation.id), func.max(Evaluation.id)).where(
        Evaluation.project_id == project.id, Evaluation.state.in_(ENDED)
    )
    count, newest = session.execute(ended).one()
    counted = (
        select(func.count(EvaluationPair.value))
        .join(Evaluation, Evaluation.id == EvaluationPair.evaluation_id)
        .where(Evaluation.project_id == project.id, Evaluation.state.in_(ENDED), EvaluationPair.left_out == "")
    )
    return (count, newest or 0, session.scalar(counted) or 0, project.id)


def _read(session: Session, project: Project, basis: _Basis) -> _Given:
    """Every prompt of the ended evaluations of the newest checkpoints. Identical answers are ties, as in a verdict."""
    newest = (
        select(Checkpoint.id, Checkpoint.created_at, TrainingRun.base_model)
        .join(TrainingRun, TrainingRun.job_id == Checkpoint.job_id)
        .join(Job, Job.id == Checkpoint.job_id)
        .where(Job.project_id == project.id)
        .order_by(Checkpoint.id.desc())
        .limit(MOST_CHECKPOINTS)
    )
    made = {row.id: row for row in session.execute(newest)}
    query = (
        select(
            Evaluation.id,
            Evaluation.checkpoint_id,
            Evaluation.opponent_id,
            Evaluation.opponent_model,
            EvaluationPair.value,
            EvaluationPair.same,
            EvaluationPair.prompt_id,
        )
        .join(EvaluationPair, EvaluationPair.evaluation_id == Evaluation.id)
        .where(Evaluation.project_id == project.id, Evaluation.state.in_(ENDED), EvaluationPair.left_out == "")
        .order_by(Evaluation.id, EvaluationPair.place)
    )
    matches: list[Match] = []
    evaluations: set[int] = set()
    bases: dict[str, int] = {}
    for number, one, opponent_id, opponent_model, value, same, prompt in session.execute(query):
        other: int | str = opponent_model if opponent_id is None else opponent_id
        won = 0.5 if same else value
        if won is None or one not in made or (isinstance(other, int) and other not in made):
            continue
        matches.append(Match(one, other, won, prompt))
        evaluations.add(number)
        if isinstance(other, str):
            bases[other] = bases.get(other, 0) + 1
    compared = {side for match in matches for side in (match.one, match.other)}
    # The base that most was compared with is the anchor; without one, the oldest checkpoint.
    order: list[int | str] = [*sorted(bases, key=lambda name: -bases[name])]
    order += sorted(number for number in made if number in compared)
    made_at: dict[int | str, datetime | None] = {number: row.created_at for number, row in made.items()}
    return _Given(basis, order, made_at, matches, len(evaluations))
