"""prefloop progress"""

from app.commands.context import show
from app.commands.options import AsJson
from app.db import get_engine, read_session
from app.services.collecting import projects
from app.services.loop import progress as scale
from app.services.loop.verdict import words


def progress(slug: str, as_json: AsJson = False) -> None:
    """Show all checkpoints of a project on one scale, by every blind comparison of them."""
    with read_session() as session:
        project = projects.get(session, slug)
    told = scale.current(get_engine(), project=project)
    show(
        (
            {
                "model": row.name,
                "against_first": words.percent(row.win_rate.value) if row.connected else "not connected",
                "interval": words.span(row.win_rate) if row.connected else "",
                "against_previous": words.percent(row.from_previous.value) if row.from_previous else "",
                "compared_on": row.comparisons,
            }
            for row in told.rounds
        ),
        as_json=as_json,
        empty="No evaluation has ended yet: checkpoints have a place once people compared them blind.",
    )
