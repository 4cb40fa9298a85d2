"""Filters, blocks, flashes and what a forgotten name does."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from jinja2 import UndefinedError
from starlette.requests import Request

from app.web import templating

NOW = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)


@dataclass(frozen=True)
class Nothing:
    """A page that forgot its names."""


def request(path: str = "/", **headers: str) -> Request:
    raw = [(name.replace("_", "-").lower().encode(), value.encode()) for name, value in headers.items()]
    return Request(
        {
            "type": "http",
            "method": "GET",
            "path": path,
            "query_string": b"",
            "headers": [(b"host", b"test"), *raw],
            "server": ("test", 80),
            "scheme": "http",
            "state": {"user": None},
        }
    )


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (3, "just now"),
        (42, "42 s ago"),
        (61, "1 min ago"),
        (7300, "2 h ago"),
        (3 * 86400, "3 d ago"),
        (40 * 86400, "23 Jan 2026"),
        (-3700, "in 1 h"),
    ],
)
def test_a_time_is_told_relative_to_now(seconds: int, words: str) -> None:
    assert templating.ago(NOW - timedelta(seconds=seconds), NOW) == words


@pytest.mark.parametrize(
    ("value", "words"), [(0, "0 B"), (999, "999 B"), (2_400_000_000, "2.4 GB"), (1536, "1.54 kB"), (3.2e15, "3,200 TB")]
)
def test_a_size_has_a_decimal_unit(value: float, words: str) -> None:
    assert templating.file_size(value) == words


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "–"),
        (float("nan"), "–"),
        (12345, "12,345"),
        (0.69314718, "0.6931"),
        (5e-6, "5e-06"),
        (1234567.8, "1,234,568"),
    ],
)
def test_a_number_is_readable(value: float | None, words: str) -> None:
    assert templating.number(value) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, "–"),
        (0.25, "250 ms"),
        (59.4, "59 s"),
        (59.9, "1 min"),
        (660, "11 min"),
        (7500, "2 h 05 min"),
        (273600, "3 d 4 h"),
    ],
)
def test_a_duration_has_units(seconds: float | None, words: str) -> None:
    assert templating.duration(seconds) == words


def test_a_name_that_a_page_forgot_is_an_error() -> None:
    with pytest.raises(UndefinedError):
        templating.render(request(), "collecting/history/show.html", Nothing()).make()


def test_every_template_compiles() -> None:
    names = templating.environment().list_templates(extensions=["html"])
    assert "base.html" in names
    for name in names:
        templating.environment().get_template(name)


@pytest.mark.parametrize(
    ("path", "section"),
    [
        ("/projects/x/compare", "compare"),
        ("/projects/x/import", "data"),
        ("/jobs/4", "runs"),
        ("/checkpoints/2", "checkpoints"),
        ("/projects", ""),
        ("/", ""),
    ],
)
def test_the_bar_lights_the_part_that_a_page_belongs_to(path: str, section: str) -> None:
    assert templating.section_of(path) == section


def test_a_flash_is_read_once_and_never_trusted() -> None:
    cookie = templating.redirect("/x", "Saved “it”.", "good").headers["set-cookie"].split(";")[0]
    assert templating._flashes(request(cookie=cookie)) == [("good", "Saved “it”.")]
    for broken in (
        "prefloop_flash_8000=nonsense",
        'prefloop_flash_8000=["good"]',
        'prefloop_flash_8000=["<b>","x"]',
        "prefloop_flash_8000=%5B1%2C2%5D",
        "prefloop_flash_8000=" + "[" * 4000,
    ):
        assert templating._flashes(request(cookie=broken)) == []


def test_a_changed_file_gets_a_new_address() -> None:
    assert templating.static_url("prefloop.css").startswith("/static/prefloop.css?v=")
    assert templating.static_url("missing.js") == "/static/missing.js"


def test_a_query_keeps_the_other_parameters() -> None:
    asked = Request(
        {
            "type": "http",
            "method": "GET",
            "path": "/p",
            "query_string": b"state=open&page=3",
            "headers": [(b"host", b"t")],
            "server": ("t", 80),
            "scheme": "http",
        }
    )
    assert templating.query(asked, page=4) == "/p?state=open&page=4"
    assert templating.query(asked, page=None) == "/p?state=open"


@pytest.mark.parametrize(
    ("headers", "fragment"),
    [
        ({}, False),
        ({"hx_request": "true"}, True),
        ({"hx_request": "true", "hx_request_type": "full"}, False),
        ({"hx_request": "true", "hx_history_restore_request": "true"}, False),
    ],
)
def test_only_htmx_asking_for_a_part_gets_a_part(headers: dict[str, str], fragment: bool) -> None:
    assert templating.is_fragment(request(**headers)) is fragment
