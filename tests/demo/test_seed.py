"""The demo project as a newcomer meets it."""

import json
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from app.db import write_session
from app.demo import seed
from app.errors import Conflict, NotFound
from app.models import (
    AuditEntry,
    Base,
    Choice,
    Comparison,
    Judgment,
    JudgmentSource,
    Project,
    Response,
    Role,
    Side,
    Slot,
    SlotState,
    User,
)
from app.paths import DEMO_CONTENT
from app.services.collecting import desk, guidelines, judgments, listing, projects
from app.services.datasets import snapshots
from app.services.training import base_models
from tests.factory import Factory

NOW = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)
SAID = [json.loads(line) for line in (DEMO_CONTENT / "judgments.jsonl").read_text(encoding="utf-8").splitlines()]
PAIRS = [json.loads(line) for line in (DEMO_CONTENT / "pairs.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def admin(factory: Factory) -> User:
    return factory.admin()


@pytest.fixture
def seeded(session: Session, admin: User) -> Project:
    assert seed.seed(session, content=seed.content(), now=NOW)
    return projects.get(session, "support-tone")


def counts(session: Session) -> dict[str, int]:
    return {
        table.name: session.scalar(select(func.count()).select_from(table)) for table in Base.metadata.sorted_tables
    }


def test_the_project_comes_with_guidelines_a_model_and_its_comparisons(session: Session, seeded: Project) -> None:
    assert seeded.is_demo and seeded.default_base_model == base_models.DEMO_MODEL
    assert "**Tie**" in guidelines.get(session, project=seeded).text
    assert session.scalar(select(func.count()).select_from(Comparison)) == len(PAIRS) >= 56


def test_seeding_again_changes_nothing(session: Session, seeded: Project) -> None:
    before = counts(session)
    assert not seed.seed(session, content=seed.content(), now=NOW + timedelta(days=1))
    assert counts(session) == before
    assert seeded.created_at == NOW - seed.AGE


def test_every_judgment_means_the_answer_that_its_maker_meant(session: Session, seeded: Project) -> None:
    stored = session.execute(
        select(Comparison.external_id, User.username, Judgment)
        .join(Comparison, Comparison.id == Judgment.comparison_id)
        .join(User, User.id == Judgment.user_id)
    ).all()
    judgments = {(comparison, user): judgment for comparison, user, judgment in stored}
    assert len(judgments) == len(SAID)
    for line in SAID:
        judgment = judgments[line["comparison"], line["evaluator"]]
        assert judgment.choice == Choice(line["choice"])
        assert judgment.strength == line["strength"] and judgment.rationale == line["rationale"]
        assert (judgment.first_side is Side.LEFT) == (line["left"] == "first")
        assert judgment.submitted_at == NOW - timedelta(hours=line["hours_ago"])
        assert judgment.submitted_at - judgment.shown_at == timedelta(seconds=line["seconds"])
        assert judgment.guideline_version == 1 and judgment.source is JudgmentSource.WEB
        assert not judgment.late and not judgment.superseded


def test_the_first_answer_of_a_comparison_is_that_of_the_file(session: Session, seeded: Project) -> None:
    rows = session.execute(
        select(Comparison.external_id, Response.text, Response.source_name).join(
            Response, Response.id == Comparison.first_response_id
        )
    ).all()
    first = {pair["id"]: (pair["responses"][0], pair["sources"][0]["name"]) for pair in PAIRS}
    assert {name: (text, source) for name, text, source in rows} == first


def test_judgments_are_by_marked_evaluators_who_cannot_sign_in(session: Session, seeded: Project, admin: User) -> None:
    makers = session.scalars(select(User).where(User.id.in_(select(Judgment.user_id)))).all()
    assert sorted(user.username for user in makers) == ["demo-evaluator-1", "demo-evaluator-2", "demo-evaluator-3"]
    assert all(user.is_demo and user.role is Role.EVALUATOR and user.password_hash is None for user in makers)
    assert not session.get(User, admin.id).is_demo


def test_nothing_looks_younger_than_the_judgments_about_it(session: Session, seeded: Project) -> None:
    earliest = session.scalar(select(func.min(Judgment.shown_at)))
    newest = session.scalar(select(func.max(Comparison.created_at)))
    assert seeded.created_at < earliest and newest < earliest
    assert session.scalar(select(func.max(Judgment.submitted_at))) < NOW


def test_36_comparisons_are_judged_and_the_rest_wait_for_the_newcomer(
    session: Session, seeded: Project, admin: User
) -> None:
    newcomer = session.get(User, admin.id)
    progress = listing.progress(session, project=seeded, user=newcomer, now=NOW)
    assert progress.waiting_for_me == len(PAIRS) - 36 >= 20
    assert progress.today == 0
    slots = Counter(session.scalars(select(Slot.state)))
    assert slots[SlotState.OPEN] == len(PAIRS) - 36 and SlotState.LEASED not in slots


def test_the_newcomer_first_gets_a_pair_that_nobody_judged(session: Session, seeded: Project, admin: User) -> None:
    lease = desk.show_next(session, project=seeded, user=session.get(User, admin.id), now=NOW)
    assert "quota exceeded" in lease.prompt[-1]["content"]
    judgments.record(session, token=lease.token, user=session.get(User, admin.id), choice="left", now=NOW)


def test_what_is_judged_is_enough_to_train_and_to_evaluate(session: Session, seeded: Project) -> None:
    preview = snapshots.preview(session, project=seeded)
    counts = preview.counts
    assert counts.train >= 24 and counts.eval >= 5
    assert counts.pairs + sum(counts.left_out.values()) == len(PAIRS)
    assert {"tie", "both_bad"} <= {reason for reason, count in counts.left_out.items() if count}


def test_a_project_of_that_name_is_left_alone(engine: Engine, factory: Factory) -> None:
    factory.project(slug="support-tone")
    with write_session(engine) as session:
        before = counts(session)
        assert not seed.seed(session, content=seed.content())
        assert counts(session) == before


def test_a_real_account_never_gets_demo_judgments_and_nothing_is_left_behind(engine: Engine, factory: Factory) -> None:
    factory.admin()
    factory.user(username="demo-evaluator-2")
    with pytest.raises(Conflict, match="demo-evaluator-2"), write_session(engine) as session:
        seed.seed(session, content=seed.content())
    with write_session(engine) as session, pytest.raises(NotFound):
        projects.get(session, "support-tone")


def test_seeding_needs_an_admin(session: Session) -> None:
    with pytest.raises(NotFound, match="no admin"):
        seed.seed(session, content=seed.content())


def test_seeding_is_in_the_audit_trail(session: Session, seeded: Project) -> None:
    entry = session.scalars(select(AuditEntry).where(AuditEntry.action == "demo.seed")).one()
    assert entry.detail == {"comparisons": len(PAIRS), "judgments": len(SAID)}
