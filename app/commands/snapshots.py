"""prefloop snapshot …, prefloop export"""

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from app.commands.context import acting_user, console, show
from app.commands.options import ActAs, AsJson
from app.config import get_settings
from app.db import get_engine, read_session
from app.models import Snapshot
from app.services.collecting import projects
from app.services.datasets import snapshots
from app.storage import get_storage

snapshot = typer.Typer(no_args_is_help=True, help="Frozen datasets.")


@snapshot.command("create")
def freeze(slug: str, as_user: ActAs = None, as_json: AsJson = False) -> None:
    """Freeze the project's current pairs into a snapshot."""
    row = _frozen(slug, as_user)
    if as_json:
        show(
            [{"id": row.id, "number": row.number, "sha256": row.sha256, **asdict(row.counts)}],
            as_json=True,
            empty="",
        )
    else:
        console.print(f"Snapshot {row.number} (id {row.id}), SHA-256 {row.sha256}: {asdict(row.counts)}")


def _frozen(slug: str, as_user: str | None) -> Snapshot:
    with read_session() as session:
        project, by = projects.get(session, slug), acting_user(session, as_user)
    return snapshots.freeze(get_engine(), project=project, by_id=by.id, storage=get_storage(get_settings()))


@snapshot.command("list")
def list_snapshots(slug: str, as_json: AsJson = False) -> None:
    """Show a project's snapshots."""
    with read_session() as session:
        show(
            (
                {
                    "id": row.id,
                    "number": row.number,
                    "sha256": row.sha256,
                    "created": row.created_at,
                    **asdict(row.counts),
                }
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
        with storage.open(file.key) as source, (out / file.name).open("wb") as target:
            shutil.copyfileobj(source, target)
        console.print(f"{out / file.name}  {file.sha256}")


def export(
    slug: str, out: Annotated[Path, typer.Option("--out", file_okay=False)] = Path(), as_user: ActAs = None
) -> None:
    """Freeze the project's current pairs and write them as JSON Lines that TRL reads."""
    row = _frozen(slug, as_user)
    export_snapshot(row.id, out)
