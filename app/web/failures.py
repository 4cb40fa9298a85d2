"""Every error becomes a page, a fragment for htmx or a JSON problem here, and nowhere else."""

import logging
import re
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import quote

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from fastapi.routing import iter_route_contexts
from sqlalchemy.exc import DataError, IntegrityError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException
from starlette.routing import Route

from app.db import read_session
from app.errors import Conflict, Invalid, PrefloopError, SecondFactorNeeded, SignInNeeded, Unavailable, disk_full
from app.security import local_path
from app.site.addresses import at, split_url
from app.web import request_state
from app.web.deps import signed_in_user
from app.web.problems import MEDIA_TYPE, FieldProblem, Problem
from app.web.templating import is_fragment, redirect, render

log = logging.getLogger(__name__)

BUSY_SECONDS = 5
SECRET = re.compile("password|code|passkey|api_key")  # in names of fields; a form that holds one is not repeated
WORDS = {
    400: ("The request couldn't be read.", "Check what was sent."),
    404: ("There is nothing at this address.", "Check it, or start from the home page."),
    405: ("This address can't be used that way.", "Open it from the page that links to it."),
}


class Unexpected(PrefloopError):
    status = 500
    code = "internal_error"


@dataclass(frozen=True)
class FailurePage:
    """`errors`: what is wrong with single fields."""

    status: int
    title: str
    what: str
    next_step: str
    request_id: str
    errors: list[FieldProblem] = field(default_factory=list)


@dataclass(frozen=True)
class SignedOutPage:
    """`fields`: what was sent to `action`, by name."""

    action: str
    fields: list[tuple[str, str]] = field(default_factory=list)


def install(app: FastAPI) -> None:
    """Handlers are plain functions: they run in a thread, since a page looks up who is signed in."""
    for kind in (
        PrefloopError,
        HTTPException,
        RequestValidationError,
        DataError,
        IntegrityError,
        OperationalError,
        PoolTimeout,
    ):
        app.add_exception_handler(kind, respond)


def respond(request: Request, error: Exception) -> Response:
    """The answer to a request that ended in `error`. Unexpected ones are logged with the request's id."""
    fact = as_fact(error)
    if isinstance(fact, Unexpected):
        log.error("unexpected error", exc_info=error, extra={"request_id": request_id(request)})
    headers = dict(getattr(error, "headers", None) or {})
    if fact.status == 405:
        headers = {"Allow": ", ".join(_methods_of(request))}
    if "retry_after" in fact.details:
        headers["Retry-After"] = str(fact.details["retry_after"])
    if fact.status == 408:
        headers["Connection"] = "close"  # the rest of the body isn't waited for
    if wants_json(request):
        if fact.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return _problem(request, fact, headers)
    if isinstance(fact, SignInNeeded):
        return _to_sign_in(request)
    if isinstance(fact, SecondFactorNeeded) and not is_fragment(request):
        return redirect("/account#second-factor", str(fact), "bad")
    try:
        return _page(request, fact, headers)
    except Exception:
        log.exception("the error page itself failed", extra={"request_id": request_id(request)})
        return Response(f"{fact}\nRequest {request_id(request)}\n", fact.status, headers, "text/plain; charset=utf-8")


def respond_at_once(request: Request, fact: PrefloopError) -> Response:
    """The answer of a server that has no time for a page: nothing is looked up or rendered."""
    headers = {"Retry-After": str(fact.details["retry_after"])} if "retry_after" in fact.details else {}
    if wants_json(request):
        return _problem(request, fact, headers)
    return Response(f"{fact}\nRequest {request_id(request)}\n", fact.status, headers, "text/plain; charset=utf-8")


def as_fact(error: Exception) -> PrefloopError:
    """A domain error with status, what happened and what to do next, whatever was raised."""
    if isinstance(error.__cause__, PrefloopError):  # FastAPI wraps what is raised while it reads a body
        error = error.__cause__
    if isinstance(error, PrefloopError):
        return error
    if isinstance(error, HTTPException):
        what, next_step = WORDS.get(error.status_code, (str(error.detail), ""))
        fact = PrefloopError(what, next_step)
        fact.status = error.status_code
        fact.code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "_")
        return fact
    if isinstance(error, RequestValidationError):
        return Invalid(
            "Something in the request is missing or wrong.", "Correct it and send it again.", errors=_fields(error)
        )
    if isinstance(error, IntegrityError):
        return Conflict("Somebody changed the same thing at the same moment.", "Reload and try again.")
    if isinstance(error, DataError) or (isinstance(error, OverflowError) and "SQLite" in str(error)):
        return Invalid(
            "A value in the request can't be stored or looked up.", "Check numbers and special characters in it."
        )
    if full := disk_full(error):
        log.error("the disk is full", exc_info=error)
        return full
    if isinstance(error, OperationalError | PoolTimeout):
        log.error("the database does not answer", exc_info=error)
        return Unavailable(
            "The database is busy or away.", "Nothing was changed. Try again in a moment.", retry_after=BUSY_SECONDS
        )
    return Unexpected(
        "Something went wrong in Prefloop itself.",
        "Try again. If it happens again, give the request's number to whoever runs this server; the log says more.",
    )


