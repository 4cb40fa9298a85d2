"""Members of a project over the API."""

from datetime import datetime

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from app.models import ProjectRole
from app.routes.api.collecting.projects import Slug
from app.services.accounts import members
from app.web.deps import ApiLeadDep, SessionDep
from app.web.problems import problems

router = APIRouter(prefix="/projects/{slug}/members", tags=["members"])


class MemberOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    username: str
    display_name: str
    role: ProjectRole
    active: bool = Field(description="False: the account is deactivated.")
    added_at: datetime
    added_by: str = Field(description="A user name; empty where nobody is known.")


class MemberIn(BaseModel):
    role: ProjectRole = Field(
        ProjectRole.EVALUATOR,
        description="A lead also sees and settles judgments and data, an engineer also trains and downloads.",
    )


@router.get("", responses=problems(404))
def list_members(slug: Slug, session: SessionDep, here: ApiLeadDep) -> list[MemberOut]:
    """Who is in a project as what. Admins, and in a project that is open to everybody all accounts, come on top."""
    return [MemberOut.model_validate(member) for member in members.listing(session, project=here.project)]


@router.put("/{username}", responses=problems(404, 409))
def put_member(slug: Slug, username: str, body: MemberIn, session: SessionDep, here: ApiLeadDep) -> MemberOut:
    """Add somebody, or change their role. Leads add evaluators; engineers and admins give every role."""
    person = members.person(session, username)
    members.put(session, project=here.project, user=person, role=body.role, by=here.user, acting=here.role)
    (row,) = [one for one in members.listing(session, project=here.project) if one.user_id == person.id]
    return MemberOut.model_validate(row)


@router.delete("/{username}", status_code=204, responses=problems(404, 409))
def remove_member(slug: Slug, username: str, session: SessionDep, here: ApiLeadDep) -> Response:
    """Take somebody out of a project; what they judged stays. The last engineer stays in unless an admin removes them."""
    person = members.person(session, username)
    members.remove(session, project=here.project, user=person, by=here.user, acting=here.role)
    return Response(status_code=204)
