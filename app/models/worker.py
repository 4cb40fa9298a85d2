"""The workers that do jobs."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, String
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, now


class Worker(Base):
    """A worker process as it last described itself.

    `kinds` are the kinds of jobs that it can do: plain text, since a worker of another version may know more of them
    than this one. `version` is Prefloop's, `versions` those of Python and its libraries. `product_gflops`: how fast its
    device multiplies matrices, in GFLOP/s by number type; empty until it has been measured.
    """

    __tablename__ = "workers"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(120), unique=True)
    device: Mapped[str] = mapped_column(String(120), default="")
    memory_bytes: Mapped[int | None] = mapped_column(BigInteger)
    version: Mapped[str] = mapped_column(String(40), default="")
    kinds: Mapped[list[Any]] = mapped_column(default=list)
    versions: Mapped[dict[str, Any]] = mapped_column(default=dict)
    product_gflops: Mapped[dict[str, Any]] = mapped_column(default=dict)
    started_at: Mapped[datetime] = mapped_column(default=now)
    heartbeat_at: Mapped[datetime] = mapped_column(default=now)
