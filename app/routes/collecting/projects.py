"""Projects: the list, a new one, and its settings."""

from dataclasses import dataclass, field
from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import Response
from pydantic import BaseModel

from app.errors import Conflict, Invalid
from app.models import Project, ProjectRole
from app.routes.collecting import home
from app.services.collecting import projects
from app.web.deps import CallerDep, LeadDep, MakerDep, MemberDep, SessionDep
from app.web.templating import redirect, render

router = APIRouter()


class ProjectForm(BaseModel):
    """What is typed, as text, so that a wrong number comes back with its field instead of being lost."""

    name: str = ""
    slug: str = ""
    description: str = ""
    guidelines: str = ""
    judgments_per_comparison: str = "1"
    lease_minutes: str = "15"
    daily_goal: str = "60"
    eval_percent: str = "10"
    default_base_model: str = ""
    allow_tie: bool = False
    allow_both_bad: bool = False
    allow_skip: bool = False
    evaluates_runs: bool = False

    @classmethod
    def of(cls, project: Project) -> "ProjectForm":
        return cls(
            name=project.name,
            slug=project.slug,
            description=project.description,
            daily_goal=str(project.daily_goal),
            judgments_per_comparison=str(project.judgments_per_comparison),
            lease_minutes=f"{project.lease_seconds / 60:g}",
            eval_percent=str(project.eval_percent),
            default_base_model=project.default_base_model,
            allow_tie=project.allow_tie,
            allow_both_bad=project.allow_both_bad,
            allow_skip=project.allow_skip,
            evaluates_runs=project.evaluates_runs,
        )

    def rules(self) -> dict[str, object]:
        """The project's columns. Raises Invalid, naming the field."""
        minutes = self._number("lease_minutes", float)
        if not 0.5 <= minutes <= 1440:
            raise Invalid("The time for a pair is 0.5 to 1,440 minutes.", field="lease_minutes")
        return {
            "judgments_per_comparison": self._number("judgments_per_comparison", int),
            "daily_goal": self._number("daily_goal", int),
            "eval_percent": self._number("eval_percent", int),
            "lease_seconds": round(60 * minutes),
            "default_base_model": self.default_base_model.strip(),
            "allow_tie": self.allow_tie,
            "allow_both_bad": self.allow_both_bad,
            "allow_skip": self.allow_skip,
            "evaluates_runs": self.evaluates_runs,
        }

    def _number(self, name: str, kind: type[int] | type[float]) -> int | float:
        try:
            return kind(getattr(self, name))
        except ValueError:
            raise Invalid(f"“{getattr(self, name)[:20]}” isn't a number.", "Type one.", field=name) from None


@dataclass(frozen=True)
class NewPage:
    form: ProjectForm
    errors: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SettingsPage:
    project: Project
    form: ProjectForm
    errors: dict[str, str] = field(default_factory=dict)


@router.get("/projects")
def listing(request: Request, session: SessionDep, caller: CallerDep) -> Response:
    overviews = projects.listing(session, caller=caller)
    return render(request, "collecting/home/show.html", home.projects_page(session, caller, overviews))


@router.get("/projects/new")
def new(request: Request, user: MakerDep) -> Response:
    return render(
        request,
        "collecting/projects/new.html",
        NewPage(ProjectForm(allow_tie=True, allow_both_bad=True, allow_skip=True)),
    )


@router.post("/projects/new")
def create(request: Request, session: SessionDep, user: MakerDep, form: Annotated[ProjectForm, Form()]) -> Response:
    try:
        project = projects.create(
            session,
            slug=form.slug.strip() or projects.slug_of(form.name),
            name=form.name,
            by=user,
            description=form.description,
            guidelines=form.guidelines,
            **form.rules(),
        )
    except (Invalid, Conflict) as refusal:
        return render(request, "collecting/projects/new.html", NewPage(form, _errors(refusal)), status=refusal.status)
    return redirect(
        f"/projects/{project.slug}/import", f"“{project.name}” was created. Import pairs of answers to judge.", "good"
    )


@router.get("/projects/{slug}")
def open_project(here: MemberDep) -> Response:
    return redirect(f"/projects/{here.project.slug}/{'compare' if here.role is ProjectRole.EVALUATOR else 'data'}")


@router.get("/projects/{slug}/settings")
def settings(request: Request, here: LeadDep) -> Response:
    page = SettingsPage(here.project, ProjectForm.of(here.project))
    return render(request, "collecting/projects/settings.html", page)


@router.post("/projects/{slug}/settings")
def update(
    request: Request, slug: str, session: SessionDep, here: LeadDep, form: Annotated[ProjectForm, Form()]
) -> Response:
    project, by = here.project, here.user
    try:
        projects.update(session, project=project, by=by, name=form.name, description=form.description, **form.rules())
    except (Invalid, Conflict) as refusal:
        return render(
            request,
            "collecting/projects/settings.html",
            SettingsPage(project, form, _errors(refusal)),
            status=refusal.status,
        )
    return redirect(f"/projects/{slug}/settings", "Settings saved.", "good")


def _errors(refusal: Invalid | Conflict) -> dict[str, str]:
    name = str(refusal.details.get("field", ""))
    return {{"lease_seconds": "lease_minutes"}.get(name, name): str(refusal)}
