"""Passwords, tokens and the rules of the browser's edge: pure functions, no database, no requests."""

import base64
import hashlib
import hmac
import ipaddress
import re
import secrets
from functools import cache
from typing import TYPE_CHECKING

from app.config import Settings
from app.site.addresses import inside, origin_of, split_url

if TYPE_CHECKING:
    from cryptography.fernet import Fernet
    from pwdlib import PasswordHash

API_TOKEN_PREFIX = "plf_"  # noqa: S105 - so that secret scanners and people know one when they see one
# C0 and C1 but for tab and line feed, DEL, and marks that turn the direction of what follows.
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
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
    return hmac.digest(secret, token.encode(), "sha256").hex()


def hash_password(password: str) -> str:
    return _passwords().hash(password)


def verify_password(password: str, password_hash: str | None) -> bool:
    """Costs the same whether or not there is such an account, so that timing tells nothing."""
    known = _passwords().verify(password, password_hash or _hash_of_nothing())
    return known and password_hash is not None


@cache
def _hash_of_nothing() -> str:
    return _passwords().hash(secrets.token_urlsafe(32))


def seal(secret: bytes, purpose: str, text: str) -> str:
    """The text, to be read again only with this key and for this purpose: what has to be kept but not shown."""
    return _box(secret, purpose).encrypt(text.encode()).decode()


def unseal(secret: bytes, purpose: str, sealed: str, *, seconds: int | None = None) -> str | None:
    """What `seal` sealed; None where the key is another, somebody changed it, or it is older than `seconds`."""
    from cryptography.fernet import InvalidToken

    try:
        return _box(secret, purpose).decrypt(sealed.encode(), ttl=seconds).decode()
    except InvalidToken:
        return None


def _box(secret: bytes, purpose: str) -> "Fernet":
    from cryptography.fernet import Fernet  # here, not above: few requests need it

    return Fernet(base64.urlsafe_b64encode(hmac.new(secret, f"seal {purpose}".encode(), hashlib.sha256).digest()))


def printable(text: str) -> str:
    """The text for a terminal: a control character is shown as its code, so that no stored text moves the cursor,
    changes the title, or hides what stands before it. Lines and tabs stay."""
    return CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def has_control_characters(text: str) -> bool:
    """Whether a name holds what a terminal acts on, lines included."""
    return CONTROL.search(text) is not None or any(sign in text for sign in "\n\r\t")


def cookie_name(settings: Settings) -> str:
    """The name of the session's cookie."""
    return settings.site.session_cookie


def local_path(target: str | None, default: str = "/") -> str:
    """`target` if it is a path on this site, else `default`: never a way to another site or into a header."""
    target = inside(target or "")
    if not target.startswith("/") or any(ord(char) < 33 or char == "\\" for char in target):
        return default
    parts = split_url(target)
    if parts.scheme or parts.netloc or target.startswith("//"):
        return default
    return target


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


def is_cross_site(*, site: str | None, origin: str | None, own_origin: str | None) -> bool:
    """Whether an unsafe request came from elsewhere. Browsers say so in Sec-Fetch-Site; older ones, and plain
    HTTP, leave Origin; a request with neither proves nothing and counts as foreign."""
    if site is not None:
        return site not in ("same-origin", "none")
    return origin_of(origin) is None or origin_of(origin) != own_origin


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
    if settings.site.is_secure and settings.hsts_seconds:
        headers["strict-transport-security"] = (
            f"max-age={settings.hsts_seconds}"
            + ("; includeSubDomains" if settings.hsts_subdomains else "")
            + ("; preload" if settings.hsts_preload else "")
        )
    return headers
