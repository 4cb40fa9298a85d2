"""The sources of a plan in turn, until each answer is there or SIGTERM comes; then what a checkpoint thinks of them, where it says so.

The plan is JSON: `wanted` answers, `known` ones that are there, and `sources`, each with its `number`, `title`, `kind` and
what its module reads. Each source writes its answers to a file of its own, a line as soon as one arrives, in the form of
`python -m worker.dpo generate --out`, and goes on with that file. `scoring` is told in `worker.answers.scoring`.
"""

import json
import signal
import threading
from pathlib import Path
from typing import Any

from worker.answers import endpoint, engine, scoring
from worker.answers.told import Failed, Progress, Stopped

TERMINATED = 143
ASKED_BY = {"engine": engine.ask, "endpoint": endpoint.ask}


def main(arguments: list[str]) -> int:
    """The exit code: 0 with all answers that could be had, 143 after SIGTERM, else what a source failed with."""
    plan: dict[str, Any] = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    progress = Progress(plan["known"], plan["wanted"])
    progress.say("state", stage="loading", total_steps=plan["wanted"])
    before = plan["known"]
    try:
        for source in plan["sources"]:
            if source["missing"]:
                ASKED_BY[source["kind"]](source, before=before, progress=progress, stop=stop)
                before += source["missing"]
            if stop.is_set():
                return TERMINATED
        if "scoring" in plan:
            scoring.score(plan, stop=stop)
    except Stopped:
        return TERMINATED
    except Failed as problem:
        progress.say("error", reason=problem.reason, message=problem.message, exit_code=problem.code)
        return problem.code
    progress.there(plan["wanted"], last=True)
    progress.say("done")
    return 0
