"""Prompts are drawn among those that nobody trained on and that somebody is left for."""

from typing import Any

import pytest
from sqlalchemy import Engine

from app.config import Settings
from app.db import read_session, write_session
from app.models import Prompt, PromptGroup, Split
from app.services.loop.evaluating import choosing
from app.services.loop.evaluating.choosing import Chosen
from app.services.loop.evaluating.wanted import Wanted
from tests.factory import Factory
from tests.services.loop.batch import Batch


@pytest.fixture
def batch(engine: Engine, settings: Settings, factory: Factory) -> Batch:
    return Batch(engine, settings, factory)


def choose(batch: Batch, seed: int = 5, **wanted: Any) -> Chosen:
    with read_session(batch.engine) as session:
        return choosing.choose(session, project=batch.project, wanted=Wanted(**wanted), seed=seed)


def together(batch: Batch, *prompt_ids: int) -> None:
    with write_session(batch.engine) as session:
        group = PromptGroup(project_id=batch.project.id, split=Split.EVAL)
        session.add(group)
        session.flush()
        for prompt_id in prompt_ids:
            session.get_one(Prompt, prompt_id).group_id = group.id


def test_the_order_is_drawn_and_can_be_drawn_again(batch: Batch) -> None:
    ids = batch.prompts(30)
    chosen = choose(batch)
    assert sorted(number for number, _ in chosen.prompts) == ids and [number for number, _ in chosen.prompts] != ids
    assert choose(batch) == chosen != choose(batch, seed=6)
    assert len(choose(batch, maximum=7).prompts) == 7


def test_only_prompts_of_the_wanted_split_serve(batch: Batch) -> None:
    batch.prompts(3)
    (kept,) = batch.prompts(1, split=Split.KEPT)
    assert [number for number, _ in choose(batch, prompts=Split.KEPT).prompts] == [kept]


def test_of_near_duplicates_one_serves_and_none_that_is_trained_on(batch: Batch) -> None:
    one, other, third = batch.prompts(3)
    (trained,) = batch.prompts(1, split=Split.TRAIN)
    together(batch, one, other)
    together(batch, third, trained)
    chosen = choose(batch)
    assert len(chosen.prompts) == 1 and chosen.prompts[0][0] in (one, other)
    assert dict(chosen.left_out) == {"alike": 1, "trained": 1}


def test_prompts_that_everybody_knows_are_left_out(engine: Engine, settings: Settings, factory: Factory) -> None:
    batch = Batch(engine, settings, factory, people=1, open_to_everybody=False)
    batch.prompts(2)
    assert choose(batch).people == 1 and len(choose(batch).prompts) == 2  # the one who made the project
    assert dict(choose(batch, votes=2).left_out) == {"known": 2}
