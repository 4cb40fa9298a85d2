"""prefloop aliases …"""

import hashlib
import os
import shlex
import subprocess
import time
from pathlib import Path
from typing import Annotated

import typer

from app.commands.context import acting_user, console, show
from app.commands.options import ActAs, AsJson
from app.config import get_settings
from app.db import read_session, write_session
from app.models import ExportFormat, NeededVerdict
from app.services.collecting import projects
from app.services.loop import aliases as names
from app.services.loop import following
from app.services.loop.following import Placed
from app.services.training import checkpoints, exports
from app.storage import get_storage

aliases = typer.Typer(no_args_is_help=True, help="A team's names on checkpoints: production, candidate …")
Because = Annotated[str, typer.Option("--because", help="Why; kept in the history.")]


@aliases.command("list")
def list_aliases(slug: str, as_json: AsJson = False) -> None:
    """Show a project's aliases, what each means and what a move needs."""
    with read_session() as session:
        show(
            (
                {
                    "alias": row.name,
                    "checkpoint": row.checkpoint_id,
                    "moved": row.moved_at,
                    "needs_verdict": row.needs_verdict.value,
                    "needs_approval": row.needs_approval,
                    "waits_for_approval": row.asked_id,
                }
                for row in names.listing(session, project=projects.get(session, slug))
            ),
            as_json=as_json,
            empty=f"No aliases yet. Make one: prefloop aliases set {slug} candidate CHECKPOINT",
        )


@aliases.command("history")
def show_history(slug: str, name: str, as_json: AsJson = False) -> None:
    """Show who moved an alias where, when and why."""
    with read_session() as session:
        alias = names.get(session, project=projects.get(session, slug), name=name)
        show(
            (
                {
                    "at": row.at,
                    "what": row.deed.value,
                    "checkpoint": row.checkpoint_id,
                    "before": row.previous_id,
                    "evaluation": row.evaluation_id,
                    "by": row.user.username if row.user else None,
                    "asked_by": row.asked_by.username if row.asked_by else None,
                    "why": row.why,
                }
                for row in names.history(session, alias=alias, size=200)
            ),
            as_json=as_json,
            empty=f"Nothing happened to “{name}” yet.",
        )


@aliases.command("set")
def set_alias(slug: str, name: str, checkpoint: int, because: Because = "", as_user: ActAs = None) -> None:
    """Move an alias to a checkpoint. Its rule may want a verdict, or another person's approval."""
    with write_session() as session:
        project, by = projects.get(session, slug), acting_user(session, as_user)
        moved = names.move(session, project=project, name=name, checkpoint_id=checkpoint, by=by, why=because)
    if moved.waits:
        console.print(f"Asked for. Somebody else approves it: prefloop aliases approve {slug} {name} --as USER")
    else:
        console.print(f"“{name}” means checkpoint {checkpoint} now.")


@aliases.command("approve")
def approve(slug: str, name: str, as_user: ActAs = None) -> None:
    """Carry out a move that somebody else asked for."""
    with write_session() as session:
        alias = names.get(session, project=projects.get(session, slug), name=name)
        names.approve(session, alias=alias, by=acting_user(session, as_user))
    console.print(f"“{name}” means checkpoint {alias.checkpoint_id} now.")


@aliases.command("decline")
def decline(slug: str, name: str, because: Because = "", as_user: ActAs = None) -> None:
    """Drop a move that waits for approval."""
    with write_session() as session:
        alias = names.get(session, project=projects.get(session, slug), name=name)
        names.decline(session, alias=alias, by=acting_user(session, as_user), why=because)
    console.print(f"“{name}” stays where it is.")


@aliases.command("back")
def back(slug: str, name: str, because: Because = "", as_user: ActAs = None) -> None:
    """Back to the checkpoint before, at once and whatever the rule."""
    with write_session() as session:
        alias = names.get(session, project=projects.get(session, slug), name=name)
        names.back(session, alias=alias, by=acting_user(session, as_user), why=because)
    console.print(f"“{name}” means checkpoint {alias.checkpoint_id} again.")


