"""Rows in bulk come out as they went in, on both databases."""

from datetime import UTC, datetime

import pytest
from sqlalchemy import BigInteger, String, select, text
from sqlalchemy.orm import Session

from app.bulk import AT_ONCE, PAGES_KIB, among, given, insert_rows, next_ids, room
from app.models import Project, Prompt, Response, SourceKind, Split, User

TEXTS = ["plain", "tab\tline\nreturn\r", "back\\slash \\N \\.", "quote ' \" ,", "umlaut ä € \U0001f600", ""]
MADE = datetime(2030, 5, 17, 12, 30, 15, 123456, tzinfo=UTC)


def prompt(session: Session, project: Project) -> int:
    (number,) = next_ids(session, Prompt, 1)
    row = (number, "0" * 64, '[{"role":"user","content":"Why? \\u00e4"}]', Split.EVAL.value)
    columns = ("id", "content_hash", "messages", "split")
    insert_rows(session, Prompt, columns, [row], project_id=project.id, created_at=MADE)
    return number


def test_values_of_every_kind_come_back(session: Session) -> None:
    project = _project(session)
    prompt_id = prompt(session, project)
    ids = next_ids(session, Response, len(TEXTS))
    insert_rows(
        session,
        Response,
        ("id", "content_hash", "text", "characters"),
        [(number, str(at), text, len(text)) for at, (number, text) in enumerate(zip(ids, TEXTS, strict=True))],
        prompt_id=prompt_id,
        words=1,
        source_kind=SourceKind.MODEL,
        source_name="m",
        created_at=MADE,
    )
    one = session.get_one(Prompt, prompt_id)
    assert (one.split, one.created_at, one.group_id) == (Split.EVAL, MADE, None)
    assert one.messages == [{"role": "user", "content": "Why? ä"}]
    rows = session.scalars(select(Response).order_by(Response.id)).all()
    assert [row.text for row in rows] == TEXTS
    assert {(row.source_kind, row.created_at) for row in rows} == {(SourceKind.MODEL, MADE)}


def test_values_that_are_missing_and_texts_stand_in_one_column(session: Session) -> None:
    project = _project(session)
    prompt_id = prompt(session, project)
    ids = next_ids(session, Response, len(TEXTS))
    turns = [None, *(f'[{{"role":"assistant","content":"{at}\\\\n 100%s"}}]' for at in range(1, len(TEXTS)))]
    rows = [
        (number, str(at), text, told) for at, (number, text, told) in enumerate(zip(ids, TEXTS, turns, strict=True))
    ]
    same = {"prompt_id": prompt_id, "characters": 1, "words": 1, "source_kind": SourceKind.MODEL, "created_at": MADE}
    insert_rows(session, Response, ("id", "content_hash", "text", "turns"), rows, source_name="100%s\t\\", **same)
    stored = session.scalars(select(Response).order_by(Response.id)).all()
    assert [row.turns and row.turns[0]["content"] for row in stored] == [
        None,
        *(f"{at}\\n 100%s" for at in range(1, len(TEXTS))),
    ]
    assert {row.source_name for row in stored} == {"100%s\t\\"}


def test_rows_of_several_statements_and_of_a_rest_all_come(session: Session) -> None:
    project = _project(session)
    count = 2 * AT_ONCE + 17
    ids = next_ids(session, Prompt, count)
    assert ids == list(range(ids[0], ids[0] + count))
    rows = [(number, f"{number:064}", "[]") for number in ids]
    insert_rows(
        session,
        Prompt,
        ("id", "content_hash", "messages"),
        rows,
        project_id=project.id,
        split=Split.KEPT,
        created_at=MADE,
    )
    stored = session.execute(
        select(Prompt.id, Prompt.content_hash, Prompt.split, Prompt.created_at).order_by(Prompt.id)
    )
    assert stored.all() == [(number, f"{number:064}", Split.KEPT, MADE) for number in ids]


def test_texts_of_every_kind_are_found(session: Session) -> None:
    project = _project(session)
    prompt_id = prompt(session, project)
    ids = next_ids(session, Response, len(TEXTS))
    rows = [(number, str(at), text) for at, (number, text) in enumerate(zip(ids, TEXTS, strict=True))]
    same = {"prompt_id": prompt_id, "characters": 1, "words": 1, "source_kind": SourceKind.MODEL, "created_at": MADE}
    insert_rows(session, Response, ("id", "content_hash", "text"), rows, source_name='{m,"n\\', **same)
    asked = [*TEXTS, "{", "NULL", ","]
    assert set(session.scalars(select(Response.text).where(among(session, Response.text, asked)))) == set(TEXTS)
    named = given(session, [('{m,"n\\', 1)], name=String, number=BigInteger)
    assert len(session.scalars(select(Response.id).join(named, Response.source_name == named.c.name)).all()) == len(
        TEXTS
    )


def _project(session: Session) -> Project:
    maker = User(username="maker", display_name="Maker", role="admin")
    session.add(maker)
    session.flush()
    project = Project(slug="x", name="X", created_by_id=maker.id)
    session.add(project)
    session.flush()
    return project


def test_ids_that_were_taken_are_not_given_again(session: Session) -> None:
    project = _project(session)
    first = prompt(session, project)
    session.add(Prompt(project_id=project.id, content_hash="1" * 64, messages=[], split=Split.TRAIN))
    session.flush()
    assert next_ids(session, Prompt, 2)[0] > first + 1


def test_rows_are_found_by_any_number_of_values(session: Session) -> None:
    project = _project(session)
    number = prompt(session, project)
    hashes = [f"{at:064}" for at in range(70_000)]
    query = select(Prompt.id).where(among(session, Prompt.content_hash, hashes))
    assert session.scalars(query).all() == [number]
    assert session.scalars(select(Prompt.id).where(among(session, Prompt.id, []))).all() == []
    assert session.scalars(select(Prompt.id).where(among(session, Prompt.id, range(number + 1)))).all() == [number]
    pairs = given(session, [(number, "0" * 64), (number, "1" * 64), (0, "0" * 64)], one=BigInteger, two=String)
    both = select(Prompt.id).join(pairs, (Prompt.id == pairs.c.one) & (Prompt.content_hash == pairs.c.two))
    assert session.scalars(both).all() == [number]
    nothing = given(session, [], one=BigInteger, two=String)
    assert session.execute(select(nothing.c.one)).all() == []


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_connection_has_more_pages_for_many_rows_alone(session: Session) -> None:
    pages = text("PRAGMA cache_size")
    before = session.scalar(pages)
    with room(session):
        assert session.scalar(pages) == -PAGES_KIB != before
    assert session.scalar(pages) == before
