"""One page of a long listing."""

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

Item = TypeVar("Item")
LARGEST = 200


@dataclass(frozen=True)
class Page(Generic[Item]):
    """`number` counts from 1; `total` counts items over all pages."""

    items: list[Item]
    number: int
    size: int
    total: int

    @property
    def pages(self) -> int:
        return max(1, -(-self.total // self.size))

    @property
    def has_next(self) -> bool:
        return self.number < self.pages


@dataclass(frozen=True)
class Stretch(Generic[Item]):
    """What a search came to before its time was over. `after`: from where it goes on, None at the end of what there is;
    `searched`: how much it looked at."""

    items: list[Item]
    size: int
    searched: int
    after: int | None


def fetch(
    session: Session, query: Select[*tuple[Any, ...]], *, page: int = 1, size: int = 50, total: int | None = None
) -> Page[Any]:
    """The rows of one page; single-column queries give scalars. A page beyond the last is empty, not an error. Who knows the
    `total` saves counting."""
    # Bounded: OFFSET is a 64-bit number in both databases, and a page number comes from an address bar.
    page, size = min(max(page, 1), 1_000_000), min(max(size, 1), LARGEST)
    if total is None:
        total = session.scalar(select(func.count()).select_from(query.order_by(None).subquery())) or 0
    rows = session.execute(query.limit(size).offset((page - 1) * size))
    items = list(rows.scalars() if len(query.column_descriptions) == 1 else rows)
    return Page(items, page, size, total)
