"""A verdict is computed from rows, kept with its evaluation, and computed again when more was judged."""

from datetime import timedelta

import pytest

from app.db import read_session, write_session
from app.errors import NotFound
from app.models import Evaluation, EvaluationPair, EvaluationState, Judgment
from app.models.base import now
from app.services.loop import verdicts
from app.services.loop.verdict import words
from app.stats.loop.decision import Stop, Word
from tests.services.loop.evaluated import Evaluated, outcomes


def test_a_decided_evaluation_reads_in_a_minute(evaluated: Evaluated) -> None:
    row = evaluated.evaluation(outcomes(60, 20, 10, 10), state=EvaluationState.DECIDED, people=4)
    told = verdicts.current(evaluated.engine, row.id)
    verdict = told.verdict
    assert verdict is not None
    assert (verdict.word, verdict.stop, verdict.prompts) == (Word.BETTER, Stop.GOAL, 100)
    assert (verdict.won, verdict.lost, verdict.tied, verdict.same) == (60, 20, 20, 10)
    assert (verdict.judgments, verdict.people, verdict.to_go) == (90, 4, None)
    assert verdict.win_rate.value == pytest.approx(0.70)
    assert verdict.win_rate.low > 0.5
    summary = words.summary(told.evaluation, verdict)
    assert summary.startswith("Better. 70 % of 100 prompts, judged blind by 4 people (")
    assert "10 of 100: same answer." in words.lines(verdict)
    assert len(verdict.by_person) == len(verdict.without) == len(verdict.speed) == 4
    assert set(told.names) == {person.id for person in evaluated.people}
    assert verdict.looks[-1].prompts == 100
    assert verdict.looks[-1].low == pytest.approx(verdict.win_rate.low)


def test_what_is_kept_is_read_without_computing_and_is_the_same(
    evaluated: Evaluated, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = evaluated.evaluation(outcomes(30, 10), state=EvaluationState.DECIDED)
    first = verdicts.current(evaluated.engine, row.id)
    monkeypatch.setattr(verdicts.figures, "compute", lambda *args, **more: 1 / 0)
    again = verdicts.current(evaluated.engine, row.id)
    assert again.verdict == first.verdict
    assert again.evaluation.word == "better"


def test_a_running_batch_is_computed_again_when_more_was_judged_and_half_a_minute_is_over(evaluated: Evaluated) -> None:
    row = evaluated.evaluation(outcomes(12, 8), open_pairs=20)
    began = now()
    first = verdicts.current(evaluated.engine, row.id, now=began).verdict
    assert first is not None and (first.word, first.stop, first.prompts) == (Word.UNDECIDED, None, 20)
    assert first.to_go is not None
    with write_session(evaluated.engine) as session:
        pair = session.query(EvaluationPair).filter_by(evaluation_id=row.id, place=20).one()
        pair.value = 1.0
        session.add(
            Judgment(
                project_id=evaluated.project.id,
                comparison_id=pair.comparison_id,
                user_id=evaluated.people[0].id,
                choice="first",
            )
        )
    soon = verdicts.current(evaluated.engine, row.id, now=began + timedelta(seconds=5)).verdict
    assert soon == first
    later = verdicts.current(evaluated.engine, row.id, now=began + timedelta(seconds=31)).verdict
    assert later is not None and later.prompts == 21


def test_the_end_of_a_batch_is_shown_at_once(evaluated: Evaluated) -> None:
    row = evaluated.evaluation(outcomes(6, 6))
    began = now()
    verdicts.current(evaluated.engine, row.id, now=began)
    with write_session(evaluated.engine) as session:
        session.get_one(Evaluation, row.id).state = EvaluationState.STOPPED
    told = verdicts.current(evaluated.engine, row.id, now=began + timedelta(seconds=1))
    assert told.verdict is not None and told.verdict.basis.state == "stopped"
    assert words.headline(told.evaluation.state, told.verdict) == "Stopped, undecided"


@pytest.mark.parametrize("state", [EvaluationState.PREPARING, EvaluationState.VOID])
def test_nothing_is_computed_of_what_cannot_count(evaluated: Evaluated, state: EvaluationState) -> None:
    row = evaluated.evaluation("", open_pairs=3, state=state, maximum=3, reason="Its prompts were trained on.")
    told = verdicts.current(evaluated.engine, row.id)
    assert told.verdict is None
    expected = {"preparing": "Being prepared.", "void": "Void. Its prompts were trained on."}
    assert words.summary(told.evaluation, told.verdict) == expected[state.value]


def test_nothing_is_computed_within_a_write_transaction(evaluated: Evaluated) -> None:
    row = evaluated.evaluation("wl")
    with write_session(evaluated.engine), pytest.raises(RuntimeError):
        verdicts.current(evaluated.engine, row.id)


def test_a_verdict_of_another_form_is_computed_anew(evaluated: Evaluated) -> None:
    row = evaluated.evaluation(outcomes(5, 5), state=EvaluationState.STOPPED)
    with write_session(evaluated.engine) as session:
        kept = session.get_one(Evaluation, row.id)
        kept.verdict, kept.verdict_at = {"word": "great"}, now() - timedelta(days=1)
    told = verdicts.current(evaluated.engine, row.id)
    assert told.verdict is not None and told.verdict.word is Word.UNDECIDED


def test_names_are_looked_up_and_never_kept(evaluated: Evaluated) -> None:
    row = evaluated.evaluation(outcomes(5, 5))
    verdicts.current(evaluated.engine, row.id)
    with read_session(evaluated.engine) as session:
        assert "Judge-1" not in str(session.get_one(Evaluation, row.id).verdict)


def test_an_evaluation_is_there_by_its_number_and_by_its_checkpoint(evaluated: Evaluated) -> None:
    first, second = evaluated.evaluation("wl"), evaluated.evaluation("wl")
    with read_session(evaluated.engine) as session:
        assert verdicts.by_number(session, project=evaluated.project, number=2).id == second.id
        theirs = verdicts.of_checkpoint(session, checkpoint_id=evaluated.checkpoint.id)
        assert [row.id for row in theirs] == [second.id, first.id]
        for number in (0, 3, 2**40):
            with pytest.raises(NotFound):
                verdicts.by_number(session, project=evaluated.project, number=number)
        with pytest.raises(NotFound):
            verdicts.get(session, 99)
