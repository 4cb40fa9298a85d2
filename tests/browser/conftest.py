"""A real Chromium, driven against a real server (tests/live.py)."""

import os
import shutil
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from app.models import Role, User
from tests.live import LiveServer

FLAGS = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE = 60_000  # ms for anything to appear: as long as a busy machine may need, and no wait where it comes at once
expect.set_options(timeout=PATIENCE)


@pytest.fixture(
    scope="module"
)  # not the session: an open Playwright keeps an event loop running under the tests that follow
def browser() -> Iterator[Browser]:
    """The machine's Chromium, or Playwright's own."""
    binary = next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
    )
    with sync_playwright() as playwright:
        arguments = [*FLAGS, "--no-sandbox"] if os.geteuid() == 0 else FLAGS
        browser = playwright.chromium.launch(executable_path=binary, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """A fresh browser profile."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    context.set_default_timeout(PATIENCE)
    yield context
    context.close()


@pytest.fixture
def page(context: BrowserContext) -> Page:
    """A tab."""
    return context.new_page()


@pytest.fixture
def signed_in(live_server: LiveServer, page: Page) -> Callable[[Role], User]:
    """Opens a sign-in link of a new user of that role in the tab."""

    def sign_in(role: Role) -> User:
        user = live_server.factory.user(role)
        page.goto(live_server.link(user))
        return user

    return sign_in
