"""One's second factor: set it up in an authenticator app, get recovery codes, turn it off."""

from dataclasses import dataclass, field
from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import Response
from sqlalchemy import Engine

from app.config import Settings
from app.db import read_session, write_session
from app.errors import Invalid, PrefloopError
from app.models import User
from app.services.accounts import logins, second_factor
from app.web.deps import Browser, BrowserDep, EngineDep, SettingsDep, client_address
from app.web.templating import redirect, render

router = APIRouter(prefix="/account/second-factor")
Password = Annotated[str, Form()]


@dataclass(frozen=True)
class SecondFactorPage:
    """`secret` and `picture` while it is set up; `codes` are shown this once."""

    secret: str = ""
    picture: str = ""
    codes: list[str] = field(default_factory=list)
    problem: PrefloopError | None = None


@router.post("")
def begin(
    request: Request, engine: EngineDep, browser: BrowserDep, settings: SettingsDep, password: Password = ""
) -> Response:
    """A secret for the app. It counts once a code of it was given."""
    try:
        _prove(request, engine, browser, settings, password)
    except Invalid as problem:
        return redirect("/account#second-factor", str(problem), "bad")
    with write_session(engine) as session:
        setup = second_factor.begin(session, user=session.get_one(User, browser.user_id), settings=settings)
    return _set_up(request, setup)


@router.post("/confirm")
def confirm(
    request: Request, engine: EngineDep, browser: BrowserDep, settings: SettingsDep, code: Annotated[str, Form()]
) -> Response:
    try:
        with write_session(engine) as session:
            session.info["address"] = client_address(request)
            user = session.get_one(User, browser.user_id)
            codes = second_factor.confirm(session, user=user, code=code, settings=settings)
    except Invalid as problem:
        with read_session(engine) as session:
            setup = second_factor.pending(session.get_one(User, browser.user_id), settings)
        if setup is None:
            return redirect("/account#second-factor", str(problem), "bad")
        return _set_up(request, setup, problem)
    return render(request, "accounts/account/second_factor.html", SecondFactorPage(codes=codes))


@router.post("/codes")
def renew_codes(
    request: Request, engine: EngineDep, browser: BrowserDep, settings: SettingsDep, password: Password = ""
) -> Response:
    try:
        _prove(request, engine, browser, settings, password)
    except Invalid as problem:
        return redirect("/account#second-factor", str(problem), "bad")
    with write_session(engine) as session:
        session.info["address"] = client_address(request)
        codes = second_factor.renew_codes(session, user=session.get_one(User, browser.user_id), settings=settings)
    return render(request, "accounts/account/second_factor.html", SecondFactorPage(codes=codes))


@router.post("/remove")
def remove(
    request: Request, engine: EngineDep, browser: BrowserDep, settings: SettingsDep, password: Password = ""
) -> Response:
    try:
        _prove(request, engine, browser, settings, password)
    except Invalid as problem:
        return redirect("/account#second-factor", str(problem), "bad")
    with write_session(engine) as session:
        session.info["address"] = client_address(request)
        user = session.get_one(User, browser.user_id)
        second_factor.remove(session, user=user, by=user, settings=settings)
    return redirect("/account#second-factor", "Your second factor is off.")


def _prove(request: Request, engine: Engine, browser: Browser, settings: Settings, password: str) -> None:
    logins.prove(
        engine,
        user_id=browser.user_id,
        session_id=browser.session_id,
        password=password,
        address=client_address(request),
        settings=settings,
    )


def _set_up(request: Request, setup: second_factor.Setup, problem: PrefloopError | None = None) -> Response:
    page = SecondFactorPage(setup.secret, second_factor.picture(setup), problem=problem)
    status = problem.status if problem else 200
    return render(request, "accounts/account/second_factor.html", page, status=status)
