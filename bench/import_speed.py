"""How fast an import is and how much memory it takes, for several sizes.

    python -m bench.import_speed [--lines 10000 50000] [--database URL]

Each size is imported twice (new, then all duplicates) by a process of its own, whose peak memory is told. Without
`--database`: SQLite in a temporary folder. A given database has to be empty and migrated or blank.
"""

import argparse
import io
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import BinaryIO, cast

from app.config import Settings
from app.db import make_engine, write_session
from app.models import Base
from app.services.accounts import users
from app.services.collecting import projects
from app.services.collecting.imports import load

WORDS = [
    "parcel",
    "order",
    "refund",
    "please",
    "today",
    "account",
    "invoice",
    "late",
    "thanks",
    "address",
    "card",
    "window",
    "help",
    "number",
    "tomorrow",
    "email",
]


class Lines(io.RawIOBase):
    """JSON Lines made while they are read: half wait for judgment, half are judged; about 900 bytes a line."""

    def __init__(self, count: int) -> None:
        self.count, self.made = count, 0

    def read(self, size: int = -1) -> bytes:
        lines = []
        while self.made < self.count and len(lines) < 200:
            self.made += 1
            draw = random.Random(self.made)
            prompt, one, other = (" ".join(draw.choices(WORDS, k=words)) for words in (30, 50, 60))
            answers = {"chosen": one, "rejected": other} if self.made % 2 else {"responses": [one, other]}
            lines.append(json.dumps({"prompt": f"{self.made}: {prompt}", **answers}) + "\n")
        return "".join(lines).encode()


def measure(count: int, url: str, folder: Path) -> None:
    engine = make_engine(url)
    Base.metadata.create_all(engine)
    with write_session(engine) as session:
        user = users.create(session, username=f"bench-{count}", display_name="Bench", role="engineer")
        project = projects.create(session, slug=f"bench-{count}", name="Bench", by=user)
    for what in ("new", "duplicates"):
        began = time.perf_counter()
        row = load.load(
            engine,
            project_id=project.id,
            user_id=user.id,
            stream=cast(BinaryIO, Lines(count)),
            filename=what,
            settings=Settings(data_dir=folder),
        )
        seconds = time.perf_counter() - began
        assert (row.added if what == "new" else row.duplicates) == count and not row.rejected
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(
            f"{engine.dialect.name:10}  {count:>8,} lines  {what:10}  {count / seconds:>7,.0f} lines/s  peak memory {peak:,.0f} MiB",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lines", type=int, nargs="+", default=[10_000, 50_000])
    parser.add_argument("--database", default="")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if given.child:
            measure(given.lines[0], given.database or f"sqlite:///{folder}/bench.db", Path(folder))
            return
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}")
    for count in given.lines:
        command = [
            sys.executable,
            "-m",
            "bench.import_speed",
            "--child",
            "--lines",
            str(count),
            "--database",
            given.database,
        ]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
