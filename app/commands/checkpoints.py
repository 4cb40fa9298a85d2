"""prefloop checkpoints …"""

import shutil
from pathlib import Path
from typing import Annotated

import orjson
import typer

from app.commands.context import console, show
from app.commands.options import AsJson
from app.config import get_settings
from app.db import read_session
from app.services.collecting import projects
from app.services.training import checkpoints as checkpoint_service
from app.storage import get_storage

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
    """Copy a checkpoint's files into a folder."""
    storage = get_storage(get_settings())
    with read_session() as session:
        row = checkpoint_service.get(session, checkpoint_id)
    for file in row.files:
        target = out / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        with storage.open(file.key) as source, target.open("wb") as sink:
            shutil.copyfileobj(source, sink)
        console.print(f"{target}  {file.sha256}")
