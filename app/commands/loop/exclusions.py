"""prefloop exclude …: what a project leaves out of training; undoing an import"""

from typing import Annotated

import typer

from app.commands.context import acting_user, console, show
from app.commands.options import ActAs, AsJson
from app.db import get_engine, read_session, write_session
from app.models import ExclusionKind, Project
from app.services.accounts import users
from app.services.collecting import exclusions, projects
from app.services.collecting.exclusions import Told
from app.services.collecting.imports import load
from app.services.loop.removal import imports

exclude = typer.Typer(no_args_is_help=True, help="What is left out of training.")
Why = Annotated[str, typer.Option("--why", help="The reason, which everybody in the project sees.")]


@exclude.command("pair")
def exclude_pair(slug: str, comparison: int, why: Why = "", as_user: ActAs = None) -> None:
    """Leave a comparison out of new snapshots; nobody is asked about it any more."""
    _exclude(slug, ExclusionKind.PAIR, comparison, why, as_user)


@exclude.command("judgment")
def exclude_judgment(slug: str, judgment: int, why: Why = "", as_user: ActAs = None) -> None:
    """Leave one judgment out of new snapshots."""
    _exclude(slug, ExclusionKind.JUDGMENT, judgment, why, as_user)


@exclude.command("person")
def exclude_person(slug: str, username: str, why: Why = "", as_user: ActAs = None) -> None:
    """Leave all votes of a person in a project out of new snapshots."""
    with read_session() as session:
        person = users.get(session, username)
    _exclude(slug, ExclusionKind.PERSON, person.id, why, as_user)


@exclude.command("import")
def undo_import(
    number: Annotated[int, typer.Argument(help="The import's number.")], why: Why = "", as_user: ActAs = None
) -> None:
    """Undo an import: what nobody judged goes for good, judged pairs stay and are left out."""
    with write_session() as session:
        made = imports.undo(session, row=load.get(session, number), by=acting_user(session, as_user), reason=why)
    imports.settle(get_engine(), exclusion_id=made.id)
    with read_session() as session:
        removed = exclusions.get(session, made.id).removed
    console.print(f"Import {number} is undone: {removed:,} pairs are gone, what was judged is left out.")
    console.print(f"Exclusion {made.id}; put the judged pairs back: prefloop exclude lift {made.id}")


@exclude.command("list")
def list_exclusions(slug: str, page: int = 1, as_json: AsJson = False) -> None:
    """Show what a project leaves or left out, the newest first."""
    with read_session() as session:
        rows = exclusions.listing(session, project=projects.get(session, slug), page=page)
        show((_row(one) for one in rows.items), as_json=as_json, empty="Nothing is left out.")


@exclude.command("lift")
def lift(exclusion: Annotated[int, typer.Argument(help="Its number in the list.")], as_user: ActAs = None) -> None:
    """Put back what was left out."""
    with write_session() as session:
        row = exclusions.get(session, exclusion)
        project = session.get_one(Project, row.project_id)
        exclusions.lift(session, project=project, row=row, by=acting_user(session, as_user))
    imports.settle(get_engine(), exclusion_id=exclusion)
    console.print(f"Exclusion {exclusion} is lifted: new snapshots hold it again.")


def _exclude(slug: str, kind: ExclusionKind, subject: int, why: str, as_user: str | None) -> None:
    with write_session() as session:
        row = exclusions.exclude(
            session,
            project=projects.get(session, slug),
            kind=kind,
            subject_id=subject,
            by=acting_user(session, as_user),
            reason=why,
        )
    imports.settle(get_engine(), exclusion_id=row.id)
    console.print(f"It is left out of new snapshots. Put it back: prefloop exclude lift {row.id}")


def _row(told: Told) -> dict[str, object]:
    row = told.row
    return {
        "id": row.id,
        "kind": row.kind.value,
        "subject": told.person or told.subject_id,
        "why": row.reason,
        "by": told.by,
        "at": row.at,
        "lifted_by": told.lifted_by,
        "lifted_at": row.lifted_at,
        "removed": row.removed,
    }
