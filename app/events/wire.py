"""How an event leaves the server: as JSON for scripts, as a server-sent event for pages."""

from typing import Any

import orjson

from app.models import JobEvent

PING = b": ping\n\n"


def as_json(event: JobEvent) -> dict[str, Any]:
    """The event as scripts see it: what the engine printed, with the id to go on from."""
    head = {"id": event.id, "event": event.type, "step": event.step, "time": event.created_at.timestamp()}
    return head | {key: value for key, value in event.data.items() if key not in ("id", "event", "step")}


def sse(event: JobEvent) -> bytes:
    """One event as a server-sent event: its id, its type, its JSON."""
    return message(orjson.dumps(as_json(event)).decode(), id=event.id, event=event.type)


def message(data: str, *, id: int | None = None, event: str | None = None) -> bytes:
    """Any text as a server-sent event."""
    head = (f"id: {id}\n" if id is not None else "") + (f"event: {event}\n" if event else "")
    body = "".join(f"data: {line}\n" for line in data.splitlines() or [""])
    return f"{head}{body}\n".encode()


def come_again(seconds: float) -> bytes:
    """How long a browser waits before it opens a stream anew that ended."""
    return f": hello\nretry: {1000 * seconds:.0f}\n\n".encode()


def parse_id(text: str | None, *, default: int) -> int:
    """The id of a Last-Event-ID header; one that isn't ours counts as none."""
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 10 else default
