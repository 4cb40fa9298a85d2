"""Endpoints: servers with OpenAI's chat completions that an admin added, such as vLLM, Ollama or llama.cpp's server.

Who runs Prefloop says in `PREFLOOP_ENDPOINT_HOSTS` which servers may be asked at all; an admin chooses among them.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app import security
from app.config import Settings
from app.errors import Conflict, Invalid, NotFound, Unavailable
from app.models import Endpoint, User
from app.models.base import now as clock
from app.services.accounts import audit
from app.site.addresses import host_and_port, public_address

PURPOSE = "endpoint key"
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
# Not any variable: an admin of the web page would else send whatever secret the worker's machine has to a server of theirs.
VARIABLE = re.compile(r"PREFLOOP_ENDPOINT_KEY(_[A-Z0-9_]{1,90})?")
CURRENCY = re.compile(r"[A-Z]{3}")
MOST_AT_ONCE = 64
MOST_A_MINUTE = 100_000
DEAREST = 1_000_000.0
LONGEST_KEY = 4_000
LONGEST_URL = 500  # as long as its column


class EndpointRefused(Invalid):
    """A server that Prefloop isn't allowed to ask."""

    code = "endpoint_refused"


@dataclass(frozen=True, slots=True)
class Wanted:
    """An endpoint as an admin describes it. Prices are per million tokens."""

    name: str
    base_url: str
    model: str
    key: str = ""
    key_variable: str = ""
    requests_per_minute: int | None = None
    at_once: int = 4
    price_prompt: float | None = None
    price_completion: float | None = None
    currency: str = ""


def add(session: Session, *, wanted: Wanted, by: User | None, settings: Settings) -> Endpoint:
    """Add a server. Nothing is asked of it. Raises Invalid with the field, EndpointRefused, Conflict for a name that is taken."""
    endpoint = Endpoint(created_by_id=by.id if by else None)
    _store(session, endpoint, _described(wanted, settings) | _key(wanted, settings))
    _note(session, endpoint, by, "endpoint.add")
    return endpoint


def change(
    session: Session, *, endpoint: Endpoint, wanted: Wanted, by: User | None, settings: Settings, drop_key: bool = False
) -> Endpoint:
    """Describe a server anew; what asks it from now on asks as it says. Its key stays unless another one or a variable is given, or
    it is to go. Raises what `add` raises, and Invalid for a sealed key that another server would get to see."""
    described = _described(wanted, settings)
    key = _key(wanted, settings)
    if not (any(key.values()) or drop_key):
        if endpoint.key_sealed and _server(endpoint.base_url) != _server(str(described["base_url"])):
            raise Invalid(
                f"The key of {endpoint.name} was given for {_server(endpoint.base_url)}, and another server would get it.",
                "Give the key again, or have it removed.",
                field="key",
            )
        key = {"key_variable": endpoint.key_variable, "key_sealed": endpoint.key_sealed}
    _store(session, endpoint, described | key)
    _note(session, endpoint, by, "endpoint.change")
    return endpoint


def _described(wanted: Wanted, settings: Settings) -> dict[str, Any]:
    """All but the key, checked."""
    name = wanted.name.strip().lower()
    if not NAME.fullmatch(name):
        raise Invalid(
            f"“{wanted.name[:80]}” can't name an endpoint.",
            "Use up to 64 small letters, digits, dots, dashes and underscores.",
            field="name",
        )
    model = wanted.model.strip()
    if not 1 <= len(model) <= 255 or security.has_control_characters(model):
        raise Invalid("The model has no name.", "Write it as the server calls it.", field="model")
    return {
        "name": name, "base_url": checked_url(wanted.base_url, settings), "model": model, **_limits(wanted),
        **_prices(wanted),
    }  # fmt: skip


def _server(url: str) -> str:
    """Its host and port. Raises ValueError."""
    address = public_address(url)
    return host_and_port(f"{f'[{address.host}]' if ':' in address.host else address.host}:{address.port}")


def _store(session: Session, endpoint: Endpoint, values: dict[str, Any]) -> None:
    try:
        with session.begin_nested():
            for name, value in values.items():
                setattr(endpoint, name, value)
            session.add(endpoint)
            session.flush()
    except IntegrityError:
        raise Conflict(
            f"There is an endpoint named {values['name']} already.", "Choose another name, or remove it."
        ) from None


def _note(session: Session, endpoint: Endpoint, by: User | None, action: str) -> None:
    audit.record(
        session,
        by=by,
        action=action,
        target=f"endpoint {endpoint.name}",
        base_url=endpoint.base_url,
        model=endpoint.model,
        key="sealed" if endpoint.key_sealed else endpoint.key_variable or "none",
    )


