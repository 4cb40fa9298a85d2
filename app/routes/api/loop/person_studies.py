"""Whose preferences a run learned, over the API: what it would cost, start it, what the runs said."""

from datetime import datetime
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session

from app.db import read_session
from app.models import JobState, PersonStudy
from app.routes.api.loop.label_checks import CheckCostOut
from app.services.loop.labels import studies
from app.services.loop.labels.studies import MOST_PEOPLE, Wanted
from app.services.training import runs
from app.web.deps import (
    ApiEngineerDep,
    ApiEngineerUploaderDep,
    EngineDep,
    RowId,
    SessionDep,
    StorageDep,
    client_address,
)
from app.web.problems import problems

router = APIRouter(tags=["label checks"])


class NewStudy(BaseModel):
    model_config = ConfigDict(extra="forbid")

    people: list[int] = Field(max_length=MOST_PEOPLE, description="Ids of users who voted in the run's snapshot.")
    seeds: int = Field(1, description="Each run is made with so many seeds.")

    def wanted(self) -> Wanted:
        """Raises Invalid."""
        return Wanted(tuple(self.people), self.seeds).checked()


class StudyRunOut(BaseModel):
    job_id: int
    user_id: int | None = Field(description="Whose votes it does without; null for everybody's.")
    seed: int
    state: JobState


class StudyOut(BaseModel):
    """`result` is null until all runs have succeeded. Of each person it has `agreement` with their own eval votes, and
    by how much the votes changed agreement with their `own`, the `others`' and all `labels`."""

    id: int
    of_job_id: int
    people: list[int]
    seeds: list[int]
    runs: list[StudyRunOut]
    result: dict[str, Any] | None
    created_at: datetime
    compared_at: datetime | None


class StudiesOut(BaseModel):
    items: list[StudyOut]


@router.post("/jobs/{job_id}/person-studies/cost", responses=problems(404, 409))
def show_cost(job_id: RowId, body: NewStudy, session: SessionDep, _: ApiEngineerDep) -> CheckCostOut:
    """What the runs would take. Nothing is stored."""
    run = runs.get(session, job_id)
    told = studies.cost(session, run=run, wanted=studies.require(session, run=run, wanted=body.wanted()))
    return CheckCostOut(runs=told.runs, pairs=told.pairs, seconds=told.seconds, sentence=told.sentence)


@router.post("/jobs/{job_id}/person-studies", status_code=201, responses=problems(404, 409))
def create(
    job_id: RowId,
    body: NewStudy,
    request: Request,
    engine: EngineDep,
    here: ApiEngineerUploaderDep,
    storage: StorageDep,
) -> StudiesOut:
    """Make the run again without each one's votes. Asked again it answers the study that is there."""
    made = studies.begin(
        engine, job_id=job_id, wanted=body.wanted(), by_id=here.user.id, storage=storage,
        address=client_address(request),
    )  # fmt: skip
    with read_session(engine) as session:
        return StudiesOut(items=_out(session, [session.get_one(PersonStudy, made.id)]))


@router.get("/jobs/{job_id}/person-studies", responses=problems(404))
def of_run(job_id: RowId, session: SessionDep, _: ApiEngineerDep) -> StudiesOut:
    """A run's studies, the newest first; at most 20."""
    runs.check(session, job_id)
    return StudiesOut(items=_out(session, studies.of_run(session, job_id=job_id)))


def _out(session: Session, rows: list[PersonStudy]) -> list[StudyOut]:
    told = studies.progress(session, study_ids=[row.id for row in rows])
    return [
        StudyOut(
            id=row.id,
            of_job_id=row.of_job_id,
            people=row.people,
            seeds=row.seeds,
            runs=[
                StudyRunOut(job_id=run.job_id, user_id=run.user_id, seed=run.seed, state=state)
                for run, state in told[row.id]
            ],
            result=row.result,
            created_at=row.created_at,
            compared_at=row.compared_at,
        )
        for row in rows
    ]
