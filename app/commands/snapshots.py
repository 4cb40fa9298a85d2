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
from app.models import Container, ExtractForm, Project, Snapshot, Split
from app.services.collecting import projects
from app.services.datasets import snapshots
from app.services.datasets.extracts import extracts
from app.services.datasets.extracts.containers import chunks
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
    slug: str,
    out: Annotated[Path, typer.Option("--out", file_okay=False)] = Path(),
    form: Annotated[
        ExtractForm,
        typer.Option(
            "--form",
            help="trl: pairs as TRL reads them. openai: its preference form. own: everything, with every vote.",
        ),
    ] = ExtractForm.TRL,
    container: Annotated[Container, typer.Option("--kind", help="Kind of file.")] = Container.JSONL,
    as_user: ActAs = None,
) -> None:
    """Write a project's data into a folder; for trl and openai its current pairs are frozen first."""
    if form is ExtractForm.OWN:
        with read_session() as session:
            project = projects.get(session, slug)
        _write(project, form, container, out)
        return
    row = _frozen(slug, as_user)
    if form is ExtractForm.TRL and container is Container.JSONL:
        export_snapshot(row.id, out)
        return
    with read_session() as session:
        frozen = snapshots.get(session, row.id)
    for split in (Split.TRAIN, Split.EVAL):
        _write(frozen.project, form, container, out, frozen, split)


def _write(
    project: Project,
    form: ExtractForm,
    container: Container,
    out: Path,
    frozen: Snapshot | None = None,
    split: Split | None = None,
) -> None:
    rows = extracts.rows(
        get_engine(), get_storage(get_settings()), form=form, project_id=project.id, snapshot=frozen, split=split
    )
    path = out / extracts.name_of(project, form, container, frozen, split)
    out.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for chunk in chunks(rows, container):
            file.write(chunk)
    console.print(f"{path}  {rows.lines:,} pairs")
    for sentence in extracts.told(rows.left_out):
        console.print(f"  {sentence}")
