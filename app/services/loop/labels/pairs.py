"""The pairs that a label check lists, some at a time: to look at, and to leave out. Nothing is ever turned around."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session, aliased

from app.models import CheckedPair, Comparison, Exclusion, LabelCheck, Prompt, Response
from app.paging import LARGEST, Page
from app.services.collecting.exclusions import IN_FORCE


class Listed(StrEnum):
    """Pairs whose label the others contradict, the strongest first; pairs that would push the chosen answer down."""

    CONTRADICT = "contradict"
    LOWER = "lower"


PLACES = {Listed.CONTRADICT: CheckedPair.contradicts, Listed.LOWER: CheckedPair.lowers}


@dataclass(frozen=True, slots=True)
class Listing:
    """A pair as the snapshot has it. `exclusion_id`: of the one in force, if it is left out now."""

    place: int
    row: CheckedPair
    prompt: list[Any]
    chosen: str
    rejected: str
    exclusion_id: int | None

    @property
    def in_both(self) -> bool:
        return self.row.contradicts is not None and self.row.lowers is not None


def total(check: LabelCheck, listed: Listed) -> int:
    return int((check.result or {}).get(listed.value, 0))


def listing(session: Session, *, check: LabelCheck, listed: Listed, page: int = 1, size: int = 10) -> Page[Listing]:
    """A page of a list. It costs what the page is large. `check` has its run and the run's snapshot loaded."""
    page, size = min(max(page, 1), 1_000_000), min(max(size, 1), LARGEST)
    place = PLACES[listed]
    first, second = aliased(Response), aliased(Response)
    query = (
        select(CheckedPair, Prompt.messages, first.text, second.text)
        .join(Comparison, Comparison.id == CheckedPair.comparison_id)
        .join(Prompt, Prompt.id == Comparison.prompt_id)
        .join(first, first.id == Comparison.first_response_id)
        .join(second, second.id == Comparison.second_response_id)
        .where(CheckedPair.job_id == check.job_id, place > (page - 1) * size, place <= page * size)
        .order_by(place)
    )
    rows = session.execute(query).tuples().all()
    numbers = [row.comparison_id for row, *_ in rows]
    left_out = dict(
        session.execute(
            select(Exclusion.comparison_id, Exclusion.id).where(Exclusion.comparison_id.in_(numbers), IN_FORCE)
        )
        .tuples()
        .all()
    )
    items = []
    for row, messages, *answers in rows:
        chosen, rejected = answers if row.first_chosen else reversed(answers)
        items.append(Listing(getattr(row, place.key), row, messages, chosen, rejected, left_out.get(row.comparison_id)))
    return Page(items, page, size, total(check, listed))
