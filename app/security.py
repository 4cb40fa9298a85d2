"""Passwords, tokens and the rules of the browser's edge: pure functions, no database, no requests."""

import hashlib
import hmac
import ipaddress
import secrets
from functools import cache
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

from app.config import Settings

if TYPE_CHECKING:
    from pwdlib import PasswordHash

API_TOKEN_PREFIX = "plf_"  # noqa: S105 - so that secret scanners and people know one when they see one
COOKIE_DAYS = 400  # as long as browsers keep one; when a session really ends is decided on the server
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


@cache
def _passwords() -> "PasswordHash":
    from pwdlib import PasswordHash  # here, not above: most commands hash no password

    return PasswordHash.recommended()


def new_token(prefix: str = "") -> str:
    """256 random bits, URL-safe."""
    return prefix + secrets.token_urlsafe(32)


def hash_token(secret: bytes, token: str) -> str:
    """What is stored instead of a token: HMAC-SHA256, hex. A copied database alone signs nobody in."""
    return hmac.new(secret, token.encode(), hashlib.sha256).hexdigest()


def hash_password(password: str) -> str:
    return _passwords().hash(password)


def verify_password(password: str, password_hash: str | None) -> bool:
    """Costs the same whether or not there is such an account, so that timing tells nothing."""
    known = _passwords().verify(password, password_hash or _hash_of_nothing())
    return known and password_hash is not None


@cache
def _hash_of_nothing() -> str:
    return _passwords().hash(secrets.token_urlsafe(32))


def cookie_name(settings: Settings) -> str:
    """`__Host-` makes browsers refuse the cookie from a subdomain or over plain HTTP; it needs TLS."""
    return "__Host-prefloop" if settings.secure_cookies else "prefloop"


def local_path(target: str | None, default: str = "/") -> str:
    """`target` if it is a path on this site, else `default`: never a way to another site or into a header."""
    if not target or not target.startswith("/") or any(ord(char) < 33 or char == "\\" for char in target):
        return default
    parts = split_url(target)
    if parts.scheme or parts.netloc or target.startswith("//"):
        return default
    return target


def split_url(url: str) -> SplitResult:
    """The parts of an address that somebody sent; all empty where it is none, such as `http://[`."""
    try:
        return urlsplit(url)
    except ValueError:
        return SplitResult("", "", "", "", "")


def address_bucket(address: str) -> str:
    """What counts as one address: an IPv6 /64, since one person holds a whole one."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address[:64]
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)


def is_loopback(host: str | None) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address((host or "").strip("[]")).is_loopback
    except ValueError:
        return False


def is_cross_site(*, site: str | None, origin: str | None, own_origin: str) -> bool:
    """Whether an unsafe request came from elsewhere. Browsers say so in Sec-Fetch-Site; older ones, and plain
    HTTP, leave Origin; a request with neither proves nothing and counts as foreign."""
    if site is not None:
        return site not in ("same-origin", "none")
    return origin != own_origin


def response_headers(settings: Settings) -> dict[str, str]:
    """Headers that every answer carries."""
    headers = {
        "content-security-policy": (
            "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'self'; "
            "frame-ancestors 'none'"
        ),
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
        "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
        # Not `no-referrer`: with it browsers send `Origin: null` from our own forms.
        "referrer-policy": "same-origin",
        "x-content-type-options": "nosniff",
        "x-frame-options": "DENY",
    }
    if settings.secure_cookies:
        headers["strict-transport-security"] = "max-age=31536000"
    return headers
