"""The demo: a project with a support team's questions, some of them judged by demo evaluators."""

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, cast

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.errors import Conflict
from app.models import Comparison, Guideline, Project, Prompt, Role, Showing, Side, User
from app.models.base import now as utc_now
from app.paths import DEMO_CONTENT
from app.services.accounts import audit, users
from app.services.collecting import desk, judgments, projects, slots
from app.services.collecting import pairs as pair_store
from app.services.collecting.imports.reading.forms import parse
from app.services.collecting.judgments import SideChoice
from app.services.training import base_models

SLUG = "support-tone"
MODEL = base_models.DEMO_MODEL
AGE = timedelta(days=9)  # a little more than that of the oldest judgment


@dataclass(frozen=True, slots=True)
class Content:
    """What the demo's files say, read before the transaction that stores it."""

    pairs: list[bytes]
    judgments: list[dict[str, Any]]
    guidelines: str


def content() -> Content:
    """Read the files. Nobody should wait for the database meanwhile: call it outside of any transaction."""
    said = (DEMO_CONTENT / "judgments.jsonl").read_text(encoding="utf-8").splitlines()
    return Content(
        pairs=(DEMO_CONTENT / "pairs.jsonl").read_bytes().splitlines(),
        judgments=[json.loads(line) for line in said],
        guidelines=(DEMO_CONTENT / "guidelines.md").read_text(encoding="utf-8"),
    )


def seed(session: Session, *, content: Content, now: datetime | None = None) -> bool:
    """Adds the demo project with its comparisons, evaluators and judgments; whether it did.

    A project of that name, the demo's or somebody's own, is left as it is. Needs an admin account.
    Raises Conflict where a demo evaluator's name belongs to a real account.
    """
    if session.scalar(select(Project.id).where(Project.slug == SLUG)) is not None:
        return False
    now = now or utc_now()
    project = _project(session, content.guidelines)
    pairs = [parsed.pair for line in content.pairs for parsed in parse(line)]
    stored = pair_store.add_many(session, project=project, pairs=pairs)
    ids = {str(pair.external_id): at.comparison_id for pair, at in zip(pairs, stored, strict=True)}
    said = content.judgments
    evaluators = {name: _evaluator(session, name, now - AGE) for name in sorted({line["evaluator"] for line in said})}
    for line in said:
        _judge(session, project, evaluators[line["evaluator"]], ids[line["comparison"]], line, now)
    _date_back(session, project, now - AGE)
    audit.record(
        session, by=None, action="demo.seed", target=f"project {project.id}", comparisons=len(ids), judgments=len(said)
    )
    return True


def _project(session: Session, guidelines: str) -> Project:
    return projects.create(
        session,
        slug=SLUG,
        name="Support tone",
        by=users.first_admin(session),
        description="Demo: two answers to each question of a support team's customers. Which one sounds like the team?",
        guidelines=guidelines,
        is_demo=True,
        open_to_everybody=True,
        default_base_model=MODEL,
        daily_goal=35,
        eval_percent=30,  # of so few pairs, less would leave next to nothing to evaluate on
    )


def _evaluator(session: Session, name: str, since: datetime) -> User:
    user = session.scalar(select(User).where(User.username == name))
    if user is None:
        shown = name.replace("-", " ").capitalize()
        user = users.create(session, username=name, display_name=shown, role=Role.EVALUATOR, is_demo=True)
        user.created_at = since
    elif not user.is_demo:
        raise Conflict(f"The account {name} isn't the demo's.", "Rename it, or start without the demo.")
    return user


def _judge(
    session: Session, project: Project, user: User, comparison_id: int, line: dict[str, Any], now: datetime
) -> None:
    """One judgment, as if made `hours_ago` with the pair shown `seconds` before."""
    at = now - timedelta(hours=line["hours_ago"])
    first_side = Side.LEFT if line["left"] == "first" else Side.RIGHT
    # The demo's second opinions go beyond the one judgment that its project wants of each comparison.
    slots.want_one_more(session, comparison=session.get_one(Comparison, comparison_id), user=user)
    # A showing without a lease: which pair, which side and when are given here, not drawn.
    showing = Showing(
        token=desk.new_token(),
        comparison_id=comparison_id,
        user_id=user.id,
        first_side=first_side,
        shown_at=at - timedelta(seconds=line["seconds"]),
        guideline_version=project.guideline_version,
    )
    session.add(showing)
    session.flush()
    judgments.record(
        session,
        token=showing.token,
        user=user,
        choice=_clicked(line["choice"], first_side),
        strength=line["strength"],
        rationale=line["rationale"],
        now=at,
    )


def _clicked(choice: str, first_side: Side) -> SideChoice:
    """The side that was clicked for the answer that was meant; other choices as they are."""
    if choice not in ("first", "second"):
        return cast(SideChoice, choice)
    return "left" if (choice == "first") == (first_side is Side.LEFT) else "right"


def _date_back(session: Session, project: Project, since: datetime) -> None:
    """Nothing may look younger than the judgments about it."""
    project.created_at = since
    for table in (Guideline, Prompt, Comparison):
        session.execute(
            update(table).where(table.project_id == project.id).values(created_at=since),
            execution_options={"synchronize_session": False},
        )
