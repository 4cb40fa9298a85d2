"""Jinja environment: a whole page, or one block of it, from the same template. Pages render after the unit of work."""

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self
from urllib.parse import quote, unquote, urlencode

from fastapi import Request
from fastapi.responses import HTMLResponse, RedirectResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from jinja2.ext import Extension
from jinja2_fragments import render_blocks
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

from app.db import is_writing
from app.paths import STATIC, TEMPLATES
from app.site.addresses import SITE, at
from app.web import request_state
from app.web.text.rendered import markdown, one_page, same_look
from app.web.text.unseen import excerpt, written

THEMES = ("auto", "light", "dark")

# Which part of the bar is lit, by the path's word after the project, or by its first word without a project.
SECTIONS = {
    "compare": "compare",
    "history": "history",
    "guess": "guess",
    "guidelines": "guidelines",
    "settings": "settings",
    "members": "members",
    "data": "data",
    "import": "data",
    "imports": "data",
    "snapshots": "data",
    "extracts": "data",
    "generations": "data",
    "generate": "data",
    "trials": "data",
    "endpoints": "endpoints",
    "comparisons": "data",
    "runs": "runs",
    "train": "runs",
    "jobs": "runs",
    "label-checks": "runs",
    "checkpoints": "checkpoints",
    "evaluations": "checkpoints",
    "aliases": "checkpoints",
    "progress": "checkpoints",
    "rounds": "rounds",
    "people": "people",
    "workers": "workers",
    "audit": "audit",
    "storage": "storage",
    "account": "account",
}


class Context(Protocol):
    """Any dataclass: one per page, its fields are the template's names."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


class PageResponse(HTMLResponse):
    """A page that is rendered when it is sent: the unit of work is over by then, and nobody waits for a template."""

    def __init__(self, make: Callable[[], str], status: int = 200, *, template: str = "") -> None:
        super().__init__(None, status)
        del self.headers["content-length"]
        self.template = template
        self._make = make

    def make(self) -> Self:
        """Render it now: for whoever needs its body, or has to answer for an error in its template."""
        if "content-length" not in self.headers:
            if is_writing():
                raise RuntimeError("a page renders within a write transaction: everybody else would wait for it")
            with one_page():
                self.body = self._make().encode(self.charset)
            self.headers["content-length"] = str(len(self.body))
        return self

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if "content-length" not in self.headers:
            await run_in_threadpool(self.make)
        await super().__call__(scope, receive, send)


def render(
    request: Request, template: str, context: Context, *, block: str | Sequence[str] | None = None, status: int = 200
) -> PageResponse:
    """The page as HTML, or only its `block` (one or several) for htmx. `context`'s fields, `request`, `user`, `may` and
    `section` are the template's names. It reads no database: what it shows was loaded before."""
    names: dict[str, Any] = {field.name: getattr(context, field.name) for field in fields(context)}
    state = request_state.of(request)
    names |= {"request": request, "user": state.viewer, "may": state.may, "section": section_of(request.url.path)}
    if block:
        blocks = [block] if isinstance(block, str) else list(block)
        return PageResponse(lambda: render_blocks(environment(), template, blocks, **names), status, template=template)
    theme = request.cookies.get(SITE.get().theme_cookie, "auto")
    names |= {"theme": theme if theme in THEMES else "auto", "flashes": _flashes(request)}
    response = PageResponse(lambda: environment().get_template(template).render(**names), status, template=template)
    if names["flashes"]:
        site = SITE.get()
        response.delete_cookie(site.flash_cookie, path=site.cookie_path, secure=site.is_secure, httponly=True)
    return response


def redirect(url: str, flash: str = "", kind: str = "info") -> RedirectResponse:
    """See Other to a page of ours, which shows `flash` once. `kind`: info, good, bad."""
    response, site = RedirectResponse(at(url), 303), SITE.get()
    if flash:
        response.set_cookie(
            site.flash_cookie,
            quote(json.dumps([kind, flash[:500]])),
            max_age=60,
            path=site.cookie_path,
            secure=site.is_secure,
            httponly=True,
            samesite="lax",
        )
    return response


def is_fragment(request: Request) -> bool:
    """True if htmx asks for a part of a page; a restored history entry needs the whole."""
    headers = request.headers
    return (
        headers.get("HX-Request") == "true"
        and headers.get("HX-Request-Type") != "full"
        and headers.get("HX-History-Restore-Request") != "true"
    )


def section_of(path: str) -> str:
    parts = path.strip("/").split("/")
    word = parts[2] if parts[0] == "projects" and len(parts) > 2 else parts[0]
    return SECTIONS.get(word, "")


