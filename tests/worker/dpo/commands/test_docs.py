"""`docs/engine.md` lists every setting, exit code and event; `--help` of every command shows how to call it."""

from pathlib import Path

import pytest

from worker.dpo.commands.cli import main
from worker.dpo.ground.config import settings_table
from worker.dpo.ground.errors import EXIT_CODES
from worker.dpo.ground.events import Event

TEXT = (Path(__file__).parents[4] / "docs" / "engine.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("row", settings_table(), ids=lambda row: row[0])
def test_every_setting_is_in_the_table_with_its_default(row):
    name, default, meaning = row
    assert f"| `{name}` | {f'`{default}`' if default else ''} | {meaning} |" in TEXT


@pytest.mark.parametrize("code", EXIT_CODES)
def test_every_exit_code_is_in_the_table(code):
    assert f"| {code} | {EXIT_CODES[code]} |" in TEXT


@pytest.mark.parametrize("event", sorted(Event))
def test_every_event_is_in_the_table(event):
    assert f"| `{event}` | " in TEXT


def test_no_setting_is_listed_that_is_not_there():
    table = TEXT.split("## Settings")[1].split("## Measured")[0]
    listed = {line.split("`")[1] for line in table.splitlines() if line.startswith("| `")}
    assert listed == {name for name, _, _ in settings_table()}


@pytest.mark.parametrize("command", ["train", "score", "generate", "margins", "merge", "export", "estimate"])
def test_every_commands_help_has_examples_that_name_it(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert f"examples:\n  python -m worker.dpo {command} --model" in capsys.readouterr().out
