"""Set-up on a fresh machine: what goes wrong is one line that says what to do."""

import subprocess
import sys
from pathlib import Path

import pytest

from app import bootstrap
from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("output", "advice"),
    [
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "disk is full"),
        ("WARNING: Retrying ... Temporary failure in name resolution", "could not be reached"),
        ("npm error code ENOTFOUND\nnpm error syscall getaddrinfo", "could not be reached"),
        (
            "The virtual environment was not created successfully because ensurepip is not available.",
            "apt install python3-venv",
        ),
        ("PermissionError: [Errno 13] Permission denied: '/srv'", "Fix its owner"),
        ("line\nERROR: something never seen before", "something never seen before"),
    ],
)
def test_a_failure_says_what_to_do(output: str, advice: str) -> None:
    assert advice in str(bootstrap.explain(output, "Installing the dependencies"))


def test_a_missing_tool_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(bootstrap.SetUpFailed, match="needs no-such-tool, which is not installed"):
        bootstrap.call("Fetching browser assets", ["no-such-tool", "ci"])


def test_an_old_python_is_refused_before_anything_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 9, 1))
    with pytest.raises(bootstrap.SetUpFailed, match=r"make run PYTHON=python3\.12"):
        bootstrap.check_python()


def test_little_disk_is_said_before_the_download(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(bootstrap, "PYTHON", tmp_path / "none")
    monkeypatch.setattr(bootstrap, "NEEDED_BYTES", 10**18)
    with pytest.raises(bootstrap.SetUpFailed, match="Free some space"):
        bootstrap.check_disk()


def test_a_second_set_up_does_nothing() -> None:
    command = [sys.executable, ROOT / "app" / "bootstrap.py", "dev"]
    subprocess.run(command, capture_output=True, check=True)
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_it_needs_nothing_that_is_not_in_the_standard_library() -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", ROOT / "app" / "bootstrap.py", "nonsense"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "usage" in done.stderr
