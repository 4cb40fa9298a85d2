"""`prefloop up`: migrations, web server and worker under one parent that ends them all."""

import ctypes
import fcntl
import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise, takewhile
from pathlib import Path
from types import FrameType
from typing import IO

from rich.console import Console

from app.config import Settings
from app.errors import PrefloopError

RESTARTS_ALLOWED = 5
RESTART_WINDOW_SECONDS = 120
READY_SECONDS = 60
TRAINING_NICENESS = 10
STOP_SECONDS = 40  # a job's process saves its state first


class CannotStart(PrefloopError):
    status = 503
    code = "cannot_start"


@dataclass
class Child:
    """One process of the product, its log file, how far it stands behind others for the processor, and when it was started."""

    name: str
    command: list[str]
    log: Path
    niceness: int = 0
    process: subprocess.Popen[bytes] | None = None
    is_needed: bool = True  # without it the whole ends; else the others go on, and it is tried again after a while
    starts: list[float] = field(default_factory=list)
    rests_until: float = 0.0

    def start(self) -> None:
        self.starts.append(time.monotonic())
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=self._begin,
            )

    def _begin(self) -> None:
        _die_with_parent()
        os.nice(self.niceness)

    def ended(self) -> int | None:
        return self.process.poll() if self.process else None

    def restarts_too_often(self) -> bool:
        """Whether each of its last lives was short: on a slow machine even a start that fails takes a while."""
        lives = pairwise([*self.starts, time.monotonic()])
        short = takewhile(lambda life: life[1] - life[0] < RESTART_WINDOW_SECONDS, reversed(list(lives)))
        return sum(1 for _ in short) > RESTARTS_ALLOWED

    def rest(self) -> None:
        self.starts.clear()
        self.rests_until = time.monotonic() + RESTART_WINDOW_SECONDS

    def rotate_log(self, *, longest: int, files: int) -> None:
        """Puts a log aside that has grown: the process goes on writing to the same file, which begins anew."""
        if not self.log.exists() or self.log.stat().st_size < longest:
            return
        for number in range(files - 1, 0, -1):
            older = self.log.with_name(f"{self.log.name}.{number}")
            if older.exists():
                older.replace(self.log.with_name(f"{self.log.name}.{number + 1}"))
        shutil.copyfile(self.log, self.log.with_name(f"{self.log.name}.1"))
        os.truncate(self.log, 0)

    def tail(self, lines: int = 15) -> str:
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return ""


def _die_with_parent() -> None:
    """Linux: SIGTERM to this child when its parent is gone, however it went."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


def check_port(settings: Settings) -> None:
    """CannotStart if somebody listens where the web server should."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except PermissionError as error:
            raise CannotStart(
                f"Port {settings.port} needs more rights than this account has.",
                "Choose one above 1023: PREFLOOP_PORT=8000.",
            ) from error
        except OSError as error:
            raise CannotStart(
                f"Port {settings.port} on {settings.host} is taken ({error.strerror}).",
                f"Stop the program that uses it, or choose another: PREFLOOP_PORT={settings.port + 1}.",
            ) from error


def lock_data(settings: Settings) -> IO[str]:
    """Holds the data folder for this process; CannotStart if another `prefloop up` has it."""
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        handle = (settings.data_dir / "up.lock").open("a+")
    except OSError as error:
        raise CannotStart(
            f"Can't write in the data folder {settings.data_dir} ({error.strerror}).",
            "Free space or fix its owner, or choose another with PREFLOOP_DATA_DIR.",
        ) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        handle.seek(0)
        pid = handle.read().strip() or "unknown"
        raise CannotStart(
            f"Prefloop already runs on the data folder {settings.data_dir} (process {pid}).",
            f"Open {settings.base_url}, or stop that process first.",
        ) from error
    handle.truncate(0)
    handle.write(str(os.getpid()))
    handle.flush()
    return handle


def wait_until_ready(settings: Settings, web: Child, stopping: Callable[[], bool]) -> None:
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host  # noqa: S104 - compared, not bound
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline and not stopping():
        if web.ended() is not None:
            raise CannotStart(
                f"The web server ended while starting. Its last lines:\n{web.tail()}\n", f"Whole log: {web.log}"
            )
        if _answers(host, settings.port):
            return
        time.sleep(0.1)
    if not stopping():
        raise CannotStart(f"The web server didn't answer within {READY_SECONDS} seconds.", f"See {web.log}")


def _answers(host: str, port: int) -> bool:
    connection = http.client.HTTPConnection(host, port, timeout=2)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def run(settings: Settings, console: Console, *, prepare: Callable[[], None], welcome: Callable[[], None]) -> int:
    """Prepares, starts web server and worker, keeps them alive, ends them on SIGINT or SIGTERM.

    Returns the exit status: 0 after an asked-for stop, 1 when a process could not be kept alive.
    """
    check_port(settings)
    lock = lock_data(settings)
    stop = False

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        nonlocal stop
        if not stop:
            stop = True
            console.print("\nStopping …")

    prepare()
    signal.signal(signal.SIGINT, on_signal)
    signal.signal(signal.SIGTERM, on_signal)
    logs = settings.data_dir / "logs"
    logs.mkdir(exist_ok=True)
    prefloop = [sys.executable, "-m", "app.cli"]
    children = [
        Child("web server", [*prefloop, "serve"], logs / "web.log"),
        # Training takes what pages leave of the processor: whoever judges must not wait for it.
        Child("worker", [*prefloop, "worker"], logs / "worker.log", niceness=TRAINING_NICENESS, is_needed=False),
    ]
    code = 0
    try:
        for child in children:
            child.start()
        wait_until_ready(settings, children[0], lambda: stop)
        if not stop:
            welcome()
        code = _watch(children, console, settings, lambda: stop)
    finally:
        _end(children, console)
        lock.close()
    if code == 0:
        console.print("Stopped. Everything is kept in " + str(settings.data_dir))
    return code


def _watch(children: list[Child], console: Console, settings: Settings, stopping: Callable[[], bool]) -> int:
    """Restarts what dies; 1 when what everything needs dies again and again."""
    while not stopping():
        for child in children:
            child.rotate_log(longest=settings.log_bytes, files=settings.log_files)
            status = child.ended()
            if status is None:
                continue
            if time.monotonic() < child.rests_until:
                continue
            if child.restarts_too_often() and not child.is_needed:
                child.rest()
                console.print(f"The {child.name} can't start (last status {status}), so nothing trains.", style="red")
                console.print(
                    f"Pages and judging go on. It is tried again every {RESTART_WINDOW_SECONDS} s. Its last lines:"
                )
                console.print(child.tail())
                continue
            if child.restarts_too_often():
                console.print(f"The {child.name} keeps ending (last status {status}).", style="red")
                console.print(f"Its last lines:\n{child.tail()}")
                return 1
            console.print(f"The {child.name} ended with status {status}; starting it again.", style="yellow")
            console.print(f"Log: {child.log}")
            child.start()
        time.sleep(0.3)
    return 0


def _end(children: list[Child], console: Console) -> None:
    """SIGTERM to all, then a wait, then SIGKILL to the process groups that are left."""
    alive = [child.process for child in children if child.process and child.process.poll() is None]
    for process in alive:
        process.terminate()
    deadline = time.monotonic() + STOP_SECONDS
    for process in alive:
        try:
            process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            console.print(f"Process {process.pid} didn't end in {STOP_SECONDS} s and was killed.")
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
