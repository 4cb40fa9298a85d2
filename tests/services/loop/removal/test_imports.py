"""An import is undone: what nobody judged goes, what somebody judged stays and is left out."""

import io
import json
from collections.abc import Iterable

import pytest
from sqlalchemy import Engine, func, select

from app.config import Settings
from app.db import read_session, write_session
from app.errors import Conflict
from app.models import (
    Comparison,
    Exclusion,
    Import,
    ImportState,
    Judgment,
    Project,
    Prompt,
    PromptKey,
    Response,
    Slot,
    User,
)
from app.services.collecting import exclusions
from app.services.collecting.imports import load
from app.services.datasets import snapshots
from app.services.loop.removal import imports
from tests.factory import Factory
from tests.services.collecting.test_exclusions import wrong_counts


def brought(
    engine: Engine, settings: Settings, project: Project, by: User, lines: Iterable[dict[str, object]]
) -> Import:
    data = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    return load.load(
        engine, project_id=project.id, user_id=by.id, stream=io.BytesIO(data), filename="pairs.jsonl", settings=settings
    )


def waiting(count: int, word: str = "Question") -> list[dict[str, object]]:
    return [{"prompt": f"{word} {n}?", "responses": [f"Aye {n}.", f"No {n}."]} for n in range(count)]


def chosen(count: int) -> list[dict[str, object]]:
    return [{"prompt": f"Asked {n}?", "chosen": f"Aye {n}.", "rejected": f"No {n}."} for n in range(count)]


def undo(engine: Engine, row: Import, by: User) -> Exclusion:
    with write_session(engine) as session:
        made = imports.undo(session, row=session.merge(row), by=session.merge(by), reason="wrong file")
    imports.settle(engine, exclusion_id=made.id)
    with read_session(engine) as session:
        return session.get_one(Exclusion, made.id)


def left(engine: Engine) -> dict[str, int]:
    with read_session(engine) as session:
        return {
            table.__tablename__: session.scalar(select(func.count()).select_from(table)) or 0
            for table in (Comparison, Prompt, PromptKey, Response, Slot, Judgment)
        }


def test_what_nobody_judged_goes(engine: Engine, settings: Settings, factory: Factory) -> None:
    project, lead, evaluator = factory.project(judgments_per_comparison=2), factory.admin(), factory.user()
    factory.comparison(project, prompt="Question 0?", answers=("Aye 0.", "Something else."))
    before = left(engine)
    row = brought(engine, settings, project, lead, waiting(450))
    assert row.added == 450
    made = undo(engine, row, lead)
    assert (made.settled, made.removed) == (True, 450)
    assert left(engine) == before
    assert wrong_counts(engine) == []
    again = brought(engine, settings, project, lead, waiting(3))
    assert (again.added, again.duplicates) == (3, 0)
    assert factory.judge(project, evaluator)
    assert wrong_counts(engine) == []


def test_judged_pairs_stay_and_are_left_out(engine: Engine, settings: Settings, factory: Factory) -> None:
    project, lead, evaluator = factory.project(judgments_per_comparison=2), factory.admin(), factory.user()
    row = brought(engine, settings, project, lead, waiting(5))
    for _ in range(2):
        assert factory.judge(project, evaluator)
    made = undo(engine, row, lead)
    assert made.removed == 3
    assert left(engine)["comparisons"] == 2
    assert factory.shown(project, factory.user()) is None
    with read_session(engine) as session:
        told = snapshots.preview(session, project=project)
    assert (told.counts.pairs, told.counts.left_out) == (0, {"excluded": 2})
    assert wrong_counts(engine) == []
    with write_session(engine) as session:
        exclusions.lift(
            session,
            project=session.get_one(Project, project.id),
            row=session.get_one(Exclusion, made.id),
            by=session.merge(lead),
        )
    imports.settle(engine, exclusion_id=made.id)
    assert factory.shown(project, factory.user()) is not None
    assert wrong_counts(engine) == []


def test_what_only_the_file_judged_goes_unless_a_snapshot_or_another_file_has_it(
    engine: Engine, settings: Settings, factory: Factory
) -> None:
    project, lead = factory.project(eval_percent=0), factory.admin()
    undone = brought(engine, settings, project, lead, chosen(4))
    assert undo(engine, undone, lead).removed == 4
    assert wrong_counts(engine) == []
    turned = [{"prompt": line["prompt"], "chosen": line["rejected"], "rejected": line["chosen"]} for line in chosen(4)]
    right = brought(engine, settings, project, lead, turned)
    assert (right.added, right.judged, right.rejected) == (4, 4, 0), "the file can be read again the other way round"
    other = [line | {"rater": "Ada"} for line in turned[:1]]
    brought(engine, settings, project, lead, [{"prompt": "Asked 1?", "responses": ["Aye 1.", "No 1."]}, *other])
    factory.snapshot(project)
    made = undo(engine, right, lead)
    assert made.removed == 0, "a snapshot holds them"
    assert left(engine)["comparisons"] == 4
    assert wrong_counts(engine) == []


def test_votes_of_another_file_keep_a_pair(engine: Engine, settings: Settings, factory: Factory) -> None:
    project, lead, other = factory.project(), factory.admin(), factory.admin()
    first = brought(engine, settings, project, lead, waiting(3))
    same = [{"prompt": "Question 1?", "chosen": "Aye 1.", "rejected": "No 1."}]
    second = brought(engine, settings, project, other, same)
    assert (second.duplicates, second.judged) == (1, 1)
    assert undo(engine, first, lead).removed == 2
    assert left(engine)["judgments"] == 1
    assert wrong_counts(engine) == []


def test_an_undoing_that_broke_off_goes_on(
    engine: Engine, settings: Settings, factory: Factory, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, lead = factory.project(), factory.admin()
    row = brought(engine, settings, project, lead, waiting(30))
    monkeypatch.setattr(imports, "PAIRS_AT_ONCE", 10)
    steps = iter([False, True])
    real = imports._step

    def step(*given: object) -> None:
        if next(steps, True):
            raise KeyboardInterrupt
        real(*given)

    monkeypatch.setattr(imports, "_step", step)
    with pytest.raises(KeyboardInterrupt):
        undo(engine, row, lead)
    assert left(engine)["comparisons"] == 20
    assert wrong_counts(engine) == []
    monkeypatch.setattr(imports, "_step", real)
    assert imports.go_on(engine) == 1
    assert left(engine)["comparisons"] == 0
    assert imports.go_on(engine) == 0
    assert wrong_counts(engine) == []


def test_undoing_twice_is_once_and_a_running_import_is_refused(
    engine: Engine, settings: Settings, factory: Factory
) -> None:
    project, lead = factory.project(), factory.admin()
    row = brought(engine, settings, project, lead, waiting(1))
    assert undo(engine, row, lead).id == undo(engine, row, lead).id
    for state, words in ((ImportState.RUNNING, "is running"), (ImportState.DRAFT, "Nothing of import")):
        with write_session(engine) as session:
            other = Import(project_id=project.id, user_id=lead.id, state=state)
            session.add(other)
        with pytest.raises(Conflict, match=words):
            undo(engine, other, lead)
