"""One person, for admins: where they are signed in, their tokens, their passkeys, their second factor."""

from collections.abc import Sequence
from dataclasses import dataclass

from fastapi import APIRouter, Request
from fastapi.responses import Response

from app.models import ApiToken, Passkey, User, UserSession
from app.routes.accounts.account import browser_name
from app.services.accounts import passkeys, second_factor, sessions, tokens, users
from app.web.deps import AdminDep, RowId, SessionDep, SettingsDep
from app.web.templating import redirect, render

router = APIRouter(prefix="/people/{username}")


@dataclass(frozen=True)
class PersonPage:
    person: User
    me: int
    browsers: list[tuple[UserSession, str]]
    tokens: Sequence[ApiToken]
    passkeys: Sequence[Passkey]
    codes_left: int
    must_have_second: bool


@router.get("")
def show(username: str, request: Request, session: SessionDep, user: AdminDep, settings: SettingsDep) -> Response:
    person = users.get(session, username)
    page = PersonPage(
        person,
        user.id,
        [(row, browser_name(row.user_agent)) for row in sessions.listing(session, user=person)],
        tokens.listing(session, user=person),
        passkeys.listing(session, user=person),
        second_factor.codes_left(session, user=person),
        second_factor.is_required(person, settings),
    )
    return render(request, "accounts/people/person.html", page)


@router.post("/sessions/{session_id}/revoke")
def end_session(username: str, session_id: RowId, session: SessionDep, user: AdminDep) -> Response:
    person = users.get(session, username)
    sessions.revoke(session, session_id=session_id, user=person, by=user)
    return redirect(f"/people/{person.username}", "That browser was signed out.")


@router.post("/sessions/revoke-all")
def end_sessions(username: str, session: SessionDep, user: AdminDep) -> Response:
    person = users.get(session, username)
    ended = sessions.revoke_all(session, user=person, by=user)
    return redirect(f"/people/{person.username}", f"{ended} browser{'' if ended == 1 else 's'} signed out.")


@router.post("/tokens/{token_id}/revoke")
def end_token(username: str, token_id: RowId, session: SessionDep, user: AdminDep) -> Response:
    person = users.get(session, username)
    tokens.revoke(session, token_id=token_id, by=user, user=person)
    return redirect(f"/people/{person.username}", "The token was revoked.")


@router.post("/passkeys/{passkey_id}/remove")
def remove_passkey(
    username: str, passkey_id: RowId, session: SessionDep, user: AdminDep, settings: SettingsDep
) -> Response:
    person = users.get(session, username)
    name = passkeys.remove(session, passkey_id=passkey_id, user=person, by=user, settings=settings)
    return redirect(f"/people/{person.username}", f"The passkey “{name}” was removed.")


@router.post("/second-factor/reset")
def reset_second_factor(username: str, session: SessionDep, user: AdminDep, settings: SettingsDep) -> Response:
    person = users.get(session, username)
    second_factor.reset(session, user=person, by=user, settings=settings)
    return redirect(f"/people/{person.username}", f"The second factor of {person.display_name} is off.")
