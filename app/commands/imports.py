"""prefloop import"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from app.commands.context import acting_user, console, show
from app.commands.options import ActAs, AsJson
from app.config import get_settings
from app.db import get_engine, read_session
from app.errors import Invalid, NotFound
from app.models import Import, ImportState, Project
from app.services.collecting import projects
from app.services.collecting.imports import load as imports
from app.services.collecting.imports import mapping, preview


def import_file(
    slug: Annotated[str, typer.Argument(help="The project.")],
    file: Annotated[
        str, typer.Argument(help="JSON Lines, JSON, CSV, TSV or Parquet, plain or gzip; - reads standard input.")
    ],
    columns: Annotated[
        list[str] | None,
        typer.Option(
            "--map", help="COLUMN=ROLE, what a column becomes, such as question=prompt. Kept for the next file."
        ),
    ] = None,
    only_show: Annotated[
        bool, typer.Option("--show", help="Only show how the first rows would be read; store nothing.")
    ] = False,
    as_user: ActAs = None,
    as_json: AsJson = False,
) -> None:
    """Import prompts with answers, or judged pairs. Run again, it counts what is there already and stores nothing twice."""
    given = mapping.parsed(columns or ())
    if file != "-" and not Path(file).is_file():
        raise NotFound(f"There is no file {file}.", "Name a file, or - for standard input.")
    with read_session() as session:
        target, by = projects.get(session, slug), acting_user(session, as_user)
    if only_show:
        _show(target, file, given, as_json=as_json)
        return
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
                given=given,
            )

        with _opened(file) as stream:
            row = load(stream)
    _tell(row, as_json=as_json)
    if row.state == ImportState.FAILED:
        raise Invalid(
            f"The import failed: {row.error}",
            "What was read before is kept. Fix the file and import it again." if row.added or row.duplicates else "",
        )


@contextmanager
def _opened(file: str) -> Iterator[BinaryIO]:
    if file == "-":
        yield sys.stdin.buffer
        return
    with Path(file).open("rb") as stream:
        yield stream


def _show(target: Project, file: str, given: dict[str, str], *, as_json: bool) -> None:
    with _opened(file) as stream:
        shown = preview.look(get_engine(), project_id=target.id, stream=stream, settings=get_settings(), given=given)
    if as_json:
        show([asdict(shown)], as_json=True, empty="")
        return
    console.print(shown.recognised or shown.error, markup=False)
    show(
        [{"column": column.name, "becomes": column.role, "in_words": column.word} for column in shown.columns],
        as_json=False,
        empty="",
    )
    for line in shown.rows[:5]:
        if line.message:
            console.print(f"line {line.line}: refused, {line.message}", markup=False)
        for pair in line.pairs[:2]:
            said = " | ".join(f"{message['role']}: {message['content'][:200]}" for message in pair.prompt)
            console.print(
                f"line {line.line}: {said} → 1: {pair.first[:80]} · 2: {pair.second[:80]} · {pair.said}", markup=False
            )
    if shown.error and shown.rows:
        console.print(shown.error, markup=False)


def _tell(row: Import, *, as_json: bool) -> None:
    """The counts, what became of the columns, and the first refusals."""
    report = {
        "lines": row.lines,
        "added": row.added,
        "judged": row.judged,
        "duplicates": row.duplicates,
        "filled": row.filled,
        "rejected": row.rejected,
    }
    if as_json:
        report_of_columns = asdict(row.report)
        show(
            [report | report_of_columns | {"state": row.state.value, "error": row.error, "rejections": row.rejections}],
            as_json=True,
            empty="",
        )
    else:
        console.print(
            f"{row.lines:,} lines: {row.added:,} added ({row.judged:,} already judged), {row.duplicates:,} duplicates, "
            f"{row.rejected:,} rejected."
        )
        if row.report.recognised:
            console.print(row.report.recognised, markup=False)
        if row.filled:
            console.print(f"{row.filled:,} pairs that were there got fields that they hadn't.")
        for one in row.report.differences[:20]:
            console.print(
                f"line {one.line}: {one.field} is {one.stored!r} in the project and {one.given!r} in the file.",
                markup=False,
            )
        show([dict(rejection) for rejection in row.rejections[:20]], as_json=False, empty="")
        if row.rejected > 20:
            console.print(f"… and {row.rejected - 20:,} more; --json lists up to a thousand.")
