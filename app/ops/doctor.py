"""`prefloop doctor`: checks an installation part by part and says how to fix it."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import select, text
from sqlalchemy.exc import SQLAlchemyError

from app.config import Settings
from app.db import database_now, get_engine, read_session, write_session
from app.errors import PrefloopError
from app.models import Job, JobState
from app.ops import migrate
from app.paths import VENDOR
from app.services.accounts import users
from app.services.collecting import recount
from app.services.jobs import waiting, workers
from app.services.jobs.jobs import NOUNS
from app.services.training import base_models
from app.site.addresses import is_loopback
from app.storage import get_storage

LOW_DISK_BYTES = 2_000_000_000
OTHERS = 0o077  # in a file's mode: what its group and everybody may do


@dataclass(frozen=True)
class Finding:
    """`level` is ok, warn or fail."""

    subject: str
    level: str
    text: str
    next_step: str = ""


def examine(settings: Settings) -> list[Finding]:
    """Every check in order of dependence. A check that breaks in an unforeseen way is a failed one, not a crash."""
    findings: list[Finding] = []
    checks: dict[str, Callable[[Settings], Finding]] = {
        "data folder": check_data_folder,
        "permissions": check_permissions,
        "address": check_address,
        "database": check_database,
        "migrations": check_migrations,
        "broker": check_broker,
        "storage": check_storage,
        "workers": check_workers,
        "queue": check_queue,
        "models": check_models,
        "people": check_people,
        "counts": check_counts,
        "browser assets": check_assets,
    }
    for subject, check in checks.items():
        try:
            findings.append(check(settings))
        except (PrefloopError, SQLAlchemyError, OSError) as error:
            reason = str(getattr(error, "orig", None) or error).splitlines()[0]
            findings.append(Finding(subject, "fail", reason, "Fix what is above first; the log has the details."))
    return findings


def check_data_folder(settings: Settings) -> Finding:
    subject = "data folder"
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    probe = settings.data_dir / ".doctor"
    try:
        probe.write_text("x")
        probe.unlink()
    except OSError as error:
        return Finding(
            subject,
            "fail",
            f"{settings.data_dir} can't be written ({error.strerror}).",
            "Free space or fix its owner, or set PREFLOOP_DATA_DIR.",
        )
    free = shutil.disk_usage(settings.data_dir).free
    if free < LOW_DISK_BYTES:
        return Finding(
            subject,
            "warn",
            f"{settings.data_dir} has {free / 1e9:.1f} GB left.",
            "Free some space: a run saves its training state.",
        )
    return Finding(subject, "ok", f"{settings.data_dir}, {free / 1e9:.0f} GB free")


def check_permissions(settings: Settings) -> Finding:
    """Whether other accounts of this machine can read what is the installation's own."""
    subject = "permissions"
    private = [settings.data_dir / name for name in ("secret_key", "prefloop.db", "artifacts", "work", "logs")]
    if settings.data_dir.stat().st_mode & OTHERS:
        open_to_others = [path for path in private if path.exists() and path.stat().st_mode & OTHERS]
        if open_to_others:
            return Finding(
                subject,
                "fail" if open_to_others[0].name == "secret_key" else "warn",
                f"Other accounts of this machine can use {', '.join(str(path) for path in open_to_others)}.",
                f"Run: chmod -R go-rwx {settings.data_dir}",
            )
    if os.geteuid() == 0:
        return Finding(
            subject,
            "warn",
            "Prefloop runs as root.",
            "Run it as an account that owns the data folder and nothing else.",
        )
    return Finding(subject, "ok", "the data folder is its owner's alone")


def check_address(settings: Settings) -> Finding:
    """Whether what people type and send can be read or made up on the way."""
    subject = "address"
    if "*" in settings.forwarded_allow_ips:
        return Finding(
            subject,
            "warn",
            "X-Forwarded-* is believed from everybody, so anybody can make up their address.",
            "Name the proxy in PREFLOOP_FORWARDED_ALLOW_IPS.",
        )
    if settings.site.is_secure or is_loopback(settings.public_address.host):
        return Finding(subject, "ok", settings.base_url)
    if not settings.public_url and is_loopback(settings.host):
        return Finding(subject, "ok", f"{settings.base_url}, for this machine alone")
    return Finding(
        subject,
        "warn",
        f"{settings.base_url} has no TLS: passwords and sessions can be read on the way.",
        "Put a proxy with TLS in front: docs/proxy.md.",
    )


def check_database(settings: Settings) -> Finding:
    engine = get_engine(settings)
    try:
        with engine.execution_options(read_only=True).connect() as connection:
            version = (
                "SQLite " + str(connection.scalar(text("SELECT sqlite_version()")))
                if settings.is_sqlite
                else str(connection.scalar(text("SHOW server_version")))
            )
    except SQLAlchemyError as error:
        return Finding(
            "database",
            "fail",
            f"No connection: {str(getattr(error, 'orig', error)).splitlines()[0]}",
            "Start the database or correct PREFLOOP_DATABASE_URL.",
        )
    return Finding("database", "ok", version if settings.is_sqlite else f"PostgreSQL {version}")


