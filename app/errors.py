"""Domain errors: each says what happened and what to do next; turned into a page or JSON in one place."""


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


class SnapshotEmpty(Conflict):
    code = "snapshot_empty"


class Unavailable(PrefloopError):
    status = 503
    code = "unavailable"


class StillCounting(Unavailable):
    """Figures that are computed in the background, for the first time: ask again."""

    code = "still_counting"
