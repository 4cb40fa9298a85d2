"""What every table shares: naming of constraints, UTC times, JSON columns, string enums."""

from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from typing import Any, ClassVar, TypeVar, cast

from pydantic import TypeAdapter
from sqlalchemy import JSON, DateTime, Dialect, Enum, MetaData, Table, TypeDecorator, insert
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Session, make_transient_to_detached

from app.db import connection_of
from app.storage import StoredFile

Json = JSON().with_variant(JSONB(), "postgresql")
JsonOrNull = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")


class UTCDateTime(TypeDecorator[datetime]):
    """An aware UTC time; refuses naive ones. SQLite stores no zone, so it is put back on reading."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without a zone")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


Typed = TypeVar("Typed")


class JsonOf(TypeDecorator[Typed]):
    """A dataclass, with what it holds, as JSON. Fields that it no longer has are left unread in older rows."""

    impl = Json
    cache_ok = True

    def __init__(self, kind: type[Typed]) -> None:
        super().__init__()
        self.kind = kind
        self._adapter: TypeAdapter[Typed] = TypeAdapter(kind)

    def process_bind_param(self, value: Typed | None, dialect: Dialect) -> Any:
        return None if value is None else self._adapter.dump_python(value, mode="json")

    def process_result_value(self, value: Any | None, dialect: Dialect) -> Typed | None:
        return None if value is None else self._adapter.validate_python(value)


FileList = JsonOf(tuple[StoredFile, ...])


def string_enum(kind: type[StrEnum], name: str, *, length: int = 24) -> Enum:
    """A VARCHAR with a CHECK, so that adding a value is a plain migration on both databases."""
    return Enum(
        kind,
        name=name,
        native_enum=False,
        create_constraint=True,
        length=length,
        values_callable=lambda members: [member.value for member in members],
    )


def now() -> datetime:
    return datetime.now(UTC)


# The ids of a table that stand in addresses, in the audit trail or in names of stored files: SQLite would give the highest one again
# once its row is gone.
NEVER_AGAIN = {"sqlite_autoincrement": True}


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar = {dict[str, Any]: Json, list[Any]: Json, datetime: UTCDateTime}


def insert_row(session: Session, row: Base) -> None:
    """Adds a row at once and gives it its id: a flush of the session costs three times as much."""
    kind, values = type(row), {name: value for name, value in vars(row).items() if not name.startswith("_")}
    row.id = connection_of(session).execute(_inserting(kind), values).scalar_one()  # type: ignore[attr-defined]
    make_transient_to_detached(row)
    session.add(row)


@lru_cache
def _inserting(kind: type[Base]) -> Any:
    table = cast(Table, kind.__table__)
    return insert(table).returning(table.c.id)
