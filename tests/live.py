"""A real web server, and a worker when asked for, as processes of their own on a temporary data folder."""

import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from time import sleep

import pytest

from app.config import Settings
from app.db import get_engine, write_session
from app.models import User
from app.services.accounts import links
from tests.factory import Factory
from tests.services_for_tests import free_port

ROOT = Path(__file__).parent.parent


@dataclass
class LiveServer:
    """`prefloop serve`, and a worker when asked for, on one data folder."""

    settings: Settings
    environment: dict[str, str]
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.settings.port}"

    @cached_property  # one counter of names
    def factory(self) -> Factory:
        return Factory(get_engine(self.settings), self.settings)

    def start(self, name: str) -> None:
        """`name` is a prefloop command: serve or worker."""
        log = (self.settings.data_dir / f"{name}.log").open("ab")
        self.processes[name] = subprocess.Popen(
            [sys.executable, "-m", "app.cli", name],
            env=self.environment,
            cwd=ROOT,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        if name == "serve":
            self._wait_until_ready()

    def stop(self, name: str, number: int = signal.SIGTERM) -> None:
        process = self.processes.pop(name)
        with suppress(ProcessLookupError):
            if number == signal.SIGKILL:
                os.killpg(process.pid, number)
            else:
                process.send_signal(number)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    @contextmanager
    def standing_still(self, name: str) -> Iterator[None]:
        """That process and its children take connections and do nothing, as on a machine that sleeps."""
        os.killpg(self.processes[name].pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.killpg(self.processes[name].pid, signal.SIGCONT)

    def _wait_until_ready(self) -> None:
        for _ in range(600):
            if self.processes["serve"].poll() is not None:
                break
            with suppress(OSError):
                urllib.request.urlopen(f"{self.url}/healthz", timeout=2).close()
                return
            sleep(0.05)
        raise RuntimeError("the server did not start:\n" + (self.settings.data_dir / "serve.log").read_text()[-4000:])

    def link(self, user: User) -> str:
        """A one-use address that signs `user` in."""
        with write_session(get_engine(self.settings)) as session:
            return f"{self.url}/link/{links.create_sign_in(session, user=session.merge(user))}"


@pytest.fixture
def live_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, _migrated_sqlite: Path) -> Iterator[LiveServer]:
    """A running web server on an empty SQLite database; `live_server.start("worker")` adds a worker."""
    from app.config import get_settings

    port, folder = free_port(), tmp_path / "live"
    folder.mkdir()
    for name in [name for name in os.environ if name.startswith("PREFLOOP_") and "TEST" not in name]:
        monkeypatch.delenv(name)
    for name, value in {
        "DATA_DIR": folder,
        "PORT": port,
        "HEARTBEAT_SECONDS": 0.5,
        "SWEEP_SECONDS": 1,
        "STREAM_POLL_SECONDS": 0.2,
    }.items():
        monkeypatch.setenv(f"PREFLOOP_{name}", str(value))
    get_settings.cache_clear()
    settings = get_settings()
    shutil.copy(_migrated_sqlite, folder / "prefloop.db")
    server = LiveServer(settings, dict(os.environ))
    server.start("serve")
    try:
        yield server
    finally:
        for name in list(server.processes):
            server.stop(name)
        get_engine(settings).dispose()
        get_settings.cache_clear()
