"""One's authenticator app: set it up, get recovery codes, turn it off."""

from dataclasses import dataclass, field
from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import Response

from app.db import read_session
from app.errors import Invalid, PrefloopError
from app.models import User
from app.routes.accounts.owner import OwnerDep, Password
from app.services.accounts import second_factor
from app.web.templating import redirect, render

router = APIRouter(prefix="/account/second-factor")
HERE = "/account#second-factor"


@dataclass(frozen=True)
class SecondFactorPage:
    """`secret` and `picture` while it is set up; `codes` are shown this once, with what was `done`."""

    secret: str = ""
    picture: str = ""
    codes: list[str] = field(default_factory=list)
    done: str = ""
    problem: PrefloopError | None = None


@router.post("")
def begin(request: Request, owner: OwnerDep, password: Password = "") -> Response:
    """A secret for the app. It counts once a code of it was given."""
    if refusal := owner.refused(password, HERE):
        return refusal
    with owner.writing() as (session, user):
        setup = second_factor.begin(session, user=user, settings=owner.settings)
    return _set_up(request, setup)


@router.post("/confirm")
def confirm(request: Request, owner: OwnerDep, code: Annotated[str, Form()]) -> Response:
    try:
        with owner.writing() as (session, user):
            codes = second_factor.confirm(session, user=user, code=code, settings=owner.settings)
    except Invalid as problem:
        with read_session(owner.engine) as session:
            setup = second_factor.pending(session.get_one(User, owner.browser.user_id), owner.settings)
        if setup is None:
            return redirect(HERE, str(problem), "bad")
        return _set_up(request, setup, problem)
    return show_codes(request, codes, "It is on. Signing in now asks for a code of your app.")


@router.post("/codes")
def renew_codes(request: Request, owner: OwnerDep, password: Password = "") -> Response:
    if refusal := owner.refused(password, HERE):
        return refusal
    with owner.writing() as (session, user):
        codes = second_factor.renew_codes(session, user=user, settings=owner.settings)
    return show_codes(request, codes, "Earlier recovery codes are void.")


@router.post("/remove")
def remove(owner: OwnerDep, password: Password = "") -> Response:
    if refusal := owner.refused(password, HERE):
        return refusal
    with owner.writing() as (session, user):
        second_factor.turn_off_app(session, user=user, settings=owner.settings)
    return redirect(HERE, "Your authenticator app is off.")


def show_codes(request: Request, codes: list[str], done: str) -> Response:
    """Recovery codes, this once."""
    return render(request, "accounts/account/second_factor.html", SecondFactorPage(codes=codes, done=done))


def _set_up(request: Request, setup: second_factor.Setup, problem: PrefloopError | None = None) -> Response:
    page = SecondFactorPage(setup.secret, second_factor.picture(setup), problem=problem)
    status = problem.status if problem else 200
    return render(request, "accounts/account/second_factor.html", page, status=status)
