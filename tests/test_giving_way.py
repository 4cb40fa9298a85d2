"""Long work lets people go first, and gets on all the same."""

import asyncio
import threading
import time

import pytest

from app import writer
from app.web.turns import Turns


@pytest.fixture(autouse=True)
def nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is being answered but whom a test says."""
    monkeypatch.setattr(writer.Answering, "count", 0)


def test_who_works_long_waits_until_nobody_is_being_answered() -> None:
    went_on = threading.Event()

    def work() -> None:
        writer.give_way(longest=60)
        went_on.set()

    writer.answering_begins()
    thread = threading.Thread(target=work)
    thread.start()
    assert not went_on.wait(0.05)
    writer.answering_ends()
    thread.join(30)
    assert went_on.is_set() and writer.Answering.count == 0


def test_who_works_long_gets_on_where_people_never_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    clock = [0.0]

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        clock[0] += seconds

    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    writer.answering_begins()
    writer.give_way()
    writer.answering_ends()
    assert sum(slept) == pytest.approx(writer.LONGEST_SECONDS, abs=writer.LOOK_SECONDS)
    writer.give_way()
    assert sum(slept) == pytest.approx(writer.LONGEST_SECONDS, abs=writer.LOOK_SECONDS)


def test_a_request_is_being_answered_while_it_has_a_turn() -> None:
    async def ask() -> list[int]:
        turns, counts = Turns(1), []
        await turns.take(b"ann")
        counts.append(writer.Answering.count)
        other = asyncio.create_task(turns.take(b"bo"))
        await asyncio.sleep(0)
        counts.append(writer.Answering.count)
        turns.give_back()
        await other
        counts.append(writer.Answering.count)
        turns.give_back()
        counts.append(writer.Answering.count)
        return counts

    assert asyncio.run(ask()) == [1, 1, 1, 0]


def test_people_are_here_while_they_are_answered_and_a_moment_after(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1_000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(writer.Answering, "last", -float("inf"))
    assert not writer.people_are_here()
    writer.answering_begins()
    clock[0] += 60
    assert writer.people_are_here()
    writer.answering_ends()
    assert writer.people_are_here()
    clock[0] += writer.HERE_SECONDS
    assert not writer.people_are_here()
