"""What is known of one request while it is answered: its number, who asks, and what is due after the reply."""

from collections.abc import Callable
from dataclasses import dataclass

from fastapi import Request, Response
from sqlalchemy.orm import Session
from starlette.types import Scope

from app.models import ProjectRole, Role, User
from app.security import COOKIE_DAYS
from app.services.accounts.access import Caller
from app.site.addresses import Site

KEY = "prefloop"


@dataclass(frozen=True)
class Viewer:
    """Who is signed in, for pages and logs: unlike the row it can still be read after a rollback."""

    id: int
    username: str
    display_name: str
    role: Role

    @classmethod
    def of(cls, user: User) -> "Viewer":
        return cls(user.id, user.username, user.display_name, user.role)


@dataclass(frozen=True)
class May:
    """What whoever looks at a page may do: `make` projects; in the project of the page `lead` and `train`."""

    make: bool = False
    lead: bool = False
    train: bool = False


@dataclass
class RequestState:
    """`caller`: the viewer as whoever asks for projects; `role`: what they are in the request's project.

    `session_id`: the sign-in session of the browser, None for a token. `still_in` asks again, while a long answer is
    sent, whether its reader may go on; `note_use` writes down that the session or token was used, where that is due.
    `adopted`: a session's token that came in a cookie of an earlier name, and goes back in one of today's."""

    request_id: str = ""
    viewer: Viewer | None = None
    caller: Caller | None = None
    role: ProjectRole | None = None
    session_id: int | None = None
    still_in: Callable[[Session], bool] | None = None
    note_use: Callable[[Session], None] | None = None
    adopted: str = ""

    @property
    def may(self) -> May:
        return May(
            make=self.viewer is not None and self.viewer.role is not Role.EVALUATOR,
            lead=self.role is not None and self.role.covers(ProjectRole.LEAD),
            train=self.role is ProjectRole.ENGINEER,
        )


def of_scope(scope: Scope) -> RequestState:
    """The one of this ASGI scope, made where nobody asked before."""
    state: RequestState = scope.setdefault("state", {}).setdefault(KEY, RequestState())
    return state


def of(request: Request) -> RequestState:
    return of_scope(request.scope)


def session_token(request: Request, site: Site) -> str | None:
    """The token in the browser's session cookie, of today's name or of the earlier one."""
    return request.cookies.get(site.session_cookie) or request.cookies.get(site.earlier_session_cookie)


def set_session_cookie(response: Response, site: Site, token: str) -> None:
    response.set_cookie(
        site.session_cookie,
        token,
        max_age=COOKIE_DAYS * 86400,
        path=site.cookie_path,
        secure=site.is_secure,
        httponly=True,
        samesite="lax",
    )


def adopt_session_cookie(response: Response, site: Site, token: str) -> None:
    """Once: the session goes on in a cookie of today's name, and the one of the earlier name goes."""
    set_session_cookie(response, site, token)
    response.delete_cookie(site.earlier_session_cookie, path="/", secure=site.is_secure, httponly=True, samesite="lax")
