"""Markdown as pages show it: rendered once for each text, and for at most a second of work on one page."""

import sys
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from hashlib import sha256
from threading import Lock

from markupsafe import Markup

from app.web.text import markup, unseen

CACHE_BYTES = 32_000_000
PAGE_SECONDS = 1.0  # of this thread's CPU time: a busy machine doesn't change what a page shows
PAGE_IS_FULL = "there is more on this page than is formatted at once; load it again for more"


class Kept:
    """HTML by the hash of its text, at most `limit` bytes: what nobody asked for the longest goes first."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size = 0
        self._pieces: OrderedDict[bytes, Markup] = OrderedDict()
        self._lock = Lock()

    def get(self, key: bytes) -> Markup | None:
        with self._lock:
            html = self._pieces.get(key)
            if html is not None:
                self._pieces.move_to_end(key)
            return html

    def put(self, key: bytes, html: Markup) -> None:
        with self._lock:
            before = self._pieces.pop(key, None)
            self.size += _bytes_of(html) - (_bytes_of(before) if before is not None else 0)
            self._pieces[key] = html
            while self.size > self.limit:
                _, oldest = self._pieces.popitem(last=False)
                self.size -= _bytes_of(oldest)

    def clear(self) -> None:
        with self._lock:
            self._pieces.clear()
            self.size = 0


@dataclass
class _Page:
    """`seconds`: CPU time that formatting took on this page so far."""

    seconds: float = 0.0


_page: ContextVar[_Page | None] = ContextVar("page", default=None)
kept = Kept(CACHE_BYTES)


@contextmanager
def one_page() -> Iterator[None]:
    """What is rendered within shares one page's time."""
    token = _page.set(_Page())
    try:
        yield
    finally:
        _page.reset(token)


def markdown(text: str) -> Markup:
    """Safe HTML of `text`, which stands as it was written where it is too much to format or the page's time is spent."""
    key = sha256(text.encode("utf-8", "surrogatepass")).digest()
    html = kept.get(key)
    if html is not None:
        return html
    page = _page.get()
    if page is not None and page.seconds >= PAGE_SECONDS:
        return markup.as_written(text, PAGE_IS_FULL)  # not kept: the next page has time for it
    began = time.thread_time()
    html = markup.to_html(text)
    if page is not None:
        page.seconds += time.thread_time() - began
    kept.put(key, html)
    return html


def same_look(first: str, second: str) -> bool:
    """Whether two different texts look the same when they are formatted."""
    return first != second and unseen.same_look(markdown(first), markdown(second))


def _bytes_of(html: Markup) -> int:
    return sys.getsizeof(html) + 200  # the key and its place
