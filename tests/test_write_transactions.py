"""Nobody touches files or renders pages while a write transaction is open: on SQLite everybody else would wait."""

import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from markupsafe import Markup
from sqlalchemy import Engine, func, select
from starlette.testclient import TestClient
from typer.testing import CliRunner

from app import security
from app.cli import cli
from app.config import Settings
from app.db import is_writing, read_session, write_session
from app.demo import seed
from app.models import Judgment, Role, User
from app.paths import ROOT
from app.services.accounts import links
from app.storage import Storage
from app.web import templating
from app.web.templating import PageResponse
from tests.factory import Factory
from tests.pretend_worker import PretendWorker

OWN = {"Sec-Fetch-Site": "same-origin"}
opened: list[str] = []
watching = False


def note(event: str, arguments: tuple[object, ...]) -> None:
    if watching and event == "open" and is_writing():
        path = str(arguments[0])
        if path.startswith(tempfile.gettempdir()) or path.endswith((".jsonl", ".jsonl.gz", ".safetensors", ".md")):
            opened.append(path)


sys.addaudithook(note)  # a hook can't be taken out again; `watching` silences it


@pytest.fixture(autouse=True)
def watched() -> Iterator[None]:
    global watching
    opened.clear()
    watching = True
    yield
    watching = False
    assert opened == []


