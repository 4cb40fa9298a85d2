"""Alembic's entry: the app's models and the configured database."""

from alembic import context
from sqlalchemy import Connection

from app.db import make_engine
from app.models import Base
from app.ops import migrate


def run(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_as_batch=connection.dialect.name == "sqlite",
        compare_type=True,
    )
    with context.begin_transaction():
        context.run_migrations()


given = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    from app.config import get_settings

    settings = get_settings()
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    with migrate.transaction(make_engine(settings.database)) as own:
        run(own)
