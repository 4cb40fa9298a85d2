"""People, for admins: who is here, who is invited, who may do what."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import Response
from pydantic import BaseModel
from sqlalchemy.orm import Session

from app.config import Settings
from app.models import Link, Project, ProjectRole, Role, User
from app.services.accounts import access, links, members, users
from app.services.accounts.members import Promise
from app.web.deps import AdminDep, RowId, SessionDep, SettingsDep
from app.web.templating import redirect, render

router = APIRouter(prefix="/people")


class InviteForm(BaseModel):
    role: Role = Role.EVALUATOR
    note: str = ""
    project: list[str] = []
    project_role: ProjectRole = ProjectRole.EVALUATOR


class RoleForm(BaseModel):
    role: Role


class ActiveForm(BaseModel):
    active: bool


@dataclass(frozen=True)
class NewLink:
    """A link to hand over, shown this once. `valid`: how long it works, in seconds."""

    url: str
    title: str
    valid: int


@dataclass(frozen=True)
class PeoplePage:
    """`promised`: what each invitation gives in projects, by its id."""

    people: Sequence[User]
    invitations: Sequence[Link]
    promised: dict[int, list[Promise]]
    projects: list[Project]
    me: int
    roles: list[str]
    new_link: NewLink | None = None


@router.get("")
def show(request: Request, session: SessionDep, user: AdminDep) -> Response:
    return _page(request, session, user)


@router.post("/invitations")
def invite(
    request: Request, form: Annotated[InviteForm, Form()], session: SessionDep, user: AdminDep, settings: SettingsDep
) -> Response:
    projects = dict.fromkeys(form.project, form.project_role)
    token = links.invite(session, role=form.role, by=user, note=form.note, projects=projects, settings=settings)
    title = f"Invitation as {form.role.value}" + (f" for {form.note.strip()}" if form.note.strip() else "")
    return _page(request, session, user, _link(token, title, settings.invitation_days * 86400, settings))


@router.post("/invitations/{link_id}/withdraw")
def withdraw(link_id: RowId, session: SessionDep, user: AdminDep) -> Response:
    links.withdraw(session, link_id=link_id, by=user)
    return redirect("/people", "The invitation was withdrawn.")


@router.post("/{username}/role")
def change_role(username: str, form: Annotated[RoleForm, Form()], session: SessionDep, user: AdminDep) -> Response:
    person = users.get(session, username)
    users.set_role(session, user=person, role=form.role, by=user)
    return redirect("/people", f"{person.display_name} is now {form.role.value}.", "good")


@router.post("/{username}/active")
def set_active(username: str, form: Annotated[ActiveForm, Form()], session: SessionDep, user: AdminDep) -> Response:
    person = users.get(session, username)
    users.set_active(session, user=person, active=form.active, by=user)
    return redirect(
        "/people",
        f"{person.display_name} can sign in again." if form.active else f"{person.display_name} can no longer sign in.",
    )


@router.post("/{username}/link")
def new_link(username: str, request: Request, session: SessionDep, user: AdminDep, settings: SettingsDep) -> Response:
    person = users.get(session, username)
    token = links.create_sign_in(session, user=person, by=user, settings=settings)
    return _page(
        request,
        session,
        user,
        _link(token, f"Sign-in link for {person.display_name}", settings.link_minutes * 60, settings),
    )


def _link(token: str, title: str, valid: int, settings: Settings) -> NewLink:
    return NewLink(links.url(token, settings), title, valid)


def _page(request: Request, session: Session, user: User, new: NewLink | None = None) -> Response:
    invitations = links.open_invitations(session)
    page = PeoplePage(
        users.listing(session),
        invitations,
        members.promises(session, link_ids=[link.id for link in invitations]),
        access.projects(session, caller=access.Caller.of(user)),
        user.id,
        [role.value for role in Role],
        new,
    )
    return render(request, "accounts/people/show.html", page)
