"""Exclusions: what was collected and isn't to be trained on any more. New snapshots and figures leave it out; it stays visible, and can
be put back. What is behind an undone import is `services.loop.removal.imports`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import ColumnElement, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, aliased

from app import paging
from app.errors import Conflict, Invalid, NotFound
from app.models import Comparison, Exclusion, ExclusionKind, Import, Judgment, Project, User
from app.models.base import now as utc_now
from app.services.accounts import access, audit
from app.services.collecting import slots, typed_text

LONGEST_REASON = 1_000
NOUNS = {
    ExclusionKind.PERSON: "votes of this person",
    ExclusionKind.JUDGMENT: "judgment",
    ExclusionKind.PAIR: "pair",
    ExclusionKind.IMPORT: "import",
}
COLUMNS = {
    ExclusionKind.PERSON: "user_id",
    ExclusionKind.JUDGMENT: "judgment_id",
    ExclusionKind.PAIR: "comparison_id",
    ExclusionKind.IMPORT: "import_id",
}
IN_FORCE: ColumnElement[bool] = Exclusion.lifted_at.is_(None)


@dataclass(frozen=True, slots=True)
class Told:
    """An exclusion with names: of whom it is, if of a person, who made it and who lifted it."""

    row: Exclusion
    person: str
    by: str
    lifted_by: str

    @property
    def subject_id(self) -> int:
        return int(getattr(self.row, COLUMNS[self.row.kind]))


@dataclass(frozen=True, slots=True)
class LeftOut:
    """What a file says of a pair or a vote that was left out where it was made; `of_person`: with all votes of its maker."""

    at: datetime
    reason: str = ""
    of_person: bool = False


@dataclass(frozen=True, slots=True)
class Excluded:
    """What is in force in a project, as ids."""

    people: frozenset[int] = frozenset()
    judgments: frozenset[int] = frozenset()
    pairs: frozenset[int] = frozenset()
    imports: frozenset[int] = frozenset()

    def has_pair(self, comparison_id: int, import_id: int | None) -> bool:
        """Whether a comparison is left out: it or its import is excluded."""
        return comparison_id in self.pairs or import_id in self.imports

    def has_vote(self, judgment_id: int, user_id: int) -> bool:
        """Whether a judgment is left out: it or its maker is excluded."""
        return judgment_id in self.judgments or user_id in self.people


@dataclass(frozen=True, slots=True)
class OfPair:
    """What is in force of one comparison: of itself (`pair`), its import, its judgments by id, and their makers by id."""

    pair: Told | None = None
    of_import: Told | None = None
    judgments: dict[int, Told] = field(default_factory=dict)
    people: dict[int, Told] = field(default_factory=dict)

    @property
    def is_left_out(self) -> bool:
        return bool(self.pair or self.of_import)


def exclude(
    session: Session,
    *,
    project: Project,
    kind: ExclusionKind,
    subject_id: int,
    by: User | None,
    reason: str = "",
    now: datetime | None = None,
) -> Exclusion:
    """Leaves something of a project out from now on. A pair isn't asked about any more. A person's votes can be left out of an
    archived project too.

    Raises NotFound where the project has no such thing, Conflict where it is left out already, Invalid for the reason.
    """
    if kind is not ExclusionKind.PERSON:
        access.require_open(project)
    reason = " ".join(reason.split())
    typed_text.check(reason, what="reason", field="reason", longest=LONGEST_REASON)
    _require(session, project, kind, subject_id)
    row = Exclusion(
        project_id=project.id,
        kind=kind,
        reason=reason,
        by_id=by.id if by else None,
        at=now or utc_now(),
        settled=False,
        **{COLUMNS[kind]: subject_id},
    )
    try:
        with session.begin_nested():
            session.add(row)
            session.flush()
    except IntegrityError as error:
        raise Conflict(
            f"This {NOUNS[kind]} is left out already."
            if kind is not ExclusionKind.PERSON
            else "The votes of this person are left out already.",
            "Put it back first to give another reason.",
        ) from error
    if kind is ExclusionKind.PAIR:
        slots.fit(session, project=project, comparison_ids=[subject_id])
    audit.record(
        session,
        by=by,
        action="exclusion.add",
        target=f"exclusion {row.id}",
        project=project.slug,
        kind=kind.value,
        subject=subject_id,
        reason=reason,
    )
    return row


def bring(
    session: Session,
    *,
    project: Project,
    kind: ExclusionKind,
    subjects: Mapping[int, LeftOut],
    by: User | None,
    import_id: int | None,
) -> None:
    """Leaves out what comes from a file in which it was left out; what is left out here already stays so. No snapshot holds it."""
    column = getattr(Exclusion, COLUMNS[kind])
    here = select(column).where(column.in_(subjects), IN_FORCE, Exclusion.project_id == project.id)
    known = set(session.scalars(here))
    new = {number: said for number, said in subjects.items() if number not in known}
    if not new:
        return
    session.add_all(
        Exclusion(
            project_id=project.id,
            kind=kind,
            reason=said.reason,
            by_id=by.id if by else None,
            at=said.at,
            **{COLUMNS[kind]: number},
        )
        for number, said in new.items()
    )
    session.flush()
    if kind is ExclusionKind.PAIR:
        slots.fit(session, project=project, comparison_ids=list(new))
    audit.record(
        session,
        by=by,
        action="exclusion.bring",
        target=f"import {import_id}",
        project=project.slug,
        kind=kind.value,
        count=len(new),
    )


def lift(session: Session, *, project: Project, row: Exclusion, by: User | None, now: datetime | None = None) -> None:
    """Puts back what was left out; lifting again changes nothing. What an undone import lost is gone for good."""
    access.require_open(project)
    lifted = update(Exclusion).where(Exclusion.id == row.id, Exclusion.lifted_at.is_(None))
    settled = row.kind is not ExclusionKind.IMPORT
    values = {"lifted_at": now or utc_now(), "lifted_by_id": by.id if by else None, "settled": settled}
    if not session.execute(lifted.values(values).execution_options(synchronize_session=False)).rowcount:  # type: ignore[attr-defined]
        return
    session.refresh(row)
    if row.comparison_id is not None:
        slots.fit(session, project=project, comparison_ids=[row.comparison_id])
    audit.record(
        session,
        by=by,
        action="exclusion.lift",
        target=f"exclusion {row.id}",
        project=project.slug,
        kind=row.kind.value,
    )


def get(session: Session, exclusion_id: int) -> Exclusion:
    """Raises NotFound."""
    row = session.get(Exclusion, exclusion_id) if 0 < exclusion_id < 2**31 else None
    if row is None:
        raise NotFound(f"There is no exclusion {exclusion_id}.", "Look at what the project leaves out.")
    return row


def in_force_of(session: Session, *, kind: ExclusionKind, subject_id: int) -> Exclusion | None:
    """The exclusion of a pair, judgment or import that is in force, if any."""
    column = getattr(Exclusion, COLUMNS[kind])
    return session.scalar(select(Exclusion).where(column == subject_id, IN_FORCE))


def in_force(session: Session, *, project_id: int) -> Excluded:
    """Everything that a project leaves out now."""
    rows = session.execute(
        select(Exclusion.user_id, Exclusion.judgment_id, Exclusion.comparison_id, Exclusion.import_id).where(
            Exclusion.project_id == project_id, IN_FORCE
        )
    ).all()
    return Excluded(
        *(frozenset(number for number in column if number is not None) for column in zip(*rows, strict=True))
    )


def listing(session: Session, *, project: Project, page: int = 1, size: int = 50) -> paging.Page[Told]:
    """What a project leaves or left out, the newest first."""
    numbers: paging.Page[int] = paging.fetch(
        session,
        select(Exclusion.id).where(Exclusion.project_id == project.id).order_by(Exclusion.id.desc()),
        page=page,
        size=size,
    )
    told = {one.row.id: one for one in _told(session, Exclusion.id.in_(numbers.items))}
    return paging.Page([told[number] for number in numbers.items], numbers.number, numbers.size, numbers.total)


def told(session: Session, *, row: Exclusion) -> Told:
    """One exclusion with its names."""
    return _told(session, Exclusion.id == row.id)[0]


def of_pair(session: Session, *, comparison: Comparison, judgments: Sequence[Judgment]) -> OfPair:
    """What is in force of a comparison and of its judgments."""
    people = Exclusion.user_id.in_({one.user_id for one in judgments})
    about = [
        Exclusion.comparison_id == comparison.id,
        Exclusion.judgment_id.in_([one.id for one in judgments]),
        (Exclusion.project_id == comparison.project_id) & people,
    ]
    if comparison.import_id is not None:
        about.append(Exclusion.import_id == comparison.import_id)
    rows = _told(session, or_(*about), IN_FORCE)
    by_kind = {kind: [one for one in rows if one.row.kind is kind] for kind in ExclusionKind}
    return OfPair(
        next(iter(by_kind[ExclusionKind.PAIR]), None),
        next(iter(by_kind[ExclusionKind.IMPORT]), None),
        {one.subject_id: one for one in by_kind[ExclusionKind.JUDGMENT]},
        {one.subject_id: one for one in by_kind[ExclusionKind.PERSON]},
    )


def _told(session: Session, *where: ColumnElement[bool]) -> list[Told]:
    person, by, lifted_by = aliased(User), aliased(User), aliased(User)
    rows = session.execute(
        select(Exclusion, person.display_name, by.display_name, lifted_by.display_name)
        .outerjoin(person, person.id == Exclusion.user_id)
        .outerjoin(by, by.id == Exclusion.by_id)
        .outerjoin(lifted_by, lifted_by.id == Exclusion.lifted_by_id)
        .where(*where)
        .order_by(Exclusion.id.desc())
    ).tuples()
    return [Told(row, *(name or "" for name in names)) for row, *names in rows]


def _require(session: Session, project: Project, kind: ExclusionKind, subject_id: int) -> None:
    """Raises NotFound where the project has nothing of this kind with this id."""
    if not 0 < subject_id < 2**31:
        raise Invalid(f"{subject_id} can't be an id.", "Look at the project's data.", field="subject")
    table, key = {
        ExclusionKind.PERSON: (Judgment.project_id, Judgment.user_id),
        ExclusionKind.JUDGMENT: (Judgment.project_id, Judgment.id),
        ExclusionKind.PAIR: (Comparison.project_id, Comparison.id),
        ExclusionKind.IMPORT: (Import.project_id, Import.id),
    }[kind]
    is_theirs = table == project.id
    if kind is ExclusionKind.PAIR:  # those of an evaluation never train, and aren't told apart here
        is_theirs &= Comparison.evaluation_id.is_(None)
    if session.scalar(select(key).where(is_theirs, key == subject_id).limit(1)) is None:
        who = "has no votes of this person" if kind is ExclusionKind.PERSON else f"has no {NOUNS[kind]} {subject_id}"
        raise NotFound(f"“{project.name}” {who}.", "Look at the project's data.")
