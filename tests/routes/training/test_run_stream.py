"""What many open pages of one run share."""

import asyncio

import pytest

from app.routes.training import run_stream


def test_many_pages_of_one_run_cost_one_rendering() -> None:
    made = []

    async def thousand() -> list[bytes]:
        lately = run_stream.Told()
        return await asyncio.gather(*(lately.once((1, 5, 9), lambda: made.append(1) or b"x") for _ in range(1000)))

    assert asyncio.run(thousand()) == [b"x"] * 1000
    assert len(made) == 1


def test_a_rendering_that_failed_is_tried_again() -> None:
    async def twice() -> bytes:
        lately = run_stream.Told()
        with pytest.raises(ZeroDivisionError):
            await lately.once((1, 5, 9), lambda: bytes(1 // 0))
        return await lately.once((1, 5, 9), lambda: b"y")

    assert asyncio.run(twice()) == b"y"
