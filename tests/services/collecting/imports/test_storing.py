"""One batch into a project: whose a vote is, and what contradicts what was said before."""

import json
import random

import pytest
from sqlalchemy import select

from app.db import read_session
from app.models import Choice, ImportState, Judgment, Slot, SlotState
from app.services.collecting import counts, recount
from tests.factory import Factory
from tests.services.collecting.imports.test_load import load


def test_a_named_vote_never_contradicts_the_importing_persons(factory: Factory) -> None:
    project, engineer = factory.project(), factory.engineer()
    pair = {"prompt": "q", "response_a": "a", "response_b": "b"}
    assert load(factory, project, json.dumps(pair | {"winner": "a"}).encode(), engineer).judged == 1
    named = load(factory, project, json.dumps(pair | {"winner": "b", "judge": "Ada"}).encode(), engineer)
    assert (named.judged, named.rejected, named.state) == (1, 0, ImportState.DONE)
    other = load(factory, project, json.dumps(pair | {"winner": "b"}).encode(), engineer)
    assert (other.rejected, other.rejections[0]["reason"]) == (1, "contradicts_earlier")


def test_a_tie_that_a_file_tells_is_a_judgment(factory: Factory) -> None:
    row = load(factory, factory.project(), b'{"prompt": "q", "response_a": "a", "response_b": "b", "winner": "tie"}')
    assert (row.added, row.judged) == (1, 1)


@pytest.mark.parametrize("wanted", [1, 2])
def test_a_vote_on_a_new_pair_fills_its_slot(factory: Factory, wanted: int) -> None:
    project, engineer = factory.project(judgments_per_comparison=wanted), factory.engineer()
    pair = {"response_a": "a", "response_b": "b"}
    lines = [
        {"prompt": "judged", **pair, "winner": "a"},
        {"prompt": "judged", **pair, "winner": "b"},  # contradicts the line before
        {"prompt": "judged later", **pair},
        {"prompt": "judged later", **pair, "winner": "tie"},
        {"prompt": "of a rater", **pair, "winner": "a", "judge": "Ada"},
        {"prompt": "waits", **pair},
    ]
    row = load(factory, project, "\n".join(map(json.dumps, lines)).encode(), engineer)
    assert (row.added, row.judged, row.duplicates, row.rejected) == (4, 3, 1, 1)
    with read_session(factory.engine) as session:
        judgments = session.scalars(select(Judgment).order_by(Judgment.id)).all()
        slots = {slot.id: slot for slot in session.scalars(select(Slot))}
        assert len(slots) == 4 * wanted
        filled = [(slots[one.slot_id or 0], one) for one in judgments]
        assert [one.choice for one in judgments] == [Choice.FIRST, Choice.TIE, Choice.FIRST]
        for slot, one in filled:
            assert (slot.state, slot.holder_id, slot.ordinal) == (SlotState.DONE, one.user_id, 1)
            assert slot.comparison_id == one.comparison_id
        assert sum(slot.state is SlotState.OPEN for slot in slots.values()) == 4 * wanted - 3
        figures = counts.figures(session, project_id=project.id, user_id=engineer.id)
        assert (figures.wanted, figures.done, figures.judged) == (4 * wanted, 3, 3 if wanted == 1 else 0)
        assert (figures.offered, figures.known_offered) == ((1, 0) if wanted == 1 else (4, 2))
        assert recount.check(session) == []


@pytest.mark.parametrize("wanted", [1, 3])
@pytest.mark.parametrize("seed", range(3))
def test_whatever_a_file_says_of_pairs_again_and_again_slots_and_counts_agree(
    factory: Factory, seed: int, wanted: int
) -> None:
    drawn = random.Random(seed)
    project, engineer = factory.project(judgments_per_comparison=wanted), factory.engineer()
    for _ in range(2):
        lines = [drawn_line(drawn) for _ in range(60)]
        load(factory, project, "\n".join(map(json.dumps, lines)).encode(), engineer)
    with read_session(factory.engine) as session:
        judged = set(
            session.scalars(select(Judgment.slot_id).where(Judgment.slot_id.is_not(None), ~Judgment.superseded))
        )
        done = set(session.scalars(select(Slot.id).where(Slot.state == SlotState.DONE)))
        assert done and done == judged
        assert recount.check(session) == []


def drawn_line(drawn: random.Random) -> dict[str, object]:
    """One of few pairs, either way round, with or without a vote, the importing person's or somebody else's."""
    answers = ["a", "b"]
    if drawn.random() < 0.3:
        answers.reverse()
    line: dict[str, object] = {"prompt": f"q{drawn.randrange(12)}", "response_a": answers[0], "response_b": answers[1]}
    if drawn.random() < 0.7:
        line["winner"] = drawn.choice(["a", "b", "tie", "skip"])
    if drawn.random() < 0.4:
        line["judge"] = drawn.choice(["Ada", "Bo", "Cy"])
    return line
