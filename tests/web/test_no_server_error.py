"""Whatever a header, a cookie, a query or a form holds, the answer isn't a server error."""

import random
import re
from collections.abc import Callable

import hypothesis
import pytest
from fastapi.routing import iter_route_contexts
from hypothesis import strategies as st
from starlette.testclient import TestClient

from app.config import Settings
from app.models import User
from app.security import cookie_name
from tests.factory import Factory

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

HEADERS = [
    "Accept",
    "Accept-Encoding",
    "Accept-Language",
    "Authorization",
    "Content-Length",
    "Content-Type",
    "Cookie",
    "Forwarded",
    "From",
    "Host",
    "HX-Current-URL",
    "HX-Request",
    "HX-Request-Type",
    "HX-Target",
    "HX-History-Restore-Request",
    "Idempotency-Key",
    "If-Match",
    "If-Modified-Since",
    "If-None-Match",
    "If-Range",
    "Last-Event-ID",
    "Origin",
    "Purpose",
    "Range",
    "Referer",
    "Sec-Fetch-Mode",
    "Sec-Fetch-Site",
    "Sec-Purpose",
    "TE",
    "Upgrade",
    "User-Agent",
    "X-Forwarded-For",
    "X-Forwarded-Host",
    "X-Forwarded-Prefix",
    "X-Forwarded-Proto",
    "X-Request-ID",
]
QUERY = [
    "after",
    "again",
    "page",
    "preset",
    "project",
    "q",
    "runs",
    "rule.min_judgments",
    "search",
    "size",
    "snapshot",
    "sort",
    "state",
    "target",
    "version",
    "who",
]
NASTY = [
    "//[",
    "http://[",
    "[::1",
    "::1]",
    "[",
    "]]",
    "%00",
    "%ff",
    "%5B%5B",
    "\x00",
    "\x7f",
    "é",
    "☃",
    "𝄞",
    "-1",
    "0",
    "9999999999999999999999",
    "1e999",
    "NaN",
    "-inf",
    "true",
    "null",
    "{}",
    "[]",
    "../../etc/passwd",
    "javascript:alert(1)",
    "//evil.example",
    "/\\evil.example",
    "bytes=-1",
    "bytes=0-99999999999999999999",
    "*",
    'W/"x"',
    "Bearer",
    "Basic",
    "plf_",
    "plf_ü",
    "q=;",
    "text/event-stream",
    "application/json",
    "multipart/form-data",
    "multipart/form-data;boundary=",
    "application/x-www-form-urlencoded;charset=nonsense",
    "same-origin",
    "none",
    "a@b:c@d",
    "http://a:99999999",
    "Thu,%2001%20Jan",
]
words = st.one_of(
    st.sampled_from(NASTY),
    st.text(st.characters(min_codepoint=1, max_codepoint=255, exclude_characters="\r\n"), max_size=60),
    st.sampled_from(["[", "{", "%", "a", '"', ";", "="]).map(lambda sign: sign * 20_000),
)
requests = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**32),
        "headers": st.dictionaries(st.sampled_from(HEADERS), words, max_size=4),
        "query": st.dictionaries(st.sampled_from(QUERY), words, max_size=3),
        "cookies": st.dictionaries(
            st.sampled_from(["prefloop", "prefloop_80", "prefloop_flash_80", "prefloop_theme", "x"]), words, max_size=2
        ),
        "body": st.one_of(st.none(), words),
    }
)


def targets(client: TestClient) -> list[tuple[str, str]]:
    """Every route but those that keep a stream open."""
    return [
        (method, str(route.path))
        for route in iter_route_contexts(client.app.routes)  # type: ignore[attr-defined]
        for method in sorted(route.methods or {"GET"})
        if not str(route.path).endswith(("/stream", "/events"))
    ]


