"""What a page says of something that was carried on by itself and broke."""

import structlog
from sqlalchemy.exc import InterfaceError, OperationalError

from app.errors import PrefloopError

# The database is away: there is nowhere to say so, and the next look tries again.
AWAY = (OperationalError, InterfaceError)
LONGEST = 500  # characters of an error that nobody foresaw

RETRY = "Press Retry; if it breaks again, the server's log says where."

log = structlog.get_logger()


def told(error: Exception, *, what: str, next_step: str = RETRY) -> str:
    """The words for a page. An error that nobody foresaw goes into the log whole. what: the subject, as "Its comparison"."""
    if isinstance(error, PrefloopError):
        return str(error)
    log.error("loop.broke", what=what, exc_info=error)
    short = f"{type(error).__name__}: {error}".strip(": ")[:LONGEST]
    return f"{what} broke: {short}. {next_step}"