def checked_url(text: str, settings: Settings) -> str:
    """The address of its API, without a slash at its end. Raises Invalid, and EndpointRefused by the name of the setting."""
    try:
        address = public_address(text.strip())
    except ValueError as problem:
        raise Invalid(str(problem), "For example: http://127.0.0.1:8080/v1", field="base_url") from None
    if len(address.url) > LONGEST_URL:
        raise Invalid(
            f"The address has {len(address.url):,} characters.", f"Use up to {LONGEST_URL}.", field="base_url"
        )
    server = _server(address.url)
    if server not in settings.endpoint_hosts.split(","):
        raise EndpointRefused(
            f"{server} isn't among the servers that Prefloop may ask.",
            f"Whoever runs Prefloop adds {server} to PREFLOOP_ENDPOINT_HOSTS, for the web server and the workers.",
            field="base_url",
        )
    return address.url


def _key(wanted: Wanted, settings: Settings) -> dict[str, str]:
    key, variable = wanted.key.strip(), wanted.key_variable.strip()
    if key and variable:
        raise Invalid("A key and a variable were given.", "Give one of them.", field="key")
    if variable and not VARIABLE.fullmatch(variable):
        raise Invalid(
            f"“{variable[:80]}” can't hold the key of an endpoint.",
            "Name a variable of the workers that begins with PREFLOOP_ENDPOINT_KEY, such as PREFLOOP_ENDPOINT_KEY_VLLM.",
            field="key_variable",
        )
    if len(key) > LONGEST_KEY or not key.isascii() or not key.isprintable():
        raise Invalid("That can't be a key.", "A key is one line of plain characters.", field="key")
    return {"key_variable": variable, "key_sealed": security.seal(settings.secret, PURPOSE, key) if key else ""}


def _limits(wanted: Wanted) -> dict[str, int | None]:
    if not 1 <= wanted.at_once <= MOST_AT_ONCE:
        raise Invalid(f"{wanted.at_once} calls at once were wanted.", f"Choose 1 to {MOST_AT_ONCE}.", field="at_once")
    rate = wanted.requests_per_minute
    if rate is not None and not 1 <= rate <= MOST_A_MINUTE:
        raise Invalid(
            f"{rate} calls a minute were wanted.",
            f"Choose 1 to {MOST_A_MINUTE:,}, or nothing for no limit.",
            field="requests_per_minute",
        )
    return {"at_once": wanted.at_once, "requests_per_minute": rate}


def _prices(wanted: Wanted) -> dict[str, float | str | None]:
    currency = wanted.currency.strip().upper()
    prices = {"price_prompt": wanted.price_prompt, "price_completion": wanted.price_completion}
    for field, price in prices.items():
        if price is not None and not 0 <= price <= DEAREST:
            raise Invalid("That can't be a price.", "Write the price of a million tokens.", field=field)
    if any(price is not None for price in prices.values()) and not CURRENCY.fullmatch(currency):
        raise Invalid("A price needs its currency.", "Write three letters, such as EUR.", field="currency")
    return {**prices, "currency": currency if CURRENCY.fullmatch(currency) else ""}


def listing(session: Session) -> list[Endpoint]:
    """Those that weren't removed, by name."""
    return list(session.scalars(select(Endpoint).where(Endpoint.removed_at.is_(None)).order_by(Endpoint.name)))


def by_name(session: Session, name: str) -> Endpoint:
    """Raises NotFound with the names that there are."""
    known = {one.name: one for one in listing(session)}
    if name not in known:
        raise NotFound(
            f"There is no endpoint named “{name[:64]}” (there: {', '.join(known) or 'none yet'}).",
            "An admin adds one on the page of endpoints, or with: prefloop endpoints add",
            field="sources",
        )
    return known[name]


def get(session: Session, endpoint_id: int) -> Endpoint:
    """Raises NotFound, also for one that was removed."""
    endpoint = session.get(Endpoint, endpoint_id)
    if endpoint is None or endpoint.removed_at is not None:
        raise NotFound(f"There is no endpoint {endpoint_id}.", "Look at the page of endpoints.")
    return endpoint


def remove(session: Session, *, endpoint: Endpoint, by: User | None, now: datetime | None = None) -> None:
    """Nothing asks it any more, and its key is gone. What it answered stays. Its name is free again."""
    audit.record(session, by=by, action="endpoint.remove", target=f"endpoint {endpoint.name}")
    endpoint.name = f"{endpoint.name[:48]}~{endpoint.id}"
    endpoint.key_sealed, endpoint.removed_at = "", now or clock()
    session.flush()


def key_of(endpoint: Endpoint, settings: Settings, environment: Mapping[str, str]) -> str:
    """Its key, empty where it needs none. Raises Unavailable where a worker can't read it."""
    if endpoint.key_variable:
        key = environment.get(endpoint.key_variable, "").strip()
        if not key:
            raise Unavailable(
                f"The key of endpoint {endpoint.name} isn't there: this worker has no {endpoint.key_variable}.",
                "Set it where the worker runs, start it again, then press Retry.",
            )
        return key
    if not endpoint.key_sealed:
        return ""
    opened = security.unseal(settings.secret, PURPOSE, endpoint.key_sealed)
    if opened is None:
        raise Unavailable(
            f"The key of endpoint {endpoint.name} can't be opened: this worker's PREFLOOP_SECRET_KEY is another.",
            "Give web server and workers the same key, or remove the endpoint and add it again.",
        )
    return opened
