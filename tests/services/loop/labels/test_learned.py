"""What the runs of a study say of whose preferences were learned."""

import pytest
from sqlalchemy import Engine

from app.config import Settings
from app.db import read_session
from app.models import PersonStudy
from app.services.loop.labels import learned
from tests.factory import Factory
from tests.services.loop.labels.studied import Studied


@pytest.fixture
def studied(engine: Engine, settings: Settings, factory: Factory) -> Studied:
    return Studied(engine, settings, factory)


def compared(engine: Engine, study: PersonStudy) -> PersonStudy:
    with read_session(engine) as session:
        return session.get_one(PersonStudy, study.id)


def test_what_is_lost_without_somebody_s_votes_is_what_they_taught(engine: Engine, studied: Studied) -> None:
    study = studied.begin(studied.ana, studied.ben)
    assert learned.settle_all(engine, studied.storage) == [], "its runs wait"
    studied.finish(study)
    assert learned.settle_all(engine, studied.storage) == [study.id]
    assert learned.settle_all(engine, studied.storage) == [], "once"
    result = compared(engine, study).result
    assert result is not None and result["problem"] == ""
    told = {one["user_id"]: one for one in result["people"]}
    ana, ben = told[studied.ana.id], told[studied.ben.id]
    lines = studied.lines(studied.run, "eval.jsonl")
    of_ben = sum(studied.of_ben(line["comparison_id"]) for line in lines)
    assert (ben["own"]["value"], ben["own"]["count"]) == (1.0, of_ben)
    assert (ben["others"]["value"], ben["others"]["low"], ben["others"]["high"]) == (0.0, 0.0, 0.0)
    assert ben["labels"]["value"] == pytest.approx(of_ben / len(lines))
    assert ben["labels"]["low"] < ben["labels"]["value"] < ben["labels"]["high"]
    assert ana["own"]["value"] == ana["labels"]["value"] == 0.0
    assert (ana["agreement"]["value"], ana["agreement"]["count"]) == (1.0, len(lines) - of_ben)
    assert "their preferences were learned; one seed" in learned.sentence(ben, "Ben", 1)
    assert "no sign" in learned.sentence(ana, "Ana", 3)


def test_a_run_that_left_no_margins_is_said(engine: Engine, studied: Studied) -> None:
    study = studied.begin(studied.ben)
    studied.finish(study, margins=False)
    learned.settle_all(engine, studied.storage)
    result = compared(engine, study).result
    assert result is not None and "left no margins" in result["problem"] and result["people"] == []


def test_what_nobody_foresaw_is_said_of_that_study_and_not_tried_for_ever(
    engine: Engine, studied: Studied, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise KeyError("lines")

    study = studied.begin(studied.ben)
    studied.finish(study)
    monkeypatch.setattr(learned, "_compare", broken)
    assert learned.settle_all(engine, studied.storage)
    result = compared(engine, study).result
    assert result is not None and "Its comparison broke: KeyError: 'lines'" in result["problem"]
    assert learned.settle_all(engine, studied.storage) == []
