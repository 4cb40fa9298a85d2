"""Imports in the browser: upload, progress, what became of every line."""

import gzip
import re
import threading
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import pytest
from sqlalchemy import Engine, func, select
from starlette.testclient import TestClient

from app.config import Settings
from app.db import read_session, write_session
from app.models import Comparison, Import, ImportState, Project, User
from app.models.base import now
from app.services.collecting.imports import load
from app.services.collecting.imports.reading import batches
from tests.factory import Factory

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

OWN = {"Sec-Fetch-Site": "same-origin"}
GOOD = b'{"prompt": "Where is it?", "responses": ["Here.", "No idea."]}\n'
MIXED = GOOD + b"not json\n" + b'{"prompt": "", "responses": ["a", "b"]}\n' + GOOD


@pytest.fixture
def browser(sign_in: Callable[[User], TestClient], factory: Factory) -> TestClient:
    return sign_in(factory.engineer())


@pytest.fixture
def project(factory: Factory) -> Project:
    return factory.project()


def send(browser: TestClient, project: Project, content: bytes, name: str = "answers.jsonl") -> str:
    """Uploads a file and imports it, as the plain forms do; the address of the import's page."""
    address = upload(browser, project, content, name)
    reply = browser.post(f"{address}/start", headers=OWN)
    assert (reply.status_code, reply.headers["location"]) == (303, address)
    return address


def upload(browser: TestClient, project: Project, content: bytes, name: str = "answers.jsonl") -> str:
    reply = browser.post(f"/projects/{project.slug}/import", files={"file": (name, content)}, headers=OWN)
    assert reply.status_code == 303, reply.text
    return reply.headers["location"]


def settled(engine: Engine, address: str) -> Import:
    """The import once its thread is done."""
    for thread in threading.enumerate():
        if thread.name.startswith("import into project"):
            thread.join()
    with read_session(engine) as session:
        return load.get(session, int(address.removeprefix("/imports/")))


def test_every_line_is_accounted_for(browser: TestClient, project: Project, engine: Engine) -> None:
    address = send(browser, project, MIXED)
    row = settled(engine, address)
    assert (row.state, row.lines, row.added, row.duplicates, row.rejected) == (ImportState.DONE, 4, 1, 1, 2)
    page = browser.get(address).text
    assert "4 lines read" in page and "answers.jsonl" in page
    assert re.search(r'<td class="num">2</td>\s*<td class="tight">bad json</td>', page)
    assert re.search(r'<td class="num">3</td>\s*<td class="tight">empty prompt</td>', page)
    assert "hx-trigger" not in page[page.index("import-progress") :] and "http-equiv" not in page
    listed = browser.get(f"/projects/{project.slug}/import").text
    assert f'href="{address}"' in listed


def test_a_gzip_file_is_read_as_well_and_twice_adds_nothing(
    browser: TestClient, project: Project, engine: Engine
) -> None:
    settled(engine, send(browser, project, gzip.compress(GOOD), "answers.jsonl.gz"))
    row = settled(engine, send(browser, project, gzip.compress(GOOD), "answers.jsonl.gz"))
    assert (row.added, row.duplicates) == (0, 1)
    with read_session(engine) as session:
        assert session.scalar(select(func.count()).select_from(Comparison)) == 1


def test_what_was_added_can_be_looked_at(
    browser: TestClient, project: Project, engine: Engine, factory: Factory
) -> None:
    factory.comparison(project, prompt="Not from the file")
    address = send(browser, project, GOOD)
    settled(engine, address)
    link = re.search(r'href="([^"]+import_id=[^"#]+)', browser.get(address).text)[1]
    shown = browser.get(link.replace("&amp;", "&")).text
    assert "Where is it?" in shown and "Not from the file" not in shown


