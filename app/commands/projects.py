"""prefloop project …, prefloop members …"""

from pathlib import Path
from typing import Annotated

import typer

from app.commands.context import acting_user, console, pairs_of, show
from app.commands.options import ActAs, AsJson
from app.config import get_settings
from app.db import get_engine, read_session, write_session
from app.errors import Invalid
from app.models import ProjectRole
from app.services.accounts import members as member_service
from app.services.accounts import users
from app.services.accounts.access import Caller
from app.services.collecting import guidelines as guideline_texts
from app.services.collecting import projects
from app.storage import get_storage

project = typer.Typer(no_args_is_help=True, help="Projects.")
members = typer.Typer(no_args_is_help=True, help="Members of projects.")


@project.command("create")
def create_project(
    slug: str,
    name: Annotated[str, typer.Option(help="Name that people see.")] = "",
    guidelines: Annotated[
        Path | None, typer.Option(help="Markdown file of guidelines.", exists=True, dir_okay=False)
    ] = None,
    judgments: Annotated[int, typer.Option(help="Judgments wanted for each comparison.")] = 1,
    open_to_everybody: Annotated[
        bool, typer.Option("--open", help="Let every account in by its own role; else only members.")
    ] = False,
    as_user: ActAs = None,
) -> None:
    """Create a project."""
    with write_session() as session:
        row = projects.create(
            session,
            slug=slug,
            name=name or slug.replace("-", " ").capitalize(),
            by=acting_user(session, as_user),
            guidelines=_text_of(guidelines) if guidelines else "",
            judgments_per_comparison=judgments,
            open_to_everybody=open_to_everybody,
        )
    console.print(f"“{row.slug}” was created. Fill it: prefloop import {row.slug} FILE.jsonl")


@project.command("list")
def list_projects(as_json: AsJson = False) -> None:
    """Show the projects with their counts."""
    with read_session() as session:
        show(
            (
                {
                    "slug": row.project.slug,
                    "name": row.project.name,
                    "comparisons": row.comparisons,
                    "judgments": row.judgments,
                    "slots_done": row.done,
                    "slots_wanted": row.wanted,
                }
                for row in projects.listing(session, caller=Caller.of(acting_user(session, None)))
            ),
            as_json=as_json,
            empty="No projects yet. Make one: prefloop project create SLUG",
        )


@project.command("set")
def change_project(
    slug: str,
    settings: Annotated[list[str], typer.Argument(help="key=value, e.g. judgments_per_comparison=3 allow_tie=false")],
    as_user: ActAs = None,
) -> None:
    """Change a project's name, description or rules."""
    with write_session() as session:
        projects.update(
            session, project=projects.get(session, slug), by=acting_user(session, as_user), **pairs_of(settings)
        )
    console.print(f"“{slug}” was changed.")


@project.command("guidelines")
def change_guidelines(
    slug: str, file: Annotated[Path, typer.Argument(exists=True, dir_okay=False)], as_user: ActAs = None
) -> None:
    """Store a new version of a project's guidelines."""
    with write_session() as session:
        row = guideline_texts.write(
            session, project=projects.get(session, slug), text=_text_of(file), by=acting_user(session, as_user)
        )
    console.print(f"Guidelines of {slug} are at version {row.version}.")


@project.command("archive")
def archive_project(slug: str, as_user: ActAs = None) -> None:
    """Make a project one that can only be looked at: nobody is asked in it, nothing new trains."""
    with write_session() as session:
        projects.archive(session, project=projects.get(session, slug), by=acting_user(session, as_user))
    console.print(f"“{slug}” is archived. Bring it back: prefloop project bring-back {slug}")


@project.command("bring-back")
def bring_back_project(slug: str, as_user: ActAs = None) -> None:
    """Make an archived project one in which people work."""
    with write_session() as session:
        projects.bring_back(session, project=projects.get(session, slug), by=acting_user(session, as_user))
    console.print(f"“{slug}” is back.")


@project.command("delete")
def delete_project(
    slug: str,
    name: Annotated[
        str | None, typer.Option("--name", help="The project's name, to be sure. Asked for otherwise.")
    ] = None,
    as_user: ActAs = None,
) -> None:
    """Delete a project with everything of it, also stored files. The audit trail stays."""
    from app.services.loop.removal import projects as removal

    with read_session() as session:
        row = projects.get(session, slug)
    typed = name if name is not None else typer.prompt(f"This can't be undone. Type the project's name, {row.name}")
    with write_session() as session:
        removal.begin(
            session,
            project=projects.get(session, slug),
            name=typed,
            by=acting_user(session, as_user),
            in_background=False,
        )
    counts: dict[str, int] = {}
    with console.status(f"Deleting {row.name}") as status:

        def progress(what: str, count: int) -> None:
            counts[what] = counts.get(what, 0) + count
            status.update(f"Deleting {row.name}: {counts[what]:,} of {what.replace('_', ' ')}")

        removal.finish(get_engine(), get_storage(get_settings()), project_id=row.id, progress=progress)
    console.print(f"“{slug}” is deleted: {sum(counts.values()):,} rows, with their files.")


def _text_of(file: Path) -> str:
    """Raises Invalid for a file that isn't UTF-8."""
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise Invalid(f"{file} isn't UTF-8 text (byte {error.start}).", "Save it as UTF-8.") from None


@members.command("list")
def list_members(slug: str, as_json: AsJson = False) -> None:
    """Show who is in a project as what."""
    with read_session() as session:
        row = projects.get(session, slug)
        if row.open_to_everybody and not as_json:
            console.print(f"“{slug}” is open to everybody: each account acts in it by its own role.")
        show(
            (
                {
                    "username": member.username,
                    "name": member.display_name,
                    "role": member.role.value,
                    "active": member.active,
                    "since": member.added_at,
                    "added_by": member.added_by,
                }
                for member in member_service.listing(session, project=row)
            ),
            as_json=as_json,
            empty=f"No members. Add one: prefloop members add {slug} NAME",
        )


@members.command("add")
def add_member(
    slug: str,
    username: str,
    role: Annotated[ProjectRole, typer.Option(help="What they are in the project.")] = ProjectRole.EVALUATOR,
    as_user: ActAs = None,
) -> None:
    """Add somebody to a project, or change their role in it."""
    with write_session() as session:
        member_service.put(
            session,
            project=projects.get(session, slug),
            user=users.get(session, username),
            role=role,
            by=acting_user(session, as_user),
            acting=ProjectRole.ENGINEER,
        )
    console.print(f"{username} is {role.value} in “{slug}”.")


@members.command("remove")
def remove_member(slug: str, username: str, as_user: ActAs = None) -> None:
    """Take somebody out of a project. Their judgments stay."""
    with write_session() as session:
        member_service.remove(
            session,
            project=projects.get(session, slug),
            user=users.get(session, username),
            by=acting_user(session, as_user),
            acting=ProjectRole.ENGINEER,
        )
    console.print(f"{username} isn't a member of “{slug}” any more.")
