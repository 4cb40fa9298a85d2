"""For machines that watch: is the process alive, can it do its work, what are its numbers."""

import asyncio
import secrets
import time
from collections.abc import Callable
from typing import Annotated

import structlog
from fastapi import APIRouter, Header, Request, Response
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from app.config import Settings
from app.errors import NotAllowed
from app.ops.doctor import Finding, check_broker, check_database, check_migrations, check_storage
from app.ops.metrics import Metrics
from app.site.addresses import is_loopback
from app.web.deps import SettingsDep, client_address

log = structlog.get_logger(__name__)
router = APIRouter(include_in_schema=False)

READY_SECONDS = 5.0
CHECKS: dict[str, Callable[[Settings], Finding]] = {
    "database": check_database,
    "migrations": check_migrations,
    "broker": check_broker,
    "storage": check_storage,
}


@router.get("/healthz")
@router.head("/healthz")
async def alive() -> JSONResponse:
    """Answers while the process does, whatever else is broken."""
    return JSONResponse({"status": "alive"})


class Readiness:
    """What the checks found lately. However many ask, one looks, and only after some seconds again."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._looking = asyncio.Lock()
        self._findings: list[Finding] = []
        self._until = 0.0

    async def findings(self, settings: Settings) -> list[Finding]:
        async with self._looking:
            if self._clock() >= self._until:
                self._findings = await run_in_threadpool(_examine, settings)
                self._until = self._clock() + READY_SECONDS
            return self._findings


@router.get("/readyz")
async def ready(request: Request, settings: SettingsDep) -> JSONResponse:
    """503 and the names of the failed checks while the server can't do its work; `prefloop doctor` says how to fix it."""
    state = request.app.state
    if not hasattr(state, "readiness"):
        state.readiness = Readiness()
    findings = await state.readiness.findings(settings)
    works = all(finding.level != "fail" for finding in findings)
    checks = {finding.subject: finding.level for finding in findings}  # without reasons: those name hosts and folders
    return JSONResponse({"status": "ready" if works else "not ready", "checks": checks}, 200 if works else 503)


def _examine(settings: Settings) -> list[Finding]:
    return [_examined(subject, check, settings) for subject, check in CHECKS.items()]


def _examined(subject: str, check: Callable[[Settings], Finding], settings: Settings) -> Finding:
    try:
        return check(settings)
    except Exception as error:  # whatever is broken, the answer is "not ready"
        log.warning("not ready", check=subject, reason=str(error).splitlines()[0] if str(error) else repr(error))
        return Finding(subject, "fail", "")


@router.get("/metrics")
def metrics(request: Request, settings: SettingsDep, authorization: Annotated[str, Header()] = "") -> Response:
    """In Prometheus' text format, for whoever has the token; without a configured one, for this machine only."""
    if settings.metrics_token:
        allowed = secrets.compare_digest(authorization.encode(), f"Bearer {settings.metrics_token}".encode())
    else:
        # What came through a proxy of this machine comes from anywhere, also where nobody named the proxy in the settings.
        came_directly = not any(name in request.headers for name in ("x-forwarded-for", "forwarded", "via"))
        allowed = is_loopback(client_address(request)) and came_directly
    if not allowed:
        raise NotAllowed("Metrics need their own token.", "Set PREFLOOP_METRICS_TOKEN and send it as a Bearer token.")
    collected: Metrics = request.app.state.metrics
    text, media_type = collected.exposition()
    return Response(text, media_type=media_type)
