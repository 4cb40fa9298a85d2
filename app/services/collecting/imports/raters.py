"""Imported raters: people whose votes come with a file. They have their name and their votes, and never an account.

A rater is known by a key within a project. In Prefloop's own form that is `key_of` the person who voted, so votes that
come back to where they were made are found, and a vote of a rater is never taken for one of the local user of that name.
"""

import hashlib
import re
from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.models import Judgment, Project, Role, User
from app.services.collecting.imports.reading.forms import Parsed
from app.services.collecting.imports.reading.outcome import Outcome
from app.services.collecting.imports.recording import is_superseded, record
from app.services.collecting.imports.records.votes import Vote
from app.services.collecting.pairs import Stored

KEY = re.compile(r"[0-9a-f]{40}\Z")
PREFIX = "imported:"


def key_of(user: User) -> str:
    """By what a person is known in files: the same for a rater in every project that their votes came to."""
    if user.is_imported:
        return user.username.rpartition(":")[2]
    return hashlib.sha256(f"{user.username}\n{user.created_at.isoformat()}".encode()).hexdigest()[:40]


def key_in_file(vote: Vote) -> str:
    """A rater's key as a file writes it, or one made of their name."""
    if KEY.match(vote.rater):
        return vote.rater
    return hashlib.sha256(vote.rater.encode()).hexdigest()[:40]


def judge(
    session: Session,
    *,
    project: Project,
    rated: Sequence[tuple[int, Stored, Parsed]],
    outcome: Outcome,
    import_id: int | None = None,
    by: User | None = None,
) -> int:
    """Records the votes of raters, which somebody brings; how many pairs got one. What a rater said of a pair before isn't recorded
    again, and a line that says otherwise is named."""
    if not rated:
        return 0
    people = _people(session, project, rated)
    known = _known(session, {at.comparison_id for _, at, _ in rated})
    chains: dict[str, dict[int, list[Vote]]] = {}
    judged: set[int] = set()
    for number, at, one in rated:
        for key, votes in _by_rater(one, at).items():
            mine = chains.setdefault(key, {})
            said = known.get((at.comparison_id, key))
            if said is None and at.comparison_id in mine:
                said = mine[at.comparison_id][-1].choice
            if said is not None:
                if votes[-1].choice != said and not is_superseded(votes[-1]):
                    outcome.differ(number, f"vote of {votes[-1].name}", said, votes[-1].choice)
                continue
            mine[at.comparison_id] = votes
            judged.add(at.comparison_id)
    for key, mine in chains.items():
        record(session, user=people[key], project=project, votes=mine, import_id=import_id, by=by)
    return len(judged)


def _by_rater(one: Parsed, at: Stored) -> dict[str, list[Vote]]:
    """A line's votes by who made them, in terms of the stored pair, each one's last current vote at the end."""
    votes: dict[str, list[Vote]] = {}
    for vote in one.votes:
        votes.setdefault(key_in_file(vote), []).append(vote.turned() if at.swapped else vote)
    return {key: sorted(of_one, key=lambda vote: not is_superseded(vote)) for key, of_one in votes.items()}


def _people(session: Session, project: Project, rated: Sequence[tuple[int, Stored, Parsed]]) -> dict[str, User]:
    """The raters of a batch by key; who votes for the first time in this project is added."""
    names = {key_in_file(vote): vote.name for _, _, one in rated for vote in one.votes}
    usernames = {f"{PREFIX}{project.id}:{key}": key for key in names}
    rows = session.scalars(select(User).where(User.username.in_(usernames)))
    people = {usernames[row.username]: row for row in rows}
    for username, key in usernames.items():
        if key not in people:
            name = " ".join(names[key].split())[:120] or "Unnamed rater"
            people[key] = User(
                username=username, display_name=name, role=Role.EVALUATOR, active=False, is_imported=True
            )
            session.add(people[key])
    session.flush()
    return people


def _known(session: Session, comparison_ids: set[int]) -> dict[tuple[int, str], str]:
    """What each person says now of these comparisons, by comparison and the person's key."""
    rows = session.execute(
        select(Judgment.comparison_id, Judgment.choice, User)
        .join(User, User.id == Judgment.user_id)
        .where(Judgment.comparison_id.in_(comparison_ids), ~Judgment.superseded)
    )
    return {(comparison_id, key_of(user)): choice.value for comparison_id, choice, user in rows}
