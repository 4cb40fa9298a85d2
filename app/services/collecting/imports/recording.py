"""Votes of a file as judgments by a person, each in a slot where its comparison has one for them."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.bulk import insert_rows
from app.models import Choice, ExclusionKind, Judgment, JudgmentSource, Project, User
from app.models.base import now as utc_now
from app.services.collecting import counts, exclusions, places, slots
from app.services.collecting.imports.records.votes import Vote


def is_superseded(vote: Vote) -> bool:
    return bool(vote.details and vote.details.get("superseded"))


def fills(vote: Vote) -> bool:
    """Whether a vote fills a slot, where its comparison has a free one."""
    return vote.choice != Choice.SKIP.value and not is_superseded(vote) and not (vote.details or {}).get("late")


def record(
    session: Session,
    *,
    user: User,
    project: Project,
    votes: Mapping[int, Sequence[Vote]],
    import_id: int | None = None,
    by: User | None = None,
    filled: Mapping[int, int] | None = None,
) -> None:
    """Records what a person said of comparisons that they haven't judged: of each one vote, or, the last one in force,
    several of which the earlier ones were changed. by: who brings them. filled: slots that are theirs already, by comparison."""
    if not votes:
        return
    now = utc_now()
    last = {number: of_one[-1] for number, of_one in votes.items()}
    known = dict(filled or {})
    settled = [number for number, vote in last.items() if number not in known and fills(vote)]
    others = last.keys() - known.keys() - set(settled)
    offered = places.offered(session, others) if others else set()
    if project.judgments_per_comparison > 1:  # each filled one has another that is open
        offered |= known.keys()
    changed = slots.Changed()
    if settled:
        changed = slots.settle(session, project_id=project.id, comparison_ids=settled, user=user, now=now)
    in_slots = known | changed.slots
    rows = {
        number: _row(vote, project, user, number, now, import_id) | {"slot_id": in_slots.get(number)}
        for number, vote in last.items()
    }
    for number in [number for number, of_one in votes.items() if len(of_one) > 1]:
        before: int | None = None
        for vote in votes[number][:-1]:
            earlier = Judgment(
                **_row(vote, project, user, number, now, import_id) | {"superseded": True, "slot_id": None},
                supersedes_id=before,
            )
            session.add(earlier)
            session.flush()
            before = earlier.id
        session.add(Judgment(**rows.pop(number), supersedes_id=before))
    if rows:
        columns = tuple(next(iter(rows.values())))
        insert_rows(session, Judgment, columns, [tuple(row.values()) for row in rows.values()], typed=True)
    _leave_out(session, user, project, votes, import_id, by)
    current = sum(not is_superseded(vote) for vote in last.values())
    counts.note(
        session,
        project_id=project.id,
        user_id=user.id,
        stored=sum(map(len, votes.values())),
        judgments=current,
        imported=current,
        known_offered=len(changed.offered) + len(offered),  # what is recorded here was never judged by this person
    )


def _leave_out(
    session: Session,
    user: User,
    project: Project,
    votes: Mapping[int, Sequence[Vote]],
    import_id: int | None,
    by: User | None,
) -> None:
    """Leaves out the votes of this person that were left out where the file was made, or all of theirs."""
    said = {
        number: [(vote.details or {}).get("excluded") for vote in of_one]
        for number, of_one in votes.items()
        if any((vote.details or {}).get("excluded") for vote in of_one)
    }
    if not said:
        return
    rows = session.execute(
        select(Judgment.comparison_id, Judgment.id)
        .where(Judgment.comparison_id.in_(said), Judgment.user_id == user.id)
        .order_by(Judgment.comparison_id, Judgment.id)  # as they were recorded
    ).tuples()
    ids: dict[int, list[int]] = {}
    for comparison_id, number in rows:
        ids.setdefault(comparison_id, []).append(number)
    of_votes = [
        (number, left_out)
        for comparison_id, of_one in said.items()
        for number, left_out in zip(ids[comparison_id], of_one, strict=True)
        if left_out is not None
    ]
    alone = {number: left_out for number, left_out in of_votes if not left_out.of_person}
    of_person = next((left_out for _, left_out in of_votes if left_out.of_person), None)
    whole = {user.id: of_person} if of_person else {}
    for kind, subjects in ((ExclusionKind.JUDGMENT, alone), (ExclusionKind.PERSON, whole)):
        exclusions.bring(session, project=project, kind=kind, subjects=subjects, by=by, import_id=import_id)


def _row(
    vote: Vote, project: Project, user: User, comparison_id: int, now: datetime, import_id: int | None
) -> dict[str, Any]:
    """The same columns for every vote."""
    details = vote.details or {}
    return {
        "project_id": project.id,
        "comparison_id": comparison_id,
        "user_id": user.id,
        "choice": Choice(vote.choice),
        "strength": vote.strength,
        "rationale": vote.note,
        "source": JudgmentSource.IMPORT,
        "flags": details.get("flags", []),
        "first_side": details.get("first_side"),
        "shown_at": details.get("shown_at"),
        "submitted_at": details.get("submitted_at") or now,
        "guideline_version": details.get("guideline_version", project.guideline_version),
        "late": bool(details.get("late")),
        "superseded": is_superseded(vote),
        "import_id": import_id,
    }
