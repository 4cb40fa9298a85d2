"""The doorbell: whole messages, clear words about a broker that is away, and nothing lost by it."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import Engine, select

from app import doorbell
from app.config import Settings
from app.db import read_session, write_session
from app.models import JobEvent
from app.services.jobs import jobs
from tests.factory import Factory
from tests.services_for_tests import free_port


@pytest.fixture
def embedded(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path, _env_file=None)


def away(settings: Settings) -> Settings:
    return settings.model_copy(update={"broker_url": f"redis://:pass-word@127.0.0.1:{free_port()}/0"})


def test_ringing_leaves_whole_messages_that_carry_nothing(embedded: Settings) -> None:
    with ThreadPoolExecutor(8) as ringers:
        list(ringers.map(lambda _: doorbell.ring(embedded), range(20)))
    messages = list((embedded.broker_dir / "messages").iterdir())
    assert len(messages) == 20
    assert all(json.loads(message.read_text())["headers"]["argsrepr"] == "()" for message in messages)
    doorbell.check(embedded)


def test_redis_is_reached(embedded: Settings, redis_url: str) -> None:
    settings = embedded.model_copy(update={"broker_url": redis_url})
    doorbell.check(settings)
    doorbell.ring(settings)


def test_broker_that_is_away_is_named_without_its_password(embedded: Settings) -> None:
    for ask in (doorbell.check, doorbell.ring):
        with pytest.raises(OSError, match=r"127\.0\.0\.1") as refused:
            ask(away(embedded))
        assert "pass-word" not in str(refused.value)


def test_nothing_rings_for_work_that_was_rolled_back(engine: Engine, settings: Settings) -> None:
    with write_session(engine) as session:
        doorbell.ring_after_commit(session, settings, job_id=1)
        session.execute(select(1))
        session.rollback()
    assert not settings.broker_dir.exists() or not list((settings.broker_dir / "messages").iterdir())


def test_broker_that_is_away_leaves_the_job_queued_with_a_word_on_its_page(
    engine: Engine, settings: Settings, factory: Factory
) -> None:
    snapshot, user = factory.snapshot(factory.judged(4)), factory.engineer()
    with write_session(engine) as session:
        job = jobs.create(
            session, snapshot=session.merge(snapshot), base_model="tiny", config={}, by=session.merge(user)
        )
        doorbell.ring_after_commit(session, away(settings), job_id=job.id)
    with read_session(engine) as session:
        (note,) = session.scalars(select(JobEvent).where(JobEvent.job_id == job.id, JobEvent.type == "log"))
    assert "stays queued" in note.data["message"]
    assert "pass-word" not in note.data["message"]
