"""A model of this machine, asked by the engine (`python -m worker.dpo`) as a child process."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from worker.answers.told import Failed, Progress, Stopped

GRACE_SECONDS = 20.0


def ask(source: Mapping[str, Any], *, before: int, progress: Progress, stop: threading.Event) -> None:
    """Have the engine write the answers that are missing. before: answers that are there without this attempt's of this source.

    Raises Failed with the engine's own reason and exit code, Stopped after SIGTERM.
    """

    def steps(there: int) -> None:
        progress.there(before + max(0, there - int(source["there"])))

    run("generate", source, on_step=steps, progress=progress, stop=stop)


def run(
    command: str,
    asked: Mapping[str, Any],
    *,
    on_step: Callable[[int], None],
    progress: Progress,
    stop: threading.Event,
) -> None:
    """One command of the engine: `asked` has its `arguments` and the `title` by which it is spoken of, and `number` where it is a source.

    Raises Failed with the engine's own reason and exit code, Stopped after SIGTERM.
    """
    # On a leash, so that it doesn't outlive this program; the lock of the work folder is its own too.
    leash = [sys.executable, "-m", "worker.process.leash", str(os.getpid())]
    child = subprocess.Popen(
        [*leash, sys.executable, "-m", "worker.dpo", command, *asked["arguments"]],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="replace",
        close_fds=False,
        env=_environment(),
    )
    threading.Thread(target=_end_on, args=(stop, child), daemon=True).start()
    why: dict[str, Any] = {}
    assert child.stdout is not None
    for line in child.stdout:
        event = _event(line)
        match event.pop("event", ""):
            case "step":
                on_step(int(event.get("step") or 0))
            case "state":
                progress.say("state", stage=event.get("stage", "generating"), total_steps=progress.wanted)
            case "log":
                progress.say("log", message=f"{asked['title']}: {event.get('message', '')}", level=event.get("level"))
            case "done" if "number" in asked:
                facts = {name: event.get(name, 0) for name in ("made", "tokens", "seconds")}
                progress.say("log", message=_summary(asked, event), source=asked["number"], **facts)
            case "error":
                why = event
    code = child.wait()
    if stop.is_set():
        raise Stopped
    if code:
        message = why.get("message") or f"The engine ended with exit code {code} and gave no reason."
        raise Failed(str(why.get("reason") or "crashed"), f"{asked['title']}: {message}", code if code > 0 else 1)


def _summary(source: Mapping[str, Any], event: Mapping[str, Any]) -> str:
    made, seconds = int(event.get("made") or 0), float(event.get("seconds") or 0)
    return f"{source['title']}: {made} answers in {seconds:.0f} s, {int(event.get('tokens') or 0)} tokens."


def _end_on(stop: threading.Event, child: subprocess.Popen[str]) -> None:
    """The engine writes what has ended when it is told to stop; one that takes too long is killed."""
    while child.poll() is None:
        if stop.wait(0.5):
            child.terminate()
            with suppress(subprocess.TimeoutExpired):
                child.wait(GRACE_SECONDS)
            child.kill()
            return


def _environment() -> dict[str, str]:
    """Keys to endpoints are nobody else's business."""
    return {name: value for name, value in os.environ.items() if not name.startswith("ANSWERS_KEY_")}


def _event(line: str) -> dict[str, Any]:
    with suppress(ValueError):
        event = json.loads(line)
        if isinstance(event, dict):
            return event
    return {"event": "log", "message": line.strip()}
