"""The `prefloop` command: thin over services, a file of commands a subject in app/commands."""

import sys

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from sqlalchemy.exc import OperationalError

from app.commands import checkpoints, imports, jobs, models, people, projects, runs, server, snapshots, tokens, workers
from app.errors import PrefloopError

cli = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Prefloop: collect preferences, train with DPO, download the checkpoint.",
)
server.register(cli)
cli.command("audit")(people.read_audit)
cli.command("import")(imports.import_file)
cli.command("export")(snapshots.export)
cli.command("train")(runs.train)
cli.command("workers")(workers.list_workers)
for name, group in {
    "user": people.user,
    "token": tokens.token,
    "project": projects.project,
    "snapshot": snapshots.snapshot,
    "jobs": jobs.jobs,
    "checkpoints": checkpoints.checkpoints,
    "models": models.models,
}.items():
    cli.add_typer(group, name=name)


def main() -> None:
    """Runs a command; a known problem is one line on standard error and exit status 1."""
    errors = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        cli()
    except PrefloopError as error:
        errors.print(f"[bold red]Error:[/bold red] {escape(error.what)}", markup=True)
        if error.next_step:
            errors.print(error.next_step, markup=False)
        sys.exit(1)
    except ValidationError as error:
        for problem in error.errors():
            name = (
                "PREFLOOP_" + "_".join(str(part) for part in problem["loc"]).upper() if problem["loc"] else "Settings"
            )
            errors.print(f"{name}: {problem['msg'].removeprefix('Value error, ')}", markup=False)
        sys.exit(2)
    except OperationalError as error:
        errors.print(f"The database doesn't answer or isn't set up: {str(error.orig).splitlines()[0]}", markup=False)
        errors.print("Check PREFLOOP_DATABASE_URL and run: prefloop migrate", markup=False)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
