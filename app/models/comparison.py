"""Prompts, candidate answers, and the pairs of them that wait for a judgment."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, String, Text, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.models.base import Base, JsonOrNull, now, string_enum


class Split(StrEnum):
    """`kept` prompts serve evaluations alone: nobody is asked about ordinary pairs of theirs, and no run learns from them."""

    TRAIN = "train"
    EVAL = "eval"
    KEPT = "kept"


class PromptGroup(Base):
    """Prompts of a project that are near duplicates of one another, two or more; who is alone has no group. `split` is the
    oldest's, which a prompt that joins gets."""

    __tablename__ = "prompt_groups"

    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"), index=True)
    split: Mapped[Split] = mapped_column(string_enum(Split, "split"))


class Prompt(Base):
    """The conversation before the answer. `split` follows from its group, else from `content_hash`, and never changes."""

    __tablename__ = "prompts"
    __table_args__ = (
        UniqueConstraint("project_id", "content_hash"),
        Index(
            "ix_prompts_group_id",
            "group_id",
            sqlite_where=text("group_id IS NOT NULL"),
            postgresql_where=text("group_id IS NOT NULL"),
        ),
        Index(
            "ix_prompts_kept",
            "project_id",
            "content_hash",
            sqlite_where=text("split = 'kept'"),
            postgresql_where=text("split = 'kept'"),
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"))
    content_hash: Mapped[str] = mapped_column(String(64))
    messages: Mapped[list[Any]]
    split: Mapped[Split] = mapped_column(string_enum(Split, "split"))
    group_id: Mapped[int | None] = mapped_column(ForeignKey("prompt_groups.id"))
    created_at: Mapped[datetime] = mapped_column(default=now)


class PromptKey(Base):
    """By what a prompt is looked up when another may be its near duplicate (`near.Wording`). Made from its text
    alone, so a row whose prompt is gone does no harm, and no foreign key slows imports down."""

    __tablename__ = "prompt_keys"
    __table_args__ = ({"sqlite_with_rowid": False},)

    project_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    key: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    prompt_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    fingerprint: Mapped[int] = mapped_column(BigInteger)


class SourceKind(StrEnum):
    MODEL = "model"
    CHECKPOINT = "checkpoint"
    FILE = "file"
    PERSON = "person"


class Response(Base):
    """One candidate answer and where it came from; never shown to an evaluator with its source.
    `characters` and `words` are counted once, so that statistics never read the text. `turns` are its messages where it
    goes on over several turns, which `text` holds one under the other."""

    __tablename__ = "responses"
    __table_args__ = (UniqueConstraint("prompt_id", "content_hash"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    prompt_id: Mapped[int] = mapped_column(ForeignKey("prompts.id"))
    content_hash: Mapped[str] = mapped_column(String(64))
    text: Mapped[str] = mapped_column(Text)
    turns: Mapped[list[Any] | None] = mapped_column(JsonOrNull)
    characters: Mapped[int]
    words: Mapped[int]
    source_kind: Mapped[SourceKind] = mapped_column(string_enum(SourceKind, "source_kind"), default=SourceKind.FILE)
    source_name: Mapped[str] = mapped_column(String(255), default="")
    created_at: Mapped[datetime] = mapped_column(default=now)


class Choice(StrEnum):
    FIRST = "first"
    SECOND = "second"
    TIE = "tie"
    BOTH_BAD = "both_bad"
    SKIP = "skip"


class Arm(StrEnum):
    """By which rule a pair of generated answers came to be asked: by chance, for the newest checkpoint's small margin, since people
    disagreed on its prompt, for being unlike what was asked before. services.loop.generating.arms says exactly how."""

    RANDOM = "random"
    MARGIN = "margin"
    DISAGREEMENT = "disagreement"
    DIVERSITY = "diversity"


class Comparison(Base):
    """Two different answers to one prompt. `pair_hash` is the same whichever comes first. Pairs of an evaluation
    (`evaluation_id`) never become training or eval pairs. `arm`: None for pairs that came by none, as imported ones."""

    __tablename__ = "comparisons"
    __table_args__ = (
        UniqueConstraint("project_id", "pair_hash"),
        # Late pages of many pass over these alone.
        Index("ix_comparisons_of_project", "project_id", "id", "evaluation_id"),
        Index("ix_comparisons_import_id_id", "import_id", "id"),
        Index(
            "ix_comparisons_evaluation_id",
            "evaluation_id",
            sqlite_where=text("evaluation_id IS NOT NULL"),
            postgresql_where=text("evaluation_id IS NOT NULL"),
        ),
        CheckConstraint("first_response_id <> second_response_id", name="two_answers"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"))
    prompt_id: Mapped[int] = mapped_column(ForeignKey("prompts.id"), index=True)
    first_response_id: Mapped[int] = mapped_column(ForeignKey("responses.id"), index=True)
    second_response_id: Mapped[int] = mapped_column(ForeignKey("responses.id"), index=True)
    pair_hash: Mapped[str] = mapped_column(String(64))
    priority: Mapped[int] = mapped_column(default=0)
    gold_choice: Mapped[Choice | None] = mapped_column(string_enum(Choice, "gold_choice"))
    external_id: Mapped[str | None] = mapped_column(String(255))
    import_id: Mapped[int | None] = mapped_column(ForeignKey("imports.id"))
    evaluation_id: Mapped[int | None] = mapped_column(ForeignKey("evaluations.id"))
    arm: Mapped[Arm | None] = mapped_column(string_enum(Arm, "arm"))
    created_at: Mapped[datetime] = mapped_column(default=now)

    prompt: Mapped[Prompt] = relationship(lazy="raise")
    first: Mapped[Response] = relationship(foreign_keys=first_response_id, lazy="raise")
    second: Mapped[Response] = relationship(foreign_keys=second_response_id, lazy="raise")


class SlotState(StrEnum):
    OPEN = "open"
    LEASED = "leased"
    DONE = "done"


class Side(StrEnum):
    LEFT = "left"
    RIGHT = "right"


# A priority is at most a million, an ordinal less than 64, an id less than 2^31.
PLACE = "(CAST(1000000 - priority AS BIGINT) * 64 + ordinal) * 2147483648 + comparison_id"


class Slot(Base):
    """One wanted judgment of one comparison. services.collecting.slots is its only writer.

    `project_id` and `priority` repeat the comparison's, and `place` is the slot's place in the order of asking, so that the next
    slot is one index lookup: by priority, highest first, then ordinal, then comparison. A slot that was opened again is
    asked for before that order (`reopened_at`). Unique (comparison, holder): nobody gets two slots of one comparison.
    `lease_token` names the Showing that the holder answers. Slots of an evaluation (`evaluation_id`) stand in no ordinary order.
    """

    __tablename__ = "slots"
    __table_args__ = (
        UniqueConstraint("comparison_id", "ordinal"),
        UniqueConstraint("comparison_id", "holder_id"),
        CheckConstraint(
            "state <> 'open' OR (holder_id IS NULL AND lease_token IS NULL AND leased_until IS NULL)", name="open"
        ),
        CheckConstraint(
            "state <> 'leased' OR (holder_id IS NOT NULL AND lease_token IS NOT NULL AND leased_until IS NOT NULL)",
            name="leased",
        ),
        CheckConstraint(
            "state <> 'done' OR (holder_id IS NOT NULL AND lease_token IS NULL AND leased_until IS NULL)", name="done"
        ),
        CheckConstraint("state = 'open' OR reopened_at IS NULL", name="reopened"),
        CheckConstraint(f"place = {PLACE}", name="place"),
        # One for each question of the desk, and none has to be written for a slot that is done.
        *(
            Index(name, "project_id", *more, sqlite_where=text(where), postgresql_where=text(where))
            for name, more, where in (
                ("ix_slots_next", ["place"], "state = 'open' AND reopened_at IS NULL AND evaluation_id IS NULL"),
                ("ix_slots_reopened", ["reopened_at"], "reopened_at IS NOT NULL AND evaluation_id IS NULL"),
                ("ix_slots_held", ["holder_id", "leased_until"], "state = 'leased'"),
                ("ix_slots_leased", ["leased_until"], "state = 'leased' AND evaluation_id IS NULL"),
            )
        ),
        Index(
            "ix_slots_evaluation",
            "evaluation_id",
            "comparison_id",
            "ordinal",
            sqlite_where=text("state <> 'done' AND evaluation_id IS NOT NULL"),
            postgresql_where=text("state <> 'done' AND evaluation_id IS NOT NULL"),
        ),
        CheckConstraint("evaluation_id IS NULL OR reopened_at IS NULL", name="evaluation"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"))
    comparison_id: Mapped[int] = mapped_column(ForeignKey("comparisons.id"))
    ordinal: Mapped[int]
    priority: Mapped[int] = mapped_column(default=0)
    state: Mapped[SlotState] = mapped_column(string_enum(SlotState, "state"), default=SlotState.OPEN)
    holder_id: Mapped[int | None] = mapped_column(ForeignKey("users.id"))
    lease_token: Mapped[str | None] = mapped_column(String(64), unique=True)
    leased_until: Mapped[datetime | None]
    place: Mapped[int] = mapped_column(BigInteger)
    reopened_at: Mapped[datetime | None]
    evaluation_id: Mapped[int | None] = mapped_column(ForeignKey("evaluations.id"))


class Showing(Base):
    """One pair as it was put before one person: which side each answer was on, and since when. It outlives the
    slot's lease, so that a judgment that comes late is still understood. `edits_id` is the judgment to be replaced."""

    __tablename__ = "showings"

    id: Mapped[int] = mapped_column(primary_key=True)
    token: Mapped[str] = mapped_column(String(64), unique=True)
    comparison_id: Mapped[int] = mapped_column(ForeignKey("comparisons.id"), index=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    first_side: Mapped[Side] = mapped_column(string_enum(Side, "first_side"))
    shown_at: Mapped[datetime]
    guideline_version: Mapped[int] = mapped_column(default=0)
    edits_id: Mapped[int | None] = mapped_column(ForeignKey("judgments.id"), index=True)
