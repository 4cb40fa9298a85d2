"""A session that ends while somebody types loses nothing that they typed."""

from playwright.sync_api import Page, expect

from app.models import Role
from tests.live import LiveServer


def test_what_was_typed_is_sent_again_after_signing_in(live_server: LiveServer, page: Page) -> None:
    admin = live_server.factory.user(Role.ADMIN)
    project = live_server.factory.project(by=admin)
    page.goto(live_server.link(admin))
    page.goto(f"{live_server.url}/projects/{project.slug}/guidelines")
    page.locator("[name=text]").fill("\n  What I wrote for an hour.\n")
    page.context.clear_cookies()
    expect(page.locator("#flashes")).to_contain_text("what you typed is still on this page")  # the preview asked
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("You’re signed out")
    again = page.context.new_page()
    again.goto(live_server.link(admin))
    page.get_by_role("button", name="Send it again").click()
    expect(page.locator("[name=text]")).to_have_value("\n  What I wrote for an hour.\n")
    expect(page.locator("main")).to_contain_text("ersion 2")


def test_a_form_that_shows_its_cost_stays_and_says_so(live_server: LiveServer, page: Page) -> None:
    admin = live_server.factory.user(Role.ADMIN)
    project = live_server.factory.project(by=admin)
    page.goto(live_server.link(admin))
    page.goto(f"{live_server.url}/projects/{project.slug}/generate")
    page.context.clear_cookies()
    page.locator("[name=limit]").fill("7")
    page.locator("[name=limit]").blur()
    expect(page.locator("#flashes")).to_contain_text("Sign in in another tab")
    expect(page.locator("[name=limit]")).to_have_value("7")
