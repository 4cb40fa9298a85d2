"""Streams of a job's events: first the rows after the id that a stream last saw, then what comes.

One poller a process looks for new rows of all watched jobs with one query a tick. Nothing here holds a database
connection while it waits.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

import structlog
from sqlalchemy import Engine, and_, or_, select

from app.config import Settings
from app.db import read_session
from app.events.log import PAGE, after, is_end, last
from app.events.wake import CHANNEL
from app.events.wire import PING, sse
from app.models import JobEvent

log = structlog.get_logger()

REDIS_IDLE_SECONDS = 5.0  # with Redis awake, a lost wake-up costs no more than this
JOBS_PER_QUERY = 200


async def stream(feed: "Feed", *, job_id: int, after: int = 0) -> AsyncIterator[bytes]:
    """A job's events as server-sent events, with a ping where there is silence, until the job is over."""
    async for rows in feed.watch(job_id, after):
        yield b"".join(map(sse, rows)) if rows else PING


@dataclass(eq=False)
class _Watched:
    """A job that somebody watches: its newest events, and up to which id they are complete."""

    streams: int = 0
    floor: int | None = None  # `recent` holds every event with floor < id ≤ cursor; None until a stream caught up
    cursor: int = 0
    recent: list[JobEvent] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def covers(self, after: int) -> bool:
        """Whether `recent` has every event after this id."""
        return self.floor is not None and self.floor <= after <= self.cursor

    def start(self, cursor: int) -> None:
        if self.floor is None:
            self.floor = self.cursor = cursor

    def add(self, rows: list[JobEvent]) -> None:
        if not rows:
            return
        self.recent.extend(rows)
        self.cursor = rows[-1].id
        if len(self.recent) > 2 * PAGE:
            self.floor = self.recent[-PAGE - 1].id
            del self.recent[:-PAGE]
        self.changed.set()
        self.changed = asyncio.Event()


