"""What a command and the web server import before they do anything: a list of names, since seconds depend on the machine."""

import gc
import json
import os
import subprocess
import sys

import pytest
from sqlalchemy import Engine
from typer.main import get_command

from app.cli import COMMANDS, cli, load
from app.config import Settings
from app.starting import LOOKS, importing
from tests.conftest import ROOT

PROBE = """
import json, sys
sys.argv = ["prefloop", *sys.argv[1:]]
try:
    {}
except SystemExit as end:
    assert not end.code, end.code
print(json.dumps(sorted(sys.modules)))
"""
COMMAND = PROBE.format("from app.cli import main; main()")
WEB = PROBE.format("from app.main import create_app; create_app()")

PRINTING = {"annotated_doc", "rich", "shellingham", "typer", "typing_extensions"}
TERMINAL = PRINTING | {"attr", "markdown_it", "mdurl", "pygments"}  # help is formatted
TABLES = PRINTING | {
    "annotated_types",
    "dotenv",
    "greenlet",
    "orjson",
    "pydantic",
    "pydantic_core",
    "pydantic_settings",
    "sqlalchemy",
    "typing_inspection",
}
SLOW = {
    "alembic",
    "celery",
    "fsspec",
    "kombu",
    "krippendorff",
    "latex2mathml",
    "numpy",
    "pyarrow",
    "redis",
    "scipy",
    "statsmodels",
    "torch",
}


def imported(script: str, *words: str, **environment: str) -> set[str]:
    """The names of all modules that a fresh process has at its end."""
    done = subprocess.run(
        [sys.executable, "-c", script, *words],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def foreign(modules: set[str]) -> set[str]:
    """The packages among them that are neither Python's own nor ours, without the private halves of compiled ones."""
    roots = {name.partition(".")[0] for name in modules}
    return {name for name in roots - sys.stdlib_module_names - {"app", "cython_runtime"} if not name.startswith("_")}


def test_the_list_of_commands_needs_a_terminal_and_no_command() -> None:
    modules = imported(COMMAND, "--help")
    assert foreign(modules) <= TERMINAL
    assert {name for name in modules if name.startswith("app")} == {"app", "app.cli"}


def test_a_word_misspelt_imports_no_command() -> None:
    modules = imported(COMMAND.replace("not end.code", "end.code == 2"), "jobz")
    assert {name for name in modules if name.startswith("app")} == {"app", "app.cli"}


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_list_of_jobs_needs_the_tables_and_a_terminal_and_nothing_else(settings: Settings, engine: Engine) -> None:
    modules = imported(COMMAND, "jobs", "list")
    assert foreign(modules) <= TABLES
    ours = {".".join(name.split(".")[:3]) for name in modules if name.startswith("app.services.")}
    assert ours == {"app.services.accounts", "app.services.jobs", "app.services.training"}
    assert {name for name in modules if name.startswith("app.services.training.")} == {"app.services.training.runs"}
    assert not modules & {"app.main", "app.web", "app.routes"}


def test_imports_are_not_searched_for_garbage_and_what_comes_later_is() -> None:
    enabled = gc.isenabled()
    with importing():
        assert not gc.isenabled()
    assert gc.isenabled() == enabled
    assert gc.get_threshold() == LOOKS
    gc.unfreeze()


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_the_web_server_starts_without_what_single_requests_need(settings: Settings, engine: Engine) -> None:
    modules = imported(WEB)
    assert "fastapi" in modules
    assert foreign(modules) & SLOW == set()


def test_statistics_load_their_libraries_when_they_compute() -> None:
    rooms = sorted(path.stem for path in (ROOT / "app" / "stats" / "loop").glob("[a-z]*.py"))
    assert "sequential" in rooms
    modules = imported(PROBE.format("; ".join(f"import app.stats.loop.{room}" for room in rooms)))
    assert {f"app.stats.loop.{room}" for room in rooms} <= modules
    assert foreign(modules) == set()


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_says_what_each_command_says_of_itself(name: str) -> None:
    line = COMMANDS[name][2]
    command = load(name)
    assert command.name == name
    assert (command.help or "").strip() == line
    assert "--install-completion" not in {option for part in command.params for option in part.opts}


def test_every_command_of_the_list_can_be_called() -> None:
    assert list(get_command(cli).commands) == list(COMMANDS)  # type: ignore[attr-defined]