def _flashes(request: Request) -> list[tuple[str, str]]:
    try:
        kind, text = json.loads(unquote(request.cookies.get(SITE.get().flash_cookie, "")))
    except (ValueError, TypeError, RecursionError):  # the last from thousands of brackets
        return []
    return [(kind, text)] if kind in ("info", "good", "bad") and isinstance(text, str) else []


class OwnAddresses(Extension):
    """Lets every address in an attribute pass `at`, so that templates name pages by their own paths and nobody forgets.

    `href="/people"` becomes `href="{{ root() }}/people"`, and `href="{{ url }}"` becomes `href="{{ at(url) }}"`.
    """

    WRITTEN = re.compile(
        r'(\s(?:href|src|action|formaction|hx-(?:get|post|put|delete)|hx-sse:connect|data-run-stream)=")(?=/)'
    )
    COMPUTED = re.compile(
        r'(\s(?:href|src|action|formaction|hx-(?:get|post|put|delete)|hx-sse:connect|data-run-stream)="){{(.*?)}}'
    )

    def preprocess(self, source: str, name: str | None, filename: str | None = None) -> str:
        return self.WRITTEN.sub(r"\1{{ root() }}", self.COMPUTED.sub(r"\1{{ at(\2) }}", source))


@lru_cache
def environment() -> Environment:
    """The only environment. A name that a page forgot is an error, not an empty string."""
    env = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,  # it would ask for each file's time whenever a page is rendered
        extensions=[OwnAddresses],
    )
    env.globals |= {"at": at, "root": lambda: SITE.get().root}
    env.globals |= {"static": static_url, "now": lambda: datetime.now(UTC), "query": query, "same_look": same_look}
    env.filters |= {
        "ago": ago,
        "absolute": absolute,
        "bytes": file_size,
        "number": number,
        "percent": percent,
        "duration": duration,
        "short_hash": short_hash,
        "markdown": markdown,
        "excerpt": excerpt,
        "written": written,
    }
    # Global, not imported by each template: a block rendered alone never runs its template's imports.
    env.globals |= {name: env.get_template(f"macros/{name}.html").module for name in ("ui", "forms")}
    return env


def static_url(name: str) -> str:
    """The address of a file in app/static with its content's hash, so that browsers may keep it for ever."""
    path = STATIC / name
    try:
        stamp = path.stat().st_mtime_ns
    except FileNotFoundError:  # assets not built: the page still works without them
        return f"/static/{name}"
    return f"/static/{name}?v={_content_hash(path, stamp)}"


@lru_cache
def _content_hash(path: Path, _stamp: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def query(request: Request, **changes: Any) -> str:
    """The present address with some query parameters changed; None or "" removes one."""
    values = {**request.query_params, **changes}
    kept = {name: value for name, value in values.items() if value not in (None, "")}
    return request.url.path + (f"?{urlencode(kept)}" if kept else "")


def ago(value: datetime, now: datetime | None = None) -> str:
    """“3 min ago”, “in 2 h”; older than 30 days: the date."""
    seconds = ((now or datetime.now(UTC)) - value).total_seconds()
    size = abs(seconds)
    if size < 10:
        return "just now"
    if size >= 30 * 86400:
        return value.strftime("%-d %b %Y")
    unit, span = next((unit, span) for unit, span in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)) if size >= span)
    words = f"{int(size // span)} {unit}"
    return f"{words} ago" if seconds > 0 else f"in {words}"


def absolute(value: datetime) -> str:
    return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def file_size(value: float) -> str:
    """Bytes in decimal units: 2.4 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(value) < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:,.4g} TB"


def number(value: float | None, digits: int = 4) -> str:
    """Thousands set apart; fractions to `digits` significant digits; nothing measured is a dash."""
    if value is None or value != value:
        return "–"
    if isinstance(value, int) or (value == int(value) and abs(value) < 1e15):
        return f"{int(value):,}"
    return f"{value:,.{digits}g}" if abs(value) < 10**digits else f"{value:,.0f}"


def percent(value: float | None, digits: int = 0) -> str:
    """0.58 → 58 %."""
    return "–" if value is None or value != value else f"{100 * value:.{digits}f} %"


def duration(seconds: float | None) -> str:
    """45 s, 11 min, 2 h 05 min, 3 d 4 h."""
    if seconds is None or seconds != seconds:
        return "–"
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes = round(whole / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours < 24 else f"{hours // 24} d {hours % 24} h"


def short_hash(value: str) -> str:
    return value[:8]
