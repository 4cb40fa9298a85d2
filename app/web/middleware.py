"""What surrounds every request: number, log, headers, and the checks that come before anything is read.

Plain ASGI, so that streams stay streams."""

import logging
import re
import secrets
import time

from fastapi import Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.config import Settings
from app.db import read_session
from app.errors import CrossSite, PrefloopError, TooLarge
from app.ops.metrics import Metrics
from app.security import SAFE_METHODS, is_cross_site, response_headers
from app.site.addresses import SITE, Site, host_of, inside, is_loopback, origin_of
from app.web import request_state
from app.web.admission import is_import
from app.web.failures import respond
from app.web.request_state import RequestState

log = logging.getLogger("app.requests")  # not structlog's, which passes each line twice

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{8,64}")
API = "/api/v1"
SECRET_PATH = re.compile(r"(/+(?:link|invitation)/)", re.IGNORECASE)
HEALTH = ("/healthz", "/readyz")
QUIET = ("/static/", "/healthz", "/readyz", "/metrics")


class WrongHost(PrefloopError):
    status = 421
    code = "wrong_host"


class StreamOver(Exception):
    """Ends a stream from our side."""


class UnderPath:
    """Takes the path of the public address off each request's, and lets what is rendered know it.

    A proxy may pass the path on or take it off itself: both arrive alike.
    """

    def __init__(self, app: ASGIApp, site: Site) -> None:
        self.app = app
        self.site = site

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        before = SITE.set(self.site)
        try:
            await self.app({**scope, "path": inside(scope["path"])}, receive, send)
        finally:
            SITE.reset(before)


class Frame:
    """Outermost: numbers the request, completes the answer's headers, turns an unexpected error into a page, counts, logs."""

    look_again_seconds = 60.0  # one small query a minute for each open stream and long download

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics
        self.headers = response_headers(settings)
        self.site = settings.site

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = looked = time.perf_counter()
        status = 0
        is_stream = False
        state = request_state.of_scope(scope)
        state.request_id = _request_id(Headers(scope=scope))

        async def framed(message: Message) -> None:
            nonlocal status, looked, is_stream
            if message["type"] == "http.response.start":
                status = message["status"]
                self._complete(MutableHeaders(scope=message), state)
                if _is_stream(message):
                    is_stream = True
                    self.metrics.stream_opened()
            elif time.perf_counter() - looked > self.look_again_seconds:
                looked = time.perf_counter()
                if not await run_in_threadpool(self._may_go_on, scope):
                    if is_stream:  # a download breaks off instead: nobody takes half a file for the whole
                        await send({"type": "http.response.body", "body": b""})
                    raise StreamOver
            await send(message)

        try:
            await self.app(scope, receive, framed)
        except StreamOver:
            pass
        except Exception as error:
            if status:  # half an answer is out: only breaking the connection tells the browser
                raise
            request = Request(scope, receive)
            response = await run_in_threadpool(respond, request, error)
            await response(scope, receive, framed)
        finally:
            if is_stream:
                self.metrics.stream_closed()
            self._note(scope, status, time.perf_counter() - began)

    def _may_go_on(self, scope: Scope) -> bool:
        """Whether whoever reads a long answer may go on: signing out ends it, and a lost role or membership."""
        still_in = request_state.of_scope(scope).still_in
        if still_in is None:
            return True
        with read_session(scope["app"].state.engine) as session:
            return still_in(session)

    def _complete(self, headers: MutableHeaders, state: RequestState) -> None:
        for name, value in self.headers.items():
            headers.setdefault(name, value)
        headers["x-request-id"] = state.request_id
        if state.adopted and not any(self.site.session_cookie in cookie for cookie in headers.getlist("set-cookie")):
            cookies = Response()
            request_state.adopt_session_cookie(cookies, self.site, state.adopted)
            for cookie in cookies.headers.getlist("set-cookie"):
                headers.append("set-cookie", cookie)
        headers.setdefault("cache-control", "no-store")  # pages are private; what may be kept says so itself

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        route = route_of(scope)
        self.metrics.answered(scope["method"], route, status, seconds)
        if scope["path"].startswith(QUIET) and status < 500:
            return
        state = request_state.of_scope(scope)
        # Never the query, nor a path that holds a link's token.
        facts = {
            "method": scope["method"],
            "path": _loggable(scope["path"]),
            "status": status,
            "ms": round(1000 * seconds, 1),
            "user": state.viewer.username if state.viewer else None,
            "request_id": state.request_id,
            "address": scope["client"][0] if scope.get("client") else None,
        }
        log.info("request", extra=facts)


class Guard:
    """Refuses, before anything is read or looked up: other hosts' names, other sites' forms, oversized bodies."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self.settings = settings
        self.public = settings.public_address
        self.host_names = settings.host_names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        self._check_host(scope, headers.get("host", ""))
        if scope["method"] not in SAFE_METHODS and not scope["path"].startswith(API + "/"):  # the API reads no cookies
            self._check_origin(scope, headers)
        await self.app(scope, self._limited(scope, headers, receive), send)

    def _check_host(self, scope: Scope, header: str) -> None:
        """Another site's name can be made to lead here (DNS rebinding); a number can't, nor can a loopback name."""
        if not header and scope["path"] in HEALTH:  # HTTP/1.0
            return
        name = host_of(header)
        reached = (scope.get("server") or ("",))[0]
        if name is None or not (name in self.host_names or is_loopback(name) or name == host_of(reached)):
            raise WrongHost(
                f"This server doesn't answer to the name “{(name or header)[:80]}”.",
                f"Open {self.settings.base_url}. Whoever runs it can set PREFLOOP_PUBLIC_URL, or add the name to "
                "PREFLOOP_ALLOWED_HOSTS.",
            )

    def _check_origin(self, scope: Scope, headers: Headers) -> None:
        host = headers.get("host", "")
        own = self.public.origin if host_of(host) == self.public.host else origin_of(f"{scope['scheme']}://{host}")
        if is_cross_site(site=headers.get("sec-fetch-site"), origin=headers.get("origin"), own_origin=own):
            raise CrossSite(
                "This request came from another site, so nothing was done.",
                "Use the page itself; scripts use the API with a token.",
            )

    def _limited(self, scope: Scope, headers: Headers, receive: Receive) -> Receive:
        imports = is_import(scope)
        limit = self.settings.max_import_bytes if imports else self.settings.max_request_bytes
        too_large = TooLarge(
            f"The request is larger than {limit / 1e6:,.0f} MB.",
            "Split it." if imports else "Send large files through an import.",
        )
        declared = headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > limit:
            raise too_large
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise too_large
            return message

        return counted


def route_of(scope: Scope) -> str:
    """The pattern of the matched route, so that metrics don't grow a series a row and logs hold no tokens."""
    pattern: str | None = getattr(scope.get("route"), "path", None)
    if pattern is None:
        return "/static" if scope["path"].startswith("/static/") else "unmatched"
    inside_api = scope["path"].startswith(API + "/") and not pattern.startswith(API)
    return API + pattern if inside_api else pattern


def _request_id(headers: Headers) -> str:
    """The proxy's number if it sent a plain one, else a new one."""
    sent = headers.get("x-request-id", "")
    return sent if REQUEST_ID.fullmatch(sent) else secrets.token_hex(8)


def _is_stream(message: Message) -> bool:
    return Headers(raw=message["headers"]).get("content-type", "").startswith("text/event-stream")


def _loggable(path: str) -> str:
    secret = SECRET_PATH.match(path)
    return f"{secret[1]}…" if secret else path[:200]
