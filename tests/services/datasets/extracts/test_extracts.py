"""Extracts: made in the background, with what they hold and what they left out."""

import json
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select

from app.db import read_session, write_session
from app.errors import Invalid, NotFound
from app.models import Container, Extract, ExtractForm, ExtractState, Split, User
from app.models.base import now
from app.services.collecting import pairs
from app.services.datasets.extracts import extracts
from tests.factory import Factory


def made(factory: Factory, storage: Any, form: ExtractForm, **more: Any) -> Extract:
    project = factory.judged(3 if form is ExtractForm.OWN else 12, eval_percent=0)
    snapshot = factory.snapshot(project) if form is not ExtractForm.OWN else None
    with write_session(factory.engine) as session:
        by = session.scalars(select(User)).first()
        assert by
        row = extracts.create(
            session,
            project=session.merge(project),
            by=by,
            form=form,
            container=more.get("container", Container.JSONL),
            snapshot=session.merge(snapshot) if snapshot else None,
            split=more.get("split"),
        )
    return extracts.make(factory.engine, storage, row.id)


def test_an_extract_is_a_stored_file_with_its_hash(factory: Factory, storage: Any) -> None:
    row = made(factory, storage, ExtractForm.OWN)
    assert (row.state, row.lines, row.left_out, row.error) == (ExtractState.DONE, 3, {}, "")
    (file,) = row.files
    with storage.open(file.key) as stored:
        lines = [json.loads(line) for line in stored]
    assert len(lines) == 3 and all(len(line["judgments"]) == 1 for line in lines)
    assert file.name.endswith(".jsonl") and file.size > 100


@pytest.mark.parametrize("container", list(Container))
def test_a_snapshot_in_openais_form(factory: Factory, storage: Any, container: Container) -> None:
    row = made(factory, storage, ExtractForm.OPENAI, split=Split.TRAIN, container=container)
    assert (row.state, row.lines) == (ExtractState.DONE, 12)
    assert row.files[0].name.endswith(f"-1-train-openai.{container.value}")


def test_pairs_that_the_form_cannot_hold_are_counted_and_said(factory: Factory, storage: Any) -> None:
    project = factory.project(eval_percent=0)
    prompt = [{"role": "user", "content": "Q"}, {"role": "tool", "content": "T"}]
    with write_session(factory.engine) as session:
        pairs.add(session, project=session.merge(project), prompt=prompt, responses=("a", "b"))
    factory.comparison(project)
    user = factory.user()
    assert factory.judge(project, user) and factory.judge(project, user)
    snapshot = factory.snapshot(project)
    rows = extracts.rows(
        factory.engine, storage, form=ExtractForm.OPENAI, project_id=project.id, snapshot=snapshot, split=Split.TRAIN
    )
    assert len(list(rows)) == 1 and rows.left_out == {"tool_message": 1}
    assert extracts.told(rows.left_out) == [
        "Left out: 1 pairs hold a tool's message, which not all of these services take."
    ]


def test_a_form_needs_what_it_is_made_of(factory: Factory, storage: Any) -> None:
    snapshot = factory.snapshot()
    for form, given in (
        (ExtractForm.OWN, {"snapshot": snapshot, "split": Split.TRAIN}),
        (ExtractForm.TRL, {}),
        (ExtractForm.OPENAI, {"snapshot": snapshot}),
    ):
        with pytest.raises(Invalid):
            extracts.rows(factory.engine, storage, form=form, project_id=snapshot.project_id, **given)
    with pytest.raises(Invalid):  # another project's
        extracts.rows(
            factory.engine,
            storage,
            form=ExtractForm.TRL,
            project_id=factory.project().id,
            snapshot=snapshot,
            split=Split.TRAIN,
        )


def test_an_extract_that_fails_says_why(factory: Factory, storage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage, "put_file", full)
    row = made(factory, storage, ExtractForm.OWN)
    assert row.state is ExtractState.FAILED and "No space left" in row.error and not row.files


def test_an_extract_tells_how_far_it_is(factory: Factory, storage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extracts, "PULSE", timedelta(0))
    put, seen = storage.put_file, []

    def look(*args: Any, **more: Any) -> Any:
        with read_session(factory.engine) as session:
            seen.append(session.scalars(select(Extract.lines).where(Extract.state == ExtractState.RUNNING)).one())
        return put(*args, **more)

    monkeypatch.setattr(storage, "put_file", look)
    row = made(factory, storage, ExtractForm.OWN)
    assert row.state is ExtractState.DONE and seen == [row.lines] and row.lines > 0


def test_extracts_are_listed_and_found(factory: Factory, storage: Any) -> None:
    row = made(factory, storage, ExtractForm.OWN)
    with read_session(factory.engine) as session:
        assert extracts.get(session, row.id).id == row.id
        with pytest.raises(NotFound):
            extracts.get(session, 999)
    running = Extract(state=ExtractState.RUNNING, updated_at=now())
    assert not extracts.is_stalled(running)
    assert extracts.is_stalled(running, now=now() + 2 * extracts.STALLED_AFTER)
