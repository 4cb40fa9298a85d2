"""The pairs that a check lists, some at a time, as the snapshot has them."""

from sqlalchemy import Engine

from app.db import read_session, write_session
from app.models import ExclusionKind
from app.services.collecting import exclusions
from app.services.loop.labels import checks, pairs
from app.services.loop.labels.pairs import Listed
from tests.services.loop.labels.checked import Checked


def test_pages_go_through_the_list_in_its_order_and_say_what_is_left_out(engine: Engine, checked: Checked) -> None:
    check = checked.finish(checked.begin())
    lines = checked.lines()
    with read_session(engine) as session:
        check = checks.get(session, check.job_id)
        first = pairs.listing(session, check=check, listed=Listed.CONTRADICT, page=1, size=1)
        second = pairs.listing(session, check=check, listed=Listed.CONTRADICT, page=2, size=1)
        third = pairs.listing(session, check=check, listed=Listed.CONTRADICT, page=3, size=1)
        lower = pairs.listing(session, check=check, listed=Listed.LOWER)
    assert (first.total, first.pages, third.items) == (2, 2, [])
    assert [page.items[0].row.comparison_id for page in (first, second)] == [
        lines[39]["comparison_id"], lines[35]["comparison_id"]
    ]  # fmt: skip
    (one,) = first.items
    assert (one.place, one.row.margin, one.exclusion_id) == (1, -4.0, None)
    assert one.chosen == lines[39]["chosen"][0]["content"] and one.rejected == lines[39]["rejected"][0]["content"]
    assert (one.row.votes, one.row.votes_chosen) == (1, 1)
    assert [listed.row.ches for listed in lower.items] == [40.0, 39.0]
    assert lower.items[0].in_both and not lower.items[1].in_both
    with write_session(engine) as session:
        exclusions.exclude(
            session,
            project=session.merge(checked.project),
            kind=ExclusionKind.PAIR,
            subject_id=one.row.comparison_id,
            by=None,
        )
    with read_session(engine) as session:
        check = checks.get(session, check.job_id)
        shown = pairs.listing(session, check=check, listed=Listed.CONTRADICT, page=1, size=1).items[0]
    assert shown.exclusion_id is not None
