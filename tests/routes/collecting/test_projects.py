"""Projects, their settings and guidelines; the first page, the switcher and the colours."""

import re
from collections.abc import Callable
from html import unescape

import pytest
from sqlalchemy import Engine, select
from starlette.testclient import TestClient

from app.db import read_session
from app.models import Project, Role, User
from app.services.collecting import guidelines, projects
from tests.factory import Factory

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
SignIn = Callable[[User], TestClient]


@pytest.fixture
def client(client: TestClient) -> TestClient:
    """As a browser sends what a page of ours submits."""
    client.headers["Sec-Fetch-Site"] = "same-origin"
    return client


FORM = {
    "name": "Support tone",
    "slug": "",
    "description": "How we sound.",
    "guidelines": "",
    "judgments_per_comparison": "2",
    "lease_minutes": "7.5",
    "daily_goal": "40",
    "eval_percent": "15",
    "default_base_model": "smollm2-135m-instruct",
    "allow_tie": "true",
    "allow_skip": "true",
}


def stored(engine: Engine, slug: str) -> Project | None:
    with read_session(engine) as session:
        return session.scalar(select(Project).where(Project.slug == slug))


@pytest.fixture
def engineer(factory: Factory, sign_in: SignIn) -> TestClient:
    return sign_in(factory.engineer())


def test_an_engineer_makes_a_project_and_is_led_to_its_import(engineer: TestClient, engine: Engine) -> None:
    reply = engineer.post("/projects/new", data={**FORM, "guidelines": "Be brief."})
    assert (reply.status_code, reply.headers["location"]) == (303, "/projects/support-tone/import")
    project = stored(engine, "support-tone")
    assert project is not None
    assert (project.judgments_per_comparison, project.lease_seconds, project.daily_goal, project.eval_percent) == (
        2,
        450,
        40,
        15,
    )
    assert (project.allow_tie, project.allow_both_bad, project.allow_skip) == (True, False, True)
    assert project.guideline_version == 1


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": "  "}, "name"),
        ({"slug": "Not A Slug!"}, "slug"),
        ({"slug": "new"}, "slug"),
        ({"judgments_per_comparison": "0"}, "judgments_per_comparison"),
        ({"judgments_per_comparison": "many"}, "judgments_per_comparison"),
        ({"lease_minutes": "0.1"}, "lease_minutes"),
        ({"lease_minutes": "nan"}, "lease_minutes"),
        ({"eval_percent": "80"}, "eval_percent"),
        ({"description": "x" * 4001}, "description"),
    ],
)
def test_a_wrong_field_is_named_and_everything_typed_stays(
    engineer: TestClient, engine: Engine, change: dict[str, str], field: str
) -> None:
    reply = engineer.post("/projects/new", data={**FORM, "guidelines": "Keep me.", **change})
    assert reply.status_code == 422
    assert f'id="{field}-error"' in reply.text and "Keep me." in reply.text
    with read_session(engine) as session:
        assert session.scalar(select(Project)) is None


def test_commands_in_help_and_errors_stand_as_commands(engineer: TestClient) -> None:
    page = engineer.get("/projects/new").text
    assert "a name from <code>prefloop models</code>" in page and "`" not in page


def test_a_taken_address_is_said_at_its_field(engineer: TestClient, factory: Factory) -> None:
    factory.project(slug="support-tone")
    reply = engineer.post("/projects/new", data=FORM)
    assert reply.status_code == 409 and 'id="slug-error"' in reply.text and "exists already" in reply.text


def test_settings_change_what_is_typed(engineer: TestClient, factory: Factory, engine: Engine) -> None:
    factory.project(slug="tone")
    assert 'value="15"' in engineer.get("/projects/tone/settings").text
    reply = engineer.post("/projects/tone/settings", data={**FORM, "name": "Our tone"})
    assert reply.status_code == 303
    project = stored(engine, "tone")
    assert project is not None and (project.name, project.lease_seconds, project.allow_both_bad) == (
        "Our tone",
        450,
        False,
    )
    assert "Settings saved." in engineer.get("/projects/tone/settings").text
    assert "Settings saved." not in engineer.get("/projects/tone/settings").text, "the message came twice"


def test_wrong_settings_are_named_and_change_nothing(engineer: TestClient, factory: Factory, engine: Engine) -> None:
    factory.project(slug="tone")
    reply = engineer.post("/projects/tone/settings", data={**FORM, "name": "Changed", "daily_goal": "-1"})
    assert reply.status_code == 422 and 'id="daily_goal-error"' in reply.text and 'value="Changed"' in reply.text
    project = stored(engine, "tone")
    assert project is not None and project.name == "Tone"


def test_guidelines_get_a_version_with_each_change_and_keep_their_history(
    engineer: TestClient, factory: Factory
) -> None:
    factory.project(slug="tone")
    reply = engineer.post("/projects/tone/guidelines", data={"text": "Pick the shorter answer.\r\nAnd the warmer one."})
    assert reply.status_code == 303
    html = engineer.get("/projects/tone/guidelines").text
    assert "Version 2" in html and "Save as version 3" in html
    assert "<ins>And the warmer one.</ins>" in html
    old = engineer.get("/projects/tone/guidelines?version=1").text
    assert "This is version 1, not the one that evaluators see now." in old and "warmer" not in old
    assert engineer.get("/projects/tone/guidelines?version=7").status_code == 404


def test_saving_unchanged_guidelines_keeps_the_version(engineer: TestClient, factory: Factory, engine: Engine) -> None:
    factory.project(slug="tone")
    engineer.post("/projects/tone/guidelines", data={"text": "a\r\nb"})
    engineer.post("/projects/tone/guidelines", data={"text": "a\r\nb"})
    with read_session(engine) as session:
        assert [item.number for item in guidelines.versions(session, project=projects.get(session, "tone"))] == [2, 1]


