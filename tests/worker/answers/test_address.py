"""Where an endpoint's name leads is looked up once, and some places are nobody's server."""

import socket
from typing import Any

import pytest

from worker.answers import address
from worker.answers.told import Failed


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """What names lead to, by name."""
    known: dict[str, list[str]] = {}

    def look_up(name: str, port: int, **_: Any) -> list[Any]:
        if name not in known:
            raise socket.gaierror(-2, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (number, port)) for number in known[name]]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(address, "_listens", lambda number, port: number != "::1")
    return known


def test_a_name_is_replaced_by_its_number_and_still_named(names: dict[str, list[str]]) -> None:
    names["models.example"] = ["203.0.113.7"]
    pinned = address.pin("https://models.example/v1/")
    assert (pinned.url, pinned.host, pinned.name) == ("https://203.0.113.7:443/v1", "models.example", "models.example")
    names["models.example"] = ["127.0.0.1"]  # whoever answers for the name later changes nothing
    assert pinned.url == "https://203.0.113.7:443/v1"


def test_of_several_numbers_the_one_that_listens_is_taken(names: dict[str, list[str]]) -> None:
    names["localhost"] = ["::1", "127.0.0.1"]
    assert address.pin("http://localhost:11434/v1").url == "http://127.0.0.1:11434/v1"
    names["localhost"] = ["fd00::1"]
    assert address.pin("http://localhost:11434/v1").url == "http://[fd00::1]:11434/v1"


@pytest.mark.parametrize(
    "number", ["169.254.169.254", "::ffff:169.254.169.254", "fe80::1%eth0", "0.0.0.0", "224.0.0.1"]
)
def test_a_name_that_leads_where_no_server_is_is_refused(names: dict[str, list[str]], number: str) -> None:
    names["models.example"] = ["203.0.113.7", number]
    with pytest.raises(Failed) as refused:
        address.pin("http://models.example:80/v1")
    assert refused.value.reason == "endpoint_refused"


def test_a_name_without_an_address_is_told(names: dict[str, list[str]]) -> None:
    with pytest.raises(Failed, match=r"nowhere\.example"):
        address.pin("http://nowhere.example/v1")
