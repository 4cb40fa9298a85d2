"""Passkeys: signing in by one, adding and removing one's own. The page's script asks for the options, the browser's dialogue
gives the answer, and a form sends it."""

from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel

from app import security
from app.errors import Conflict, Invalid, TooMany
from app.routes.accounts.owner import OwnerDep, Password
from app.routes.accounts.second_factor import show_codes
from app.routes.accounts.session import SignInPage, admit, answer_of, refused
from app.services.accounts import challenges, logins, passkeys
from app.services.accounts.passkeys import Answer, WrongPasskey
from app.web.deps import EngineDep, RowId, SettingsDep, client_address
from app.web.templating import redirect

router = APIRouter()
HERE = "/account#passkeys"


class PasskeyForm(BaseModel):
    passkey: str = ""
    next: str = "/"


class NewPasskeyForm(BaseModel):
    name: str = ""
    passkey: str = ""


@router.post("/sign-in/passkey/options")
def ask_to_sign_in(request: Request, engine: EngineDep, settings: SettingsDep) -> Response:
    """What this browser's passkey has to sign, and a cookie that says which browser was asked."""
    browser = security.new_token()
    options = challenges.to_sign_in(engine, browser=browser, address=client_address(request), settings=settings)
    response = JSONResponse(options)
    response.set_cookie(
        settings.site.passkey_cookie,
        browser,
        max_age=challenges.LIFE.seconds,
        path=settings.site.cookie_path,
        secure=settings.site.is_secure,
        httponly=True,
        samesite="strict",
    )
    return response


@router.post("/sign-in/passkey")
def sign_in(
    request: Request, form: Annotated[PasskeyForm, Form()], engine: EngineDep, settings: SettingsDep
) -> Response:
    target = security.local_path(form.next)
    try:
        _, token = logins.sign_in_by_passkey(
            engine,
            answer=answer_of(request, settings, form.passkey),
            address=client_address(request),
            settings=settings,
            user_agent=request.headers.get("user-agent", ""),
        )
    except (WrongPasskey, TooMany) as problem:
        return refused(request, SignInPage.of(settings, target, problem=problem), problem)
    return admit(request, settings, token, target)


@router.post("/account/passkeys/options")
def ask_to_add(owner: OwnerDep, name: Annotated[str, Form()] = "", password: Password = "") -> Response:
    """What a new passkey has to sign: it stands for the person having been proven."""
    passkeys.named(name)
    owner.prove(password)
    options = challenges.to_add(
        owner.engine,
        user_id=owner.browser.user_id,
        browser=_browser(owner),
        address=owner.address,
        settings=owner.settings,
    )
    return JSONResponse(options)


@router.post("/account/passkeys")
def add(request: Request, form: Annotated[NewPasskeyForm, Form()], owner: OwnerDep) -> Response:
    try:
        codes = passkeys.add(
            owner.engine,
            user_id=owner.browser.user_id,
            name=form.name,
            answer=Answer(form.passkey, _browser(owner)),
            address=owner.address,
            settings=owner.settings,
        )
    except (Conflict, Invalid) as problem:
        return redirect(HERE, str(problem), "bad")
    if codes:
        done = "Your passkey signs you in. A password alone doesn't any more: it asks for a passkey or a recovery code."
        return show_codes(request, codes, done)
    return redirect(HERE, "Your passkey signs you in.", "good")


@router.post("/account/passkeys/{passkey_id}/remove")
def remove(passkey_id: RowId, owner: OwnerDep, password: Password = "") -> Response:
    if refusal := owner.refused(password, HERE):
        return refusal
    with owner.writing() as (session, user):
        name = passkeys.remove(session, passkey_id=passkey_id, user=user, by=user, settings=owner.settings)
    return redirect(HERE, f"The passkey “{name}” was removed. Delete it on your device too.")


def _browser(owner: OwnerDep) -> str:
    return f"session {owner.browser.session_id}"
