"""Sources are told to nobody while an evaluation asks: not in lists, nor by searching for them, nor in what is taken out."""

import pytest
from sqlalchemy import Engine

from app.config import Settings
from app.db import read_session, write_session
from app.models import Comparison, Container, Evaluation, EvaluationPair, EvaluationState, Response, SourceKind
from app.services.collecting import listing
from app.services.collecting.blind import hidden
from app.services.collecting.listing import Filters
from app.services.datasets.extracts import extracts, own
from app.services.datasets.extracts.containers import chunks
from tests.factory import Factory
from tests.services.loop.evaluated import Evaluated

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
ENDED = (EvaluationState.DECIDED, EvaluationState.STOPPED, EvaluationState.VOID)


@pytest.fixture
def evaluated(engine: Engine, settings: Settings, factory: Factory) -> Evaluated:
    return Evaluated(engine, settings, factory)


def end(evaluated: Evaluated, row: Evaluation, state: EvaluationState) -> None:
    with write_session(evaluated.engine) as session:
        session.get_one(Evaluation, row.id).state = state


def ordinary_with_its_answer(evaluated: Evaluated, row: Evaluation) -> int:
    """An ordinary pair of which one answer is one that the evaluation asks about: a model gave the same one before."""
    with write_session(evaluated.engine) as session:
        pair = session.query(EvaluationPair).filter_by(evaluation_id=row.id).order_by(EvaluationPair.place).first()
        assert pair is not None and pair.new_response_id is not None
        session.get_one(Response, pair.new_response_id).source_name = "checkpoint 1"
        other = Response(
            prompt_id=pair.prompt_id, content_hash="e" * 64, text="Another.", characters=8, words=1,
            source_kind=SourceKind.MODEL, source_name="elsewhere",
        )  # fmt: skip
        session.add(other)
        session.flush()
        made = Comparison(
            project_id=evaluated.project.id, prompt_id=pair.prompt_id, first_response_id=pair.new_response_id,
            second_response_id=other.id, pair_hash="e" * 64,
        )  # fmt: skip
        session.add(made)
        session.flush()
        return made.id


@pytest.mark.parametrize("state", ENDED)
def test_sources_are_hidden_until_the_evaluation_has_ended(evaluated: Evaluated, state: EvaluationState) -> None:
    row = evaluated.evaluation("w", open_pairs=1)
    ordinary = ordinary_with_its_answer(evaluated, row)
    with read_session(evaluated.engine) as session:
        blind = [one.id for one in session.query(Comparison).filter_by(evaluation_id=row.id)]
        every = session.query(Comparison).all()
        assert hidden.of_pairs(session, every) == dict.fromkeys([*blind, ordinary], row.number)
    end(evaluated, row, state)
    with read_session(evaluated.engine) as session:
        assert hidden.of_pairs(session, session.query(Comparison).all()) == {}


def test_nobody_finds_a_pair_by_a_source_that_is_hidden(evaluated: Evaluated) -> None:
    row = evaluated.evaluation("w", open_pairs=1)
    ordinary = ordinary_with_its_answer(evaluated, row)

    def seen(**filters: str) -> dict[int, int]:
        with read_session(evaluated.engine) as session:
            rows = listing.comparisons(session, project=evaluated.project, filters=Filters(**filters))  # type: ignore[arg-type]
            return {one.comparison.id: one.hidden for one in rows.items}

    assert seen()[ordinary] == row.number and sum(seen().values()) == row.number
    assert ordinary not in seen(source="checkpoint 1") and ordinary not in seen(source="elsewhere")
    end(evaluated, row, EvaluationState.STOPPED)
    assert seen(source="checkpoint 1") == seen(source="elsewhere") == {ordinary: 0}


def test_an_extract_lacks_the_sources_and_says_when_it_has_them(evaluated: Evaluated) -> None:
    row = evaluated.evaluation("w", open_pairs=1)
    ordinary_with_its_answer(evaluated, row)

    def lines() -> list[dict[str, object]]:
        return list(own.rows(evaluated.engine, project_id=evaluated.project.id))

    during = [line for line in lines() if "sources_hidden" in line]
    assert [line.get("evaluation") for line in during] == [row.number, row.number, None]
    assert f"evaluation {row.number} asks" in str(during[0]["sources_hidden"])
    assert "source" not in str(during[0]["compared"])
    assert "checkpoint 1" not in str(during[2]) and "elsewhere" in str(during[2]), "only the answer that is asked about"
    told = extracts.told({"sources_hidden": 3})
    assert told == [
        "The sources of 3 pairs are hidden while a blind batch asks: take it out again when that has ended."
    ]
    assert b"".join(chunks(lines(), Container.PARQUET)).startswith(b"PAR1")
    end(evaluated, row, EvaluationState.DECIDED)
    after = lines()
    assert not any("sources_hidden" in line for line in after)
    assert "checkpoint 1" in str(after[-1])