def check_migrations(settings: Settings) -> Finding:
    current, newest = migrate.revisions(get_engine(settings))
    if current != newest:
        return Finding(
            "migrations",
            "fail",
            f"The database is at {current or 'nothing'}, this version wants {newest}.",
            "Run: prefloop migrate",
        )
    return Finding("migrations", "ok", f"at {current}")


def check_broker(settings: Settings) -> Finding:
    if settings.broker.startswith("filesystem"):
        settings.broker_dir.mkdir(parents=True, exist_ok=True)
        return Finding("broker", "ok", f"files in {settings.broker_dir}")
    import redis

    try:
        redis.Redis.from_url(settings.broker, socket_connect_timeout=3, socket_timeout=3).ping()
    except (redis.RedisError, ValueError) as error:
        return Finding(
            "broker",
            "fail",
            f"Redis doesn't answer: {error}",
            "Start Redis or correct PREFLOOP_BROKER_URL. Queued jobs are kept and start later.",
        )
    return Finding("broker", "ok", "Redis answers")


def check_storage(settings: Settings) -> Finding:
    get_storage(settings).check()
    return Finding("storage", "ok", settings.storage)


def check_workers(settings: Settings) -> Finding:
    with read_session(get_engine(settings)) as session:
        alive = workers.alive(session, silent_after=settings.worker_lease_seconds)
    if not alive:
        return Finding(
            "workers",
            "warn",
            "No worker has reported lately, so no job runs.",
            "Start one: prefloop worker (prefloop up starts one).",
        )
    return Finding(
        "workers",
        "ok",
        "; ".join(
            f"{worker.name} on {worker.device or 'unknown device'}, "
            f"version {worker.version or 'unknown'}, can do {', '.join(worker.kinds) or 'nothing'}"
            for worker in alive
        ),
    )


def check_queue(settings: Settings) -> Finding:
    with read_session(get_engine(settings)) as session:
        jobs = list(session.scalars(select(Job).where(Job.state.in_([JobState.QUEUED, JobState.RUNNING]))))
        unable = waiting.unable(session, silent_after=settings.worker_lease_seconds)
        now = database_now(session)
    silent = [job.id for job in jobs if job.state == JobState.RUNNING and job.lease_until and job.lease_until < now]
    if silent:
        return Finding(
            "queue",
            "warn",
            f"Jobs whose worker is silent: {silent}.",
            "Start a worker: it takes them over.",
        )
    if unable:
        return Finding(
            "queue",
            "warn",
            f"No running worker can do the {' and '.join(f'{NOUNS[kind]}s' for kind in unable)} that wait.",
            "Start one of this version: prefloop worker",
        )
    queued = sum(job.state == JobState.QUEUED for job in jobs)
    return Finding("queue", "ok", f"{queued} queued, {len(jobs) - queued} running")


def check_models(settings: Settings) -> Finding:
    models = base_models.list_models(settings)
    if broken := base_models.broken(settings):
        return Finding("models", "warn", broken[0].what, broken[0].next_step)
    if not models:
        return Finding(
            "models",
            "warn",
            f"No base model in {settings.models}.",
            "Add one: prefloop models add smollm2-135m-instruct",
        )
    return Finding("models", "ok", ", ".join(model.name for model in models))


def check_people(settings: Settings) -> Finding:
    with read_session(get_engine(settings)) as session:
        if users.has_admin(session):
            return Finding("people", "ok", "there is an admin")
    return Finding("people", "fail", "There is no admin account.", "Make one: prefloop user add NAME --role admin")


def check_counts(settings: Settings) -> Finding:
    """Counts everything anew: on a large database this takes a while."""
    with read_session(get_engine(settings)) as session:
        recount.at_one_moment(session)
        wrong = recount.check(session)
    if not wrong:
        return Finding("counts", "ok", "all kept counts are right")
    first = wrong[0]
    whose = f"of user {first.user_id} " if first.user_id else ""
    return Finding(
        "counts",
        "fail",
        f"{len(wrong)} kept counts are wrong, the first “{first.name}” {whose}in project {first.project_id}: "
        f"{first.kept} is kept, {first.counted} is right.",
        "Run: prefloop doctor --repair",
    )


def repair_counts(settings: Settings) -> int:
    """Makes all kept counts right; returns how many weren't. Nobody can judge meanwhile."""
    with write_session(get_engine(settings)) as session:
        recount.hold_still(session)
        return len(recount.repair(session))


def check_assets(_settings: Settings) -> Finding:
    if (VENDOR / "htmx.min.js").exists():
        return Finding("browser assets", "ok", "built")
    return Finding(
        "browser assets", "fail", "The pages' scripts are missing.", "Run: make setup (or: npm ci && npm run build)"
    )
