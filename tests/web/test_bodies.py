"""Imports at once: two for a person and eight in all, whichever web process reads them."""

import subprocess
import sys
from pathlib import Path

import pytest

from app.web.bodies import ImportPlaces, TooManyImports
from tests.conftest import ROOT

HOLDER = """
import sys
from pathlib import Path
from app.web.bodies import ImportPlaces
places = ImportPlaces(Path(sys.argv[1]))
held = [places.take(int(person)) for person in sys.argv[2:]]
print("held", flush=True)
sys.stdin.read()
"""


def test_person_has_two_and_all_together_eight(tmp_path: Path) -> None:
    places = ImportPlaces(tmp_path / "importing")
    held = [places.take(person) for person in (1, 1, 2, 2, 3, 3, 4)]
    with pytest.raises(TooManyImports, match="2 imports of yours"):
        places.take(1)
    held.append(places.take(4))
    with pytest.raises(TooManyImports, match="8 imports already") as told:
        places.take(5)
    assert told.value.details["retry_after"]
    held.pop()()
    held.append(places.take(5))  # the refused one had kept no place of its own
    held.pop(0)()
    held.append(places.take(1))
    for give_back in held:
        give_back()


def test_limits_hold_over_processes_and_end_with_them(tmp_path: Path) -> None:
    other = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path), "1", "1", "2"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert other.stdout is not None and other.stdout.readline() == b"held\n"
    places = ImportPlaces(tmp_path)
    with pytest.raises(TooManyImports, match="of yours"):
        places.take(1)
    mine = [places.take(person) for person in (2, 3, 3, 4, 4)]
    with pytest.raises(TooManyImports, match="8 imports"):
        places.take(5)
    other.kill()
    other.wait()
    mine += [places.take(1), places.take(1)]
    for give_back in mine:
        give_back()
