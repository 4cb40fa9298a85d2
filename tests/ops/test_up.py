"""`prefloop up` as its owner meets it: one parent, everything under it, nothing left behind."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.conftest import ROOT
from tests.services_for_tests import free_port

PATIENCE_SECONDS = 240  # six starts that fail, on a slow machine


class Up:
    """A running `prefloop up` on a folder of its own."""

    def __init__(self, folder: Path, port: int, **more: str) -> None:
        self.folder, self.port = folder, port
        self.output = folder.parent / f"up-{port}-{time.monotonic_ns()}.txt"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFLOOP_")}
        environment |= {"PREFLOOP_DATA_DIR": str(folder), "PREFLOOP_PORT": str(port), "OMP_NUM_THREADS": "1"} | more
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "app.cli", "up"],
                cwd=ROOT,
                env=environment,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def text(self) -> str:
        return self.output.read_text()

    def until(self, wanted: str) -> str:
        """Its output, once it holds `wanted`."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while wanted not in self.text:
            assert self.process.poll() is None, f"it ended:\n{self.text}"
            assert time.monotonic() < deadline, f"{wanted!r} never came:\n{self.text}"
            time.sleep(0.05)
        return self.text

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def answers(self) -> bool:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/healthz", timeout=10) as reply:
            return reply.status == 200


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    running = Up(tmp_path / "data", free_port())
    yield running
    if running.process.poll() is None:
        running.process.send_signal(signal.SIGTERM)
        running.process.wait(60)


def gone(processes: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=60)
    return not alive


def test_it_prints_one_link_that_signs_the_admin_in_and_ends_everything_on_ctrl_c(up: Up) -> None:
    text = up.until("Ctrl-C ends everything")
    (link,) = re.findall(r"http://127\.0\.0\.1:\d+/link/\S+", text)
    request = urllib.request.Request(link, headers={"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"})
    with urllib.request.build_opener(urllib.request.HTTPCookieProcessor()).open(request) as reply:
        assert "Sign in" not in reply.read().decode().split("<title>")[1].split("</title>")[0]
    children = up.children()
    assert len(children) >= 2
    up.process.send_signal(signal.SIGINT)
    assert up.process.wait(60) == 0
    assert gone(children)
    assert "Stopped" in up.text


def test_a_killed_web_server_comes_back(up: Up) -> None:
    up.until("Ctrl-C ends everything")
    (web,) = [child for child in up.children() if "serve" in child.cmdline()]
    web.kill()
    up.until("starting it again")
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            assert up.answers()
            break
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.1)


@pytest.mark.skipif(sys.platform != "linux", reason="children are told of their parent's death by Linux alone")
def test_children_end_when_their_parent_is_killed(up: Up) -> None:
    up.until("Ctrl-C ends everything")
    children = up.children()
    up.process.kill()
    up.process.wait()
    assert gone(children)


def test_training_stands_behind_the_web_server(up: Up) -> None:
    up.until("Ctrl-C ends everything")
    niceness = {" ".join(child.cmdline()[-1:]): child.nice() for child in up.children()}
    assert niceness["worker"] > niceness["serve"] == psutil.Process(up.process.pid).nice()


def test_a_second_start_on_the_same_data_says_who_has_it(up: Up) -> None:
    up.until("Ctrl-C ends everything")
    second = Up(up.folder, free_port())
    assert second.process.wait(60) == 1
    assert "already runs on the data folder" in second.text
    assert str(up.process.pid) in second.text
    assert "Traceback" not in second.text


def test_a_taken_port_is_one_line_with_what_to_do(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        late = Up(tmp_path / "data", port)
        assert late.process.wait(60) == 1
    assert f"Port {port} on 127.0.0.1 is taken" in late.text
    assert f"PREFLOOP_PORT={port + 1}" in late.text
    assert "Traceback" not in late.text


@pytest.mark.long
def test_a_worker_that_cannot_start_leaves_the_web_server_up(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "celery.py").write_text("raise SystemExit('this worker is broken')")
    running = Up(tmp_path / "data", free_port(), PYTHONPATH=str(broken))
    try:
        text = running.until("so nothing trains")
        assert "Pages and judging go on" in text
        assert running.answers()
        assert running.process.poll() is None
    finally:
        running.process.send_signal(signal.SIGTERM)
        running.process.wait(60)
