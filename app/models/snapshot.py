"""A snapshot: a frozen dataset that never changes, and what is known of it."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import ForeignKey, String, UniqueConstraint, false
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.models.base import NEVER_AGAIN, Base, FileList, JsonOf, now
from app.models.comparison import Split
from app.models.project import Project
from app.stats.lengths import Lengths
from app.stats.shares import Share
from app.storage import StoredFile


@dataclass(frozen=True, slots=True)
class Counts:
    """How many pairs a rule makes of a project; `left_out` counts comparisons that give none, by reason. `excluded_judgments` of
    comparisons that aren't themselves excluded were left out, and aren't among the `judgments`."""

    comparisons: int
    judgments: int
    pairs: int
    train: int
    eval: int
    left_out: dict[str, int]
    excluded_judgments: int = 0

    def of(self, split: Split) -> int:
        """Pairs of one split, which is one file."""
        return self.eval if split is Split.EVAL else self.train


@dataclass(frozen=True, slots=True)
class Sides:
    """The same figures of the chosen and of the rejected answers."""

    chosen: Lengths
    rejected: Lengths


@dataclass(frozen=True, slots=True)
class Source:
    """How often a source's answers were chosen, in pairs from two different sources."""

    name: str
    chosen: int
    pairs: int


@dataclass(frozen=True, slots=True)
class Evaluator:
    """A person's part in a dataset. `agreement` is None where nobody judged the same pairs; `overlap` counts those."""

    user_id: int
    name: str
    judgments: int
    share: float
    agreement: float | None
    overlap: int


@dataclass(frozen=True, slots=True)
class Agreed:
    """How far people agree who judged the same comparisons: share of equal pairs of votes, Krippendorff's alpha."""

    comparisons: int
    same: float | None
    alpha: float | None


class Warned(NamedTuple):
    """Something to think about before training."""

    code: str
    text: str


@dataclass(frozen=True, slots=True)
class Statistics:
    """What a dataset looks like. Lengths are in characters and in words; `imported` counts judgments from files. `arms` counts train pairs
    by the arm that asked them, `random_eval` eval pairs of the random arm; both are empty in snapshots of before there were arms."""

    prompts: int
    characters: Sides
    words: Sides
    chosen_longer: Share
    left_picked: Share
    repeated_chosen: int
    sources: list[Source]
    mean_weight: float | None
    mean_p_chosen: float | None
    evaluators: list[Evaluator]
    imported: int
    agreement: Agreed
    arms: dict[str, int] = field(default_factory=dict)
    random_eval: int = 0
    warnings: tuple[Warned, ...] = ()


class Snapshot(Base):
    """`sha256` is over the files' own hashes in name order. `indexed`: its SnapshotBlocks say which pairs it holds, as those of every
    snapshot but older ones that nobody has looked through yet."""

    __tablename__ = "snapshots"
    __table_args__ = (UniqueConstraint("project_id", "number"), NEVER_AGAIN)

    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"))
    number: Mapped[int]
    sha256: Mapped[str] = mapped_column(String(64))
    rule: Mapped[dict[str, Any]]
    counts: Mapped[Counts] = mapped_column(JsonOf(Counts))
    statistics: Mapped[Statistics] = mapped_column(JsonOf(Statistics))
    files: Mapped[tuple[StoredFile, ...]] = mapped_column(FileList)
    indexed: Mapped[bool] = mapped_column(default=False, server_default=false())
    created_by_id: Mapped[int | None] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[datetime] = mapped_column(default=now)

    project: Mapped[Project] = relationship(lazy="raise")
