"""Retrain without, and the panel of lineage that pages of pairs, snapshots, runs and checkpoints have."""

from dataclasses import dataclass, field

from fastapi import APIRouter, Request
from fastapi.responses import Response
from sqlalchemy.orm import Session

from app.models import Checkpoint, Comparison, JobState, TrainingRun
from app.services.loop import lineage, retraining
from app.services.loop.lineage import Lineage
from app.services.loop.retraining import Receipt
from app.web.deps import EngineDep, EngineerUploaderDep, RowId, StorageDep, client_address
from app.web.templating import redirect

router = APIRouter()


@dataclass(frozen=True, slots=True)
class LineagePanel:
    """`again`: runs that are this one again without something; `receipt`: what this one was, if it is such a run.
    `job_id` is the run's that a click makes again."""

    lineage: Lineage
    job_id: int = 0
    can_retrain: bool = False
    again: list[int] = field(default_factory=list)
    receipt: Receipt | None = None


def of_pair(session: Session, comparison: Comparison) -> LineagePanel:
    return LineagePanel(lineage.of_pair(session, comparison=comparison))


def of_snapshot(session: Session, snapshot_id: int) -> LineagePanel:
    return LineagePanel(lineage.of_snapshot(session, snapshot_id=snapshot_id))


def of_run(session: Session, run: TrainingRun) -> LineagePanel:
    return _of_run(session, run, lineage.of_run(session, job_id=run.job_id))


def of_checkpoint(session: Session, checkpoint: Checkpoint) -> LineagePanel:
    return _of_run(session, checkpoint.run, lineage.of_checkpoint(session, checkpoint_id=checkpoint.id))


def _of_run(session: Session, run: TrainingRun, told: Lineage) -> LineagePanel:
    return LineagePanel(
        told,
        run.job_id,
        run.job.state is JobState.SUCCEEDED,
        retraining.again(session, job_id=run.job_id),
        retraining.receipt(session, job_id=run.job_id),
    )


@router.post("/jobs/{job_id}/retrain-without")
def retrain(
    job_id: RowId, request: Request, engine: EngineDep, here: EngineerUploaderDep, storage: StorageDep
) -> Response:
    run = retraining.retrain(
        engine, job_id=job_id, by_id=here.user.id, storage=storage, address=client_address(request)
    )
    return redirect(
        f"/jobs/{run.job_id}", f"This is run {job_id} again, without what was excluded since. {run.note}.", "good"
    )
