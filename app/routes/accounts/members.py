"""Members of a project: who is in it as what, for its leads, engineers and admins."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import Response
from pydantic import BaseModel
from sqlalchemy.orm import Session

from app.errors import Conflict, Invalid, NotAllowed, NotFound, PrefloopError
from app.models import Project, ProjectRole, Role
from app.services.accounts import members
from app.services.accounts.members import Member
from app.services.collecting import projects
from app.web.deps import EngineerDep, Here, LeadDep, SessionDep
from app.web.templating import redirect, render

router = APIRouter(prefix="/projects/{slug}/members")
REFUSALS = (Conflict, Invalid, NotAllowed, NotFound)


class MemberForm(BaseModel):
    username: str = ""
    role: str = ProjectRole.EVALUATOR


class RoleForm(BaseModel):
    role: str


class OpenForm(BaseModel):
    opened: bool


@dataclass(frozen=True)
class MembersPage:
    """`roles`: those that the viewer may give. `username`, `role` and `problem`: what the form held that did nothing."""

    project: Project
    members: list[Member]
    me: int
    roles: list[ProjectRole]
    username: str = ""
    role: str = ProjectRole.EVALUATOR
    problem: PrefloopError | None = None


@router.get("")
def show(request: Request, session: SessionDep, here: LeadDep) -> Response:
    return _page(request, session, here)


@router.post("")
def add(request: Request, session: SessionDep, here: LeadDep, form: Annotated[MemberForm, Form()]) -> Response:
    try:
        person = members.person(session, form.username)
        is_new = members.put(session, project=here.project, user=person, role=form.role, by=here.user, acting=here.role)
    except REFUSALS as problem:
        return _page(request, session, here, form, problem)
    words = (
        f"{person.display_name} is now {form.role} here." if is_new else f"{person.display_name} is {form.role} here."
    )
    return redirect(_address(here), words, "good")


@router.post("/everybody")
def open_or_close(session: SessionDep, here: EngineerDep, form: Annotated[OpenForm, Form()]) -> Response:
    projects.update(session, project=here.project, by=here.user, open_to_everybody=form.opened)
    return redirect(
        _address(here),
        "Everybody with an account can see the project."
        if form.opened
        else "Only members and admins see the project now.",
        "good",
    )


@router.post("/{username}/role")
def change(username: str, session: SessionDep, here: LeadDep, form: Annotated[RoleForm, Form()]) -> Response:
    try:
        person = members.person(session, username)
        members.put(session, project=here.project, user=person, role=form.role, by=here.user, acting=here.role)
    except REFUSALS as problem:
        return redirect(_address(here), str(problem), "bad")
    return redirect(_address(here), f"{person.display_name} is now {form.role} here.", "good")


@router.post("/{username}/remove")
def remove(username: str, session: SessionDep, here: LeadDep) -> Response:
    try:
        person = members.person(session, username)
        members.remove(session, project=here.project, user=person, by=here.user, acting=here.role)
    except REFUSALS as problem:
        return redirect(_address(here), str(problem), "bad")
    if person.id == here.user.id and here.user.role is not Role.ADMIN and not here.project.open_to_everybody:
        return redirect("/", f"You left “{here.project.name}”.")
    return redirect(_address(here), f"{person.display_name} isn't a member any more. Their judgments stay.")


def _address(here: Here) -> str:
    return f"/projects/{here.project.slug}/members"


def _page(
    request: Request,
    session: Session,
    here: Here,
    form: MemberForm | None = None,
    problem: PrefloopError | None = None,
) -> Response:
    form = form or MemberForm()
    page = MembersPage(
        here.project,
        members.listing(session, project=here.project),
        here.user.id,
        members.may_give(here.role),
        form.username,
        form.role,
        problem,
    )
    return render(request, "accounts/members/show.html", page, status=problem.status if problem else 200)
