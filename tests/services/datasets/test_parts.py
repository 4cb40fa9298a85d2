"""A part of a snapshot."""

import json

from app.db import read_session
from app.models import Warned
from app.services.datasets import parts, snapshots
from app.storage import Storage
from tests.factory import Factory


def test_the_lines_that_are_left_are_as_they_were(factory: Factory, storage: Storage) -> None:
    whole = factory.snapshot(factory.judged(10, eval_percent=40))
    with read_session(factory.engine) as session:
        whole = snapshots.get(session, whole.id)
    names = ("train.jsonl", "eval.jsonl")
    before = {name: storage.read_bytes(snapshots.file(whole, name).key).splitlines() for name in names}
    gone = {json.loads(lines[0])["comparison_id"] for lines in before.values()}
    asked = {"leaving_out": gone, "arms": {}, "note": Warned("arm_trial", "A part."), "storage": storage, "by_id": None}
    made = parts.freeze(factory.engine, snapshot=whole, **asked)  # type: ignore[arg-type]
    after = {name: storage.read_bytes(snapshots.file(made, name).key).splitlines() for name in names}
    assert after == {name: lines[1:] for name, lines in before.items()}
    assert (made.counts.pairs, made.counts.left_out["trial"]) == (8, 2)
    assert (made.rule, made.statistics.agreement) == (whole.rule, whole.statistics.agreement)
    assert made.statistics.warnings[0] == ("arm_trial", "A part.")
    assert parts.freeze(factory.engine, snapshot=whole, **asked).id == made.id  # type: ignore[arg-type]
