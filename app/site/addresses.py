"""Addresses: the one that people type, the names that this server answers to, and the path that it is served under.

Everything inside knows pages by their own paths, such as `/projects`. What goes out to a browser passes `at`, which puts
the path of the public address in front; what comes back passes `inside`.
"""

import ipaddress
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

DATABASES = "Use postgresql://user:password@host/name, sqlite:////path/file.db, or nothing: then it is a file in the data folder."
DRIVERS = {
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
    "postgresql+psycopg": "postgresql+psycopg",
    "sqlite": "sqlite",
    "sqlite+pysqlite": "sqlite",
}
DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class PublicAddress:
    """`host` in lower case and ASCII, an IPv6 address without brackets. `path`: what pages are under, "" or `/x/y`."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def origin(self) -> str:
        """As browsers write it in `Origin`: without the port that the scheme implies."""
        port = "" if self.port == DEFAULT_PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{f'[{self.host}]' if ':' in self.host else self.host}{port}"

    @property
    def url(self) -> str:
        return self.origin + self.path

    @property
    def for_passkeys(self) -> "PublicAddress | None":
        """The address whose passkeys browsers keep: its host has a name, and TLS unless it is this machine. None: no such.

        Browsers keep none for a number, so this machine goes by its name.
        """
        if is_loopback(self.host):
            return replace(self, host="localhost") if _is_number(self.host) else self
        return self if self.scheme == "https" and not _is_number(self.host) else None


@dataclass(frozen=True, slots=True)
class Site:
    """What browsers must be told of where pages are: the path before each, the port, and whether it is TLS.

    Cookies know no ports, so their names do: two Prefloops on one machine don't sign each other's people out.
    """

    root: str = ""
    port: int = 8000
    is_secure: bool = False

    @property
    def cookie_path(self) -> str:
        return self.root or "/"

    @property
    def session_cookie(self) -> str:
        return self._cookie("prefloop")

    @property
    def earlier_session_cookie(self) -> str:
        """The name before ports were part of it."""
        return "__Host-prefloop" if self.is_secure else "prefloop"

    @property
    def flash_cookie(self) -> str:
        return self._cookie("prefloop_flash")

    @property
    def passkey_cookie(self) -> str:
        return self._cookie("prefloop_passkey")

    @property
    def theme_cookie(self) -> str:
        return self._cookie("prefloop_theme")

    def _cookie(self, name: str) -> str:
        """`__Host-` makes browsers refuse the cookie from a subdomain or over plain HTTP; it needs TLS and no path."""
        prefix = "" if not self.is_secure else "__Secure-" if self.root else "__Host-"
        return f"{prefix}{name}_{self.port}"


PLAIN = Site()
SITE: ContextVar[Site] = ContextVar("site", default=PLAIN)


@lru_cache(maxsize=64)
def public_address(text: str) -> PublicAddress:
    """The parts of an address that somebody configured. Raises ValueError, in words."""
    parts = split_url(text)
    if parts.scheme not in DEFAULT_PORTS or not parts.netloc:
        raise ValueError(
            f"“{text[:100]}” must begin with http:// or https:// and name a host, as in https://prefloop.example."
        )
    if parts.query or parts.fragment or "@" in parts.netloc:
        raise ValueError(
            f"“{text[:100]}” must be a plain address: scheme, host, and a port or a path where there is one."
        )
    try:
        host, port = host_name(parts.hostname or ""), parts.port or DEFAULT_PORTS[parts.scheme]
    except ValueError:
        raise ValueError(f"“{parts.netloc[:100]}” isn't a host with a port.") from None
    path = parts.path.rstrip("/")
    words = path.split("/")[1:]
    if any(
        word in ("", ".", "..") or not word.replace("-", "").replace("_", "").replace(".", "").isalnum()
        for word in words
    ):
        raise ValueError(f"The path “{path[:100]}” may hold letters, digits, dots, dashes and underscores.")
    return PublicAddress(parts.scheme, host, port, path)


def host_and_port(text: str) -> str:
    """`host:port` of a server, in lower case and ASCII, an IPv6 address in brackets. Raises ValueError, in words."""
    try:
        parts = split_url(f"//{text}")
        host, port = host_name(parts.hostname or ""), parts.port
    except ValueError:
        host, port = "", None
    if not host or not port or parts.path or "@" in parts.netloc:
        raise ValueError(f"“{text[:100]}” isn't a host with a port, as in 127.0.0.1:8080 or models.example:443.")
    return f"{f'[{host}]' if ':' in host else host}:{port}"


def database_address(text: str) -> str:
    """A database's address with the driver that Prefloop has for it. Raises ValueError, in words.

    `postgres://` is what hosting services write for PostgreSQL.
    """
    try:
        url = make_url(text.strip())
    except (ArgumentError, ValueError):
        raise ValueError(f"This isn't the address of a database. {DATABASES}") from None
    if url.drivername not in DRIVERS:
        raise ValueError(f"Prefloop doesn't work with {url.drivername}. {DATABASES}")
    return url.set(drivername=DRIVERS[url.drivername]).render_as_string(hide_password=False)


def sqlite_address(file: Path) -> str:
    """Not an f-string: a folder's name may hold what means something in a URL."""
    return URL.create("sqlite", database=str(file)).render_as_string(hide_password=False)


def broker_address(text: str) -> str:
    """A message broker's address. Raises ValueError, in words."""
    if split_url(text).scheme not in ("redis", "rediss", "filesystem"):
        raise ValueError(
            "A broker is Redis (redis://host:6379/0 or rediss://…), or nothing: then it is files in the data folder."
        )
    return text.strip()


def split_url(url: str) -> SplitResult:
    """The parts of an address that somebody sent; all empty where it is none, such as `http://[`."""
    try:
        parts = urlsplit(url.strip())
        _ = parts.port  # it is read only now, and may be no number
    except ValueError:
        return SplitResult("", "", "", "", "")
    return parts


def host_name(name: str) -> str:
    """A host's name or number as it is compared: lower case, ASCII, no dot at its end. Raises ValueError."""
    name = name.strip("[]").rstrip(".").lower()
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        pass
    if not name.isascii():
        import idna  # here, not above: few hosts need it

        name = idna.encode(name, uts46=True).decode()
    if not name or not all(
        part and len(part) < 64 and part.replace("-", "").replace("_", "").isalnum() for part in name.split(".")
    ):
        raise ValueError(f"“{name[:100]}” isn't a host's name.")
    return name


@lru_cache(256)  # each request asks two or three times, of the same few
def host_of(header: str) -> str | None:
    """The name in a Host header, without its port; None where there is none."""
    try:
        return host_name(split_url(f"//{header}").hostname or "")
    except ValueError:
        return None


def origin_of(text: str | None) -> str | None:
    """An origin as it is compared: `http://Box.example:80` is `http://box.example`. None for what is none."""
    try:
        return public_address(text).origin if text else None
    except ValueError:
        return None


def _is_number(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_loopback(host: str | None) -> bool:
    if host == "localhost" or (host or "").endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address((host or "").strip("[]")).is_loopback
    except ValueError:
        return False


def at(path: str) -> str:
    """The path of a page of ours as browsers see it. Leaves alone what isn't one: another site, `#part`, `?query`."""
    return SITE.get().root + path if path.startswith("/") and not path.startswith("//") else path


def inside(path: str) -> str:
    """What `at` undoes: our own path of one that a browser sent."""
    root = SITE.get().root
    if root and (path == root or path.startswith((root + "/", root + "?"))):
        rest = path[len(root) :]
        return rest if rest.startswith("/") else "/" + rest
    return path
