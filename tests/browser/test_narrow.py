"""Pages stay within a telephone's width, whatever stands on them."""

from playwright.sync_api import Page

from app.db import write_session
from app.models import Checkpoint, Role
from tests.live import LiveServer
from tests.services.training.test_outcome import answered, metrics
from tests.services.training.trained import trained

OVER = "document.documentElement.scrollWidth - innerWidth"


def test_what_a_run_changed_fits_a_telephone(live_server: LiveServer, page: Page) -> None:
    factory = live_server.factory
    admin, project = factory.user(Role.ADMIN), factory.judged(8)
    run, checkpoint = trained(factory.engine, live_server.settings, project, admin)
    with write_session(factory.engine) as session:
        session.get_one(Checkpoint, checkpoint.id).metrics = metrics(**answered(3))
    page.goto(live_server.link(admin))
    page.set_viewport_size({"width": 390, "height": 800})
    for path in (f"/checkpoints/{checkpoint.id}", f"/jobs/{run.job_id}"):
        page.goto(f"{live_server.url}{path}")
        assert page.get_by_text("Greedy answers to 8 eval prompts").is_visible()
        assert page.evaluate(OVER) <= 0, path


def test_words_without_an_end_break_and_ordinary_ones_stay_whole(live_server: LiveServer, page: Page) -> None:
    factory, endless = live_server.factory, "w" * 110
    admin = factory.user(Role.ADMIN)
    project = factory.project(by=admin, slug=endless[:60], description=endless * 3)
    pair = factory.comparison(project, prompt=endless * 5, answers=(endless, f"{endless} 2"))
    page.goto(live_server.link(admin))
    page.set_viewport_size({"width": 390, "height": 800})
    here = f"/projects/{project.slug}"
    for path in (
        "/projects",
        f"{here}/data",
        f"{here}/settings",
        f"{here}/guidelines",
        f"{here}/compare",
        f"/comparisons/{pair.id}",
    ):
        page.goto(f"{live_server.url}{path}")
        assert page.evaluate(OVER) <= 0, path
    page.goto(f"{live_server.url}{here}/compare")
    role = page.locator(".turn-role").filter(visible=True).first
    assert (
        role.evaluate(
            "e => { const all = document.createRange(); all.selectNodeContents(e); return all.getClientRects().length }"
        )
        == 1
    )
