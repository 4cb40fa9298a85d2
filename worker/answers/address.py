"""The address of an endpoint, looked up once: who answers its name later changes nothing."""

import ipaddress
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

from worker.answers.told import Failed

DEFAULT_PORTS = {"http": 80, "https": 443}
CONNECT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Pinned:
    """`url`: the API's, at the number of the server; `host`: the header that names it; `name`: what its certificate must say."""

    url: str
    host: str
    name: str


def pin(base_url: str) -> Pinned:
    """Look the server's name up. Raises Failed where it has no address, or one that no server of answers has."""
    parts = urlsplit(base_url)
    name, port = parts.hostname or "", parts.port or DEFAULT_PORTS[parts.scheme]
    try:
        seen = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    except OSError as problem:
        raise Failed(
            "endpoint_unreachable", f"The name {name} can't be looked up: {problem.strerror or problem}."
        ) from None
    numbers = [str(address[0]).partition("%")[0] for *_, address in seen]
    if refused := [number for number in numbers if _is_no_server(number) and number != name]:
        raise Failed(
            "endpoint_refused",
            f"{name} leads to {refused[0]}, where machines keep what is theirs alone. Nothing was asked. "
            "Look at the name's DNS entry.",
        )
    # A name may have an address on which nobody listens, as localhost has where a server knows IPv4 alone.
    number = next((one for one in numbers if _listens(one, port)), numbers[0])
    at = f"[{number}]" if ":" in number else number
    return Pinned(f"{parts.scheme}://{at}:{port}{parts.path.rstrip('/')}", parts.netloc, name)


def _listens(number: str, port: int) -> bool:
    try:
        socket.create_connection((number, port), CONNECT_SECONDS).close()
    except OSError:
        return False
    return True


def _is_no_server(number: str) -> bool:
    """Link-local addresses hold the secrets of machines in a cloud; the others belong to nobody."""
    address = ipaddress.ip_address(number)
    mapped = getattr(address, "ipv4_mapped", None)
    address = mapped or address
    return address.is_link_local or address.is_multicast or address.is_unspecified
