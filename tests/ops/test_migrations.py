"""Migrations on a blank and on a filled database, both kinds, and in step with the models."""

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Engine, func, inspect, select

from app.db import make_engine, read_session
from app.models import Base, Judgment
from app.ops import migrate
from tests.conftest import ROOT
from tests.factory import Factory


def test_models_and_migrations_agree(engine: Engine) -> None:
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def test_a_blank_database_gets_every_table(tmp_path) -> None:
    engine = make_engine(f"sqlite:///{tmp_path / 'blank.db'}")
    assert migrate.revisions(engine)[0] is None
    migrate.upgrade(engine)
    current, newest = migrate.revisions(engine)
    assert current == newest
    assert set(inspect(engine).get_table_names()) == set(Base.metadata.tables) | {"alembic_version"}


def test_upgrading_a_filled_database_again_changes_nothing(engine: Engine, factory: Factory) -> None:
    factory.judged(4)
    migrate.upgrade(engine)
    with read_session(engine) as session:
        assert session.scalar(select(func.count()).select_from(Judgment)) == 4


def test_every_step_down_and_up_again_works_on_a_filled_database(engine: Engine, factory: Factory) -> None:
    factory.judged(2)
    engine.dispose()
    config = Config()
    config.set_main_option("script_location", str(ROOT / "migrations"))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
        command.upgrade(config, "head")
    assert set(inspect(engine).get_table_names()) >= set(Base.metadata.tables)
