"""The web application: create_app() puts settings, database, middleware and routes together."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.to_thread
from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Scope
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from app.config import Settings, get_settings
from app.db import get_engine
from app.ops import logs, sweeper
from app.ops.metrics import Metrics
from app.paths import STATIC
from app.routes import api
from app.routes.accounts import account, links, members, passkeys, people, person, second_factor, session
from app.routes.collecting import compare, guidelines, history, home, imports, projects
from app.routes.datasets import data, extracts, snapshots
from app.routes.loop import (
    aliases,
    endpoints,
    evaluations,
    exclusions,
    generations,
    guesses,
    lineage,
    progress,
    removal,
    rounds,
    trials,
    verdicts,
)
from app.routes.loop.labels import checks as label_checks
from app.routes.loop.labels import people as label_people
from app.routes.ops import audit, health, storage, workers
from app.routes.training import checkpoints, freezings, jobs, new_run
from app.web import failures
from app.web.admission import Admission
from app.web.bodies import ImportPlaces
from app.web.middleware import Frame, Guard, UnderPath
from app.web.problems import say_media_type
from app.web.turns import Turns

OTHER_THREADS = 24  # for what needs no turn: static files, downloads, checks of streams
PAGES: tuple[Any, ...] = (
    compare,  # asked for the most, and each request goes through the list
    health,
    session,
    links,
    account,
    passkeys,
    second_factor,
    people,
    person,
    audit,
    home,
    projects,
    members,
    guidelines,
    history,
    data,
    imports,
    exclusions,
    removal,
    lineage,
    label_checks,
    label_people,
    snapshots,
    extracts,
    new_run,
    freezings,
    jobs,
    checkpoints,
    evaluations,
    verdicts,
    aliases,
    progress,
    guesses,
    rounds,
    trials,
    workers,
    generations,
    endpoints,
    storage,
)


def create_app(settings: Settings | None = None) -> FastAPI:
    """The app on `settings`, by default those of the environment."""
    settings = settings or get_settings()
    logs.configure(settings)
    app = FastAPI(
        title="Prefloop",
        summary="Compare answers, freeze datasets, train with DPO, download checkpoints.",
        openapi_url="/api/v1/openapi.json",
        docs_url=None,
        redoc_url=None,  # those pages load scripts from elsewhere
        redirect_slashes=False,
        servers=[{"url": settings.site.root}] if settings.site.root else None,
        lifespan=_lifespan,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # nobody is told but who reads /metrics
    )
    app.state.settings = settings
    app.state.engine = get_engine(settings)
    app.state.turns = Turns(settings.requests_at_once)
    app.state.import_places = ImportPlaces(settings.data_dir / "importing")
    app.state.metrics = Metrics(settings, app.state.engine)
    failures.install(app)
    app.router.routes.append(Route(compare.JUDGE.path, compare.JUDGE, methods=["POST"], include_in_schema=False))
    for page in PAGES:
        app.include_router(page.router, include_in_schema=False)
    app.include_router(api.router)
    app.mount("/static", Assets(directory=STATIC), name="static")
    # The last one added is the outermost.
    app.add_middleware(Admission, settings=settings, turns=app.state.turns)
    app.add_middleware(Guard, settings=settings)
    app.add_middleware(Frame, settings=settings, metrics=app.state.metrics)
    app.add_middleware(UnderPath, site=settings.site)
    if settings.forwarded_allow_ips:
        app.add_middleware(ProxyHeadersMiddleware, trusted_hosts=settings.forwarded_allow_ips)
    _document(app)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    # Whoever has a turn always finds a thread: see web/admission.
    anyio.to_thread.current_default_thread_limiter().total_tokens = app.state.turns.at_once + OTHER_THREADS
    async with sweeper.sweeping(app.state.settings, app.state.engine):
        yield


class Assets(StaticFiles):
    """Our CSS and JavaScript; an address with the content's hash may be kept for ever."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        named_by_content = scope["query_string"].startswith(b"v=")
        response.headers["Cache-Control"] = "public, max-age=31536000, immutable" if named_by_content else "no-cache"
        return response


def _document(app: FastAPI) -> None:
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = say_media_type(plain())
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
