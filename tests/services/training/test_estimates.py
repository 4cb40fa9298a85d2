"""What a run will cost, by those that were."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine

from app.db import read_session, write_session
from app.models import JobKind
from app.services.jobs import leases
from app.services.training import runs
from app.services.training.estimates import estimate
from tests.factory import Factory

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def test_estimate_is_unknown_without_runs_and_scales_with_those_that_were(engine: Engine, factory: Factory) -> None:
    snapshot, engineer = factory.snapshot(factory.judged(8)), factory.engineer()
    with write_session(engine) as session:
        run = runs.create(
            session, snapshot=session.merge(snapshot), base_model="tiny", config={}, by=session.merge(engineer)
        )
        unknown = estimate(session, base_model="tiny", config=run.config, pairs=1000)
    assert (unknown.seconds, unknown.memory_bytes, unknown.runs) == (None, None, 0)
    with write_session(engine) as session:
        job = leases.claim(session, worker="cpu-1", kinds=[JobKind.TRAINING], lease_seconds=60, now=NOON)
        assert job is not None and job.lease_token is not None
        runs.record_end(session, job_id=job.id, numbers={"peak_memory_bytes": 2_400_000_000})
        leases.succeed(session, job_id=job.id, token=job.lease_token, now=NOON + timedelta(seconds=80))
    pairs = runs.train_pairs(snapshot)
    with read_session(engine) as session:
        known = estimate(session, base_model="tiny", config=run.config | {"num_train_epochs": 2.0}, pairs=pairs)
        other = estimate(session, base_model="tiny", config=run.config | {"lora_r": 0}, pairs=pairs)
    assert known.seconds == pytest.approx(160)
    assert (known.memory_bytes, known.worker, known.runs) == (2_400_000_000, "cpu-1", 1)
    assert other.runs == 0
