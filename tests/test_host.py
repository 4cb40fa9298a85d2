"""What Prefloop leaves on its host: files for their owner alone, and output that does nothing to a terminal."""

import logging
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import structlog
from pydantic import ValidationError
from sqlalchemy import Engine
from typer.testing import CliRunner

from app.cli import cli
from app.config import Settings
from app.db import write_session
from app.errors import Invalid
from app.models import Role
from app.ops import doctor, logs
from app.security import printable
from app.services.accounts import links, tokens, users
from app.services.collecting import projects
from tests.conftest import ROOT
from tests.factory import Factory

TRICK = "\x1b]0;owned\x07\x1b[2K\rx"


def test_what_a_command_writes_is_its_owners_alone(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    done = subprocess.run(
        [sys.executable, "-m", "app.cli", "migrate"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "PREFLOOP_DATA_DIR": str(folder)},
        check=False,
        capture_output=True,
        text=True,
        umask=0o022,
    )
    assert done.returncode == 0, done.stderr
    paths = [folder, *folder.rglob("*")]
    assert folder / "prefloop.db" in paths
    assert [path for path in paths if stat.S_IMODE(path.stat().st_mode) & 0o077] == []


def test_doctor_names_what_others_can_read(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "data")
    settings.data_dir.mkdir(mode=0o700)
    _ = settings.secret
    assert doctor.check_permissions(settings).level in ("ok", "warn")
    (settings.data_dir / "secret_key").chmod(0o644)
    assert "secret_key" not in doctor.check_permissions(settings).text, "nobody gets into the folder"
    settings.data_dir.chmod(0o755)
    finding = doctor.check_permissions(settings)
    assert (finding.level, finding.next_step) == ("fail", f"Run: chmod -R go-rwx {settings.data_dir}")
    assert str(settings.data_dir / "secret_key") in finding.text


@pytest.mark.parametrize(
    ("given", "level", "words"),
    [
        ({}, "ok", "http://127.0.0.1:8000"),
        ({"public_url": "https://box.example"}, "ok", "https://box.example"),
        ({"public_url": "http://box.example"}, "warn", "has no TLS"),
        ({"host": "10.0.0.5"}, "warn", "has no TLS"),
        ({"public_url": "https://box.example", "forwarded_allow_ips": "*"}, "warn", "believed from everybody"),
    ],
)
def test_doctor_looks_at_the_address(given: dict[str, str], level: str, words: str) -> None:
    finding = doctor.check_address(Settings(**given))
    assert finding.level == level and words in finding.text


@pytest.mark.parametrize("secret", ["", "   ", "x" * 40, "ab" * 20, "short"])
def test_an_empty_or_weak_key_is_refused(secret: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFLOOP_SECRET_KEY", secret)
    with pytest.raises(ValidationError, match="PREFLOOP_SECRET_KEY"):
        Settings()


def test_text_for_a_terminal_shows_control_characters_as_codes() -> None:
    assert printable("plain ünïcode ☃\nline\ttab [bold]x[/bold]") == "plain ünïcode ☃\nline\ttab [bold]x[/bold]"
    assert printable(TRICK) == r"\x1b]0;owned\x07\x1b[2K\rx"
    assert printable("\x9b31m\u202egpj") == r"\x9b31m\u202egpj"


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_no_stored_text_reaches_a_terminal_as_markup_or_control(engine: Engine, factory: Factory) -> None:
    project = factory.project(slug="tone")
    with write_session(engine) as session:
        row = session.merge(project)
        row.name = "[red]Tone[/red] " + TRICK  # as an earlier version may have stored it
    shown = CliRunner(env={"COLUMNS": "200"}).invoke(cli, ["project", "list"])
    assert shown.exit_code == 0, shown.output
    assert "[red]Tone[/red]" in shown.output and "\\x1b" in shown.output
    assert "\x1b" not in shown.output and "\x07" not in shown.output and "\r" not in shown.output
    missing = CliRunner().invoke(cli, ["project", "set", "tone", "name=[link=http://x]x[/link]"])
    assert missing.exit_code == 0


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("name", ["a\x1b[31mb", "a\x07b", "a\x7fb", "a\x9bb", "a\u202eb"])
def test_names_with_control_characters_are_refused(engine: Engine, factory: Factory, name: str) -> None:
    admin = factory.admin()
    with write_session(engine) as session:
        by = session.merge(admin)
        for refused in (
            lambda: users.create(session, username="x", display_name=name, role=Role.EVALUATOR),
            lambda: tokens.create(session, user=by, name=name),
            lambda: links.invite(session, role=Role.EVALUATOR, by=by, note=name),
            lambda: projects.create(session, slug="x", name=name, by=by),
        ):
            with pytest.raises(Invalid):
                refused()


def test_what_somebody_sent_is_one_line_of_the_log(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    logs.configure(Settings(data_dir=tmp_path))
    try:
        sent = "/x\n2026-01-01 [info] signed in user=root\x1b[2J"
        structlog.get_logger("app.requests").warning("request", path=sent)
        logging.getLogger("uvicorn.error").warning("Invalid request: %s", sent)
    finally:
        root = logging.getLogger()
        root.handlers = [one for one in root.handlers if not isinstance(one, logs._Output)]
    told = capsys.readouterr().err
    assert told.count("\n") == 2 and "\x1b[2J" not in told
    assert r"path='/x\n2026-01-01 [info] signed in user=root\x1b[2J'" in told
