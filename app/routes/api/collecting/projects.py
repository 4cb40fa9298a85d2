"""Projects: their rules, guidelines and comparisons."""

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt

from app.models import Arm, Choice, ProjectRole, Response, SourceKind, Split
from app.paging import Stretch
from app.services.collecting import guidelines, listing, projects
from app.services.collecting.listing import Filters, Row
from app.services.collecting.projects import Overview
from app.web.deps import ApiCallerDep, ApiLeadDep, ApiMakerDep, ApiMemberDep, SessionDep, require
from app.web.problems import problems

router = APIRouter(tags=["projects"])
Slug = Annotated[str, Path(pattern=r"^[a-z0-9-]{1,64}$", examples=["tone"])]


class Rules(BaseModel):
    """How a project collects judgments. What is left out keeps its value, or in a new project its default."""

    judgments_per_comparison: StrictInt | None = Field(
        None, ge=1, le=25, description="Judgments wanted of each pair; 1 by default."
    )
    allow_tie: StrictBool | None = Field(None, description="Whether “equally good” may be chosen.")
    allow_both_bad: StrictBool | None = None
    allow_skip: StrictBool | None = None
    lease_seconds: StrictInt | None = Field(
        None, ge=30, le=86400, description="How long a pair is kept for who got it; 900 by default."
    )
    daily_goal: StrictInt | None = Field(
        None, ge=0, le=10_000, description="Judgments a person may aim for in a day; 60 by default."
    )
    eval_percent: StrictInt | None = Field(
        None, ge=0, le=50, description="Share of prompts never trained on; 10 by default."
    )
    default_base_model: str | None = Field(None, max_length=255)
    evaluates_runs: StrictBool | None = Field(
        None, description="A run that succeeds is compared blind with its parent by itself; off by default."
    )
    open_to_everybody: StrictBool | None = Field(
        None, description="Every account acts in the project by its own role; by default only its members see it."
    )

    def given(self) -> dict[str, object]:
        return {name: getattr(self, name) for name in Rules.model_fields if getattr(self, name) is not None}


class NewProject(Rules):
    slug: str = Field(
        pattern=r"^[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?$", description="In addresses, for ever.", examples=["tone"]
    )
    name: str = Field(min_length=1, max_length=120, examples=["Tone of the support team"])
    description: str = Field("", max_length=4_000)
    guidelines: str = Field("", max_length=100_000, description="Markdown that every evaluator sees.")


class ProjectChange(Rules):
    name: str | None = Field(None, min_length=1, max_length=120)
    description: str | None = Field(None, max_length=4_000)


class ProjectOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: int
    slug: str
    name: str
    description: str
    guideline_version: int
    judgments_per_comparison: int
    allow_tie: bool
    allow_both_bad: bool
    allow_skip: bool
    lease_seconds: int
    daily_goal: int
    eval_percent: int
    default_base_model: str
    open_to_everybody: bool
    evaluates_runs: bool
    is_demo: bool
    archived_at: datetime | None = Field(description="Since then it can only be looked at.")
    created_at: datetime


class ProjectOverview(ProjectOut):
    role: ProjectRole = Field(description="What you are in it.")
    comparisons: int
    wanted: int = Field(description="Judgments wanted of all comparisons together.")
    done: int = Field(description="How many of the wanted ones are there.")
    judgments: int

    @classmethod
    def of(cls, overview: Overview) -> "ProjectOverview":
        return cls(
            **ProjectOut.model_validate(overview.project).model_dump(),
            role=overview.role,
            comparisons=overview.comparisons,
            wanted=overview.wanted,
            done=overview.done,
            judgments=overview.judgments,
        )


class GuidelinesIn(BaseModel):
    text: str = Field(max_length=100_000, description="Markdown.")


class GuidelinesOut(BaseModel):
    version: int = Field(description="0: none was ever written.")
    text: str
    created_at: datetime | None


class Message(BaseModel):
    role: str
    content: str


