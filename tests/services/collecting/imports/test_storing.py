"""One batch into a project: whose a vote is, and what contradicts what was said before."""

import json

from app.models import ImportState
from tests.factory import Factory
from tests.services.collecting.imports.test_load import load


def test_a_named_vote_never_contradicts_the_importing_persons(factory: Factory) -> None:
    project, engineer = factory.project(), factory.engineer()
    pair = {"prompt": "q", "response_a": "a", "response_b": "b"}
    assert load(factory, project, json.dumps(pair | {"winner": "a"}).encode(), engineer).judged == 1
    named = load(factory, project, json.dumps(pair | {"winner": "b", "judge": "Ada"}).encode(), engineer)
    assert (named.judged, named.rejected, named.state) == (1, 0, ImportState.DONE)
    other = load(factory, project, json.dumps(pair | {"winner": "b"}).encode(), engineer)
    assert (other.rejected, other.rejections[0]["reason"]) == (1, "contradicts_earlier")


def test_a_tie_that_a_file_tells_is_a_judgment(factory: Factory) -> None:
    row = load(factory, factory.project(), b'{"prompt": "q", "response_a": "a", "response_b": "b", "winner": "tie"}')
    assert (row.added, row.judged) == (1, 1)