def test_store_refuses_to_work_within_a_write_transaction(engine: Engine, storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    storage.put_bytes("a", b"x")
    with write_session(engine):
        for touch in (
            lambda: storage.put_bytes("b", b"x"),
            lambda: storage.put_file("b", tmp_path / "file"),
            lambda: storage.read_bytes("a"),
            lambda: storage.fetch("a", tmp_path / "copy"),
            lambda: storage.delete("a"),
            lambda: storage.exists("a"),
        ):
            with pytest.raises(RuntimeError, match="write transaction"):
                touch()
    opened.clear()
    with read_session(engine):
        assert storage.read_bytes("a") == b"x"


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_store_refuses_within_a_request_that_holds_the_writer(
    client: TestClient, sign_in: Callable[[User], TestClient], factory: Factory, storage: Storage
) -> None:
    """A request's session is opened in one thread and used in another: the mark must reach both."""
    from app.services.collecting import guidelines

    kept = guidelines.get
    seen: list[bool] = []

    def get(*arguments: object, **more: object) -> object:
        seen.append(is_writing())
        return kept(*arguments, **more)

    project, browser = factory.judged(4), sign_in(factory.admin())
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(guidelines, "get", get)
        assert browser.get(f"/projects/{project.slug}/guidelines").status_code == 200
        assert seen and not any(seen)
        seen.clear()
        browser.post(f"/projects/{project.slug}/guidelines", data={"text": "Be kind."}, headers=OWN)
        assert seen and all(seen)


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_from_an_import_to_a_checkpoint_no_file_is_opened_within_a_write_transaction(
    client: TestClient,
    sign_in: Callable[[User], TestClient],
    api: Callable[[User], dict[str, str]],
    engine: Engine,
    settings: Settings,
    factory: Factory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    project, admin = factory.judged(6, eval_percent=0), factory.admin()
    lines = "".join(f'{{"prompt": "Q{n}?", "chosen": "Good {n}", "rejected": "Bad {n}"}}\n' for n in range(50))
    header = api(admin)
    reply = client.post(f"/api/v1/projects/{project.slug}/import", content=lines, headers=header)
    assert reply.json()["added"] == 50
    assert client.post(f"/api/v1/projects/{project.slug}/snapshots", headers=header).status_code == 201
    body = {"project": project.slug, "base_model": "tiny"}
    assert client.post("/api/v1/jobs", json=body, headers=header).status_code == 201
    worker = PretendWorker(engine, settings)
    worker.claim()
    worker.publish()
    factory.comparison(project)
    factory.judge(project, factory.user())
    browser = sign_in(admin)
    sent = browser.post(f"/projects/{project.slug}/import", files={"file": ("a.jsonl", lines.encode())}, headers=OWN)
    assert sent.status_code == 303
    assert browser.get(sent.headers["location"]).status_code == 200
    for step in ("columns", "start"):
        assert browser.post(f"{sent.headers['location']}/{step}", headers=OWN).status_code == 303
    assert browser.post(f"/projects/{project.slug}/snapshots", headers=OWN).status_code == 303
    out = str(settings.data_dir / "out")
    for words in (["export", project.slug, "--out", out], ["train", project.slug, "--model", "tiny"]):
        assert CliRunner().invoke(cli, words).exit_code == 0


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_demo_is_read_before_it_is_stored(engine: Engine, factory: Factory) -> None:
    factory.admin()
    content = seed.content()
    with write_session(engine) as session:
        assert seed.seed(session, content=content)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_invitation_and_command_line_hash_a_password_before_they_write(
    client: TestClient, engine: Engine, settings: Settings, factory: Factory, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, hashed_while_writing = security.hash_password, []

    def hash_password(password: str) -> str:
        hashed_while_writing.append(is_writing())
        return kept(password)

    monkeypatch.setattr(security, "hash_password", hash_password)
    with write_session(engine) as session:
        token = links.invite(session, role=Role.EVALUATOR, by=None, settings=settings)
    taken = {"username": "grace", "display_name": "Grace", "password": "correct horse battery"}
    assert client.post(f"/invitation/{token}", data=taken, headers=OWN, follow_redirects=False).status_code == 303
    twice = "correct horse battery\n" * 2
    for words in (["user", "add", "ada", "--password"], ["user", "password", "ada"]):
        assert CliRunner().invoke(cli, words, input=twice).exit_code == 0
    assert hashed_while_writing == [False] * 3


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_hook_notices_a_file_that_is_opened_too_early(engine: Engine, tmp_path: Path) -> None:
    with write_session(engine):
        (tmp_path / "upload").write_bytes(b"x")
    assert opened == [str(tmp_path / "upload")]
    opened.clear()


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """(template, whether a write transaction was open) of each page that was rendered."""
    seen: list[tuple[str, bool]] = []
    make = PageResponse.make

    def noted(page: PageResponse) -> PageResponse:
        seen.append((page.template, is_writing()))
        return make(page)

    monkeypatch.setattr(PageResponse, "make", noted)
    return seen


def test_a_page_refuses_to_be_rendered_within_a_write_transaction(engine: Engine) -> None:
    page = PageResponse(lambda: "<p>", template="a.html")
    with write_session(engine), pytest.raises(RuntimeError, match="write transaction"):
        page.make()
    assert page.make().body == b"<p>" and page.headers["content-length"] == "3"


def test_pages_that_answer_a_write_are_rendered_after_its_commit(
    sign_in: Callable[[User], TestClient], factory: Factory, engine: Engine, pages: list[tuple[str, bool]]
) -> None:
    project = factory.project()
    for _ in range(3):
        factory.comparison(project)
    browser = sign_in(factory.admin())
    desk = browser.get(f"/projects/{project.slug}/compare")
    token = re.search(r'name="token" value="([^"]+)"', desk.text)
    assert token is not None
    htmx = OWN | {"HX-Request": "true"}
    base = f"/projects/{project.slug}"
    pages.clear()
    held: list[bool] = []
    make = templating.environment().filters["markdown"]

    def probed(text: str) -> Markup:
        with engine.connect() as connection:  # BEGIN IMMEDIATE on SQLite: waits if anybody holds the writer
            held.append(connection.execute(select(func.count()).select_from(Judgment)).scalar_one() == 1)
        return make(text)

    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(templating.environment().filters, "markdown", probed)
        templating.environment().cache.clear()
        reply = browser.post(f"{base}/compare", data={"token": token[1], "choice": "left"}, headers=htmx)
    templating.environment().cache.clear()
    assert reply.status_code == 200 and 'id="desk"' in reply.text
    assert held and all(held)  # each text was formatted when others could read the judgment
    browser.post(f"{base}/compare", data={"token": "none", "choice": "left"}, headers=htmx)
    browser.post(f"{base}/compare/undo", headers=htmx)
    browser.post(f"{base}/settings", data={"name": ""}, headers=OWN)
    browser.post(f"{base}/guidelines", data={"text": "x" * 2_000_000}, headers=OWN)
    assert "<em>now</em>" in browser.post(f"{base}/guidelines/preview", data={"text": "*now*"}, headers=OWN).text
    browser.post("/sign-in", data={"username": "nobody", "password": "wrong"}, headers=OWN)
    browser.post("/projects/none/guidelines", data={"text": "x"}, headers=OWN)
    browser.post("/account/password", data={"old": "a", "new": "b"}, headers=OWN)
    templates = [template for template, _ in pages]
    assert templates.count("collecting/compare/show.html") >= 3
    assert {"collecting/projects/settings.html", "accounts/session/sign_in.html", "errors/error.html"} <= set(templates)
    assert not any(writing for _, writing in pages)


def test_templates_are_rendered_by_the_page_that_refuses_and_by_nothing_else() -> None:
    users = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "app").rglob("*.py")
        if re.search(r"import .*\bjinja2|from jinja2|\bmarkup import .*\bto_html|\benvironment\(\)", path.read_text())
    }
    assert users == {"app/web/templating.py"}
