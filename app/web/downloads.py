"""Sends stored files and archives: whole or a range of them, resumable, with the hash to check them by."""

import re
from collections.abc import Iterator
from datetime import datetime
from email.utils import format_datetime, parsedate_to_datetime
from urllib.parse import quote

from fastapi import Request
from sqlalchemy import Engine
from sqlalchemy.orm import Session
from starlette.responses import Response, StreamingResponse

from app.db import read_session
from app.errors import NotFound
from app.services.datasets import snapshots
from app.services.datasets.extracts import extracts
from app.services.datasets.extracts.containers import MEDIA_TYPES
from app.services.loop import verdicts
from app.services.loop.labels import checks as label_checks
from app.services.loop.verdict import card
from app.services.training import checkpoints, exports
from app.storage import Storage
from app.web.archive import Content, stored, tar

CHUNK = 512 * 1024
RANGE = re.compile(r"bytes=(\d{0,19})-(\d{0,19})")


def send(
    request: Request, storage: Storage, content: Content, *, filename: str, media_type: str, modified: datetime
) -> Response:
    """The answer to GET or HEAD: 200, 206 for a range, 304 for what the client has, 416 for a range beyond the end.

    ETag is the content's SHA-256. Several ranges at once are answered with the whole, as HTTP allows.
    """
    etag = f'"{content.sha256}"'
    headers = {
        "ETag": etag,
        "Accept-Ranges": "bytes",
        "Last-Modified": format_datetime(modified.replace(microsecond=0), usegmt=True),
        "Cache-Control": "private, no-cache",
        "Content-Disposition": _attachment(filename),
        "X-Content-Type-Options": "nosniff",
    }
    if content.is_hash_of_bytes:
        headers["X-Content-SHA256"] = content.sha256
    if _matches(request.headers.get("if-none-match"), etag):
        return Response(status_code=304, headers=headers)
    start, stop, status = 0, content.size, 200
    wanted = _range(request, etag, headers["Last-Modified"], content.size)
    if wanted is not None:
        start, stop, status = *wanted, 206
        if start >= stop:
            return Response(status_code=416, headers=headers | {"Content-Range": f"bytes */{content.size}"})
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{content.size}"
    headers["Content-Length"] = str(stop - start)
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers, media_type=media_type)
    # The first bytes are fetched here, so that a file that is gone is an error and not a broken download.
    stream = _bytes(storage, content, start, stop)
    first = next(stream, b"")
    return StreamingResponse(_after(first, stream), status_code=status, headers=headers, media_type=media_type)


def send_snapshot_file(
    request: Request, session: Session, storage: Storage, *, snapshot_id: int, name: str
) -> Response:
    """One file of a snapshot, for the page and the API. Raises NotFound."""
    snapshot = snapshots.get(session, snapshot_id)
    file = snapshots.file(snapshot, name)
    return send(
        request,
        storage,
        stored(file),
        filename=f"{snapshot.project.slug}-{snapshot.number}-{name}",
        media_type="application/x-ndjson",
        modified=snapshot.created_at,
    )


def send_extract(request: Request, engine: Engine, storage: Storage, *, extract_id: int) -> Response:
    """The file of an extract, for the page and the API. Raises NotFound until it is made."""
    with read_session(engine) as session:
        row = extracts.get(session, extract_id)
    if not row.files:
        raise NotFound(f"Extract {extract_id} isn't made yet.", "Look at its state.")
    (file,) = row.files
    return send(
        request,
        storage,
        stored(file),
        filename=file.name,
        media_type=MEDIA_TYPES[row.container],
        modified=row.updated_at,
    )


def send_checkpoint_file(
    request: Request, session: Session, storage: Storage, *, checkpoint_id: int, name: str
) -> Response:
    """One file of a checkpoint, for the page and the API. Raises NotFound."""
    checkpoint, file = checkpoints.file(session, checkpoint_id=checkpoint_id, name=name)
    return send(
        request,
        storage,
        stored(file),
        filename=file.name.rpartition("/")[2],
        media_type=checkpoints.media_type(file.name),
        modified=checkpoint.created_at,
    )


