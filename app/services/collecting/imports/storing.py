"""One batch of a file into a project: its pairs, what was said of them, and fields that were missing."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from app.bulk import among
from app.db import read_session
from app.models import Choice, Comparison, ExclusionKind, Import, Judgment, JudgmentSource, Project, User
from app.services.collecting import exclusions, pairs, places, slots
from app.services.collecting.duplicates.near import Wording
from app.services.collecting.imports import filling, raters, recording
from app.services.collecting.imports.reading.forms import Parsed
from app.services.collecting.imports.reading.outcome import Numbered, Outcome
from app.services.collecting.imports.records.votes import Vote
from app.services.collecting.messages import Unfit
from app.services.collecting.pairs import Stored

CONTRADICTION = Unfit(
    "contradicts_earlier",
    "This pair was judged before, by an import or by you, and with another result. Change that judgment if it is wrong.",
)

IN_EVALUATION = Unfit(
    "in_evaluation",
    "An evaluation compares these two answers blind, so this pair is never trained on. Leave it out, or give other answers.",
)


@dataclass(frozen=True)
class Looked:
    """Lines with what the project had of their pairs."""

    parsed: list[Numbered]
    looked: pairs.Looked


def look(
    engine: Engine, *, project_id: int, parsed: list[Numbered], worded: Mapping[str, Wording] | None = None
) -> Looked:
    """Looks at what is there before the transaction that stores a batch, in which others can't write."""
    with read_session(engine) as session:
        project = session.get_one(Project, project_id)
        return Looked(
            parsed, pairs.look(session, project=project, pairs=[one.pair for _, one in parsed], worded=worded)
        )


def store(session: Session, row: Import, batch: Looked, outcome: Outcome) -> None:
    """Stores a batch. A vote that contradicts what the same person, or an import, said before refuses its pair."""
    parsed, project = batch.parsed, session.get_one(Project, row.project_id)
    user = session.get_one(User, row.user_id)
    slots.one_at_a_time(session, user)
    stored = pairs.add_many(
        session,
        project=project,
        pairs=[one.pair for _, one in parsed],
        import_id=row.id,
        looked=batch.looked,
        filled=_filling(parsed),
        by=user,
    )
    stored, parsed = _apart(session, stored, parsed, outcome)
    own = {at.comparison_id for at, (_, one) in zip(stored, parsed, strict=True) if not at.added and _own_vote(one)}
    earlier = _earlier_choices(session, user, own) if own else {}
    rated: list[tuple[int, Stored, Parsed]] = []
    fresh: dict[int, Vote] = {}
    for at, (number, one) in zip(stored, parsed, strict=True):
        vote = _own_vote(one)
        if vote is not None:
            vote = vote.turned() if at.swapped else vote
            before = fresh.get(at.comparison_id)
            known = before.choice if before is not None else earlier.get(at.comparison_id)
            if known is not None and known != vote.choice:
                outcome.reject(number, CONTRADICTION)
                continue
            if known is None:
                fresh[at.comparison_id] = vote
        elif one.votes:
            rated.append((number, at, one))
        outcome.added += at.added
        outcome.duplicates += not at.added
    own_votes = {number: [vote] for number, vote in fresh.items()}
    filled = {at.comparison_id: at.slot_id for at in stored if at.slot_id is not None}
    recording.record(session, user=user, project=project, votes=own_votes, import_id=row.id, by=user, filled=filled)
    of_raters = raters.judge(session, project=project, rated=rated, outcome=outcome, import_id=row.id, by=user)
    outcome.judged += len(fresh) + of_raters
    filling.fill(session, project=project, stored=stored, parsed=parsed, outcome=outcome)
    _leave_out(session, project, user, row.id, list(zip(stored, parsed, strict=True)), outcome)


def _leave_out(
    session: Session,
    project: Project,
    user: User,
    import_id: int,
    of_batch: Sequence[tuple[Stored, Numbered]],
    outcome: Outcome,
) -> None:
    """Leaves out new pairs that were left out where the file was made. One that was there and isn't left out is named."""
    told = [(at, number, one.excluded) for at, (number, one) in of_batch if one.excluded]
    if not told:
        return
    new = {at.comparison_id: excluded for at, _, excluded in told if at.added}
    exclusions.bring(session, project=project, kind=ExclusionKind.PAIR, subjects=new, by=user, import_id=import_id)
    there = {at.comparison_id for at, _, _ in told if not at.added}
    left_out = places.left_out(session, there) if there else set()
    for at, number, excluded in told:
        if not at.added and at.comparison_id not in left_out:
            outcome.differ(number, "excluded", "no", excluded.reason or "yes")


def _apart(
    session: Session, stored: list[Stored], parsed: list[Numbered], outcome: Outcome
) -> tuple[list[Stored], list[Numbered]]:
    """Without the lines whose pairs an evaluation asks or asked: a vote of theirs would fill its slots, and count nowhere."""
    there = {at.comparison_id for at in stored if not at.added}
    if not there:
        return stored, parsed
    of_evaluations = set(
        session.scalars(
            select(Comparison.id).where(among(session, Comparison.id, there), Comparison.evaluation_id.is_not(None))
        )
    )
    if not of_evaluations:
        return stored, parsed
    fit = []
    for at, line in zip(stored, parsed, strict=True):
        if at.comparison_id in of_evaluations:
            outcome.reject(line[0], IN_EVALUATION)
        else:
            fit.append((at, line))
    return [at for at, _ in fit], [line for _, line in fit]


def _filling(parsed: Sequence[Numbered]) -> list[str]:
    """The pairs, by their hash, of which the importing person's first vote fills a slot."""
    first: dict[str, Vote] = {}
    for _, one in parsed:
        if (vote := _own_vote(one)) is not None:
            first.setdefault(one.pair.hashes.pair, vote)
    return [key for key, vote in first.items() if recording.fills(vote)]


def _own_vote(one: Parsed) -> Vote | None:
    """The vote of a line that says nothing of who voted: it is the importing person's."""
    return one.votes[0] if len(one.votes) == 1 and not one.votes[0].rater else None


def _earlier_choices(session: Session, user: User, comparison_ids: Collection[int]) -> dict[int, Choice]:
    """What this person, or anybody's import of votes that nobody's name stands at, said of these comparisons before."""
    rows = session.execute(
        select(Judgment.comparison_id, Judgment.choice)
        .join(User, User.id == Judgment.user_id)
        .where(
            among(session, Judgment.comparison_id, comparison_ids),
            (Judgment.user_id == user.id) | ((Judgment.source == JudgmentSource.IMPORT) & ~User.is_imported),
            ~Judgment.superseded,
        )
    )
    return dict(rows.tuples().all())
