"""Prometheus metrics: this server counts requests, the database knows the product's numbers."""

import os
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from app.config import Settings
from app.db import read_session
from app.models import Job, JobState, Snapshot, UserSession, Worker
from app.services.collecting import counts

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """The counts of one web process, or of several that share them through files in the data folder."""

    def __init__(self, settings: Settings, engine: Engine) -> None:
        self.settings = settings
        self.engine = engine
        self.shared = _shared_folder(settings)
        # Imported only now: the library decides at import, by the environment, whether processes share their counts.
        import prometheus_client

        self._library = prometheus_client
        self.registry = prometheus_client.CollectorRegistry()
        self.requests = prometheus_client.Counter(
            "prefloop_requests", "Answered requests.", ["method", "route", "status"], registry=self.registry
        )
        self.seconds = prometheus_client.Histogram(
            "prefloop_request_seconds",
            "Time to the end of the answer; streams left out.",
            ["method", "route"],
            buckets=BUCKETS,
            registry=self.registry,
        )
        self.streams = prometheus_client.Gauge(
            "prefloop_event_streams", "Open event streams.", registry=self.registry, multiprocess_mode="livesum"
        )

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        method = method if method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS") else "other"
        self.requests.labels(method, route, status or "aborted").inc()
        if not route.endswith(("/stream", "/events")):
            self.seconds.labels(method, route).observe(seconds)

    def stream_opened(self) -> None:
        self.streams.inc()

    def stream_closed(self) -> None:
        self.streams.dec()

    def exposition(self) -> tuple[bytes, str]:
        """The text that Prometheus reads, and its media type."""
        registry = self.registry
        if self.shared:
            from prometheus_client import multiprocess

            registry = self._library.CollectorRegistry()
            multiprocess.MultiProcessCollector(registry, str(self.shared))
        facts = self._library.CollectorRegistry()
        facts.register(_Facts(self.engine))
        text = self._library.generate_latest(registry) + self._library.generate_latest(facts)
        return text, self._library.CONTENT_TYPE_LATEST


class _Facts:
    """Read from the database at each scrape, so that they are right whichever process answers."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def collect(self) -> Iterable[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        with read_session(self.engine) as session:
            kept = counts.by_project(session).values()
            jobs = GaugeMetricFamily("prefloop_jobs", "Jobs of every kind by state.", labels=["state"])
            by_state = dict(session.execute(select(Job.state, func.count()).group_by(Job.state)).tuples().all())
            for state in JobState:
                jobs.add_metric([state.value], by_state.get(state, 0))
            yield jobs
            yield CounterMetricFamily(
                "prefloop_judgments", "Judgments stored, superseded ones included.", sum(one.stored for one in kept)
            )
            yield GaugeMetricFamily("prefloop_comparisons", "Pairs of answers.", sum(one.comparisons for one in kept))
            yield GaugeMetricFamily("prefloop_snapshots", "Frozen datasets.", _count(session, Snapshot))
            yield GaugeMetricFamily(
                "prefloop_workers_alive", "Workers heard of within the last minute.", workers_alive(session)
            )
            living = select(func.count()).where(
                UserSession.revoked_at.is_(None), UserSession.expires_at > datetime.now(UTC)
            )
            yield GaugeMetricFamily("prefloop_sessions", "Browsers that are signed in.", session.scalar(living) or 0)


def workers_alive(session: Session, now: datetime | None = None) -> int:
    since = (now or datetime.now(UTC)) - timedelta(minutes=1)
    return session.scalar(select(func.count()).where(Worker.heartbeat_at > since)) or 0


def _count(session: Session, table: Any) -> int:
    return session.scalar(select(func.count()).select_from(table)) or 0


def _shared_folder(settings: Settings) -> Path | None:
    """Where several web processes keep their counts, swept of those that are gone."""
    if settings.web_workers == 1:
        return None
    folder = settings.data_dir / "metrics"
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*.db"):
        if not _is_alive(int(path.stem.rsplit("_", 1)[-1])):
            path.unlink(missing_ok=True)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
    return folder


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
