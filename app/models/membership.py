"""Who belongs to a project, as what: members, what an invitation promises, and what a token is narrowed to.

These rows go with what they are about: whoever removes a project, link or token need not know of them."""

from datetime import datetime
from enum import StrEnum

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, now, string_enum


class ProjectRole(StrEnum):
    """What somebody is in a project, from least to most: a lead also sees and settles judgments and data, an engineer
    also trains and downloads."""

    EVALUATOR = "evaluator"
    LEAD = "lead"
    ENGINEER = "engineer"

    @property
    def and_above(self) -> list["ProjectRole"]:
        """This role and every one that may do more."""
        roles = list(ProjectRole)
        return roles[roles.index(self) :]

    def covers(self, least: "ProjectRole") -> bool:
        return self in least.and_above


class Membership(Base):
    """A person's role in a project. Nobody else sees the project, but for admins and where it is open to everybody."""

    __tablename__ = "memberships"

    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), primary_key=True, index=True)
    role: Mapped[ProjectRole] = mapped_column(string_enum(ProjectRole, "role"))
    added_by_id: Mapped[int | None] = mapped_column(ForeignKey("users.id"))
    added_at: Mapped[datetime] = mapped_column(default=now)


class PromisedMembership(Base):
    """What the taker of an invitation becomes in a project."""

    __tablename__ = "promised_memberships"

    link_id: Mapped[int] = mapped_column(ForeignKey("links.id", ondelete="CASCADE"), primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True)
    role: Mapped[ProjectRole] = mapped_column(string_enum(ProjectRole, "role"))


class TokenProject(Base):
    """A project in which a narrowed token may act."""

    __tablename__ = "token_projects"

    token_id: Mapped[int] = mapped_column(ForeignKey("api_tokens.id", ondelete="CASCADE"), primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True)
