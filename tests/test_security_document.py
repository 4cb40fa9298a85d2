"""docs/security.md names every requirement of levels 1 and 2 once, and nothing that isn't there."""

import re
from collections import Counter

from tests.conftest import ROOT

TEXT = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
# ASVS 5.0.0, levels 1 and 2: how many requirements each section has, in order from 1.
SECTIONS = {
    "V1": (2, 9, 11, 3, 2),
    "V2": (3, 3, 4, 1),
    "V3": (0, 2, 4, 6, 5, 0, 2),
    "V4": (3, 1, 2, 4),
    "V5": (1, 3, 2, 3),
    "V6": (3, 12, 4, 4, 5, 3, 0, 4),
    "V7": (3, 4, 2, 5, 2, 2),
    "V8": (2, 3, 1, 1),
    "V9": (3, 4),
    "V10": (2, 2, 4, 11, 5, 2, 3),
    "V11": (2, 3, 3, 4, 1, 1),
    "V12": (3, 2, 4),
    "V13": (1, 5, 2, 5),
    "V14": (2, 4, 3),
    "V15": (3, 3, 7),
    "V16": (1, 5, 4, 3, 3),
    "V17": (1, 4, 2),
}


def test_every_requirement_is_there_once() -> None:
    wanted = [
        f"{chapter}.{section}.{number}"
        for chapter, counts in SECTIONS.items()
        for section, count in enumerate(counts, start=1)
        for number in range(1, count + 1)
    ]
    assert len(wanted) == 253
    assert Counter(re.findall(r"V\d+\.\d+\.\d+", TEXT)) == Counter(wanted)


def test_every_row_says_what_holds_it() -> None:
    rows = re.findall(r"^\| (V\d+\.\d+\.\d+) \| (.*?) \| (.*?) \|$", TEXT, re.MULTILINE)
    assert len(rows) > 200
    assert [row[0] for row in rows if len(row[1]) < 3 or len(row[2]) < 4] == []


def test_every_file_that_is_named_exists() -> None:
    named = set(re.findall(r"`((?:tests|app|docs|worker|templates)/[^`\s]+|[\w.-]+\.(?:yml|txt|toml|json))`", TEXT))
    assert len(named) > 60
    assert sorted(name for name in named if not (ROOT / name).exists()) == []
