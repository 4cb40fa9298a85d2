"""The page that says what takes room."""

from collections.abc import Callable

import pytest
from sqlalchemy import Engine
from starlette.testclient import TestClient

from app.config import Settings
from app.models import User
from app.ops import storage_use
from tests.factory import Factory
from tests.ops.filled import rows_of
from tests.services.training.exported import exported
from tests.services.training.trained import trained


def test_each_part_is_as_large_as_it_is(engine: Engine, settings: Settings, factory: Factory) -> None:
    engineer = factory.engineer()
    _, checkpoint = trained(engine, settings, factory.judged(8), engineer)
    exported(engine, settings, checkpoint, engineer)
    work = settings.data_dir / "work" / "job-1"
    work.mkdir(parents=True)
    (work / "state").write_bytes(b"x" * 1234)
    parts = {part.name: part for part in storage_use.measure(settings).parts}
    files = rows_of(engine)["checkpoint_files"]
    assert parts["Checkpoints"].bytes == sum({row["key"]: row["size"] for row in files}.values())
    assert parts["Checkpoints"].files == len({row["key"] for row in files})
    assert parts["Work folders"].bytes == 1234
    assert parts["Database"].bytes > 10_000 and parts["Exports"].bytes > 0 and parts["Snapshots"].bytes > 0
    (work / "more").write_bytes(b"x")
    assert {part.name: part for part in storage_use.measure(settings).parts}["Work folders"].bytes == 1234, (
        "once a minute"
    )


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_admins_see_it_on_a_page_and_over_the_api(
    factory: Factory, sign_in: Callable[[User], TestClient], api: Callable[[User], dict[str, str]]
) -> None:
    admin = factory.admin()
    browser = sign_in(admin)
    page = browser.get("/storage").text
    assert "Work folders" in page and "free of" in page and "prefloop backup" in page
    use = browser.get("/api/v1/storage", headers=api(admin)).json()
    assert {part["name"] for part in use["parts"]} >= {"Database", "Checkpoints", "Logs"} and use["free"] > 0
