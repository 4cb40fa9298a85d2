"""Is a judgment on the disk before its reply leaves? `python -m bench.syncs_before_replies [--seconds 5]`. Linux, with strace.

Starts a web server on a SQLite database of its own, follows its system calls while one evaluator and then twenty judge, and reads
off in which order the server forces the write-ahead log to the disk (fsync, fdatasync) and writes the replies that bring the next pair. With one
evaluator each reply must come after a sync of its own; with twenty, whose judgments could share one, the table says how many syncs a
judgment takes. Exit 1 where a reply left first.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

from app.paths import ROOT
from bench.desk_load import Site, hardware, prepare
from bench.evaluators import Plan

SYNC = re.compile(r"\bf(?:data)?sync\(\d+<[^>]*-wal>")
SENT = re.compile(r"\b(?:write|writev|sendto|sendmsg)\((\d+)<(?:socket|TCP)[^\"]*\"(HTTP/1\.1 200 |<form id=..desk)")
CALLS = "fsync,fdatasync,write,writev,sendto,sendmsg"
ENOUGH = 100  # characters of a call that are printed: how a reply and its body begin


def judge(site: Site, cookies: list[str], seconds: float, log: Path) -> tuple[int, list[str]]:
    """(judgments that were acknowledged, "sync" and "reply" in their order), of a server that is started for it."""
    with site.serving() as (port, server):
        following = [
            part for process in (server, *server.children(recursive=True)) for part in ("-p", str(process.pid))
        ]
        tracer = subprocess.Popen(
            ["strace", "-f", "-y", "-qq", "-e", f"trace={CALLS}", "-s", str(ENOUGH), "-o", log, *following]
        )
        while not any(traced(process) for process in (server, *server.children(recursive=True))):
            time.sleep(0.05)
        named = [cookie.partition("=") for cookie in cookies]
        plan = Plan(
            port, "desk", [f"{re.sub(r'[0-9]+$', str(port), name)}={token}" for name, _, token in named], seconds
        )
        plan.warm = 0.0
        done = subprocess.run(
            [sys.executable, "-m", "bench.evaluators"],
            cwd=ROOT,
            input=json.dumps(asdict(plan)),
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        tracer.terminate()
        tracer.wait(30)
    outcome: dict[str, Any] = json.loads(done.stdout)
    return len(outcome["acknowledged"]), in_order(log.read_text(errors="replace").splitlines())


def in_order(lines: list[str]) -> list[str]:
    """ "sync" and "reply" as they came. A reply to a judgment is known by its body, the next pair's form, and counts from its first byte."""
    order: list[tuple[int, str]] = []
    begun: dict[str, int] = {}
    for number, line in enumerate(lines):
        if SYNC.search(line):
            order.append((number, "sync"))
        elif sent := SENT.search(line):
            if sent[2].startswith("HTTP"):
                begun[sent[1]] = number
            else:
                order.append((begun.get(sent[1], number), "reply"))
    return [what for _, what in sorted(order)]


def traced(process: psutil.Process) -> bool:
    status = Path(f"/proc/{process.pid}/status").read_text()
    return "TracerPid:\t0" not in status


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0)
    given = parser.parse_args()
    if not shutil.which("strace"):
        print("This needs strace: install it and come back.", file=sys.stderr)
        return 2
    print(
        f"{hardware()}\n\n| evaluators | judgments | syncs before the last reply | syncs a judgment | replies without one of their own |"
    )
    print("|---:|---:|---:|---:|---:|")
    early = 0
    with tempfile.TemporaryDirectory() as name:
        site = Site(ROOT, Path(name) / "site", f"sqlite:///{Path(name) / 'site' / 'prefloop.db'}", 1)
        cookies = prepare(site, 1_000)["cookies"]
        for people in (1, 20):
            judged, order = judge(site, cookies[:people], given.seconds, Path(name) / f"{people}.strace")
            replies = order.count("reply")
            syncs = order[: len(order) - order[::-1].index("reply")].count("sync") if replies else 0
            alone = sum(one == "reply" == before for before, one in zip(["reply", *order], order, strict=False))
            early += alone if people == 1 else 0
            early += replies != judged
            print(
                f"| {people} | {judged} | {syncs} | {syncs / max(1, replies):.2f} | {alone if people == 1 else '–'} |",
                flush=True,
            )
    return 1 if early else 0


if __name__ == "__main__":
    sys.exit(main())
