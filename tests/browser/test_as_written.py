"""Texts as they were written, beside their formatted form: by a key, by hand, without scripts; and answers that look alike."""

from collections.abc import Callable

import pytest
from playwright.sync_api import Browser, Page, expect

from app.db import get_engine, write_session
from app.models import Project, Role, User
from app.services.collecting import pairs
from tests.browser.keys import close_guidelines, press_for_next
from tests.live import LiveServer

pytestmark = pytest.mark.browser
TEXTS = ("So \\(x^2 = 2\\).", "So **x** is a root.")
ALIKE = ("- caf\u00e9", "* cafe\u0301")


@pytest.fixture
def project(live_server: LiveServer) -> Project:
    """Two pairs: one with a formula and, after it, one whose answers look the same."""
    project = live_server.factory.project(slug="tone")
    with write_session(get_engine(live_server.settings)) as session:
        own = session.merge(project)
        pairs.add(session, project=own, prompt="Solve \\(x^2\\)", responses=TEXTS, priority=1)
        pairs.add(session, project=own, prompt="Which?", responses=ALIKE)
    return project


def test_key_shows_every_text_as_it_was_written_on_all_pages(
    live_server: LiveServer, page: Page, signed_in: Callable[[Role], User], project: Project
) -> None:
    signed_in(Role.ENGINEER)
    page.goto(f"{live_server.url}/projects/tone/compare")
    close_guidelines(page)
    answers = page.locator(".answers")
    expect(answers.locator("math")).to_be_visible()
    expect(answers.locator("strong")).to_be_visible()
    page.keyboard.press("w")
    expect(answers.locator("math")).to_be_hidden()
    for text in TEXTS:
        expect(answers.get_by_text(text, exact=True)).to_be_visible()
    expect(page.locator("#conversation").get_by_text("Solve \\(x^2\\)", exact=True)).to_be_visible()
    page.keyboard.press("w")
    expect(answers.locator("math")).to_be_visible()

    page.keyboard.press("n")  # in the note it is a letter
    page.keyboard.type("two words")
    expect(page.locator("#rationale")).to_have_value("two words")
    page.keyboard.press("Escape")
    expect(answers.locator("math")).to_be_visible()

    press_for_next(page, "1")
    expect(page.get_by_text("the two answers look the same")).to_be_visible()
    expect(answers.get_by_text("- café", exact=True)).to_be_visible()
    expect(answers.get_by_text("U+0301")).to_be_visible()
    press_for_next(page, "2")

    for path, fold in (("projects/tone/history", True), ("comparisons/1", False)):
        page.goto(f"{live_server.url}/{path}")
        if fold:
            page.get_by_text("The two answers", exact=True).last.click()
        expect(page.locator("main math:visible")).not_to_have_count(0)
        page.keyboard.press("w")
        expect(page.locator("main math:visible")).to_have_count(0)
        expect(page.get_by_text(TEXTS[1], exact=True)).to_be_visible()
    page.goto(f"{live_server.url}/comparisons/2")
    expect(page.get_by_text("the two answers look the same")).to_be_visible()
    expect(page.get_by_text("U+0301")).to_be_visible()


def test_without_scripts_the_switch_works_by_hand(live_server: LiveServer, browser: Browser, project: Project) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(live_server.link(live_server.factory.engineer()))
    if "/link/" in page.url:
        page.locator("main button").first.click()
    page.goto(f"{live_server.url}/projects/tone/compare")
    page.locator("label[for=written]").click()
    expect(page.locator(".answers").get_by_text(TEXTS[0], exact=True)).to_be_visible()
    expect(page.locator(".answers math")).to_be_hidden()
    context.close()
