"""Which comparisons a snapshot holds, in bitmaps."""

from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine

from app.db import read_session
from app.models.lineage import BLOCK
from app.services.datasets import members
from tests.factory import Factory


@given(st.sets(st.integers(1, 3 * BLOCK)), st.integers(1, 4 * BLOCK))
def test_bitmaps_hold_what_was_put_in_and_nothing_else(ids: set[int], other: int) -> None:
    blocks = members.blocks_of(ids)
    assert all(members.has(blocks, number) for number in ids)
    assert members.has(blocks, other) is (other in ids)
    assert all(len(block) == BLOCK // 8 for block in blocks.values())


def test_a_frozen_snapshot_says_which_pairs_it_holds(engine: Engine, factory: Factory) -> None:
    project = factory.judged(5)
    factory.comparison(project)
    factory.snapshot(project)
    with read_session(engine) as session:
        held = {n: members.holding(session, project_id=project.id, comparison_id=n) for n in range(1, 8)}
    assert held == {1: [1], 2: [1], 3: [1], 4: [1], 5: [1], 6: [], 7: []}
