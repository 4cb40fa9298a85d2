"""Pages whose tables are full stay within a telephone's width."""

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
