"""What a label check will take, from what the run took."""

from datetime import timedelta

import pytest
from sqlalchemy import Engine, update

from app.db import read_session, write_session
from app.models import Job
from app.services.loop.labels import cost
from app.services.loop.labels.plan import Plan
from app.services.training import runs
from tests.services.loop.labels.checked import Checked


def test_all_folds_of_all_rounds_and_the_asking_are_counted(engine: Engine, checked: Checked) -> None:
    with write_session(engine) as session:  # 40 pairs took 400 s
        job = runs.get(session, checked.run.job_id).job
        assert job.started_at is not None
        over = job.started_at + timedelta(seconds=400)
        session.execute(update(Job).where(Job.id == job.id).values(finished_at=over))
    with read_session(engine) as session:
        told = cost.of_check(session, run=runs.get(session, checked.run.job_id), plan=Plan(folds=5, plantings=2))
    assert (told.runs, told.pairs) == (15, 32)
    assert told.seconds == pytest.approx(15 * 320 + 3 * 40 * 10 / 3)
    assert told.sentence.startswith(
        "15 training runs on 32 pairs each: about 87 min of one worker, as the last finished"
    )


def test_nothing_is_said_of_what_nobody_measured() -> None:
    assert "nobody knows how long" in cost.Cost(10, 32, None, 0).sentence
