"""Redis, where there is one, says "look again" to the web processes whose pages watch a job."""

import logging
import time
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from sqlalchemy import Engine

from app.config import Settings
from app.db import settings_of

if TYPE_CHECKING:
    import redis

log = logging.getLogger(__name__)

CHANNEL = "prefloop:job-events"
REDIS_PAUSE_SECONDS = 10.0


@lru_cache
def _redis(url: str) -> "redis.Redis":
    import redis  # here, not above: few installations have one, and every command would wait for it

    return redis.Redis.from_url(url, socket_timeout=1, socket_connect_timeout=1)


_silent_until: dict[str, float] = {}


def wake(settings: Settings, job_id: int) -> None:
    """Tell the web processes that a job has new events. Without Redis it does nothing."""
    url = settings.redis
    if url is None or time.monotonic() < _silent_until.get(url, 0):
        return
    import redis

    try:
        _redis(url).publish(CHANNEL, str(job_id))
    except redis.RedisError as error:
        _silent_until[url] = time.monotonic() + REDIS_PAUSE_SECONDS
        told = {"error": str(error), "consequence": "pages look for events by themselves"}
        log.warning("redis.wake_failed", extra=told)


@dataclass(frozen=True, slots=True)
class WakePages:
    """The wish that every event brings along: the pages that watch its job look again."""

    job_id: int

    def carry_out(self, engine: Engine) -> None:
        wake(settings_of(engine), self.job_id)
