"""Fixtures: both databases, an empty migrated one for each test, a storage folder, a factory of rows, a client."""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.orm import Session
from sqlalchemy.util import LRUCache
from starlette.testclient import TestClient

from app.config import Settings, get_settings
from app.db import make_engine, write_session
from app.models import Base, User
from app.ops import migrate
from tests.factory import Factory
from tests.live import live_server as live_server
from tests.services_for_tests import postgresql, redis_server

ROOT = Path(__file__).parent.parent
HH_FILE = ROOT.parent / "shared" / "data" / "hh-harmless-1.jsonl.gz"
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    # Processes that share the cores wait for each other's threads many times longer than the work takes.
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])))
hypothesis.settings.register_profile("no-clock", deadline=None)  # a busy machine is no fault of the code's
hypothesis.settings.load_profile("no-clock")


@pytest.fixture(scope="session")
def hh_file() -> Path:
    """Real preference pairs; they live beside the checkout because their text is offensive."""
    if not HH_FILE.exists():
        pytest.fail(
            f"The real pairs are missing: put hh-harmless-1.jsonl.gz (half of anthropics/hh-rlhf, harmless-base test) at {HH_FILE}"
        )
    return HH_FILE


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The demo's base model, prepared once for this version of the code that prepares it, and kept in build/."""
    from app.services.training import base_models

    code = b"".join(path.read_bytes() for path in sorted((ROOT / "worker" / "base_models").glob("*.py")))
    assert code, "the code that prepares base models has moved: a model prepared by older code would be used"
    folder = ROOT / "build" / f"models-{hashlib.sha256(code).hexdigest()[:12]}"
    return base_models.add(Settings(models_dir=folder), base_models.DEMO_MODEL).path


@pytest.fixture(scope="session", autouse=True)
def _compiled_once() -> Iterator[None]:
    """Each test has an engine of its own; a statement is compiled once for all engines of a kind, as in a server that runs for days."""
    compiled: dict[str, LRUCache] = {}

    def make(*given: Any, **more: Any) -> Engine:
        engine = create_engine(*given, **more)
        kind = type(engine.dialect)
        kind.__hash__, kind.__eq__ = lambda self: hash(type(self)), lambda self, other: type(self) is type(other)
        engine._compiled_cache = compiled.setdefault(kind.__name__, LRUCache(2_000))
        return engine

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("app.db.create_engine", make)
        yield


def migrated(url: str) -> str:
    """Brings the database at `url` to the newest revision, as `prefloop migrate` does."""
    engine = make_engine(url)
    migrate.upgrade(engine)
    engine.dispose()
    return url


@pytest.fixture(scope="session")
def _migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sqlite") / "empty.db"
    migrated(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    with postgresql() as url:
        yield url


@pytest.fixture(scope="session")
def _migrated_postgres(postgres_server: str) -> str:
    return migrated(postgres_server)


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    with redis_server() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty migrated database. `@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)` picks one."""
    if request.param == "sqlite":
        path = tmp_path / "data" / "prefloop.db"
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(request.getfixturevalue("_migrated_sqlite"), path)
        yield f"sqlite:///{path}"
        return
    url = request.getfixturevalue("_migrated_postgres")
    yield url
    engine = make_engine(url)
    with engine.begin() as connection:
        names = ", ".join(table.name for table in Base.metadata.sorted_tables)
        connection.execute(text(f"TRUNCATE {names} RESTART IDENTITY CASCADE"))
    engine.dispose()


@pytest.fixture
def settings(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """Settings of this test, also in the environment for the processes that it starts."""
    for name in [name for name in os.environ if name.startswith("PREFLOOP_") and "TEST" not in name]:
        monkeypatch.delenv(name)
    for name, value in {
        "DATA_DIR": str(tmp_path / "data"),
        "DATABASE_URL": database_url,
        "SECRET_KEY": "test-" * 10,
        "PUBLIC_URL": "http://testserver",
    }.items():
        monkeypatch.setenv(f"PREFLOOP_{name}", value)
    get_settings.cache_clear()
    yield get_settings()
    get_settings.cache_clear()


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    from app.db import _engine_for, get_engine

    engine = get_engine(settings)
    yield engine
    engine.dispose()
    _engine_for.cache_clear()


@pytest.fixture
def session(engine: Engine) -> Iterator[Session]:
    """One unit of work; on SQLite it holds the write lock, so tests of races use `engine`."""
    with write_session(engine) as session:
        yield session


@pytest.fixture
def storage(settings: Settings) -> object:
    from app.storage import get_storage

    return get_storage(settings)


@pytest.fixture
def factory(engine: Engine, settings: Settings) -> Factory:
    return Factory(engine, settings)


@pytest.fixture
def tiny(settings: Settings) -> str:
    """The name of a base model that is here for everybody who only looks: it can't be trained."""
    from tests.pretend_worker import prepare_model

    return prepare_model(settings)


@pytest.fixture
def client(settings: Settings, engine: Engine) -> Iterator[TestClient]:
    from app.main import create_app

    with TestClient(create_app(settings), follow_redirects=False) as client:
        yield client


@pytest.fixture
def sign_in(client: TestClient, engine: Engine, settings: Settings) -> Callable[[User], TestClient]:
    """Signs a user in by a link, as people are."""
    from app.services.accounts import links

    def by_link(user: User) -> TestClient:
        with write_session(engine) as session:
            token = links.create_sign_in(session, user=session.merge(user))
        client.cookies.clear()
        reply = client.get(f"/link/{token}", headers={"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"})
        assert reply.status_code == 303, reply.text
        return client

    return by_link


@pytest.fixture
def api(client: TestClient, engine: Engine) -> Callable[[User], dict[str, str]]:
    """The Authorization header of a fresh API token of a user."""
    from app.services.accounts import tokens

    def header(user: User) -> dict[str, str]:
        with write_session(engine) as session:
            _, token = tokens.create(session, user=session.merge(user), name="test")
        return {"Authorization": f"Bearer {token}"}

    return header
