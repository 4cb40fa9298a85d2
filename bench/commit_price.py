"""What it costs on SQLite that a commit is on the disk: `python -m bench.commit_price [FOLDER]`.

Small commits one after the other, `synchronous=FULL` (ours) and `NORMAL` in turns, in the folder whose disk counts.
"""

import os
import platform
import sqlite3
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

ROUNDS = 5
COMMITS = 200


def commit_milliseconds(path: Path, synchronous: str) -> list[float]:
    connection = sqlite3.connect(path, isolation_level=None)
    for pragma in ("journal_mode=WAL", f"synchronous={synchronous}", "fullfsync=ON"):
        connection.execute(f"PRAGMA {pragma}")
    connection.execute("CREATE TABLE IF NOT EXISTS judgment (id INTEGER PRIMARY KEY, rationale TEXT)")
    taken = []
    for _ in range(COMMITS):
        began = time.perf_counter()
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO judgment (rationale) VALUES (?)", ("x" * 400,))
        connection.execute("COMMIT")
        taken.append(1000 * (time.perf_counter() - began))
    connection.close()
    return taken


def main() -> None:
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}")
    taken: dict[str, list[float]] = {"NORMAL": [], "FULL": []}
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as folder:
        for _ in range(ROUNDS):
            for synchronous, all_taken in taken.items():
                all_taken += commit_milliseconds(Path(folder) / "price.db", synchronous)
    for synchronous, all_taken in taken.items():
        all_taken.sort()
        p99 = all_taken[len(all_taken) * 99 // 100]
        print(f"{synchronous:7} {len(all_taken)} commits: median {median(all_taken):.2f} ms, p99 {p99:.2f} ms")


if __name__ == "__main__":
    main()
