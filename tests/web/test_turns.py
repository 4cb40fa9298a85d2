"""Turns: few at once, each client's requests in their order, and whoever asks for much waits behind whoever asks for little."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from app import writer
from app.web.turns import ServerFull, Turns, client_of


@pytest.fixture(autouse=True)
def counted_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some turns here are never given back, and the process counts them."""
    monkeypatch.setattr(writer.Answering, "count", 0)


def run(scenario: Callable[[], Awaitable[Any]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(60):
            await scenario()

    asyncio.run(limited())


async def wait_for(turns: Turns, client: bytes, order: list[str], name: str) -> asyncio.Task[bool]:
    """A request that notes its name when it gets its turn; here once it waits."""

    async def take() -> bool:
        waited = await turns.take(client)
        order.append(name)
        return waited

    task = asyncio.create_task(take())
    await asyncio.sleep(0)
    return task


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_turns_that_are_free_are_taken_without_waiting() -> None:
    async def scenario() -> None:
        turns = Turns(2)
        assert not await turns.take(b"a") and not await turns.take(b"a")
        assert turns.free == 0
        turns.give_back()
        turns.give_back()
        assert turns.free == 2

    run(scenario)


def test_clients_take_turns_and_each_in_the_order_in_which_it_came() -> None:
    async def scenario() -> None:
        turns, order = Turns(1), []  # type: ignore[var-annotated]
        await turns.take(b"first")
        tasks = [await wait_for(turns, b"many", order, f"many {number}") for number in range(3)]
        tasks += [await wait_for(turns, b"few", order, f"few {number}") for number in range(2)]
        for _ in range(5):
            turns.give_back()
            await settle()
        assert order == ["many 0", "few 0", "many 1", "few 1", "many 2"]
        assert await asyncio.gather(*tasks) == [True] * 5
        assert (turns.waiting, turns.free) == (0, 0)

    run(scenario)


def test_who_goes_away_while_it_waits_takes_no_turn_with_it() -> None:
    async def scenario() -> None:
        turns, order = Turns(1), []  # type: ignore[var-annotated]
        await turns.take(b"a")
        gone, stays = await wait_for(turns, b"b", order, "gone"), await wait_for(turns, b"b", order, "stays")
        gone.cancel()
        await settle()
        assert turns.waiting == 1
        turns.give_back()
        assert await stays and order == ["stays"]

    run(scenario)


def test_turn_given_in_the_moment_in_which_its_owner_leaves_goes_on() -> None:
    async def scenario() -> None:
        turns, order = Turns(1), []  # type: ignore[var-annotated]
        await turns.take(b"a")
        gone, stays = await wait_for(turns, b"b", order, "gone"), await wait_for(turns, b"c", order, "stays")
        turns.give_back()  # it is gone's now, who doesn't know yet
        gone.cancel()
        assert await stays and order == ["stays"]
        turns.give_back()
        assert (turns.waiting, turns.free) == (0, 1)

    run(scenario)


def test_who_waits_too_long_is_told_so() -> None:
    async def scenario() -> None:
        turns = Turns(1, seconds=0.01)
        await turns.take(b"a")
        with pytest.raises(ServerFull) as told:
            await turns.take(b"b")
        assert told.value.details["retry_after"] and turns.waiting == 0
        turns.give_back()
        assert turns.free == 1

    run(scenario)


def test_where_all_places_are_taken_the_newest_of_who_has_the_most_gives_way() -> None:
    async def scenario() -> None:
        turns, order = Turns(1, waiting=3), []  # type: ignore[var-annotated]
        await turns.take(b"a")
        many = [await wait_for(turns, b"many", order, f"many {number}") for number in range(3)]
        few = await wait_for(turns, b"few", order, "few")
        with pytest.raises(ServerFull):
            await many[2]
        with pytest.raises(ServerFull):  # another of its own would only push out one of its own
            await turns.take(b"many")
        assert turns.waiting == 3
        for _ in range(3):
            turns.give_back()
            await settle()
        assert await few and order == ["many 0", "few", "many 1"]

    run(scenario)


def test_turn_is_given_back_when_its_work_fails() -> None:
    async def scenario() -> None:
        turns = Turns(1)
        with pytest.raises(ZeroDivisionError):
            async with turns.one(b"a"):
                raise ZeroDivisionError
        assert turns.free == 1

    run(scenario)


def test_client_is_told_apart_by_token_then_cookie_then_address() -> None:
    def scope(**headers: str) -> dict[str, Any]:
        pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
        return {"type": "http", "headers": pairs, "client": ("192.0.2.1", 1)}

    assert client_of(scope(authorization="Bearer x", cookie="y")) == b"Bearer x"
    assert client_of(scope(cookie="y")) == b"y"
    assert client_of(scope()) == b"192.0.2.1"
    assert client_of({"type": "http", "headers": [], "client": None}) == b""
