"""Old names in rows are replaced by new ones, and nothing else is."""

from sqlalchemy import Engine, select

from app.db import read_session, write_session
from app.models import AuditEntry
from app.services.accounts import audit
from app.services.loop.removal import names
from app.services.loop.removal.names import Names
from tests.factory import Factory


def test_the_trail_says_what_was_done_by_a_former_evaluator(engine: Engine, factory: Factory) -> None:
    user, other = factory.user(username="ann"), factory.user(username="anna")
    with write_session(engine) as session:
        session.info["address"] = "10.0.0.7"
        audit.record(session, by=session.merge(user), action="member.add", target="project 1", username="ann")
        audit.record(session, by=session.merge(other), action="user.role", target="user ann", before="ann arbor")
        audit.record(session, by=session.merge(other), action="user.role", target="user anna", username="anna")
    was, called = Names(user.id, "ann", user.display_name), Names(0, "former-evaluator-1", "Former evaluator 1")
    for _ in range(2):
        names.replace_all(engine, was, called)
    with read_session(engine) as session:
        rows = session.scalars(select(AuditEntry).order_by(AuditEntry.id.desc()).limit(3)).all()
    told = [(row.target, row.detail, row.address) for row in reversed(rows)]
    assert told == [
        ("project 1", {"username": "former-evaluator-1"}, ""),
        ("user former-evaluator-1", {"before": "ann arbor"}, ""),
        ("user anna", {"username": "anna"}, "10.0.0.7"),
    ]
