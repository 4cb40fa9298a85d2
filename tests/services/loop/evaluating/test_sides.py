"""What a checkpoint can be compared with."""

import pytest
from sqlalchemy import Engine

from app.config import Settings
from app.db import read_session
from app.errors import Invalid, NotFound
from app.services.loop.evaluating import sides
from tests.factory import Factory
from tests.services.loop.batch import Batch


def test_the_opponent_is_base_parent_or_another_checkpoint_of_the_project(
    engine: Engine, settings: Settings, factory: Factory
) -> None:
    batch, elsewhere = Batch(engine, settings, factory), Batch(engine, settings, factory)
    own, foreign = batch.checkpoint.id, elsewhere.checkpoint.id
    with read_session(engine) as session:
        for word in ("base", "parent"):
            two = sides.resolve(session, checkpoint_id=own, opponent=word)
            assert two.opponent is None and two.model == "tiny"
        for wrong, error in (
            (" " * 12 + str(own), Invalid),
            (str(own), Invalid),
            ("best", Invalid),
            (str(foreign), NotFound),
            ("99999", NotFound),
        ):
            with pytest.raises(error):
                sides.resolve(session, checkpoint_id=own, opponent=wrong)
