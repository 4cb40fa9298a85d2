"""The `prefloop` command: thin over services, a file of commands a subject in app/commands.

A command's module is imported when the command runs: a list of commands, or a word misspelt, needs none of them.
"""

import os
import sys
from importlib import import_module
from typing import Any, cast

import typer
from typer.core import TyperGroup

# name: (module in app/commands, what there is the command or the group of commands, its line in the list)
COMMANDS: dict[str, tuple[str, str, str]] = {
    "up": (
        "server",
        "start",
        "Start everything on this machine: migrations, web server, one worker. Ctrl-C ends it all.",
    ),
    "serve": ("server", "serve", "Run the web server alone."),
    "worker": ("server", "worker", "Run one worker alone. It takes one job at a time."),
    "migrate": ("server", "apply_migrations", "Bring the database to this version's schema."),
    "doctor": ("server", "examine", "Check every part of the installation and say how to fix what is broken."),
    "backup": (
        "keeping",
        "make_backup",
        "Copy everything that can't be made again into a folder, while people work, and read it again.",
    ),
    "restore": (
        "keeping",
        "put_back",
        "Put a backup back into an empty installation. Everybody signs in anew, and API tokens end.",
    ),
    "prune": (
        "keeping",
        "remove_spare",
        "Remove what isn't needed any more, by the ages in the settings (PREFLOOP_KEEP_…). The web server does so once a day.",
    ),
    "storage": ("keeping", "show_storage", "Show what takes how much room."),
    "audit": ("people", "read_audit", "Show who did what to which row, the newest first."),
    "import": (
        "imports",
        "import_file",
        "Import prompts with answers, or judged pairs. Run again, it counts what is there already and stores nothing twice.",
    ),
    "export": (
        "snapshots",
        "export",
        "Write a project's data into a folder; for trl and openai its current pairs are frozen first.",
    ),
    "train": ("runs", "train", "Train on the project's current dataset (or on a snapshot)."),
    "generate": (
        "loop.generations",
        "generate",
        "Ask models for new answers to prompts, and make pairs of them to be judged.",
    ),
    "arms": ("loop.trials", "group", "What the judgments of an arm bought."),
    "endpoints": ("loop.endpoints", "endpoints", "Servers with OpenAI's API that give answers."),
    "loop": (
        "loop.rounds",
        "loop",
        "The whole loop by one command: new answers, judgments, snapshot, run, blind comparison, verdict.",
    ),
    "workers": ("workers", "list_workers", "Show the workers: which live, what each can do, on what, and its job."),
    "user": ("people", "user", "Accounts."),
    "token": ("tokens", "token", "API tokens."),
    "project": ("projects", "project", "Projects."),
    "lineage": ("loop.lineage", "group", "Where things went and where they come from."),
    "labels": ("loop.labels", "labels", "Labels that the others contradict, and whose preferences were learned."),
    "exclude": ("loop.exclusions", "exclude", "What is left out of training."),
    "members": ("projects", "members", "Members of projects."),
    "snapshot": ("snapshots", "snapshot", "Frozen datasets."),
    "jobs": ("jobs", "jobs", "Jobs: training runs, exports."),
    "evaluate": (
        "loop.evaluations",
        "evaluate",
        "Compare a checkpoint blind with its parent, its base or another checkpoint.",
    ),
    "evaluations": ("loop.evaluations", "evaluations", "Blind batches of checkpoints."),
    "verdict": (
        "loop.verdicts",
        "verdict",
        "Show what an evaluation came to. Exit code with --wait: 0 goal reached, 1 worse, 2 undecided, 3 void, 4 timeout.",
    ),
    "guess": (
        "loop.guesses",
        "guess",
        "After a batch: guess which answer of a pair was new. Without a side it shows the next pair that you judged.",
    ),
    "progress": (
        "loop.progress",
        "progress",
        "Show all checkpoints of a project on one scale, by every blind comparison of them.",
    ),
    "aliases": ("loop.aliases", "aliases", "A team's names on checkpoints: production, candidate …"),
    "checkpoints": ("checkpoints", "checkpoints", "What training runs saved."),
    "models": ("models", "models", "Base models on this machine."),
}


def load(name: str) -> Any:
    """The command itself, with everything that it imports."""
    from app.starting import importing

    module, attribute, _ = COMMANDS[name]
    with importing():
        target = getattr(import_module(f"app.commands.{module}"), attribute)
    parent = typer.Typer(add_completion=False, rich_markup_mode="rich")
    if isinstance(target, typer.Typer):
        parent.add_typer(target, name=name)
        return cast(TyperGroup, typer.main.get_command(parent)).commands[name]
    parent.command(name)(target)
    return typer.main.get_command(parent)


class Commands(TyperGroup):
    """Knows each command's name and line; imports the one that is called."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        return name, load(name) if name in COMMANDS else command, rest


cli = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Prefloop: collect preferences, train with DPO, download the checkpoint.",
)


def _listed() -> None:
    """Stands in the list for a command that isn't imported; `Commands` puts the command in its place to run it."""


for _name, (_, _, _line) in COMMANDS.items():
    cli.command(_name, help=_line)(_listed)


def main() -> None:
    """Runs a command; a known problem is one line on standard error and exit status 1."""
    os.umask(os.umask(0o077) | 0o077)  # what Prefloop writes is its owner's alone: people's answers, keys, weights
    try:
        cli()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        status = _tell(error)
        if status is None:
            raise
        sys.exit(status)


def _tell(error: Exception) -> int | None:
    """Says a known problem on standard error. Returns the exit status, None for a problem that nobody foresaw."""
    from pydantic import ValidationError
    from rich.console import Console
    from sqlalchemy.exc import OperationalError

    from app.errors import PrefloopError, disk_full
    from app.security import printable

    errors = Console(stderr=True, highlight=False, soft_wrap=True)
    if full := disk_full(error):
        error = full
    if isinstance(error, PrefloopError):
        errors.print("Error:", style="bold red", end=" ")
        errors.print(printable(error.what), markup=False)
        if error.next_step:
            errors.print(printable(error.next_step), markup=False)
        return 1
    if isinstance(error, ValidationError):
        for problem in error.errors():
            place = "_".join(str(part) for part in problem["loc"]).upper()
            name = f"PREFLOOP_{place}" if place else "Settings"
            errors.print(printable(f"{name}: {problem['msg'].removeprefix('Value error, ')}"), markup=False)
        return 2
    if isinstance(error, OperationalError):
        errors.print(f"The database doesn't answer or isn't set up: {str(error.orig).splitlines()[0]}", markup=False)
        errors.print("Check PREFLOOP_DATABASE_URL and run: prefloop migrate", markup=False)
        return 1
    return None


if __name__ == "__main__":
    main()
