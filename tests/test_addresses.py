"""Addresses as people write them, and as they are compared."""

import pytest
from pydantic import ValidationError

from app.config import Settings
from app.site.addresses import SITE, Site, at, host_of, inside, origin_of, public_address


@pytest.mark.parametrize(
    ("written", "normal", "origin"),
    [
        ("http://Box.Example:8112", "http://box.example:8112", "http://box.example:8112"),
        ("http://box.example:80", "http://box.example", "http://box.example"),
        ("HTTPS://box.example:443/", "https://box.example", "https://box.example"),
        ("https://box.example./prefloop/", "https://box.example/prefloop", "https://box.example"),
        ("https://bücher.example", "https://xn--bcher-kva.example", "https://xn--bcher-kva.example"),
        ("https://BÜCHER.example", "https://xn--bcher-kva.example", "https://xn--bcher-kva.example"),
        ("http://[::1]:8000", "http://[::1]:8000", "http://[::1]:8000"),
        ("http://[2001:DB8:0:0::1]", "http://[2001:db8::1]", "http://[2001:db8::1]"),
        (" http://10.0.0.5:8000/a/b-c ", "http://10.0.0.5:8000/a/b-c", "http://10.0.0.5:8000"),
    ],
)
def test_a_public_address_is_written_one_way(written: str, normal: str, origin: str) -> None:
    """Cases 147 and 148."""
    assert public_address(written).url == normal
    assert public_address(written).origin == origin
    assert Settings(public_url=written).base_url == normal


@pytest.mark.parametrize(
    "written",
    [
        "box.example",
        "box.example:8000",
        "//box.example",
        "ftp://box.example",
        "http://",
        "http://[",
        "http://box.example:port",
        "http://box.example:99999",
        "http://user:secret@box.example",
        "http://box.example/?a=b",
        "http://box.example/#a",
        "http://box.example/a//b",
        "http://box.example/../a",
        "http://box.example/a b",
        "http://-_.$",
        "javascript://box.example",
    ],
)
def test_an_address_that_cannot_be_one_is_refused_in_words(written: str) -> None:
    with pytest.raises(ValueError, match=r"must|isn't|may hold"):
        public_address(written)
    with pytest.raises(ValidationError):
        Settings(public_url=written)


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("Box.Example:8000", "box.example"),
        ("box.example.", "box.example"),
        ("[::1]:8000", "::1"),
        ("[0:0::1]", "::1"),
        ("127.0.0.1", "127.0.0.1"),
        ("web_1:8000", "web_1"),
        ("[::1", None),
        ("", None),
        ("a b", None),
        ("user@box.example", "box.example"),
        ("box.example:x", None),
    ],
)
def test_the_name_in_a_host_header(header: str, name: str | None) -> None:
    assert host_of(header) == name


def test_origins_are_compared_without_case_and_default_port() -> None:
    assert origin_of("http://Box.example:80") == "http://box.example"
    assert origin_of("http://box.example:8112") == "http://box.example:8112"
    assert [origin_of(text) for text in (None, "", "null", "box.example", "http://[")] == [None] * 5


def test_what_goes_out_has_the_path_and_what_comes_in_loses_it() -> None:
    assert (at("/people"), inside("/people")) == ("/people", "/people")
    before = SITE.set(Site("/team"))
    try:
        assert [at(path) for path in ("/", "/people?page=2", "#top", "?page=2", "https://x/", "//x")] == [
            "/team/",
            "/team/people?page=2",
            "#top",
            "?page=2",
            "https://x/",
            "//x",
        ]
        assert [inside(path) for path in ("/team", "/team/", "/team/people", "/team?page=2", "/teams", "/x")] == [
            "/",
            "/",
            "/people",
            "/?page=2",
            "/teams",
            "/x",
        ]
    finally:
        SITE.reset(before)


def test_what_allowed_hosts_may_hold() -> None:
    assert Settings(allowed_hosts="Web, 10.0.0.5,bücher.example").host_names >= {
        "web",
        "10.0.0.5",
        "xn--bcher-kva.example",
    }
    with pytest.raises(ValidationError):
        Settings(allowed_hosts="http://web")


def test_where_it_listens_stands_in_for_a_public_address() -> None:
    assert Settings(host="0.0.0.0", port=9000).base_url == "http://127.0.0.1:9000"
    assert Settings(host="::1", port=9000).base_url == "http://[::1]:9000"


def test_hsts_says_what_it_was_told_to() -> None:
    from app.security import response_headers

    def told(**more: object) -> str | None:
        return response_headers(Settings(**{"public_url": "https://box.example"} | more)).get(
            "strict-transport-security"
        )

    assert told() == "max-age=31536000"
    assert told(hsts_seconds=60, hsts_subdomains=True) == "max-age=60; includeSubDomains"
    assert told(hsts_subdomains=True, hsts_preload=True) == "max-age=31536000; includeSubDomains; preload"
    assert told(hsts_seconds=0) is None
    assert told(public_url="http://box.example") is None
    with pytest.raises(ValidationError, match="PRELOAD needs"):
        Settings(hsts_preload=True)
