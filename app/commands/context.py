"""What several commands need: a console, the acting user, tables, JSON for scripts."""

import shutil
import sys
from collections.abc import Iterable
from datetime import datetime
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.errors import Invalid, NotFound
from app.models import Role, User
from app.security import printable


class PlainConsole(Console):
    """Prints what is stored as it is: square brackets are no markup, and control characters show as their codes."""

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*(printable(one) if isinstance(one, str) else one for one in objects), **options)


console = PlainConsole(highlight=False, soft_wrap=True, markup=False)


def acting_user(session: Session, username: str | None) -> User:
    """The account that a command acts as: the named one, else the first active admin."""
    if username:
        from app.services.accounts import users

        return users.get(session, username)
    admin = session.scalar(select(User).where(User.role == Role.ADMIN, User.active).order_by(User.id).limit(1))
    if admin is None:
        raise NotFound("There is no admin account yet.", "Make one: prefloop user add NAME --role admin")
    return admin


def as_called() -> str:
    """The word that starts this command again from where it was started: `make run` leaves it off the PATH."""
    if shutil.which("prefloop"):
        return "prefloop"
    return f"{sys.executable} -m app.cli" if sys.argv[0].endswith(".py") else sys.argv[0]


def show(rows: Iterable[dict[str, Any]], *, as_json: bool, empty: str) -> None:
    """A table of dictionaries, or one JSON object a line for scripts."""
    rows = list(rows)
    if as_json:
        for row in rows:
            print(orjson.dumps(row, default=str).decode())
        return
    if not rows:
        console.print(empty)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for place, name in enumerate(rows[0]):
        # The first column is what other commands take: on a narrow terminal it must stay whole, to be copied.
        table.add_column(name.replace("_", " "), overflow="fold", no_wrap=place == 0)
    for row in rows:
        table.add_row(*(Text(_cell(value)) for value in row.values()))
    console.print(table)


def _cell(value: object) -> str:
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M UTC")
    return "" if value is None else printable(str(value)).replace("\n", " ")


def pairs_of(pairs: list[str]) -> dict[str, Any]:
    """`key=value` words as a configuration; values are JSON where they parse as JSON, else text."""
    config: dict[str, Any] = {}
    for pair in pairs:
        key, sign, value = pair.partition("=")
        if not sign:
            raise Invalid(f"“{pair}” isn't of the form key=value.", "For example: --set learning_rate=5e-6")
        try:
            config[key.strip()] = orjson.loads(value)
        except orjson.JSONDecodeError:
            config[key.strip()] = value
    return config
