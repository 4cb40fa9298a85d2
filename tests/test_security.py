"""The rules of the browser's edge, as pure functions."""

from urllib.parse import urljoin, urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app import security
from app.config import Settings
from app.site.addresses import is_loopback


@given(st.text() | st.text(alphabet="/\\:@.?#%\t\r\n ex").map(lambda tail: "/" + tail))
@example("//evil.example")
@example("/\\evil.example")
@example("/\t/evil.example")
@example("https:evil.example")
@example("//[")
def test_a_local_path_never_leads_elsewhere(target: str) -> None:
    path = security.local_path(target)
    # Browsers drop tabs and newlines and read backslashes as slashes before they resolve an address.
    as_browsers_read = path.replace("\t", "").replace("\n", "").replace("\r", "").replace("\\", "/")
    assert urlsplit(urljoin("http://prefloop.test/page", as_browsers_read)).netloc == "prefloop.test"
    assert path.startswith("/")
    assert not any(ord(char) < 33 for char in path)


@pytest.mark.parametrize("path", ["/", "/projects/tone/compare", "/audit?who=ada&page=2", "/a/b#c"])
def test_a_path_of_ours_is_kept(path: str) -> None:
    assert security.local_path(path) == path


@pytest.mark.parametrize(
    ("address", "bucket"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8:0:0:ffff::", "2001:db8::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("testclient", "testclient"),
        ("", ""),
    ],
)
def test_one_person_is_one_address(address: str, bucket: str) -> None:
    assert security.address_bucket(address) == bucket


@pytest.mark.parametrize(
    ("host", "here"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost", True),
        ("localhost.evil.example", False),
        ("10.0.0.1", False),
        ("", False),
        (None, False),
        ("127.0.0.1.evil.example", False),
    ],
)
def test_only_this_machine_is_loopback(host: str | None, here: bool) -> None:
    assert is_loopback(host) is here


def test_the_same_token_has_another_hash_under_another_key() -> None:
    token = security.new_token()
    assert security.hash_token(b"one", token) != security.hash_token(b"two", token)
    assert security.new_token() != token
    assert len(token) >= 43  # 256 bits


def test_no_password_opens_an_account_without_one() -> None:
    assert not security.verify_password("", None)
    assert not security.verify_password("anything", None)


def test_the_cookie_is_host_bound_exactly_under_tls() -> None:
    assert security.cookie_name(Settings(public_url="https://prefloop.test")) == "__Host-prefloop_443"
    assert security.cookie_name(Settings(public_url="https://prefloop.test/team")) == "__Secure-prefloop_443"
    assert security.cookie_name(Settings(port=8112)) == "prefloop_8112"
    assert security.cookie_name(Settings(public_url="http://prefloop.test")) == "prefloop_80"


def test_what_is_sealed_is_read_with_its_key_and_for_its_purpose_alone() -> None:
    sealed = security.seal(b"k" * 32, "one", "a secret")
    assert "secret" not in sealed
    assert security.unseal(b"k" * 32, "one", sealed) == "a secret"
    changed = sealed[:-4] + ("AAAA" if not sealed.endswith("AAAA") else "BBBB")
    for key, purpose, text in ((b"x" * 32, "one", sealed), (b"k" * 32, "two", sealed), (b"k" * 32, "one", changed)):
        assert security.unseal(key, purpose, text) is None
    for text in ("", "nonsense", "é", "[" * 1000):
        assert security.unseal(b"k" * 32, "one", text) is None
    assert security.unseal(b"k" * 32, "one", sealed, seconds=60) == "a secret"
    assert security.unseal(b"k" * 32, "one", sealed, seconds=-1) is None