def ask(client: TestClient, target: tuple[str, str], slug: str, own: dict[str, str], asked: dict) -> None:  # type: ignore[type-arg]
    method, path = target
    draw = random.Random(asked["seed"])
    address = path.replace("{slug}", draw.choice([slug, slug, "%5B", "x"]))
    address = re.sub(r"\{\w+_id\}", lambda _: draw.choice(["1", "2147483648", "0", "%5B"]), address)
    address = re.sub(r"\{\w+(:\w+)?\}", lambda _: draw.choice(["x", "..", "%5B%00", "é"]), address)
    headers = {name.encode(): value.encode("latin-1", "replace") for name, value in (own | asked["headers"]).items()}
    if asked["cookies"]:
        jar = "; ".join(f"{name}={value}" for name, value in asked["cookies"].items())
        headers[b"Cookie"] = jar.encode("latin-1", "replace").replace(b"\x00", b"")
    body = None if asked["body"] is None else asked["body"].encode("utf-8", "replace")
    reply = client.request(
        method,
        address,
        params={name: value[:2_000] for name, value in asked["query"].items()},  # a client sends no longer one
        headers=list(headers.items()),
        content=body if method != "GET" else None,
    )
    assert reply.status_code < 500, (method, address, asked, reply.text[:500])


@pytest.fixture
def people(
    client: TestClient,
    factory: Factory,
    sign_in: Callable[[User], TestClient],
    api: Callable[[User], dict[str, str]],
    settings: Settings,
) -> list[dict[str, str]]:
    """What a stranger, a signed-in admin and an admin's token send."""
    factory.judged(3, slug="tone")
    admin = factory.admin()
    sign_in(admin)
    cookie = f"{cookie_name(settings)}={client.cookies[cookie_name(settings)]}"
    client.cookies.clear()
    own = {"Sec-Fetch-Site": "same-origin"}
    return [own, own | {"Cookie": cookie}, own | api(admin)]


def fuzz(client: TestClient, people: list[dict[str, str]], examples: int) -> None:
    client = TestClient(client.app, raise_server_exceptions=False, follow_redirects=False)
    routes = [target for target in targets(client) if target != ("POST", "/sign-out")]

    @hypothesis.settings(max_examples=examples, suppress_health_check=list(hypothesis.HealthCheck), derandomize=True)
    @hypothesis.given(st.sampled_from(routes), st.sampled_from(people), requests)
    def answers(target: tuple[str, str], own: dict[str, str], asked: dict) -> None:  # type: ignore[type-arg]
        ask(client, target, "tone", own, asked)

    answers()


def test_no_header_cookie_or_query_makes_a_server_error(client: TestClient, people: list[dict[str, str]]) -> None:
    fuzz(client, people, 300)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_thousands_of_headers_cookies_and_queries_make_no_server_error(
    client: TestClient, people: list[dict[str, str]]
) -> None:
    fuzz(client, people, 12_000)


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/sign-in?next=//[", {}),
        ("/people", {"Referer": "http://["}),
        ("/people", {"HX-Request": "true", "HX-Current-URL": "http://["}),
        ("/sign-in", {"Cookie": "prefloop_flash_80=" + "%5B" * 20_000}),
        ("/sign-in", {"Host": "[::1"}),
    ],
)
def test_what_was_once_a_server_error(client: TestClient, path: str, headers: dict[str, str]) -> None:
    client = TestClient(client.app, raise_server_exceptions=False, follow_redirects=False)
    assert client.get(path, headers=headers).status_code < 500
    assert client.post("/people", headers=headers).status_code < 500


@pytest.mark.parametrize("config", ['{"report_to": 5}', '{"beta": 1%s}' % ("0" * 400), '{"seed": 1%s}' % ("0" * 30)])
def test_a_setting_of_the_wrong_kind_is_named(
    client: TestClient, factory: Factory, api: Callable[[User], dict[str, str]], tiny: str, config: str
) -> None:
    snapshot = factory.snapshot()
    body = f'{{"snapshot_id": {snapshot.id}, "base_model": "{tiny}", "config": {config}}}'
    headers = api(factory.engineer()) | {"Content-Type": "application/json"}
    reply = client.post("/api/v1/jobs", content=body, headers=headers)
    assert reply.status_code == 422
    assert re.search(r"report_to|beta|seed", reply.text)