class Feed:
    """This process's view of new events, shared by all its streams. Made once a web process; see `feed_of`."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._engine = engine
        self._settings = settings
        self._watched: dict[int, _Watched] = {}
        self._poller: asyncio.Task[None] | None = None
        self._woken = asyncio.Event()
        self._redis_awake = False
        self._looking: dict[tuple[int, int], asyncio.Task[tuple[list[JobEvent], JobEvent | None]]] = {}
        self.queries = 0

    async def watch(self, job_id: int, after: int = 0, *, wait: bool = True) -> AsyncIterator[list[JobEvent]]:
        """Batches of the job's events after an id, oldest first; an empty batch after a long silence.

        Ends after the event that ends the job; at once if the job is over and nothing is left to tell. Without `wait` it
        also ends, with an empty batch, when all that is there was told.
        """
        known = self._watched.get(job_id)
        if known is None or not known.covers(after):  # else others watch the job, and memory has it all
            rows, newest = await self._past(job_id, after)
            while rows:
                after = rows[-1].id
                yield rows
                rows, newest = await self._past(job_id, after)
            after = min(after, newest.id if newest else 0)  # an id that never was (a restored database) hides nothing
            if is_end(newest):
                return
            if not wait:
                yield []
                return
        with self._watching(job_id, after) as watched:
            while True:
                changed = watched.changed
                caught_up = watched.floor is not None and after >= watched.floor
                rows = (
                    [row for row in watched.recent if row.id > after] if caught_up else await self._read(job_id, after)
                )
                if rows:
                    after = rows[-1].id
                    yield rows
                    if is_end(rows[-1]):
                        return
                elif not wait:
                    yield []
                    return
                elif not await _happens(changed, self._settings.stream_ping_seconds):
                    yield []

    @contextlib.contextmanager
    def _watching(self, job_id: int, after: int) -> Iterator[_Watched]:
        watched = self._watched.setdefault(job_id, _Watched())
        watched.streams += 1
        watched.start(after)
        if self._poller is None or self._poller.done():
            self._poller = asyncio.create_task(self._poll())
        try:
            yield watched
        finally:
            watched.streams -= 1
            if not watched.streams:
                self._watched.pop(job_id, None)
                self._woken.set()

    async def _poll(self) -> None:
        listener = asyncio.create_task(self._listen()) if self._settings.redis else None
        try:
            while self._watched:
                await _happens(self._woken, self._tick_seconds())
                self._woken.clear()
                cursors = {
                    job_id: watched.cursor for job_id, watched in self._watched.items() if watched.floor is not None
                }
                try:
                    rows = await asyncio.to_thread(self._look, cursors)
                except Exception as error:  # a database that restarts must not end the streams for good
                    log.warning("events.poll_failed", error=str(error))
                    await asyncio.sleep(1)
                    continue
                self._hand_out(rows)
        finally:
            if listener is not None:
                listener.cancel()
            self._redis_awake = False

    def _tick_seconds(self) -> float:
        poll = self._settings.stream_poll_seconds
        return max(poll, REDIS_IDLE_SECONDS) if self._redis_awake else poll

    def _hand_out(self, rows: list[JobEvent]) -> None:
        by_job: dict[int, list[JobEvent]] = {}
        for row in rows:
            by_job.setdefault(row.job_id, []).append(row)
        for job_id, events in by_job.items():
            if watched := self._watched.get(job_id):
                watched.add([event for event in events if event.id > watched.cursor])

    def _look(self, cursors: dict[int, int]) -> list[JobEvent]:
        """New events of all watched jobs: one query for every 200 different jobs."""
        rows: list[JobEvent] = []
        with read_session(self._engine) as session:
            pairs = list(cursors.items())
            for start in range(0, len(pairs), JOBS_PER_QUERY):
                self.queries += 1
                some = pairs[start : start + JOBS_PER_QUERY]
                newer = or_(*(and_(JobEvent.job_id == job_id, JobEvent.id > cursor) for job_id, cursor in some))
                rows += session.scalars(select(JobEvent).where(newer).order_by(JobEvent.id).limit(10 * PAGE))
        return rows

    async def _read(self, job_id: int, after_id: int) -> list[JobEvent]:
        def read() -> list[JobEvent]:
            with read_session(self._engine) as session:
                return after(session, job_id=job_id, after=after_id)

        return await asyncio.to_thread(read)

    async def _past(self, job_id: int, after_id: int) -> tuple[list[JobEvent], JobEvent | None]:
        """`_look_back`, once for all that ask in the same moment: after a restart all pages of a run come again at once."""
        key = (job_id, after_id)
        look = self._looking.get(key)
        if look is None:
            look = self._looking[key] = asyncio.create_task(asyncio.to_thread(self._look_back, job_id, after_id))
            look.add_done_callback(lambda _: self._looking.pop(key, None))
        return await asyncio.shield(look)

    def _look_back(self, job_id: int, after_id: int) -> tuple[list[JobEvent], JobEvent | None]:
        """A page of events after the id, and where there is none the job's newest event."""
        with read_session(self._engine) as session:
            rows = after(session, job_id=job_id, after=after_id)
            return rows, None if rows else last(session, job_id=job_id)

    async def _listen(self) -> None:
        """Wake the poller when Redis says so; while Redis is away, the poller's own tick does."""
        import redis.asyncio  # here, not above: it takes a moment, and few installations have one

        while True:
            try:
                client = redis.asyncio.Redis.from_url(
                    str(self._settings.redis), socket_connect_timeout=2, health_check_interval=5
                )
                async with client, client.pubsub(ignore_subscribe_messages=True) as channel:
                    await channel.subscribe(CHANNEL)
                    self._redis_awake = True
                    self._woken.set()  # what was published before we listened
                    while True:
                        if await channel.get_message(timeout=2) is not None:
                            self._woken.set()
            except (redis.RedisError, OSError) as error:
                if self._redis_awake:
                    log.warning("redis.listen_failed", error=str(error), consequence="looking for events by polling")
                self._redis_awake = False
                self._woken.set()
                await asyncio.sleep(2)


async def _happens(event: asyncio.Event, seconds: float) -> bool:
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return False
    return True
