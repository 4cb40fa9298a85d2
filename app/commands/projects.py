"""prefloop project …"""

from pathlib import Path
from typing import Annotated

import typer

from app.commands.context import acting_user, console, pairs_of, show
from app.commands.options import ActAs, AsJson
from app.db import read_session, write_session
from app.services.collecting import guidelines as guideline_texts
from app.services.collecting import projects

project = typer.Typer(no_args_is_help=True, help="Projects.")


@project.command("create")
def create_project(
    slug: str,
    name: Annotated[str, typer.Option(help="Name that people see.")] = "",
    guidelines: Annotated[
        Path | None, typer.Option(help="Markdown file of guidelines.", exists=True, dir_okay=False)
    ] = None,
    judgments: Annotated[int, typer.Option(help="Judgments wanted for each comparison.")] = 1,
    as_user: ActAs = None,
) -> None:
    """Create a project."""
    with write_session() as session:
        row = projects.create(
            session,
            slug=slug,
            name=name or slug.replace("-", " ").capitalize(),
            by=acting_user(session, as_user),
            guidelines=guidelines.read_text() if guidelines else "",
            judgments_per_comparison=judgments,
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
                for row in projects.listing(session, user=acting_user(session, None))
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
            session, project=projects.get(session, slug), text=file.read_text(), by=acting_user(session, as_user)
        )
    console.print(f"Guidelines of {slug} are at version {row.version}.")