def test_too_long_guidelines_are_refused_and_not_lost(engineer: TestClient, factory: Factory) -> None:
    factory.project(slug="tone")
    reply = engineer.post("/projects/tone/guidelines", data={"text": "x" * 100_001})
    assert reply.status_code == 422 and 'id="text-error"' in reply.text and "x" * 100_001 in reply.text


def test_a_preview_is_rendered_safely_and_kept_nowhere(engineer: TestClient, factory: Factory, engine: Engine) -> None:
    factory.project(slug="tone")
    reply = engineer.post("/projects/tone/guidelines/preview", data={"text": "**bold** <script>alert(1)</script>"})
    assert "<strong>bold</strong>" in reply.text and "<script" not in reply.text
    project = stored(engine, "tone")
    assert project is not None and project.guideline_version == 1


@pytest.mark.parametrize("path", ["/projects/new", "/projects/tone/settings"])
def test_an_evaluator_can_not_open_an_engineer_s_page(factory: Factory, sign_in: SignIn, path: str) -> None:
    factory.project(slug="tone")
    evaluator = sign_in(factory.user())
    assert evaluator.get(path).status_code == 403
    assert evaluator.post(path, data=FORM).status_code == 403


def test_an_evaluator_reads_guidelines_but_can_not_write_them(factory: Factory, sign_in: SignIn) -> None:
    factory.project(slug="tone")
    evaluator = sign_in(factory.user())
    html = evaluator.get("/projects/tone/guidelines").text
    assert "Pick the shorter answer." in html and "<textarea" not in html
    assert evaluator.post("/projects/tone/guidelines", data={"text": "mine"}).status_code == 403
    assert evaluator.post("/projects/tone/guidelines/preview", data={"text": "mine"}).status_code == 403


def test_an_evaluator_s_bar_offers_what_evaluators_do_and_nothing_else(factory: Factory, sign_in: SignIn) -> None:
    factory.project(slug="tone")
    html = sign_in(factory.user()).get("/projects/tone/history").text
    links = set(re.findall(r'href="(/[^"]*)"', html[: html.index("<main")]))
    assert {link for link in links if not link.startswith("/static/")} == {
        "/",
        "/account",
        "/projects",
        "/projects/tone/compare",
        "/projects/tone/history",
        "/projects/tone/guidelines",
    }


@pytest.mark.parametrize(("role", "seen"), [(Role.ENGINEER, False), (Role.ADMIN, True)])
def test_only_admins_are_offered_people_workers_and_audit(
    factory: Factory, sign_in: SignIn, role: Role, seen: bool
) -> None:
    html = sign_in(factory.user(role)).get("/").text
    assert all((f'href="{path}"' in html) is seen for path in ("/people", "/workers", "/audit"))


def test_an_evaluator_with_one_project_starts_at_its_desk(factory: Factory, sign_in: SignIn) -> None:
    factory.project(slug="tone")
    evaluator = sign_in(factory.user())
    assert evaluator.get("/").headers["location"] == "/projects/tone/compare"
    assert evaluator.get("/projects/tone").headers["location"] == "/projects/tone/compare"
    factory.project(slug="second")
    html = evaluator.get("/").text
    assert "/projects/tone/compare" in html and "/projects/second/compare" in html and "/projects/tone/data" not in html


def test_the_first_page_shows_what_waits_in_each_project(factory: Factory, sign_in: SignIn) -> None:
    factory.judged(3, slug="tone")
    html = unescape(sign_in(factory.engineer()).get("/").text)
    assert "3 of 3 judgments" in html
    factory.comparison(factory.project(slug="fresh"))
    html = unescape(sign_in(factory.engineer()).get("/").text)
    assert "0 of 1 judgments" in html and "1 waits for you" in html


@pytest.mark.parametrize(
    ("role", "words"), [(Role.ENGINEER, "Make the first project"), (Role.EVALUATOR, "You are in no project yet")]
)
def test_without_projects_the_first_page_says_what_to_do(
    factory: Factory, sign_in: SignIn, role: Role, words: str
) -> None:
    assert words in sign_in(factory.user(role)).get("/").text


def test_the_switcher_lists_projects_as_a_fragment(engineer: TestClient, factory: Factory) -> None:
    factory.project(slug="tone")
    reply = engineer.get("/menu/projects", headers={"HX-Request": "true"})
    assert 'href="/projects/tone/data"' in reply.text and "New project" in reply.text and "<html" not in reply.text


@pytest.mark.parametrize(
    ("chosen", "kept"), [("dark", "dark"), ("light", "light"), ("auto", "auto"), ('"><script>', "auto")]
)
def test_the_colours_are_kept_in_a_cookie(engineer: TestClient, chosen: str, kept: str) -> None:
    reply = engineer.post("/theme", data={"theme": chosen, "next": "/projects"})
    assert (reply.status_code, reply.headers["location"]) == (303, "/projects")
    assert f'data-theme="{kept}"' in engineer.get("/projects").text


def test_choosing_colours_leads_to_no_other_site(engineer: TestClient) -> None:
    for target in ("https://evil.example/", "//evil.example", "/\\evil.example"):
        assert engineer.post("/theme", data={"theme": "dark", "next": target}).headers["location"] == "/"


def test_a_page_holds_no_inline_script_or_style(engineer: TestClient, factory: Factory) -> None:
    factory.comparison(factory.project(slug="tone"))
    for path in (
        "/",
        "/projects/new",
        "/projects/tone/settings",
        "/projects/tone/guidelines",
        "/projects/tone/compare",
        "/projects/tone/history",
    ):
        html = engineer.get(path).text
        assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son[a-z]+=|javascript:", html), path