@aliases.command("remove")
def remove(slug: str, name: str, because: Because = "", as_user: ActAs = None) -> None:
    """Let an alias mean nothing. Its history and rule stay."""
    with write_session() as session:
        alias = names.get(session, project=projects.get(session, slug), name=name)
        names.remove(session, alias=alias, by=acting_user(session, as_user), why=because)
    console.print(f"“{name}” means no checkpoint now.")


@aliases.command("rule")
def set_rule(
    slug: str,
    name: str,
    verdict: Annotated[NeededVerdict | None, typer.Option("--verdict", help="What a verdict must say.")] = None,
    approval: Annotated[
        bool | None, typer.Option("--approval/--no-approval", help="Whether another person must approve.")
    ] = None,
    as_user: ActAs = None,
) -> None:
    """Change what a move of an alias needs; what isn't named stays."""
    with write_session() as session:
        project = projects.get(session, slug)
        there = {row.name: row for row in names.listing(session, project=project)}.get(name)
        alias = names.set_rule(
            session,
            project=project,
            name=name,
            needs_verdict=verdict or (there.needs_verdict if there else NeededVerdict.NONE),
            needs_approval=approval if approval is not None else bool(there and there.needs_approval),
            by=acting_user(session, as_user),
        )
    wanted = "another person's approval" if alias.needs_approval else "nobody's approval"
    console.print(f"“{name}” needs a verdict: {alias.needs_verdict.value.replace('_', ' ')}, and {wanted}.")


@aliases.command("follow")
def follow(
    slug: str,
    name: str,
    into: Annotated[
        Path, typer.Option("--into", file_okay=False, help="Folder in which the alias is a folder's name.")
    ],
    form: Annotated[
        ExportFormat | None,
        typer.Option("--as", help="An export, with its Modelfile. Default: the checkpoint's files."),
    ] = None,
    base: Annotated[str, typer.Option(help="Name under which vLLM serves the base model.")] = "",
    watch: Annotated[bool, typer.Option("--watch", help="Go on following until Ctrl-C.")] = False,
    every: Annotated[float, typer.Option(help="Seconds between looks.", min=1)] = 10,
    run: Annotated[str, typer.Option(help="Command to run after each switch; ALIAS_FOLDER names the folder.")] = "",
) -> None:
    """Put what an alias means where a server reads it, and switch it in one step when the alias moves."""
    while True:
        placed = follow_once(slug, name, into=into, form=form, base=base)
        if placed is None:
            console.print(f"“{name}” means no checkpoint: {into / name} isn't there.")
        elif placed.switched or not watch:
            console.print(f"{placed.link} → {placed.copy}")
        if placed is not None and placed.switched and run:
            subprocess.run(shlex.split(run), env=_with_folder(placed), check=False)
        if not watch:
            return
        time.sleep(every)


def follow_once(slug: str, name: str, *, into: Path, form: ExportFormat | None = None, base: str = "") -> Placed | None:
    """What the alias means now, where a server reads it. None where it means nothing."""
    storage = get_storage(get_settings())
    with read_session() as session:
        alias = names.get(session, project=projects.get(session, slug), name=name)
        number = alias.checkpoint_id
        if number is None:
            files = None
        elif form is None:
            files = checkpoints.get(session, number).files
        else:
            files = exports.whole(session, checkpoint_id=number, format=form.value).files
    if files is None:
        following.remove(into, alias=name)
        return None
    told = f"-{hashlib.sha256(base.encode()).hexdigest()[:8]}" if base else ""
    copy = f"checkpoint-{number}{f'-{form.value}' if form else ''}{told}"
    return following.place(into, alias=name, copy=copy, files=files, storage=storage, base_model=base)


def _with_folder(placed: Placed) -> dict[str, str]:
    return {**os.environ, "ALIAS_FOLDER": str(placed.link)}
