"""Domain errors: each says what happened and what to do next; turned into a page or JSON in one place."""

import errno
from collections.abc import Iterator

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
NO_SPACE_POSTGRESQL = "53100"


class PrefloopError(Exception):
    """A fact that stops a request. `status` is the HTTP status, `code` a stable name for scripts."""

    status = 400
    code = "bad_request"

    def __init__(self, what: str, next_step: str = "", **details: object) -> None:
        super().__init__(f"{what} {next_step}".strip())
        self.what = what
        self.next_step = next_step
        self.details = details


class NotFound(PrefloopError):
    status = 404
    code = "not_found"


class SignInNeeded(PrefloopError):
    status = 401
    code = "sign_in_needed"


class WrongCredentials(PrefloopError):
    status = 401
    code = "wrong_credentials"


class NotAllowed(PrefloopError):
    status = 403
    code = "not_allowed"


class SecondFactorNeeded(NotAllowed):
    code = "second_factor_needed"


class CrossSite(PrefloopError):
    status = 403
    code = "cross_site_request"


class Conflict(PrefloopError):
    status = 409
    code = "conflict"


class Gone(PrefloopError):
    status = 410
    code = "gone"


class TooLarge(PrefloopError):
    status = 413
    code = "too_large"


class Invalid(PrefloopError):
    status = 422
    code = "invalid"


class TooMany(PrefloopError):
    status = 429
    code = "too_many_requests"


class ProjectArchived(Conflict):
    code = "project_archived"


class SnapshotEmpty(Conflict):
    code = "snapshot_empty"


class Unavailable(PrefloopError):
    status = 503
    code = "unavailable"


class StillCounting(Unavailable):
    """Figures that are computed in the background, for the first time: ask again."""

    code = "still_counting"


class DiskFull(Unavailable):
    code = "disk_full"

    def __init__(self, where: str = "The disk") -> None:
        super().__init__(f"{where} is full.", "Nothing was changed. Free some space, then try again.")


def disk_full(error: BaseException) -> DiskFull | None:
    """The fact that a disk is full, where that is what this error, or one that it came from, means."""
    for cause in _causes(error):
        if isinstance(cause, DiskFull):
            return cause
        if getattr(cause, "sqlstate", None) == NO_SPACE_POSTGRESQL:
            return DiskFull("The database's disk")
        if isinstance(cause, OSError) and cause.errno in NO_SPACE:
            return DiskFull()
        if "database or disk is full" in str(cause):  # SQLite
            return DiskFull("The database's disk")
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what it came from, the driver's own among them. A chain may lead back to where it began."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        driver = getattr(error, "orig", None)
        error = driver if isinstance(driver, BaseException) else error.__cause__ or error.__context__
