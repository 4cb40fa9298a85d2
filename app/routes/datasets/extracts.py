"""A project's page of extracts: make a file with its data, follow it, download it."""

from dataclasses import dataclass

from fastapi import APIRouter, Form, Request
from fastapi.responses import Response
from sqlalchemy.orm import Session

from app.db import write_session
from app.errors import Invalid
from app.models import Container, Extract, ExtractForm, ExtractState, Project, Snapshot, Split, User
from app.services.datasets import snapshots
from app.services.datasets.extracts import extracts
from app.web.deps import EngineDep, EngineerDep, EngineerUploaderDep, RowId, SessionDep, StorageDep
from app.web.downloads import send_extract
from app.web.templating import is_fragment, redirect, render

router = APIRouter()
SECONDS_WAITED = 2.0  # most are done by then, and the page shows their link at once


@dataclass(frozen=True, slots=True)
class ExtractsPage:
    """`told`: what each extract left out, in words, by its id. `contents`: what the form offers."""

    project: Project
    extracts: list[Extract]
    stalled: set[int]
    told: dict[int, list[str]]
    contents: list[tuple[str, str]]
    containers: list[tuple[str, str]]
    running: bool


CONTAINERS = [
    (Container.JSONL.value, "JSON Lines"),
    (Container.JSONL_GZ.value, "JSON Lines, gzip"),
    (Container.PARQUET.value, "Parquet"),
]


@router.get("/projects/{slug}/extracts")
def show(request: Request, session: SessionDep, here: EngineerDep) -> Response:
    project = here.project
    rows = extracts.listing(session, project=project)
    stalled = {row.id for row in rows if extracts.is_stalled(row)}
    running = any(row.state is ExtractState.RUNNING and row.id not in stalled for row in rows)
    newest = snapshots.listing(session, project=project)[:5]
    page = ExtractsPage(
        project,
        rows,
        stalled,
        {row.id: extracts.told(row.left_out) for row in rows},
        _contents(newest),
        CONTAINERS,
        running,
    )
    return render(request, "datasets/extracts/show.html", page, block="extracts" if is_fragment(request) else None)


def _contents(newest: list[Snapshot]) -> list[tuple[str, str]]:
    contents = [("own", "Everything, with every vote: Prefloop's own form")]
    for row in newest:
        for split in (Split.TRAIN, Split.EVAL):
            contents += [
                (f"{form.value}:{row.id}:{split.value}", f"Snapshot {row.number}, {split.value}: {words}")
                for form, words in ((ExtractForm.TRL, "TRL"), (ExtractForm.OPENAI, "OpenAI's preference form"))
            ]
    return contents


@router.post("/projects/{slug}/extracts")
def make(
    here: EngineerUploaderDep,
    engine: EngineDep,
    storage: StorageDep,
    content: str = Form("own", max_length=64),
    container: str = Form(Container.JSONL.value, max_length=24),
) -> Response:
    """Makes the file in a thread of its own; its page has the link once it is done."""
    if container not in list(Container):
        raise Invalid(f"There is no kind of file “{container}”.", f"Choose one of {', '.join(Container)}.")
    with write_session(engine) as session:
        project = here.project
        form, snapshot, split = _wanted(session, project, content)
        extracts.rows(engine, storage, form=form, project_id=project.id, snapshot=snapshot, split=split)
        row = extracts.create(
            session,
            project=project,
            by=session.get_one(User, here.user.id),
            form=form,
            container=Container(container),
            snapshot=snapshot,
            split=split,
        )
    extracts.start(engine, storage, row.id).join(SECONDS_WAITED)
    return redirect(f"/projects/{here.project.slug}/extracts")


def _wanted(session: Session, project: Project, content: str) -> tuple[ExtractForm, Snapshot | None, Split | None]:
    if content == "own":
        return ExtractForm.OWN, None, None
    form, _, rest = content.partition(":")
    number, _, split = rest.partition(":")
    if form not in list(ExtractForm) or not number.isdecimal() or len(number) > 9 or split not in list(Split):
        raise Invalid(f"“{content}” can't be made.", "Choose what to make.")
    return ExtractForm(form), snapshots.of_project(session, project=project, snapshot_id=int(number)), Split(split)


@router.get("/extracts/{extract_id}/file")
def download(extract_id: RowId, request: Request, engine: EngineDep, _: EngineerDep, storage: StorageDep) -> Response:
    return send_extract(request, engine, storage, extract_id=extract_id)
