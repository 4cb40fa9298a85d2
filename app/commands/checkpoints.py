"""prefloop checkpoints …"""

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import orjson
import typer

from app.commands.context import acting_user, console, show
from app.commands.jobs import follow
from app.commands.options import AsJson
from app.config import get_settings
from app.db import get_engine, read_session, write_session
from app.errors import NotFound
from app.models import ExportFormat
from app.services.collecting import projects
from app.services.loop import verdicts
from app.services.loop.verdict import card
from app.services.training import checkpoints as checkpoint_service
from app.services.training import exports
from app.storage import StoredFile, get_storage

checkpoints = typer.Typer(no_args_is_help=True, help="What training runs saved.")


@checkpoints.command("list")
def list_checkpoints(slug: Annotated[str | None, typer.Argument()] = None, as_json: AsJson = False) -> None:
    """Show the checkpoints, the newest first."""
    with read_session() as session:
        project = projects.get(session, slug) if slug else None
        show(
            (
                {
                    "id": row.id,
                    "name": row.name,
                    "stage": row.stage.value,
                    "run": row.job_id,
                    "step": row.step,
                    "created": row.created_at,
                }
                for row in checkpoint_service.listing(session, project=project).items
            ),
            as_json=as_json,
            empty="No checkpoints yet. They come from runs: prefloop train PROJECT",
        )


@checkpoints.command("show")
def show_checkpoint(checkpoint_id: int) -> None:
    """Show a checkpoint's provenance, metrics and files as JSON."""
    with read_session() as session:
        row = checkpoint_service.get(session, checkpoint_id)
        print(
            orjson.dumps(
                {
                    "id": row.id,
                    "name": row.name,
                    "stage": row.stage,
                    "step": row.step,
                    "metrics": row.metrics,
                    "provenance": row.provenance,
                    "files": [{"name": file.name, "size": file.size, "sha256": file.sha256} for file in row.files],
                },
                default=str,
                option=orjson.OPT_INDENT_2,
            ).decode()
        )


@checkpoints.command("download")
def download_checkpoint(checkpoint_id: int, out: Annotated[Path, typer.Option("--out", file_okay=False)]) -> None:
    """Copy a checkpoint's files into a folder, with what blind evaluations of it came to (EVALUATIONS.md)."""
    with read_session() as session:
        row = checkpoint_service.get(session, checkpoint_id)
    _copy(row.files, out)
    if told := card.text(verdicts.ended_now(get_engine(), checkpoint_id=checkpoint_id)):
        target = out / card.FILE
        target.write_text(told + "\n", encoding="utf-8")
        console.print(f"{target}  {hashlib.sha256(target.read_bytes()).hexdigest()}")


@checkpoints.command("card")
def show_card(checkpoint_id: int) -> None:
    """Print a checkpoint's model card as Markdown, with what blind evaluations of it came to."""
    told = verdicts.ended_now(get_engine(), checkpoint_id=checkpoint_id)
    with read_session() as session:
        text = card.whole(checkpoint_service.get(session, checkpoint_id), get_storage(get_settings()), told)
    if not text:
        raise NotFound(
            f"Checkpoint {checkpoint_id} has no model card.",
            f"Look at its files: prefloop checkpoints show {checkpoint_id}",
        )
    print(text)


def _copy(files: Sequence[StoredFile], out: Path) -> None:
    storage = get_storage(get_settings())
    for file in files:
        target = out / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        with storage.open(file.key) as source, target.open("wb") as sink:
            shutil.copyfileobj(source, sink)
        console.print(f"{target}  {file.sha256}")


@checkpoints.command("export")
def export_checkpoint(
    checkpoint_id: int,
    form: Annotated[ExportFormat, typer.Option("--as", help="What to make of it.")],
    watch: Annotated[bool, typer.Option("--watch", help="Follow the job until it ends.")] = False,
    out: Annotated[
        Path | None, typer.Option("--out", file_okay=False, help="Wait for it, then copy its files into this folder.")
    ] = None,
    as_user: Annotated[
        str | None, typer.Option("--as-user", help="Account to act as. Default: the first admin.")
    ] = None,  # `--as` is the format here
) -> None:
    """Export a checkpoint as merged weights or GGUF, compared with what was trained."""
    settings = get_settings()
    with read_session() as session:
        row = checkpoint_service.get(session, checkpoint_id)
    refused = exports.refusals(settings, get_storage(settings), checkpoint=row)
    with write_session() as session:
        by = acting_user(session, as_user)
        export = exports.create(session, checkpoint=row, format=form, by=by, refused=refused)
    number = export.job_id
    if not export.files:
        where = f"{settings.base_url}/checkpoints/{checkpoint_id}#exports"
        console.print(
            f"Export {number} is {export.job.state.value}. Follow it: prefloop jobs watch {number}, or {where}"
        )
        if watch or out:
            follow(number)
    elif not out:
        console.print(f"Checkpoint {checkpoint_id} has this export already. Copy its files: add --out FOLDER")
    if out:
        with read_session() as session:
            made = exports.whole(session, checkpoint_id=checkpoint_id, format=form.value)
        _copy(made.files, out)
