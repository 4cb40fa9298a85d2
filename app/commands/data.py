"""prefloop project …, import, export, snapshot …"""

import shutil
import sys
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from app.commands.context import acting_user, console, pairs_of, show
from app.config import get_settings
from app.db import get_engine, read_session, write_session
from app.errors import Invalid, NotFound
from app.models import Import, ImportState
from app.services.collecting import projects
from app.services.collecting.imports import load as imports
from app.services.datasets import snapshots
from app.storage import get_storage

AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]
ActAs = Annotated[str | None, typer.Option("--as", help="Account to act as. Default: the first admin.")]

project = typer.Typer(no_args_is_help=True, help="Projects.")
snapshot = typer.Typer(no_args_is_help=True, help="Frozen datasets.")


def register(cli: typer.Typer) -> None:
    cli.add_typer(project, name="project")
    cli.command("import")(import_file)
    cli.command("export")(export)
    cli.add_typer(snapshot, name="snapshot")


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
    """Make a project."""
    with write_session() as session:
        row = projects.create(
            session,
            slug=slug,
            name=name or slug.replace("-", " ").capitalize(),
            by=acting_user(session, as_user),
            guidelines=guidelines.read_text() if guidelines else "",
            judgments_per_comparison=judgments,
        )
    console.print(f"Made project {row.slug}. Fill it: prefloop import {row.slug} FILE.jsonl")


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
    console.print(f"Changed {slug}.")


@project.command("guidelines")
def change_guidelines(
    slug: str, file: Annotated[Path, typer.Argument(exists=True, dir_okay=False)], as_user: ActAs = None
) -> None:
    """Store a new version of a project's guidelines."""
    with write_session() as session:
        row = projects.set_guidelines(
            session, project=projects.get(session, slug), text=file.read_text(), by=acting_user(session, as_user)
        )
    console.print(f"Guidelines of {slug} are at version {row.version}.")


def import_file(
    slug: Annotated[str, typer.Argument(help="The project.")],
    file: Annotated[str, typer.Argument(help="JSON Lines, plain or gzip; - reads standard input.")],
    as_user: ActAs = None,
    as_json: AsJson = False,
) -> None:
    """Import prompts with answers, or judged pairs. May be run again: what is there already is counted, not doubled."""
    if file != "-" and not Path(file).is_file():
        raise NotFound(f"There is no file {file}.", "Name a JSON Lines file, or - for standard input.")
    with read_session() as session:
        target, by = projects.get(session, slug), acting_user(session, as_user)
    with console.status("Importing") as status:

        def progress(row: Import) -> None:
            status.update(
                f"Importing: {row.lines:,} lines, {row.added:,} added, {row.duplicates:,} duplicates, {row.rejected:,} rejected"
            )

        def load(stream: BinaryIO) -> Import:
            return imports.load(
                get_engine(),
                project_id=target.id,
                user_id=by.id,
                stream=stream,
                filename=Path(file).name,
                settings=get_settings(),
                progress=progress,
            )

        if file == "-":
            row = load(sys.stdin.buffer)
        else:
            with Path(file).open("rb") as stream:
                row = load(stream)
    report = {
        "lines": row.lines,
        "added": row.added,
        "judged": row.judged,
        "duplicates": row.duplicates,
        "rejected": row.rejected,
    }
    if as_json:
        show(
            [report | {"state": row.state.value, "error": row.error, "rejections": row.rejections}],
            as_json=True,
            empty="",
        )
    else:
        console.print(
            f"{row.lines:,} lines: {row.added:,} added ({row.judged:,} already judged), {row.duplicates:,} duplicates, "
            f"{row.rejected:,} rejected."
        )
        show(row.rejections[:20], as_json=False, empty="")
        if row.rejected > 20:
            console.print(f"… and {row.rejected - 20:,} more; --json lists up to a thousand.")
    if row.state == ImportState.FAILED:
        raise Invalid(
            f"The import stopped: {row.error}", "What was read before is kept. Mend the file and import it again."
        )


@snapshot.command("create")
def freeze(slug: str, as_user: ActAs = None, as_json: AsJson = False) -> None:
    """Freeze the project's current pairs into a snapshot."""
    with write_session() as session:
        row = snapshots.freeze(
            session,
            project=projects.get(session, slug),
            by=acting_user(session, as_user),
            storage=get_storage(get_settings()),
        )
        if as_json:
            show([{"id": row.id, "number": row.number, "sha256": row.sha256, **row.counts}], as_json=True, empty="")
        else:
            console.print(f"Snapshot {row.number} (id {row.id}), SHA-256 {row.sha256}: {row.counts}")


@snapshot.command("list")
def list_snapshots(slug: str, as_json: AsJson = False) -> None:
    """Show a project's snapshots."""
    with read_session() as session:
        show(
            (
                {"id": row.id, "number": row.number, "sha256": row.sha256, "created": row.created_at, **row.counts}
                for row in snapshots.listing(session, project=projects.get(session, slug))
            ),
            as_json=as_json,
            empty="No snapshots yet. Freeze one: prefloop snapshot create " + slug,
        )


@snapshot.command("export")
def export_snapshot(
    snapshot_id: int,
    out: Annotated[
        Path, typer.Option("--out", help="Folder for train.jsonl and eval.jsonl.", file_okay=False)
    ] = Path(),
) -> None:
    """Write a snapshot's files into a folder."""
    storage = get_storage(get_settings())
    with read_session() as session:
        row = snapshots.get(session, snapshot_id)
    out.mkdir(parents=True, exist_ok=True)
    for file in row.files:
        with storage.open(file["key"]) as source, (out / file["name"]).open("wb") as target:
            shutil.copyfileobj(source, target)
        console.print(f"{out / file['name']}  {file['sha256']}")


def export(
    slug: str, out: Annotated[Path, typer.Option("--out", file_okay=False)] = Path(), as_user: ActAs = None
) -> None:
    """Freeze the project's current pairs and write them as JSON Lines that TRL reads."""
    with write_session() as session:
        row = snapshots.freeze(
            session,
            project=projects.get(session, slug),
            by=acting_user(session, as_user),
            storage=get_storage(get_settings()),
        )
    export_snapshot(row.id, out)
