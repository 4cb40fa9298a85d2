"""A team's names on checkpoints: moved by rule, approved by another person, back at once, and every step kept."""

import pytest

from app.db import read_session, write_session
from app.errors import Conflict, Invalid, NotAllowed, NotFound
from app.models import Alias, AuditEntry, Checkpoint, EvaluationState, NeededVerdict, User
from app.services.loop import aliases
from app.services.loop.aliases import Moved
from app.services.loop.gate import GateClosed
from tests.factory import Factory
from tests.services.loop.evaluated import Evaluated


def moved(evaluated: Evaluated, name: str, checkpoint_id: int, by: User | None = None, why: str = "") -> Moved:
    with write_session(evaluated.engine) as session:
        return aliases.move(
            session,
            project=evaluated.project,
            name=name,
            checkpoint_id=checkpoint_id,
            by=by or evaluated.engineer,
            why=why,
        )


def ruled(evaluated: Evaluated, name: str, verdict: NeededVerdict, approval: bool) -> None:
    with write_session(evaluated.engine) as session:
        aliases.set_rule(
            session,
            project=evaluated.project,
            name=name,
            needs_verdict=verdict,
            needs_approval=approval,
            by=evaluated.engineer,
        )


def done(evaluated: Evaluated, deed: str, name: str, by: User | None = None) -> Alias:
    with write_session(evaluated.engine) as session:
        alias = aliases.get(session, project=evaluated.project, name=name)
        return getattr(aliases, deed)(session, alias=alias, by=by or evaluated.engineer)


def told(evaluated: Evaluated, name: str) -> list[tuple[str, int | None, int | None]]:
    with read_session(evaluated.engine) as session:
        alias = aliases.get(session, project=evaluated.project, name=name)
        return [(row.deed.value, row.checkpoint_id, row.previous_id) for row in aliases.history(session, alias=alias)]


@pytest.fixture
def second(evaluated: Evaluated) -> Checkpoint:
    return evaluated.another()


def test_a_name_moves_and_its_history_says_who_and_why(evaluated: Evaluated, second: Checkpoint) -> None:
    first = evaluated.checkpoint
    assert not moved(evaluated, "candidate", first.id, why="The  first\none.").waits
    moved(evaluated, "candidate", second.id)
    assert told(evaluated, "candidate") == [("moved", second.id, first.id), ("moved", first.id, None)]
    with read_session(evaluated.engine) as session:
        alias = aliases.get(session, project=evaluated.project, name="candidate")
        events = aliases.history(session, alias=alias)
        assert events[1].why == "The first one." and events[1].user.id == evaluated.engineer.id
        assert [row.name for row in aliases.of_checkpoint(session, checkpoint_id=second.id)] == ["candidate"]
        assert session.query(AuditEntry).filter_by(action="alias.moved").count() == 2
    with pytest.raises(Conflict, match="already"):
        moved(evaluated, "candidate", second.id)


def test_back_goes_a_step_at_a_time_and_not_to_and_fro(evaluated: Evaluated, second: Checkpoint) -> None:
    third = evaluated.another()
    for row in (evaluated.checkpoint, second, third):
        moved(evaluated, "production", row.id)
    assert done(evaluated, "back", "production").checkpoint_id == second.id
    assert done(evaluated, "back", "production").checkpoint_id == evaluated.checkpoint.id
    with pytest.raises(Conflict, match="never meant another"):
        done(evaluated, "back", "production")
    assert done(evaluated, "remove", "production").checkpoint_id is None
    assert told(evaluated, "production")[0] == ("removed", None, evaluated.checkpoint.id)


def test_a_rule_wants_a_verdict_against_what_the_name_means(evaluated: Evaluated, second: Checkpoint) -> None:
    first = evaluated.checkpoint
    moved(evaluated, "production", first.id)
    ruled(evaluated, "production", NeededVerdict.BETTER, False)
    with pytest.raises(GateClosed, match=f"No evaluation of checkpoint {second.id} against checkpoint {first.id}"):
        moved(evaluated, "production", second.id)
    of_base = evaluated.evaluation("w", checkpoint=second, state=EvaluationState.DECIDED, word="better")
    with pytest.raises(GateClosed):
        moved(evaluated, "production", second.id)
    for word, state, opens in (
        ("better", EvaluationState.VOID, False),
        ("not_worse", EvaluationState.DECIDED, False),
        ("better", EvaluationState.DECIDED, True),
    ):
        row = evaluated.evaluation("w", checkpoint=second, opponent=first, state=state, word=word)
        if opens:
            assert not moved(evaluated, "production", second.id).waits
        else:
            with pytest.raises(GateClosed):
                moved(evaluated, "production", second.id)
    with read_session(evaluated.engine) as session:
        alias = aliases.get(session, project=evaluated.project, name="production")
        assert aliases.history(session, alias=alias)[0].evaluation_id == row.id != of_base.id


