"""Migrations on a blank database and on filled ones of each earlier revision, on SQLite and PostgreSQL."""

import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, Engine, create_engine, inspect, text

from app.config import Settings
from app.models import Base
from app.ops import migrate
from tests.conftest import ROOT
from tests.ops.filled import DATABASES, Filled, Row, rows_of

RELEASED = ["0001"]


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A blank database without any table, in place of the migrated one that other tests get."""
    if request.param == "sqlite":
        (tmp_path / "data").mkdir()
        yield f"sqlite:///{tmp_path / 'data' / 'prefloop.db'}"
        return
    server, name = request.getfixturevalue("postgres_server"), f"blank_{secrets.token_hex(6)}"
    maintenance = create_engine(server, isolation_level="AUTOCOMMIT")
    with maintenance.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    yield server.rpartition("/")[0] + f"/{name}"
    with maintenance.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    maintenance.dispose()


@pytest.fixture(params=RELEASED)
def filled(request: pytest.FixtureRequest, engine: Engine, settings: Settings, storage: Any) -> Filled:
    """An earlier revision's database with what people had put into it; `engine` leads to it."""
    filled = Filled.of(request.param)
    filled.load(engine, request.param)
    filled.store(storage)
    return filled


def test_a_blank_database_gets_every_table(engine: Engine) -> None:
    assert migrate.revisions(engine)[0] is None
    migrate.upgrade(engine)
    current, newest = migrate.revisions(engine)
    assert current == newest
    assert set(inspect(engine).get_table_names()) == set(Base.metadata.tables) | {"alembic_version"}


def test_models_and_migrations_agree(engine: Engine) -> None:
    migrate.upgrade(engine)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def test_a_migrated_database_has_the_constraints_and_indexes_of_the_models(engine: Engine, filled: Filled) -> None:
    migrate.upgrade(engine)
    migrated = drawn(engine)
    with migrate.transaction(engine) as connection:
        for table in migrated:
            connection.execute(text(f"DROP TABLE {table}" + (" CASCADE" if is_postgresql(connection) else "")))
        Base.metadata.create_all(connection)
    models = drawn(engine)
    for table in models:
        assert migrated.get(table) == models[table], table
    assert set(migrated) == set(models)


def test_an_upgrade_keeps_what_people_gave(engine: Engine, filled: Filled) -> None:
    migrate.upgrade(engine)
    after = as_it_was(rows_of(engine))
    for table, rows in filled.rows.items():
        assert len(after[table]) == len(rows), table
        for before, now in zip(rows, after[table], strict=True):
            names = kept(table, before)
            assert {name: now[name] for name in names} == {name: before[name] for name in names}, table


def test_a_downgrade_and_another_upgrade_keep_it_as_well(engine: Engine, filled: Filled) -> None:
    migrate.upgrade(engine)
    upgraded = rows_of(engine)
    migrate.downgrade(engine, RELEASED[0])
    before = rows_of(engine)
    assert {table: len(rows) for table, rows in before.items()} == {
        table: len(filled.rows.get(table, [])) for table in before
    }
    migrate.upgrade(engine)
    assert rows_of(engine) == upgraded


def test_every_step_down_leaves_nothing(engine: Engine, filled: Filled) -> None:
    migrate.upgrade(engine)
    migrate.downgrade(engine, "base")
    assert inspect(engine).get_table_names() == ["alembic_version"]


def test_upgrading_again_changes_nothing(engine: Engine, filled: Filled) -> None:
    migrate.upgrade(engine)
    once = rows_of(engine)
    migrate.upgrade(engine)
    assert rows_of(engine) == once


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_migration_that_would_leave_orphans_is_taken_back(engine: Engine, filled: Filled) -> None:
    before = rows_of(engine)
    with pytest.raises(RuntimeError, match="point to nothing"), migrate.transaction(engine) as connection:
        connection.execute(text("DELETE FROM users WHERE username = 'evaluator-1'"))
    assert rows_of(engine) == before
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1


def test_every_released_revision_has_a_filled_database() -> None:
    """A release names its revision in the changelog: `Database revision: 0001`."""
    released = released_revisions((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
    assert released <= set(RELEASED)
    assert {path.stem for path in DATABASES.glob("*.jsonl")} == set(RELEASED)


def test_a_release_that_does_not_name_its_revision_is_noticed() -> None:
    text = "# Changelog\n\n## Unreleased\n\n## 1.1.0\nDatabase revision: 0007\n\n## 1.0.0\nDatabase revision: 0003\n"
    assert released_revisions(text) == {"0007", "0003"}
    with pytest.raises(AssertionError, match=re.escape("1.0.0")):
        released_revisions("## 1.0.0\n\n### Added\n- All of it.\n")


def released_revisions(changelog: str) -> set[str]:
    """The revision that each released version names."""
    revisions = set()
    for section in re.split(r"^## ", changelog, flags=re.MULTILINE)[1:]:
        version, _, said = section.partition("\n")
        if version.strip() == "Unreleased":
            continue
        named = re.search(r"^Database revision: (\d{4})$", said, flags=re.MULTILINE)
        assert named, f"{version.strip()} doesn't name its database revision"
        revisions.add(named[1])
    return revisions


def as_it_was(rows: dict[str, list[Row]]) -> dict[str, list[Row]]:
    """The rows of the newest revision with each value under the table and the name that it had at first."""
    runs = {run["job_id"]: run for run in rows["training_runs"]}
    return rows | {"jobs": [{"stage": job["phase"]} | job | runs[job["id"]] for job in rows["jobs"]]}


# Columns that follow from others now, and the tokens of leases that a migration takes back.
GONE = {
    "checkpoints": {"project_id"},
    "imports": {"lines"},
    "jobs": {"lease_token"},
    "slots": {"rank", "leased_at"},
    "workers": {"job_id"},
}


def kept(table: str, row: Row) -> list[str]:
    """The columns that must come out as they went in."""
    gone = set(GONE.get(table, ()))
    if table == "slots" and row["state"] != "leased":
        gone |= {"lease_token"}  # of a lease that had ended
    return [name for name in row if name not in gone]


def is_postgresql(connection: Connection) -> bool:
    return connection.dialect.name == "postgresql"


def drawn(engine: Engine) -> dict[str, Any]:
    """Each table's columns, keys, CHECKs and indexes by name, as the database itself says them."""
    with engine.connect() as connection:
        look = inspect(connection)
        if is_postgresql(connection):
            indexes = connection.execute(text("SELECT tablename, indexname, indexdef FROM pg_indexes")).all()
        else:
            indexes = connection.execute(
                text("SELECT tbl_name, name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL")
            ).all()
        return {
            table: {
                "columns": {
                    column["name"]: (str(column["type"]), column["nullable"], column["default"])
                    for column in look.get_columns(table)
                },
                "primary key": look.get_pk_constraint(table),
                "foreign keys": {key["name"]: key for key in look.get_foreign_keys(table)},
                "unique": {unique["name"]: unique["column_names"] for unique in look.get_unique_constraints(table)},
                "checks": {check["name"]: check["sqltext"] for check in look.get_check_constraints(table)},
                "indexes": {name: " ".join(sql.split()) for of, name, sql in indexes if of == table},
            }
            for table in look.get_table_names()
            if table != "alembic_version"
        }