def send_checkpoint_archive(request: Request, session: Session, storage: Storage, *, checkpoint_id: int) -> Response:
    """All files of a checkpoint as one tar, in a folder of its own, with what blind evaluations of it came to. Raises NotFound."""
    checkpoint = checkpoints.get(session, checkpoint_id)
    folder = checkpoints.folder_name(checkpoint)
    verdict = card.text(verdicts.ended_of(session, checkpoint_id=checkpoint_id))
    return send(
        request,
        storage,
        tar(
            checkpoint.files,
            folder=folder,
            mtime=int(checkpoint.created_at.timestamp()),
            texts={card.FILE: verdict} if verdict else {},
        ),
        filename=f"{folder}.tar",
        media_type="application/x-tar",
        modified=checkpoint.created_at,
    )


def send_export_file(
    request: Request, session: Session, storage: Storage, *, checkpoint_id: int, format: str, name: str
) -> Response:
    """One file of a finished export, for the page and the API. Raises NotFound."""
    export, file = exports.file(session, checkpoint_id=checkpoint_id, format=format, name=name)
    return send(
        request,
        storage,
        stored(file),
        filename=file.name,
        media_type=checkpoints.media_type(file.name),
        modified=export.job.finished_at or export.job.created_at,
    )


def send_export_archive(
    request: Request, session: Session, storage: Storage, *, checkpoint_id: int, format: str
) -> Response:
    """All files of a finished export as one tar, in a folder of its own. Raises NotFound."""
    export = exports.whole(session, checkpoint_id=checkpoint_id, format=format)
    folder, modified = exports.folder_name(export), export.job.finished_at or export.job.created_at
    return send(
        request,
        storage,
        tar(export.files, folder=folder, mtime=int(modified.timestamp())),
        filename=f"{folder}.tar",
        media_type="application/x-tar",
        modified=modified,
    )


def send_label_check_file(request: Request, session: Session, storage: Storage, *, job_id: int, name: str) -> Response:
    """Every pair's figures of a label check, for the page and the API. Raises NotFound."""
    check = label_checks.get(session, job_id)
    file = label_checks.file(check, name)
    return send(
        request,
        storage,
        stored(file),
        filename=f"label-check-{job_id}-{file.name}",
        media_type="application/x-ndjson",
        modified=check.job.finished_at or check.job.created_at,
    )


def _after(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


def _bytes(storage: Storage, content: Content, start: int, stop: int) -> Iterator[bytes]:
    offset = 0
    for part in content.parts:
        first, last = max(start - offset, 0), min(stop - offset, part.size)
        offset += part.size
        if first >= last:
            continue
        if not part.key:
            yield part.data[first:last]
            continue
        with storage.open(part.key, first) as file:
            left = last - first
            while left:
                chunk = file.read(min(CHUNK, left))
                if not chunk:
                    raise OSError(f"{part.key} is shorter than it was when it was stored")
                left -= len(chunk)
                yield chunk


def _range(request: Request, etag: str, modified: str, size: int) -> tuple[int, int] | None:
    """The [start, stop) that is asked for; None where the whole is to be sent; start ≥ stop where there is nothing."""
    match = RANGE.fullmatch(request.headers.get("range", "").strip())
    if match is None or not any(match.groups()):
        return None
    condition = request.headers.get("if-range")
    if condition is not None and condition.strip() != etag and not _same_date(condition, modified):
        return None
    first, last = match.groups()
    if not first:
        length = int(last)
        return (max(size - length, 0), size) if length else (size, size)
    if last and int(last) < int(first):
        return None  # not a range at all: RFC 9110 says to ignore it
    return int(first), min(int(last) + 1, size) if last else size


def _same_date(condition: str, modified: str) -> bool:
    try:
        return parsedate_to_datetime(condition) == parsedate_to_datetime(modified)
    except (TypeError, ValueError):
        return False


def _matches(condition: str | None, etag: str) -> bool:
    if condition is None:
        return False
    return condition.strip() == "*" or etag in (tag.strip().removeprefix("W/") for tag in condition.split(","))


def _attachment(filename: str) -> str:
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", filename)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(filename, safe='')}"
