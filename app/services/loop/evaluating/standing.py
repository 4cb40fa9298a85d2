"""How far a batch is, for its page: what came of its prompts, and whom it can still ask."""

from collections import Counter
from dataclasses import dataclass, field

from sqlalchemy import exists, literal_column, select
from sqlalchemy.orm import Session

from app.models import Evaluation, EvaluationPair, EvaluationState, Prompt, Slot, SlotState, Split, User
from app.services.loop.evaluating import choosing

# Why a prompt doesn't count, as people are told.
LEFT_OUT = {
    "failed": "without an answer of both sides",
    "there": "whose pair the project had already",
    "both_bad": "judged both bad",
    "skipped": "skipped",
    "trained": "that a near duplicate was trained on",
}


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who may judge, and how many prompts that wait they don't know."""

    user_id: int
    name: str
    can_be_asked: int


@dataclass(frozen=True)
class Standing:
    """Of an evaluation's `prompts`: those `same` on both sides, `judged` (all votes are in), `left_out` by reason, and of those that wait
    the `unaskable`, which everybody knows who might judge them. `alone`: no ordinary pair waits in the project."""

    prompts: int
    same: int
    judged: int
    waiting: int
    unaskable: int
    left_out: Counter[str] = field(default_factory=Counter)
    told: int = 0
    people: list[Person] = field(default_factory=list)
    alone: bool = False
    is_of_eval_split: bool = False

    @property
    def left_out_words(self) -> list[str]:
        return [f"{count:,} {LEFT_OUT.get(reason, reason)}" for reason, count in self.left_out.most_common()]


def look(session: Session, evaluation: Evaluation) -> Standing:
    """Costs what the evaluation is large. `evaluation` has its project loaded."""
    rows = list(session.scalars(select(EvaluationPair).where(EvaluationPair.evaluation_id == evaluation.id)))
    waits = [row for row in rows if not row.left_out and not row.same and row.value is None]
    people, unaskable = _people(session, evaluation, waits)
    return Standing(
        prompts=len(rows),
        same=sum(row.same and not row.left_out for row in rows),
        judged=sum(row.value is not None and not row.same and not row.left_out for row in rows),
        waiting=len(waits),
        unaskable=unaskable,
        left_out=Counter(row.left_out for row in rows if row.left_out),
        told=sum(bool(row.tells) for row in rows if not row.left_out),
        people=people,
        alone=evaluation.state is EvaluationState.ASKING and not _ordinary_waits(session, evaluation.project_id),
        is_of_eval_split=evaluation.prompts.get("of") == Split.EVAL.value,
    )


def _people(session: Session, evaluation: Evaluation, waits: list[EvaluationPair]) -> tuple[list[Person], int]:
    """Who may judge, with what is left for each, and how many prompts are left for nobody."""
    if evaluation.state is not EvaluationState.ASKING or not waits:
        return [], 0
    free = _free(session, evaluation)
    asked = [row.prompt_id for row in waits if row.comparison_id in free]
    ids = choosing.judges(session, project=evaluation.project)
    known = choosing.known_by(session, asked, people=ids)
    left = Counter(user_id for prompt_id in asked for user_id in ids - known.get(prompt_id, set()))
    names = session.execute(select(User.id, User.display_name).where(User.id.in_(ids))).tuples()
    people = sorted(
        (Person(user_id, name, left[user_id]) for user_id, name in names), key=lambda one: -one.can_be_asked
    )
    return people, sum(len(known.get(prompt_id, ())) == len(ids) for prompt_id in asked)


def _free(session: Session, evaluation: Evaluation) -> set[int]:
    """Comparisons that still ask somebody: a slot of theirs is open."""
    query = select(Slot.comparison_id).where(Slot.evaluation_id == evaluation.id, Slot.state == SlotState.OPEN)
    return set(session.scalars(query.distinct()))


def _ordinary_waits(session: Session, project_id: int) -> bool:
    waits = exists().where(Slot.project_id == project_id, Slot.state == SlotState.OPEN, Slot.evaluation_id.is_(None))
    return bool(session.scalar(select(waits)))


def notes(evaluation: Evaluation, standing: Standing) -> list[str]:
    """What an engineer has to know of a batch, in words. `evaluation` has its checkpoint loaded."""
    told = []
    if standing.same:
        told.append(
            f"{standing.same:,} of {standing.prompts:,}: same answer. They are ties that nobody is asked about."
        )
    if standing.alone:
        told.append(
            "No ordinary pair waits, so these pairs come alone and people may guess what they are: blinding is weaker. "
            "Import pairs to have them mixed in."
        )
    if standing.unaskable:
        told.append(
            f"{standing.unaskable:,} of {standing.waiting:,} prompts that wait are left for nobody: everybody who may judge has "
            "judged them, or one like them. It helps to invite people who haven't, or to start anew with prompts that are kept "
            "for evaluation."
        )
    if standing.is_of_eval_split and picks_best(evaluation):
        told.append(
            "The same eval split picked the best step of this run (publish=best), which speaks in its favour. "
            "Prompts that are kept for evaluation don't."
        )
    if standing.told:
        told.append(
            f"Pairs with something that may give a side away: {standing.told:,}. The verdict is told without them too."
        )
    return told


def picks_best(evaluation: Evaluation) -> bool:
    """Whether the checkpoint's run published the step that did best on its eval split."""
    config = evaluation.checkpoint.provenance.get("config") or {}
    publish = config.get("publish")
    return publish == "best" or (publish == "auto" and bool(config.get("early_stopping_patience")))


def kept_prompts(session: Session, *, project_id: int) -> bool:
    """Whether the project has prompts that are kept for evaluation."""
    has = exists().where(Prompt.project_id == project_id, Prompt.split == literal_column("'kept'"))
    return bool(session.scalar(select(has)))
