"""The stream of a job's events: complete, in order, cheap, and to its end."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from sqlalchemy import Engine, event, text
from sqlalchemy.exc import IntegrityError

from app.config import Settings
from app.db import get_engine, write_session
from app.events import log as events
from app.events import wire
from app.events.feed import Feed, stream
from app.events.types import Logged, StepTaken
from app.models import Job, JobEvent, JobKind
from app.services.jobs import leases
from app.services.training import runs
from tests.factory import Factory
from tests.services_for_tests import free_port, redis_server


@pytest.fixture
def job(engine: Engine, factory: Factory) -> Job:
    engineer = factory.engineer()
    snapshot = factory.snapshot(factory.judged(4))
    with write_session(engine) as session:
        return runs.create(
            session, snapshot=session.merge(snapshot), base_model="tiny", config={}, by=session.merge(engineer)
        ).job


def claim(engine: Engine) -> str:
    with write_session(engine) as session:
        return leases.claim(session, worker="w", kinds=list(JobKind), lease_seconds=60).lease_token


def add_steps(engine: Engine, job: Job, first: int, last: int) -> None:
    with write_session(engine) as session:
        steps = [StepTaken(step=step, more={"loss": 1 / step}) for step in range(first, last + 1)]
        events.append_all(session, job=job.id, events=steps)


def succeed(engine: Engine, job: Job, token: str) -> None:
    with write_session(engine) as session:
        leases.succeed(session, job_id=job.id, token=token)


async def collect(stream: AsyncIterator[list[JobEvent]], into: list[JobEvent]) -> list[JobEvent]:
    async for rows in stream:
        into.extend(rows)
    return into


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


def run(scenario: Callable[[], Awaitable[Any]]) -> Any:
    async def limited() -> Any:
        async with asyncio.timeout(60):
            return await scenario()

    return asyncio.run(limited())


@pytest.fixture
def feed(engine: Engine, settings: Settings) -> Feed:
    return Feed(
        engine, settings.model_copy(update={"stream_poll_seconds": 0.02, "stream_ping_seconds": 0.1, "redis_url": ""})
    )


def test_pages_that_come_again_at_once_cost_one_look_at_the_database(
    engine: Engine, job: Job, feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim(engine)
    add_steps(engine, job, 1, 3)
    looks: list[int] = []
    look = feed._look_back
    monkeypatch.setattr(feed, "_look_back", lambda job_id, after: looks.append(after) or look(job_id, after))

    async def scenario() -> None:
        told = await asyncio.gather(*(collect(feed.watch(job.id, wait=False), []) for _ in range(100)))
        assert {len(rows) for rows in told} == {5}  # queued, claimed, three steps
        assert len(looks) == 2  # the rows, and that there are no more
        assert not feed._looking

    run(scenario)


def test_who_may_not_wait_gets_what_is_there_whether_or_not_others_watch(engine: Engine, job: Job, feed: Feed) -> None:
    claim(engine)
    add_steps(engine, job, 1, 3)

    async def scenario() -> None:
        alone: list[JobEvent] = await collect(feed.watch(job.id, wait=False), [])
        assert [row.step for row in alone if row.step] == [1, 2, 3]
        heard: list[JobEvent] = []
        watcher = asyncio.create_task(collect(feed.watch(job.id, alone[-1].id), heard))
        await until(lambda: bool(feed._watched))
        add_steps(engine, job, 4, 5)
        await until(lambda: len(heard) == 2)
        asked = feed._look_back
        feed._look_back = None  # type: ignore[assignment, method-assign] # memory has it: the database isn't asked
        beside = await collect(feed.watch(job.id, alone[-1].id, wait=False), [])
        assert [row.step for row in beside] == [4, 5]
        feed._look_back = asked  # type: ignore[method-assign]
        assert await collect(feed.watch(job.id, 10**6, wait=False), []) == []
        watcher.cancel()

    run(scenario)


def test_stream_tells_what_was_and_what_comes_and_ends_with_the_job(engine: Engine, job: Job, feed: Feed) -> None:
    token = claim(engine)
    add_steps(engine, job, 1, 1200)

    async def scenario() -> list[JobEvent]:
        seen: list[JobEvent] = []
        watching = asyncio.create_task(collect(feed.watch(job.id), seen))
        await until(lambda: len(seen) >= 1202)
        for step in range(1201, 1211):
            await asyncio.to_thread(add_steps, engine, job, step, step)
        await asyncio.to_thread(succeed, engine, job, token)
        return await watching

    seen = run(scenario)
    assert [row.step for row in seen if row.type == "step"] == list(range(1, 1211))
    assert [row.id for row in seen] == sorted({row.id for row in seen})
    assert events.is_end(seen[-1])


def test_stream_goes_on_after_the_event_that_was_seen_last(engine: Engine, job: Job, feed: Feed) -> None:
    token = claim(engine)
    add_steps(engine, job, 1, 20)
    succeed(engine, job, token)

    async def scenario() -> list[list[int | None]]:
        everything = await collect(feed.watch(job.id), [])
        middle = everything[10].id
        rest = await collect(feed.watch(job.id, middle), [])
        nothing = await collect(feed.watch(job.id, everything[-1].id), [])
        beyond = await collect(feed.watch(job.id, 10**9), [])  # from before the database was restored
        assert [row.id for row in everything[11:]] == [row.id for row in rest]
        return [nothing, beyond]

    assert run(scenario) == [[], []]


def test_late_and_early_watchers_of_one_job_see_the_same(engine: Engine, job: Job, feed: Feed) -> None:
    token = claim(engine)

    async def scenario() -> list[list[JobEvent]]:
        watching: list[asyncio.Task[list[JobEvent]]] = []
        for start in range(1, 200, 20):
            watching.append(asyncio.create_task(collect(feed.watch(job.id), [])))
            await asyncio.to_thread(add_steps, engine, job, start, start + 19)
        await asyncio.to_thread(succeed, engine, job, token)
        return await asyncio.gather(*watching)

    first, *others = run(scenario)
    assert [row.step for row in first if row.type == "step"] == list(range(1, 201))
    for other in others:
        assert [row.id for row in other] == [row.id for row in first]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_thousand_streams_cost_one_query_a_tick_and_hold_no_connection(engine: Engine, job: Job, feed: Feed) -> None:
    token = claim(engine)
    add_steps(engine, job, 1, 3)
    statements = 0

    def count(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        nonlocal statements
        statements += statement.startswith("SELECT")

    async def scenario() -> None:
        nonlocal statements
        counters = [[] for _ in range(1000)]
        watching = [asyncio.create_task(collect(feed.watch(job.id), seen)) for seen in counters]
        await until(lambda: all(len(seen) == 5 for seen in counters) and feed.queries > 3)
        await until(lambda: engine.pool.checkedout() == 0)
        event.listen(engine, "before_cursor_execute", count)
        statements, ticks = 0, feed.queries
        await until(lambda: feed.queries >= ticks + 10)
        asked = feed.queries - ticks
        assert statements <= asked + 1, f"{statements} queries in {asked} ticks"
        event.remove(engine, "before_cursor_execute", count)
        await asyncio.to_thread(add_steps, engine, job, 4, 4)
        await until(lambda: all(len(seen) == 6 for seen in counters))
        await asyncio.to_thread(succeed, engine, job, token)
        await asyncio.gather(*watching)

    run(scenario)


def test_silence_is_broken_by_pings(engine: Engine, job: Job, feed: Feed) -> None:
    async def scenario() -> list[bytes]:
        chunks = []
        async for chunk in stream(feed, job_id=job.id):
            chunks.append(chunk)
            if len(chunks) == 3:
                return chunks
        return chunks

    first, *pings = run(scenario)
    assert first.startswith(b"id: 1\nevent: state\ndata: {")
    assert pings == [wire.PING, wire.PING]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_poller_ends_with_its_last_watcher(job: Job, feed: Feed) -> None:
    async def scenario() -> None:
        watching = asyncio.create_task(collect(feed.watch(job.id), []))
        await until(lambda: feed.queries > 0)
        watching.cancel()
        await until(lambda: feed._poller is not None and feed._poller.done())

    run(scenario)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_redis_wakes_the_stream_and_without_it_polling_goes_on(
    engine: Engine, job: Job, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two web processes' worth of feeds on one Redis that is killed half-way."""
    monkeypatch.setattr("app.events.feed.REDIS_IDLE_SECONDS", 3600.0)  # so that only a wake-up can explain what arrives
    port = free_port()
    with_redis = settings.model_copy(update={"redis_url": f"redis://127.0.0.1:{port}/0", "stream_poll_seconds": 0.02})
    feeds = [Feed(engine, with_redis), Feed(engine, with_redis)]
    token = claim(engine)

    async def scenario() -> None:
        with redis_server(port):
            seen: list[list[JobEvent]] = [[], []]
            watching = [
                asyncio.create_task(collect(feed.watch(job.id), rows)) for feed, rows in zip(feeds, seen, strict=True)
            ]
            await until(lambda: all(feed._redis_awake for feed in feeds))
            await asyncio.to_thread(add_steps, get_engine(with_redis), job, 1, 1)
            await until(lambda: all(rows and rows[-1].step == 1 for rows in seen))
        await until(lambda: not any(feed._redis_awake for feed in feeds))
        await asyncio.to_thread(add_steps, get_engine(with_redis), job, 2, 2)  # the wake-up fails, and fails nothing
        await until(lambda: all(rows[-1].step == 2 for rows in seen))
        await asyncio.to_thread(succeed, engine, job, token)
        await asyncio.gather(*watching)

    run(scenario)


def test_message_of_several_lines_stays_one_message() -> None:
    assert wire.message("a\nb\r\nc", id=7, event="log") == b"id: 7\nevent: log\ndata: a\ndata: b\ndata: c\n\n"


@pytest.mark.parametrize(
    ("text", "expected"), [("12", 12), ("", 3), (None, 3), ("x", 3), ("-1", 3), ("9" * 40, 3), ("²", 3)]
)
def test_last_event_id_of_a_stranger_counts_as_none(text: str | None, expected: int) -> None:
    assert wire.parse_id(text, default=3) == expected


def test_database_refuses_an_event_that_nobody_knows(engine: Engine, job: Job) -> None:
    with write_session(engine) as session:
        events.append(session, job=job.id, event=Logged(message="known"))
    insert = text("INSERT INTO job_events (job_id, type, data, created_at) VALUES (:job, 'rumour', '{}', :now)")
    with pytest.raises(IntegrityError, match="ck_job_events_type"), engine.begin() as connection:
        connection.execute(insert, {"job": job.id, "now": "2026-01-01 00:00:00"})
