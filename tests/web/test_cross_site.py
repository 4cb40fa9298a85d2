"""Other sites' forms and scripts, with every combination of headers that a browser may send."""

from collections.abc import Callable

import pytest
from starlette.testclient import TestClient

from app.config import Settings
from app.main import create_app
from app.models import User
from tests.factory import Factory

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

FOREIGN = [
    {},  # neither header: nothing proves where it came from
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},  # another program on a neighbouring name
    {"Sec-Fetch-Site": "cross-site", "Origin": "http://testserver"},
    {"Sec-Fetch-Site": ""},
    {"Sec-Fetch-Site": "same-origin, cross-site"},
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": ""},
    {"Origin": "https://testserver"},  # another scheme
    {"Origin": "http://testserver:8080"},  # another port
    {"Origin": "http://testserver.evil.example"},
    {"Origin": "HTTP://TESTSERVER@evil.example"},
    {"Referer": "http://testserver/account"},
    {"HX-Request": "true"},
    {"X-Requested-With": "XMLHttpRequest"},
    {"Authorization": "Bearer plf_x"},
    {"Host": "evil.example", "Origin": "http://evil.example"},
]
OWN = [
    {"Sec-Fetch-Site": "same-origin"},
    {"Sec-Fetch-Site": "same-origin", "Origin": "http://testserver"},
    {"Sec-Fetch-Site": "none"},
    {"Origin": "http://testserver"},
    {"Origin": "http://TestServer:80"},
]


@pytest.fixture
def browser(sign_in: Callable[[User], TestClient], factory: Factory) -> TestClient:
    return sign_in(factory.engineer())


@pytest.mark.parametrize("headers", FOREIGN)
def test_what_comes_from_elsewhere_does_nothing(browser: TestClient, headers: dict[str, str]) -> None:
    reply = browser.post("/sign-out", headers=headers)
    assert reply.status_code in (403, 421)
    assert "set-cookie" not in reply.headers
    assert browser.get("/account").status_code == 200


@pytest.mark.parametrize("headers", OWN)
def test_our_own_forms_work(browser: TestClient, headers: dict[str, str]) -> None:
    assert browser.post("/sign-out", headers=headers).status_code == 303
    assert browser.get("/account").status_code == 303


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "PROPFIND"])
def test_every_unsafe_method_is_checked(browser: TestClient, method: str) -> None:
    assert browser.request(method, "/account", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403


def test_a_refused_request_is_a_page_that_says_so(browser: TestClient) -> None:
    reply = browser.post("/account/tokens", data={"name": "x"}, headers={"Sec-Fetch-Site": "cross-site"})
    assert reply.headers["content-type"].startswith("text/html")
    assert "came from another site" in reply.text
    json = browser.post(
        "/account/tokens", headers={"Sec-Fetch-Site": "cross-site", "Accept": "application/json"}
    ).json()
    assert json["code"] == "cross_site_request"


def test_the_api_needs_a_token_instead(
    client: TestClient, factory: Factory, api: Callable[[User], dict[str, str]]
) -> None:
    user = factory.engineer()
    for headers in ({}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://evil.example"}):
        assert client.get("/api/v1/me", headers=headers | api(user)).status_code == 200
        assert client.post("/api/v1/jobs", json={}, headers=headers).status_code == 401
    assert not any(name.startswith("access-control") for name in client.get("/api/v1/me", headers=api(user)).headers)


@pytest.mark.parametrize(
    "path", ["/api/v1/../../account/tokens", "/api/v1/%2e%2e/%2e%2e/account/tokens", "//api/v1/x", "/API/V1/x"]
)
def test_no_spelling_of_an_address_slips_past_the_check(browser: TestClient, path: str) -> None:
    reply = browser.post(path, data={"name": "x"}, headers={"Sec-Fetch-Site": "cross-site"})
    assert reply.status_code in (401, 403, 404)
    assert "plf_" not in reply.text


def test_without_a_public_address_the_address_that_was_reached_counts(settings: Settings, factory: Factory) -> None:
    app = create_app(settings.model_copy(update={"public_url": ""}))
    with TestClient(app, base_url="http://10.0.0.5:8000", follow_redirects=False) as client:
        assert client.post("/sign-out", headers={"Origin": "http://10.0.0.5:8000"}).status_code == 303
        assert client.post("/sign-out", headers={"Origin": "http://10.0.0.5"}).status_code == 403
        elsewhere = {"Host": "evil.example", "Origin": "http://evil.example"}
        assert client.post("/sign-out", headers=elsewhere).status_code == 421
