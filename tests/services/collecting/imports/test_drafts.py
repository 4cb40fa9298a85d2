"""Files that wait for a person: kept, said of, started once, forgotten."""

import io
import os
import time

import pytest

from app.db import write_session
from app.errors import Conflict, Gone, Invalid
from app.models import Import, ImportState
from app.services.collecting.imports import drafts, load
from tests.factory import Factory

DATA = b'{"prompt": "q", "responses": ["a", "b"]}'


def draft(factory: Factory) -> Import:
    token = drafts.keep(factory.settings, io.BytesIO(DATA))
    project, user = factory.project(), factory.engineer()
    with write_session(factory.engine) as session:
        return drafts.create(session, project=project, by=session.merge(user), filename="a.jsonl", upload=token)


def run(factory: Factory, row: Import) -> Import:
    with drafts.open_upload(factory.settings, row) as stream:
        return load.load(
            factory.engine,
            project_id=row.project_id,
            user_id=row.user_id or 0,
            stream=stream,
            filename=row.filename,
            settings=factory.settings,
            draft_id=row.id,
        )


def test_a_draft_is_read_once(factory: Factory) -> None:
    row = draft(factory)
    assert row.state is ImportState.DRAFT
    done = run(factory, row)
    assert (done.id, done.state, done.added) == (row.id, ImportState.DONE, 1)
    with pytest.raises(Conflict, match="started already"):
        run(factory, row)
    with write_session(factory.engine) as session:
        stored = load.get(session, row.id)
        assert (stored.state, stored.added) == (ImportState.DONE, 1)  # the second click changed nothing
        for too_late in (drafts.say, drafts.discard):
            more = {"given": {}} if too_late is drafts.say else {"settings": factory.settings}
            with pytest.raises(Conflict):
                too_late(session, row=stored, **more)  # type: ignore[operator]


def test_what_is_said_of_columns_is_checked(factory: Factory) -> None:
    row = draft(factory)
    with write_session(factory.engine) as session:
        stored = load.get(session, row.id)
        drafts.say(session, row=stored, given={"prompt": "prompt"})
        assert stored.mapping == {"prompt": "prompt"}
        with pytest.raises(Invalid):
            drafts.say(session, row=stored, given={"prompt": "king"})


def test_a_file_that_nobody_came_back_to_is_removed_and_said_to_be_gone(factory: Factory) -> None:
    row = draft(factory)
    path = factory.settings.data_dir / "uploads" / row.upload
    os.utime(path, (time.time(), time.time() - drafts.KEPT_SECONDS - 60))
    other = draft(factory)
    assert not path.exists()
    with pytest.raises(Gone, match="Send it again"):
        drafts.open_upload(factory.settings, row)
    with write_session(factory.engine) as session:
        drafts.discard(session, settings=factory.settings, row=load.get(session, other.id))
    assert not list((factory.settings.data_dir / "uploads").iterdir())


def test_a_name_that_is_no_uploads_opens_nothing(factory: Factory) -> None:
    with pytest.raises(Gone):
        drafts.open_upload(factory.settings, Import(id=1, upload="../prefloop.db"))


def test_an_upload_that_breaks_leaves_nothing(factory: Factory) -> None:
    class Broken(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        drafts.keep(factory.settings, Broken())  # type: ignore[arg-type]
    assert not list((factory.settings.data_dir / "uploads").iterdir())