def test_the_page_follows_a_long_import_and_then_stops(
    browser: TestClient, project: Project, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first batch is stored, the rest still being read: the upload has its answer, the page counts on."""
    shown, rest = threading.Event(), threading.Event()
    monkeypatch.setattr(batches, "BATCH_LINES", 1)
    plain = load.read_rows

    def slowly(*args: object, **kwargs: object) -> Iterator[batches.Row]:
        for count, line in enumerate(plain(*args, **kwargs)):
            if count == 2:
                shown.set()
                assert rest.wait(60)
            yield line

    monkeypatch.setattr(load, "read_rows", slowly)
    content = b"".join(b'{"prompt": "Question %d?", "responses": ["a", "b"]}\n' % number for number in range(5))
    address = send(browser, project, content)
    assert shown.wait(60)
    page = browser.get(address)
    assert (
        "2 lines read" in page.text
        and f"{address}/stop" in page.text
        and "hx-trigger" in page.text
        and "http-equiv" in page.text
    )
    fragment = browser.get(address, headers={"HX-Request": "true", "HX-Request-Type": "partial"}).text
    assert fragment.strip().startswith('<div id="import-progress"') and "<html" not in fragment
    rest.set()
    assert settled(engine, address).added == 5
    assert "hx-get" not in browser.get(address, headers={"HX-Request": "true", "HX-Request-Type": "partial"}).text


def test_an_import_that_was_cut_off_says_so(browser: TestClient, project: Project, engine: Engine) -> None:
    address = send(browser, project, GOOD)
    row = settled(engine, address)
    with write_session(engine) as session:
        cut = session.get_one(Import, row.id)
        cut.state, cut.finished_at, cut.updated_at = ImportState.RUNNING, None, now() - 2 * load.STALLED_AFTER
    page = browser.get(address).text
    with write_session(engine) as session:
        session.get_one(Import, row.id).updated_at = now() - 2 * load.QUIET_AFTER
    quiet = browser.get(address).text
    assert "none came since" in quiet and "import the file again" in quiet and 'hx-get="/imports' in quiet
    assert "interrupted" in page and "Import the file again" in page and 'hx-get="/imports' not in page


def test_a_file_that_is_not_text_ends_as_failed_with_a_reason(
    browser: TestClient, project: Project, engine: Engine
) -> None:
    address = send(browser, project, gzip.compress(GOOD * 2000)[:60], "broken.gz")
    assert settled(engine, address).state is ImportState.FAILED
    assert "Nothing was imported" in browser.get(address).text


def test_first_rows_are_shown_and_columns_are_said_before_anything_is_stored(
    browser: TestClient, project: Project, engine: Engine
) -> None:
    content = b'{"frage": "The <b>q</b>?", "gut": "The a", "schlecht": "The b", "note": "n"}\n' * 2
    address = upload(browser, project, content)
    page = browser.get(address).text
    assert "No columns are known as two answers" in page and "Nothing is stored yet" in page
    said = {"role:frage": "prompt", "role:gut": "chosen", "role:schlecht": "rejected", "role:note": ""}
    assert browser.post(f"{address}/columns", data=said, headers=OWN).status_code == 303
    page = browser.get(address).text
    assert "<code>gut</code> → chosen answer" in page and "first is better" in page and "&lt;b&gt;q&lt;/b&gt;" in page
    assert re.search(r'<option value="prompt" selected>', page)
    part = browser.post(
        f"{address}/columns", data=said, headers=OWN | {"HX-Request": "true", "HX-Request-Type": "partial"}
    ).text
    assert part.strip().startswith('<div id="draft"') and "<html" not in part
    with read_session(engine) as session:
        assert not session.scalar(select(func.count()).select_from(Comparison))
    assert browser.post(f"{address}/start", data=said, headers=OWN).status_code == 303
    row = settled(engine, address)
    assert (row.added, row.judged, row.duplicates, row.mapping) == (
        1,
        1,
        1,
        {"frage": "prompt", "gut": "chosen", "schlecht": "rejected"},
    )
    page = browser.get(address).text
    assert "note: 2" in page and "Columns that no line used" in page
    # The next file with the same columns needs no word.
    assert "first is better" in browser.get(upload(browser, project, content)).text


def test_second_click_and_a_late_one_start_nothing_twice(browser: TestClient, project: Project, engine: Engine) -> None:
    address = send(browser, project, GOOD)
    settled(engine, address)
    for step in ("start", "columns", "stop"):
        assert browser.post(f"{address}/{step}", headers=OWN).status_code == 303
    row = settled(engine, address)
    assert (row.state, row.added, row.duplicates, row.stop_requested) == (ImportState.DONE, 1, 0, False)
    assert browser.post(f"{address}/discard", headers=OWN).status_code == 409


def test_a_draft_is_discarded_or_says_that_its_file_is_gone(
    browser: TestClient, project: Project, engine: Engine, settings: Settings
) -> None:
    address = upload(browser, project, GOOD)
    for file in (settings.data_dir / "uploads").iterdir():
        file.unlink()
    assert "The file is gone." in browser.get(address).text
    assert browser.post(f"{address}/start", headers=OWN).status_code == 410
    assert browser.post(f"{address}/discard", headers=OWN).status_code == 303
    assert browser.get(address).status_code == 404


@pytest.mark.parametrize(
    ("content", "words"), [(b"PK\x03\x04.....", "ZIP archive"), (b"\n \n", "The file has no lines")]
)
def test_a_file_of_another_kind_is_said_before_it_is_imported(
    browser: TestClient, project: Project, content: bytes, words: str
) -> None:
    page = browser.get(upload(browser, project, content)).text
    assert words in page and "What each column becomes" not in page


@pytest.mark.parametrize("role", ["king", "empty"])
def test_a_role_that_is_none_is_refused(browser: TestClient, project: Project, role: str) -> None:
    address = upload(browser, project, GOOD)
    for step in ("columns", "start"):
        assert browser.post(f"{address}/{step}", data={"role:prompt": role}, headers=OWN).status_code == 422
    assert "Nothing is stored yet" in browser.get(address).text


@pytest.mark.parametrize("files", [{}, {"file": ("empty.jsonl", b"")}])
def test_no_file_or_an_empty_one_is_asked_for_again(
    browser: TestClient, project: Project, files: dict[str, object]
) -> None:
    reply = browser.post(f"/projects/{project.slug}/import", files=files or {"other": ("x", b"x")}, headers=OWN)
    assert reply.status_code == 422
    assert "data-error" in reply.text


def test_the_upload_is_refused_before_it_is_read_from_who_may_not(client: TestClient, project: Project) -> None:
    reply = client.post(f"/projects/{project.slug}/import", files={"file": ("a.jsonl", GOOD)}, headers=OWN)
    assert reply.status_code in (303, 401)
    assert reply.headers.get("location", "/sign-in").startswith("/sign-in")


def test_real_pairs_come_in_with_reasons_for_what_is_refused(
    browser: TestClient, project: Project, engine: Engine, hh_file: Path
) -> None:
    with gzip.open(hh_file) as lines:
        content = b"".join(islice(lines, 300))
    row = settled(engine, send(browser, project, content + b"{}\n", "pairs.jsonl"))
    assert row.state is ImportState.DONE
    assert row.judged > 250 and row.rejected >= 1