def test_an_older_verdict_is_not_picked_out(evaluated: Evaluated, second: Checkpoint) -> None:
    moved(evaluated, "production", evaluated.checkpoint.id)
    ruled(evaluated, "production", NeededVerdict.NOT_WORSE, False)
    for word in ("better", "worse"):
        evaluated.evaluation(
            "w", checkpoint=second, opponent=evaluated.checkpoint, state=EvaluationState.DECIDED, word=word
        )
    with pytest.raises(GateClosed, match="says “worse”"):
        moved(evaluated, "production", second.id)
    assert done(evaluated, "remove", "production").checkpoint_id is None


def test_another_person_approves(evaluated: Evaluated, second: Checkpoint, factory: Factory) -> None:
    ruled(evaluated, "production", NeededVerdict.NONE, True)
    asked = moved(evaluated, "production", second.id, why="It is better.")
    assert asked.waits and asked.alias.checkpoint_id is None and asked.alias.asked_id == second.id
    with pytest.raises(NotAllowed, match="somebody else"):
        done(evaluated, "approve", "production")
    other = factory.engineer()
    assert done(evaluated, "approve", "production", other).checkpoint_id == second.id
    with read_session(evaluated.engine) as session:
        alias = aliases.get(session, project=evaluated.project, name="production")
        event = aliases.history(session, alias=alias)[0]
        assert (event.user.id, event.asked_by.id, event.why) == (other.id, evaluated.engineer.id, "It is better.")
    with pytest.raises(Conflict, match="Nobody asks"):
        done(evaluated, "approve", "production", other)


def test_a_verdict_that_is_void_by_the_approval_stops_it(
    evaluated: Evaluated, second: Checkpoint, factory: Factory
) -> None:
    row = evaluated.evaluation("w", checkpoint=second, state=EvaluationState.DECIDED, word="better")
    ruled(evaluated, "production", NeededVerdict.BETTER, True)
    moved(evaluated, "production", second.id)
    with write_session(evaluated.engine) as session:
        session.merge(row).state = EvaluationState.VOID
    with pytest.raises(GateClosed):
        done(evaluated, "approve", "production", factory.engineer())
    declined = done(evaluated, "decline", "production")
    assert declined.asked_id is None and told(evaluated, "production")[0][0] == "declined"


def test_two_who_move_it_at_once_do_not_undo_each_other(evaluated: Evaluated, second: Checkpoint) -> None:
    moved(evaluated, "candidate", evaluated.checkpoint.id)
    with read_session(evaluated.engine) as session:
        stale = aliases.get(session, project=evaluated.project, name="candidate")
    moved(evaluated, "candidate", second.id)
    with write_session(evaluated.engine) as session, pytest.raises(Conflict, match="Somebody else"):
        aliases.remove(session, alias=session.merge(stale, load=False), by=evaluated.engineer)


@pytest.mark.parametrize("name", ["", "Production", "a b", "x" * 41, "../up", ".hidden"])
def test_names_that_no_folder_could_have_are_refused(evaluated: Evaluated, name: str) -> None:
    with pytest.raises(Invalid, match="can't be an alias"):
        moved(evaluated, name, evaluated.checkpoint.id)


def test_a_checkpoint_of_another_project_is_not_there(evaluated: Evaluated) -> None:
    for number in (99, 2**40):
        with pytest.raises(NotFound):
            moved(evaluated, "candidate", number)
    with read_session(evaluated.engine) as session, pytest.raises(NotFound):
        aliases.get(session, project=evaluated.project, name="nothing")


def test_whoever_decides_on_what_they_saw_changes_nothing_else(
    evaluated: Evaluated, second: Checkpoint, factory: Factory
) -> None:
    """A click that is doubled takes no second step, and an approval goes to the move that was read."""
    ruled(evaluated, "production", NeededVerdict.NONE, True)
    read = moved(evaluated, "production", evaluated.checkpoint.id).alias.seen
    moved(evaluated, "production", second.id)
    other = factory.engineer()
    with write_session(evaluated.engine) as session:
        with pytest.raises(Conflict, match="just changed"):
            aliases.get(session, project=evaluated.project, name="production", seen=read)
        alias = aliases.get(session, project=evaluated.project, name="production")
        aliases.approve(
            session,
            alias=aliases.get(session, project=evaluated.project, name="production", seen=alias.seen),
            by=other,
        )


def test_a_reason_that_no_database_could_keep_is_refused(evaluated: Evaluated) -> None:
    with pytest.raises(Invalid, match="NUL"):
        moved(evaluated, "candidate", evaluated.checkpoint.id, why="It\0is")