class Answer(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    text: str
    source_kind: SourceKind | None = Field(description="Null while it is hidden.")
    source_name: str = Field(description="Empty while it is hidden.")

    @classmethod
    def of(cls, answer: Response, *, hidden: bool) -> "Answer":
        if hidden:
            return cls(text=answer.text, source_kind=None, source_name="")
        return cls.model_validate(answer)


class ComparisonOut(BaseModel):
    """A pair with its sources, for those who may see them."""

    id: int
    external_id: str | None
    prompt: list[Message]
    first: Answer
    second: Answer
    split: Split
    priority: int
    gold_choice: Choice | None
    votes: dict[Choice, int] = Field(description="Current judgments by choice.")
    wanted: int
    done: int
    arm: Arm | None = Field(description="By which rule it came to be asked; null for pairs that came by none.")
    excluded: bool = Field(description="Left out of new snapshots, by itself or with its import.")
    hidden_by: int | None = Field(
        description="The number of the evaluation that asks about one of its answers: sources are hidden until it has ended."
    )

    @classmethod
    def of(cls, row: Row) -> "ComparisonOut":
        pair = row.comparison
        return cls(
            id=pair.id,
            external_id=pair.external_id,
            prompt=[Message(**message) for message in pair.prompt.messages],
            first=Answer.of(pair.first, hidden=bool(row.hidden)),
            second=Answer.of(pair.second, hidden=bool(row.hidden)),
            split=pair.prompt.split,
            priority=pair.priority,
            gold_choice=pair.gold_choice,
            votes=row.votes,
            wanted=row.wanted,
            done=row.done,
            arm=pair.arm,
            excluded=row.excluded,
            hidden_by=row.hidden or None,
        )


class Comparisons(BaseModel):
    """`page`, `pages` and `total` are null where the project is large and filtered, for all that match are not counted then;
    `next_after` says from where to go on."""

    items: list[ComparisonOut]
    page: int | None
    pages: int | None
    total: int | None
    next_after: int | None = Field(
        None, description="Ask for the rest with this as `after`; null at the end. Only for filters on a large project."
    )


@router.get("/projects")
def list_projects(session: SessionDep, caller: ApiCallerDep) -> list[ProjectOverview]:
    """The projects that you may see, with their counts and your role, the newest first."""
    return [ProjectOverview.of(overview) for overview in projects.listing(session, caller=caller)]


@router.post("/projects", status_code=201, responses=problems(409))
def create_project(body: NewProject, session: SessionDep, user: ApiMakerDep) -> ProjectOut:
    """A new project with you as its engineer; 409 where its slug is taken."""
    row = projects.create(
        session,
        slug=body.slug,
        name=body.name,
        by=user,
        description=body.description,
        guidelines=body.guidelines,
        **body.given(),
    )
    return ProjectOut.model_validate(row)


@router.get("/projects/{slug}", responses=problems(404))
def show_project(slug: Slug, here: ApiMemberDep) -> ProjectOut:
    """One project and its rules."""
    return ProjectOut.model_validate(here.project)


@router.patch("/projects/{slug}", responses=problems(404))
def change_project(slug: Slug, body: ProjectChange, session: SessionDep, here: ApiLeadDep) -> ProjectOut:
    """Change name, description or rules; engineers also whether it is open to everybody. Judgments stay as they are."""
    if body.open_to_everybody is not None:
        require(here.role, ProjectRole.ENGINEER)
    row = projects.update(
        session,
        project=here.project,
        by=here.user,
        name=body.name,
        description=body.description,
        **body.given(),
    )
    return ProjectOut.model_validate(row)


@router.get("/projects/{slug}/guidelines", responses=problems(404))
def read_guidelines(
    slug: Slug, session: SessionDep, here: ApiMemberDep, version: int | None = Query(None, ge=0, le=2**31 - 1)
) -> GuidelinesOut:
    """The current guidelines, or an earlier version."""
    row = guidelines.get(session, project=here.project, version=version)
    if row is None:
        return GuidelinesOut(version=0, text="", created_at=None)
    return GuidelinesOut(version=row.version, text=row.text, created_at=row.created_at)


@router.put("/projects/{slug}/guidelines", responses=problems(404))
def write_guidelines(slug: Slug, body: GuidelinesIn, session: SessionDep, here: ApiLeadDep) -> GuidelinesOut:
    """A new version of the guidelines; the same text again keeps the version."""
    row = guidelines.write(session, project=here.project, text=body.text, by=here.user)
    return GuidelinesOut(version=row.version, text=row.text, created_at=row.created_at)


@router.get("/projects/{slug}/comparisons", responses=problems(404))
def list_comparisons(
    slug: Slug,
    session: SessionDep,
    here: ApiLeadDep,
    state: Literal["", "waiting", "judged", "excluded"] = "",
    split: Split | None = None,
    source: str = Query("", max_length=255),
    text: str = Query("", max_length=200),
    arm: Arm | None = None,
    page: int = Query(1, ge=1, le=1_000_000),
    size: int = Query(50, ge=1, le=200),
    after: int = Query(0, ge=0, le=2**31 - 1, description="`next_after` of the reply before."),
) -> Comparisons:
    """Comparisons in the order of their arrival, with votes and sources. Filters on a project of more than 50,000 comparisons
    search for some tenths of a second and answer what they found, which may be nothing yet, with `next_after`."""
    rows = listing.comparisons(
        session,
        project=here.project,
        page=page,
        size=size,
        after=after,
        filters=Filters(state=state, split=split, source=source, text=text, arm=arm),
    )
    items = [ComparisonOut.of(row) for row in rows.items]
    if isinstance(rows, Stretch):
        return Comparisons(items=items, page=None, pages=None, total=None, next_after=rows.after)
    return Comparisons(items=items, page=rows.number, pages=rows.pages, total=rows.total)
