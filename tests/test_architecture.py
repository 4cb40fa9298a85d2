"""The rules of the house can fail: each finds the breach that is planted for it, and passes what is allowed beside it."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import CheckConstraint, Column, Enum, MetaData, Table

from tests import house_rules as rules
from tests.conftest import ROOT

Rule = Callable[[Path], list[str]]


def plant(root: Path, path: str, text: str) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


# For each rule: a file that breaks it, and one that looks like it and doesn't.
PLANTED: dict[Rule, tuple[tuple[str, str], tuple[str, str]]] = {
    rules.no_relative_imports: (
        ("app/services/jobs/jobs.py", "from ..accounts import users\n"),
        ("app/services/jobs/leases.py", "from app.services.accounts import users\n"),
    ),
    rules.stats_import_nothing_of_app: (
        ("app/stats/shares.py", "from app.config import Settings\n"),
        ("app/stats/lengths.py", "from app.stats import shares\nimport statistics\n"),
    ),
    rules.kinds_do_not_import_one_another: (
        ("worker/kinds/export.py", "from worker.kinds import training\n"),
        ("worker/kinds/registry.py", "from worker.kinds import export, training\n"),
    ),
    rules.process_knows_no_kind: (
        ("worker/process/output.py", "from worker.kinds.registry import KINDS\n"),
        ("worker/process/supervisor.py", "from worker.kinds.kind import Kind, Result\n"),
    ),
    rules.commits_only_in_db: (
        ("app/services/jobs/jobs.py", "def create(session):\n    run_in_threadpool(session.commit)\n"),
        ("app/db.py", "def close(session):\n    session.commit()\n"),
    ),
    rules.alias_events_only_in_aliases: (
        ("app/services/loop/gate.py", "def give(session):\n    session.add(AliasEvent(name='production'))\n"),
        ("app/services/loop/aliases.py", "def give(session):\n    session.add(AliasEvent(name='production'))\n"),
    ),
    rules.modules_are_short: (
        ("app/services/jobs/jobs.py", "x = 1\n" * 301),
        ("app/services/jobs/leases.py", "x = 1\n" * 300),
    ),
    rules.no_banners: (
        ("worker/dpo/run/loop.py", "x = 1\n    # --- saving ---\n"),
        ("worker/dpo/run/step.py", 'x = """\n---\n"""  # -1 is the last\n'),
    ),
    rules.files_are_asked_for_in_paths: (
        ("app/web/templating.py", "FOLDER = __file__\n"),
        ("app/paths.py", "FOLDER = __file__\n"),
    ),
    rules.arguments_are_parsed_by_commands: (
        ("worker/dpo/run/loop.py", "from argparse import Namespace\n"),
        ("worker/dpo/commands/cli.py", "import argparse\n"),
    ),
    rules.names_say_what_they_hold: (
        ("worker/dpo/run/loop.py", "for found in []:\n    pass\n"),
        ("worker/dpo/run/step.py", "missing = 'found'\nprint(missing.found)\n"),
    ),
}


@pytest.mark.parametrize("rule", PLANTED, ids=lambda rule: rule.__name__)
def test_a_planted_breach_is_reported_and_its_neighbour_is_not(rule: Rule, tmp_path: Path) -> None:
    (breach, text), (allowed, other) = PLANTED[rule]
    plant(tmp_path, allowed, other)
    assert list(rule(tmp_path)) == []
    plant(tmp_path, breach, text)
    reported = list(rule(tmp_path))
    assert reported
    assert all(line.startswith(breach) for line in reported)


def test_every_rule_is_tested_here() -> None:
    alone = {rules.one_writer_of_a_state, rules.rooms_are_small, rules.nouns_have_their_tests}
    assert set(rules.RULES) == set(PLANTED) | alone


@pytest.mark.parametrize(
    "writing",
    [
        "slot = Slot(comparison_id=1)",
        "slot.state = new",
        "row.state = SlotState.DONE",
        "other.state, other.holder_id = SlotState.DONE, 1",
        "session.execute(update(Slot).where(Slot.id == 1).values(state=new))",
        "session.execute(update(Slot), [{'id': 1, 'state': SlotState.DONE}])",
        "session.execute(insert(Slot).from_select([], query))",
    ],
)
def test_a_second_writer_of_a_slots_state_is_reported(writing: str, tmp_path: Path) -> None:
    plant(tmp_path, "app/services/collecting/slots.py", writing + "\n")
    assert rules.one_writer_of_a_state(tmp_path) == []
    plant(tmp_path, "app/services/collecting/judgments.py", writing + "\n")
    assert rules.one_writer_of_a_state(tmp_path) == ["app/services/collecting/judgments.py:1: writes Slot.state"]


@pytest.mark.parametrize(
    "reading",
    [
        "if slot.state is SlotState.DONE: pass",
        "session.execute(update(Slot).values(priority=1))",
        "session.execute(update(Import).values(state=new))",
        "row.state = ImportState.DONE",
        "listing(session, state=SlotState.DONE)",
    ],
)
def test_reading_a_state_or_writing_another_is_not_reported(reading: str, tmp_path: Path) -> None:
    plant(tmp_path, "app/services/collecting/judgments.py", reading + "\n")
    assert rules.one_writer_of_a_state(tmp_path) == []


def test_the_fifteenth_module_of_a_room_is_reported(tmp_path: Path) -> None:
    for number in range(14):
        plant(tmp_path, f"app/services/jobs/noun_{number}.py", "")
    plant(tmp_path, "app/services/jobs/__init__.py", "")
    for number in range(20):
        plant(tmp_path, f"app/models/noun_{number}.py", "")
    assert rules.rooms_are_small(tmp_path) == []
    plant(tmp_path, "app/services/jobs/noun_14.py", "")
    assert rules.rooms_are_small(tmp_path) == ["app/services/jobs: 15 modules"]


def test_a_noun_without_its_tests_is_reported(tmp_path: Path) -> None:
    plant(tmp_path, "app/services/collecting/imports/load.py", "")
    plant(tmp_path, "app/services/collecting/imports/__init__.py", "")
    plant(tmp_path, "app/services/training/run_config/config.py", "# Written by `make run-config` from elsewhere.\n")
    plant(tmp_path, "tests/services/collecting/test_load.py", "")
    assert rules.nouns_have_their_tests(tmp_path) == [
        "app/services/collecting/imports/load.py: no tests/services/collecting/imports/test_load.py"
    ]
    plant(tmp_path, "tests/services/collecting/imports/test_load.py", "")
    assert rules.nouns_have_their_tests(tmp_path) == []


def test_an_enum_column_without_a_check_is_reported() -> None:
    metadata = MetaData()
    words = {"native_enum": False, "name": "state"}
    Table("checked", metadata, Column("state", Enum("open", "done", create_constraint=True, **words)))
    Table(
        "by_hand",
        metadata,
        Column("state", Enum("open", "done", create_constraint=False, **words)),
        CheckConstraint("state IN ('open', 'done')"),
    )
    Table(
        "unchecked",
        metadata,
        Column("state", Enum("open", "done", create_constraint=False, **words)),
        CheckConstraint("states > 0"),
    )
    assert rules.enum_columns_without_check(metadata) == ["unchecked.state"]


# For each contract of import-linter: a module that is appended to, and the import that breaks it.
IMPORTS = {
    "app": ("app/models/base.py", "from app.services.accounts import users"),
    "services": ("app/services/accounts/tokens.py", "from app.services.collecting import projects"),
    "worker": ("worker/devices.py", "from worker import station"),
    "dpo": ("worker/dpo/model/head.py", "from worker.dpo.run import step"),
    "circles": ("app/ops/migrate.py", "from app.ops import doctor"),
    "torch": ("app/stats/shares.py", "import torch"),
    "http": ("app/services/accounts/tokens.py", "from fastapi import Request"),
    "engine": ("worker/dpo/ground/errors.py", "from worker import devices"),
}


def lint_imports(root: Path, contract: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache", "--no-logo", "--contract", contract],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python files of app and worker, with the contracts."""
    root = tmp_path_factory.mktemp("copy")
    for folder in ("app", "worker"):
        for path in (ROOT / folder).rglob("*.py"):
            plant(root, path.relative_to(ROOT).as_posix(), path.read_text())
    shutil.copy(ROOT / "pyproject.toml", root)
    return root


@pytest.mark.parametrize("contract", IMPORTS)
def test_a_planted_import_breaks_its_contract(contract: str, copy: Path) -> None:
    module, planted = IMPORTS[contract]
    before = (copy / module).read_text()
    assert lint_imports(copy, contract).returncode == 0
    (copy / module).write_text(f"{before}\n{planted}\n")
    try:
        done = lint_imports(copy, contract)
    finally:
        (copy / module).write_text(before)
    assert done.returncode == 1
    assert "BROKEN" in done.stdout


def test_a_new_room_must_be_given_its_place(copy: Path) -> None:
    plant(copy, "app/services/somewhere/__init__.py", "")
    try:
        done = lint_imports(copy, "services")
    finally:
        shutil.rmtree(copy / "app/services/somewhere")
    assert done.returncode == 1
    assert "app.services.somewhere" in done.stdout


def test_every_contract_is_tested_here() -> None:
    import tomllib

    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    assert {contract["id"] for contract in contracts} == set(IMPORTS)
