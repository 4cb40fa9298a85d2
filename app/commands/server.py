"""prefloop up, serve, worker, migrate, doctor."""

import os
import sys
from contextlib import suppress
from typing import Annotated, Any

import typer

from app.commands.context import as_called, console
from app.config import Settings, get_settings
from app.db import get_engine, write_session
from app.models import Role
from app.services.accounts import links, users
from app.starting import importing


def start(
    with_demo: Annotated[bool, typer.Option("--demo", help="Add the demo project and its small model.")] = False,
) -> None:
    """Start everything on this machine: migrations, web server, one worker. Ctrl-C ends it all."""
    from app.ops import startup, up

    settings = get_settings()
    startup.check(settings)
    raise typer.Exit(
        up.run(settings, console, prepare=lambda: _prepare(settings, with_demo), welcome=lambda: _welcome(settings))
    )


def _prepare(settings: Settings, with_demo: bool) -> None:
    from app.ops import migrate

    console.print("Preparing the database")
    migrate.upgrade(get_engine(settings))
    with write_session() as session:
        if not users.has_admin(session):
            users.create(session, username="admin", display_name="Admin", role=Role.ADMIN)
    if with_demo:
        from app.demo import seed
        from app.services.training import base_models

        if seed.MODEL not in [model.name for model in base_models.list_models(settings)]:
            console.print(f"Preparing the demo's base model {seed.MODEL} (about a minute, once)")
            base_models.add(settings, seed.MODEL, progress=lambda line: console.print(f"  {line}"))
        content = seed.content()
        with write_session() as session:
            if seed.seed(session, content=content):
                console.print("Added the demo project")


def _welcome(settings: Settings) -> None:
    with write_session() as session:
        admin = users.first_admin(session)
        token = links.create_sign_in(session, user=admin)
    console.print(f"\nPrefloop runs at {settings.base_url}\n", style="bold")
    console.print(f"Sign in as {admin.username} (works once, for {settings.link_minutes} minutes):\n")
    console.print(f"  {settings.base_url}/link/{token}\n", style="bold")
    console.print(
        f"Data: {settings.data_dir} · Logs: {settings.data_dir / 'logs'} · "
        f"Another link: {as_called()} user link {admin.username}"
    )
    console.print("Ctrl-C ends everything.")


def serve() -> None:
    """Run the web server alone."""
    import uvicorn

    from app.ops import startup

    settings = get_settings()
    startup.check(settings)  # makes the secret too, before several processes would race for it
    _allow_open_files()
    uvicorn.run(
        "app.commands.server:web_app",
        factory=True,
        http="app.ops.protocol:PatientProtocol",
        host=settings.host,
        port=settings.port,
        workers=settings.web_workers,
        proxy_headers=False,  # create_app does it, for those whom the settings name
        server_header=False,
        access_log=False,
        log_config=None,
        timeout_graceful_shutdown=5,
    )


def web_app() -> Any:
    """The web application, in a process that has nothing of it yet."""
    with importing():
        from app.main import create_app

        return create_app()


def _allow_open_files() -> None:
    """Every connection is an open file: as many as the system lets this account have. Web processes inherit it."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(ValueError, OSError):  # macOS says "unlimited" and refuses it
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def worker() -> None:
    """Run one worker alone. It takes one job at a time."""
    from app.ops import startup

    startup.check(get_settings())
    os.execv(sys.executable, [sys.executable, "-m", "worker"])  # noqa: S606 - our own program; the app never imports the worker


def apply_migrations() -> None:
    """Bring the database to this version's schema."""
    from app.ops import migrate

    engine = get_engine()
    before, _ = migrate.revisions(engine)
    migrate.upgrade(engine)
    after, _ = migrate.revisions(engine)
    console.print(
        f"The database is at revision {after}." if before == after else f"Migrated from {before or 'empty'} to {after}."
    )


def examine(
    worker: Annotated[
        bool, typer.Option("--worker", help="Check the workers alone; fail unless one reported lately.")
    ] = False,
    repair: Annotated[bool, typer.Option("--repair", help="Count anew what is kept as counts, first of all.")] = False,
) -> None:
    """Check every part of the installation and say how to fix what is broken."""
    from app.ops import doctor

    settings = get_settings()
    if repair:
        console.print(f"Counted anew; {doctor.repair_counts(settings)} kept counts were wrong.")
    findings = [doctor.check_workers(settings)] if worker else doctor.examine(settings)
    for finding in findings:
        mark, colour = {"ok": ("ok  ", "green"), "warn": ("warn", "yellow"), "fail": ("FAIL", "red")}[finding.level]
        console.print(mark, style=colour, end=" ")
        console.print(f"{finding.subject}: {finding.text}")
        if finding.next_step:
            console.print(f"       → {finding.next_step}")
    bad = ("fail", "warn") if worker else ("fail",)
    raise typer.Exit(1 if any(finding.level in bad for finding in findings) else 0)
