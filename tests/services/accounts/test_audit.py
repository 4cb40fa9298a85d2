"""The audit trail: who did what to which row, kept with the change and found again by any part of it."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from app.db import read_session, write_session
from app.models import AuditEntry, Role, User
from app.services.accounts import audit, users


@pytest.fixture
def ada(session: Session) -> User:
    return users.create(session, username="ada", display_name="Ada", role=Role.ENGINEER)


def told(session: Session, **wanted: object) -> list[tuple[str, str | None]]:
    return [(entry.action, name) for entry, name in audit.listing(session, **wanted).items]  # type: ignore[arg-type]


def test_an_entry_says_who_what_where_and_how(session: Session, ada: User) -> None:
    session.info["address"] = "192.0.2.7"
    audit.record(session, by=ada, action="job.cancel", target="job 12", reason="too slow")
    session.flush()
    entry = session.scalars(select(AuditEntry).where(AuditEntry.action == "job.cancel")).one()
    assert (entry.user_id, entry.target, entry.detail, entry.address) == (
        ada.id,
        "job 12",
        {"reason": "too slow"},
        "192.0.2.7",
    )


def test_the_newest_comes_first_and_the_command_line_has_no_name(session: Session, ada: User) -> None:
    audit.record(session, by=ada, action="job.retry", target="job 1")
    audit.record(session, by=None, action="job.cancel", target="job 1")
    session.flush()
    assert told(session, action="job") == [("job.cancel", None), ("job.retry", "ada")]


@pytest.mark.parametrize(
    ("wanted", "targets"),
    [
        ({"username": " ADA "}, ["job 1"]),
        ({"action": "job"}, ["job 12", "job 1"]),
        ({"action": "job.can"}, ["job 12"]),
        ({"action": "%"}, []),
        ({"target": "JOB 12"}, ["job 12"]),
        ({"target": "_"}, []),
        ({"username": "ada", "action": "job.cancel"}, []),
    ],
    ids=str,
)
def test_entries_are_filtered_by_person_beginning_of_action_and_words_of_target(
    session: Session, ada: User, wanted: dict[str, str], targets: list[str]
) -> None:
    audit.record(session, by=ada, action="job.retry", target="job 1")
    audit.record(session, by=None, action="job.cancel", target="job 12")
    audit.record(session, by=None, action="project.create", target="project tone")
    session.flush()
    entries = [entry.target for entry, _ in audit.listing(session, **wanted).items]  # type: ignore[arg-type]
    assert [target for target in entries if not target.startswith("user ")] == targets


def test_entries_since_a_moment(session: Session, ada: User) -> None:
    noon = datetime(2026, 1, 5, 12, tzinfo=UTC)
    for minutes in (-1, 0, 1):
        audit.record(session, by=ada, action="job.retry", target=f"at {minutes}").at = noon + timedelta(minutes=minutes)
    session.flush()
    entries = audit.listing(session, action="job", since=noon).items
    assert [entry.target for entry, _ in entries] == ["at 1", "at 0"]


def test_an_entry_goes_with_the_change_that_it_tells_of(engine: Engine) -> None:
    def fail_after_recording() -> None:
        with write_session(engine) as session:
            audit.record(session, by=None, action="job.cancel", target="job 1")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_after_recording()
    with read_session(engine) as session:
        assert told(session, action="job") == []


def test_actions_are_listed_once_in_order(session: Session) -> None:
    for action in ("job.retry", "job.cancel", "job.retry"):
        audit.record(session, by=None, action=action, target="job 1")
    session.flush()
    assert audit.actions(session) == ["job.cancel", "job.retry"]