def wants_json(request: Request) -> bool:
    accept = request.headers.get("accept", "")
    return (
        request.url.path.startswith("/api/")
        or "text/event-stream" in accept
        or ("application/json" in accept and "text/html" not in accept)
    )


def _methods_of(request: Request) -> list[str]:
    """Every method of the request's path: each is a route of its own, and the router names only the first one's."""
    matching = [
        route
        for route in iter_route_contexts(request.app.routes)
        if isinstance(route.original_route, Route) and route.path_regex.match(request.url.path)
    ]
    return sorted({method for route in matching for method in route.methods or ()})


def request_id(request: Request) -> str:
    return request_state.of(request).request_id


def _fields(error: RequestValidationError) -> list[FieldProblem]:
    # Without the value that was sent: it may be a password.
    return [
        FieldProblem(field=".".join(str(part) for part in item["loc"]), message=item["msg"])
        for item in error.errors()[:50]
    ]


def _problem(request: Request, fact: PrefloopError, headers: dict[str, str]) -> JSONResponse:
    body = Problem(
        title=HTTPStatus(fact.status).phrase,
        status=fact.status,
        code=fact.code,
        detail=fact.what,
        next_step=fact.next_step,
        request_id=request_id(request),
        **fact.details,
    )
    return JSONResponse(body.model_dump(mode="json"), fact.status, headers, MEDIA_TYPE)


def _to_sign_in(request: Request) -> Response:
    if typed := _typed(request):
        return render(request, "errors/signed_out.html", typed, status=401).make()
    if is_fragment(request) and _is_of_a_form(request) and not _is_desk(request):
        reply = render(request, "errors/signed_out_flash.html", SignedOutPage(request.url.path), status=401).make()
        reply.headers.update({"HX-Retarget": "#flashes", "HX-Reswap": "innerHTML"})
        return reply
    if is_fragment(request):
        # The whole page moves, or a sign-in form would appear inside a table.
        here = split_url(request.headers.get("HX-Current-URL", ""))
        return Response(status_code=401, headers={"HX-Redirect": _sign_in_url(here.path, here.query)})
    if request.method in ("GET", "HEAD"):
        return RedirectResponse(_sign_in_url(request.url.path, request.url.query), 303)
    came_from = split_url(request.headers.get("referer", ""))
    return RedirectResponse(_sign_in_url(came_from.path, came_from.query), 303)


def _typed(request: Request) -> SignedOutPage | None:
    """What a form held that was sent after the session had ended, to be sent again. Not secrets, which no page repeats, and not
    files, which the browser has to choose anew. The desk shows the same pair again."""
    form = getattr(request, "_form", None)  # read already; where bodies are large, who asks is looked at first
    if is_fragment(request) or form is None or _is_desk(request):
        return None
    fields = form.multi_items()
    if not fields or any(not isinstance(value, str) or SECRET.search(name) for name, value in fields):
        return None
    query = f"?{request.url.query}" if request.url.query else ""
    return SignedOutPage(request.url.path + query, fields)


def _is_of_a_form(request: Request) -> bool:
    """Whether htmx asks for what goes with a form while somebody fills it in: a cost, a preview. Lists and states ask from elsewhere."""
    return request.headers.get("HX-Source", "").startswith(("form", "input", "select", "textarea", "table"))


def _is_desk(request: Request) -> bool:
    return request.url.path.endswith("/compare")


def _sign_in_url(path: str, query: str) -> str:
    target = local_path(path + (f"?{query}" if query else ""))
    return at("/sign-in") + ("" if target == "/" else f"?next={quote(target, safe='/')}")


def _page(request: Request, fact: PrefloopError, headers: dict[str, str]) -> HTMLResponse:
    _look_up_viewer(request)
    errors = fact.details.get("errors", [])
    context = FailurePage(
        fact.status,
        HTTPStatus(fact.status).phrase,
        fact.what,
        fact.next_step,
        request_id(request),
        errors if isinstance(errors, list) else [],
    )
    if is_fragment(request):  # shown at the top of the page, not in the part of it that was to be swapped
        headers |= {"HX-Retarget": "#flashes", "HX-Reswap": "innerHTML"}
        page = render(request, "errors/flash.html", context, status=fact.status)
    else:
        page = render(request, "errors/error.html", context, status=fact.status)
    for name, value in headers.items():
        page.headers[name] = value
    return page.make()  # here, where an error of the page's own is caught


def _look_up_viewer(request: Request) -> None:
    """So that the bar stays on the page of an error that came before anybody asked who is signed in."""
    if request_state.of(request).viewer is not None:
        return
    try:
        with read_session(request.app.state.engine) as session:
            signed_in_user(request, session, request.app.state.settings)
    except Exception:
        log.warning("couldn't look up who is signed in for an error page", exc_info=True)
