"""prefloop import"""

import sys
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from app.commands.context import acting_user, console, show
from app.commands.options import ActAs, AsJson
from app.config import get_settings
from app.db import get_engine, read_session
from app.errors import Invalid, NotFound
from app.models import Import, ImportState
from app.services.collecting import projects
from app.services.collecting.imports import load as imports


def import_file(
    slug: Annotated[str, typer.Argument(help="The project.")],
    file: Annotated[str, typer.Argument(help="JSON Lines, plain or gzip; - reads standard input.")],
    as_user: ActAs = None,
    as_json: AsJson = False,
) -> None:
    """Import prompts with answers, or judged pairs. Run again, it counts what is there already and stores nothing twice."""
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
        show([dict(rejection) for rejection in row.rejections[:20]], as_json=False, empty="")
        if row.rejected > 20:
            console.print(f"… and {row.rejected - 20:,} more; --json lists up to a thousand.")
    if row.state == ImportState.FAILED:
        raise Invalid(
            f"The import stopped: {row.error}", "What was read before is kept. Fix the file and import it again."
        )
