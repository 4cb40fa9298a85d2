"""Votes of a file as judgments."""

from sqlalchemy import select

from app.db import read_session, write_session
from app.models import Choice, Judgment
from app.services.collecting.imports.recording import record
from app.services.collecting.imports.records.votes import Vote
from tests.factory import Factory


def test_a_vote_is_recorded_with_all_that_it_says(factory: Factory) -> None:
    project, user = factory.project(), factory.engineer()
    pair = factory.comparison(project)
    vote = Vote("second", 3, note="Because.", details={"flags": ["unsafe"], "guideline_version": 4})
    with write_session(factory.engine) as session:
        record(session, user=user, project=project, votes={pair.id: [vote]})
        record(session, user=user, project=project, votes={})
    with read_session(factory.engine) as session:
        (row,) = session.scalars(select(Judgment))
    assert (row.choice, row.strength, row.rationale, row.flags, row.guideline_version, row.user_id) == (
        Choice.SECOND,
        3,
        "Because.",
        ["unsafe"],
        4,
        user.id,
    )
    assert row.slot_id is not None and not row.late and not row.superseded
