"""An admin's top bar in a project holds all its entries, or a menu of them, at any width."""

from playwright.sync_api import Page

from app.models import Role
from tests.live import LiveServer

OVER = "document.querySelector('.topbar').scrollWidth - document.querySelector('.topbar').clientWidth"


def test_no_width_makes_it_overflow(live_server: LiveServer, page: Page) -> None:
    admin = live_server.factory.user(Role.ADMIN)
    project = live_server.factory.project(by=admin, slug="customer-support-tone-of-the-north-western-branch")
    page.goto(live_server.link(admin))
    page.goto(f"{'/'.join(page.url.split('/', 3)[:3])}/projects/{project.slug}/data")
    shown = {}
    for width in (1280, 1181, 1024, 861, 390):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate(OVER) == 0, width
        shown[width] = page.locator(".nav a").filter(visible=True).count()
    assert shown == {1280: 10, 1181: 10, 1024: 0, 861: 0, 390: 0}
    page.locator(".nav-menu summary").click()
    assert page.locator(".nav-menu a").filter(visible=True).count() == 10
