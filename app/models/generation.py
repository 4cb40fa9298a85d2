"""Answers that a job makes: what is asked of which sources, and each answer as it arrived."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.models.base import Base, now, string_enum
from app.models.job import Job


class Purpose(StrEnum):
    """What answers are made for: ordinary pairs to judge, or the two sides of an evaluation."""

    COLLECTION = "collection"
    EVALUATION = "evaluation"


class Pairing(StrEnum):
    """Which answers to one prompt are put against each other: those of different sources, or every one against the next."""

    ACROSS = "across"
    ROUND_ROBIN = "round_robin"
    NONE = "none"


class Finish(StrEnum):
    """How an answer ended: by itself, at the length limit, or not at all (`failed`, with the reason as its text)."""

    STOP = "stop"
    LENGTH = "length"
    FAILED = "failed"


class GenerationPlan(Base):
    """One a generation job, made with it and fixed from then on; only `counts` changes.

    `prompts` says by which rule prompts are taken, `sources` is a list of {kind, name, …} in a fixed order: an answer names
    its source by its index. `sampling` is {temperature, top_p, max_new_tokens, seed}; `samples` answers a prompt and source.
    `arms` says which of the pairs are asked, as services.loop.generating.arms stores it; empty asks all.
    With the purpose of an evaluation source 0 is its checkpoint and source 1 the opponent, and prompts are the evaluation's.
    """

    __tablename__ = "generation_plans"

    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id"), primary_key=True, autoincrement=False)
    purpose: Mapped[Purpose] = mapped_column(string_enum(Purpose, "purpose"))
    prompts: Mapped[dict[str, Any]]
    sources: Mapped[list[Any]]
    samples: Mapped[int] = mapped_column(default=1)
    sampling: Mapped[dict[str, Any]]
    pairing: Mapped[Pairing] = mapped_column(string_enum(Pairing, "pairing"))
    arms: Mapped[dict[str, Any]] = mapped_column(default=dict, server_default="{}")
    evaluation_id: Mapped[int | None] = mapped_column(ForeignKey("evaluations.id"), index=True)
    counts: Mapped[dict[str, Any]] = mapped_column(default=dict)

    job: Mapped[Job] = relationship(lazy="raise")


class GeneratedAnswer(Base):
    """One answer as it arrived, so that no retry asks for it again. `tokens` made, None where the source doesn't say.

    `marks` are what a reader should know (`names_a_model`, `at_limit`, `identical`, `near_identical`), `response_id` the stored
    answer that it became. `reward`: log π − log π_ref of the checkpoint whose margins were wanted, in nats.
    """

    __tablename__ = "generated_answers"
    __table_args__ = (
        UniqueConstraint("job_id", "prompt_id", "source", "sample"),
        Index("ix_generated_answers_response_id", "response_id"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("generation_plans.job_id"))
    prompt_id: Mapped[int] = mapped_column(ForeignKey("prompts.id"), index=True)
    source: Mapped[int]
    sample: Mapped[int] = mapped_column(default=0)
    seed: Mapped[int] = mapped_column(BigInteger)
    text: Mapped[str] = mapped_column(Text)
    tokens: Mapped[int | None]
    prompt_tokens: Mapped[int | None]
    finish: Mapped[Finish] = mapped_column(string_enum(Finish, "finish"))
    marks: Mapped[list[Any]] = mapped_column(default=list)
    reward: Mapped[float | None]
    response_id: Mapped[int | None] = mapped_column(ForeignKey("responses.id"))
    created_at: Mapped[datetime] = mapped_column(default=now)


class Endpoint(Base):
    """A server with OpenAI's chat completions that an admin added. Its key is read from the environment variable `key_variable`, or is
    `key_sealed`, encrypted with the installation's secret. Prices are per million tokens, in `currency`, as a person entered them."""

    __tablename__ = "endpoints"
    __table_args__ = (UniqueConstraint("name"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(64))
    base_url: Mapped[str] = mapped_column(String(500))
    model: Mapped[str] = mapped_column(String(255))
    key_variable: Mapped[str] = mapped_column(String(120), default="")
    key_sealed: Mapped[str] = mapped_column(Text, default="")
    requests_per_minute: Mapped[int | None]
    at_once: Mapped[int] = mapped_column(default=4)
    price_prompt: Mapped[float | None]
    price_completion: Mapped[float | None]
    currency: Mapped[str] = mapped_column(String(3), default="")
    created_by_id: Mapped[int | None] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[datetime] = mapped_column(default=now)
    removed_at: Mapped[datetime | None]
