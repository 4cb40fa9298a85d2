"""Prepares a base model: from a wheel, a folder or the hub to a local folder of safetensors, checked by generating.

    python -m worker.base_models.prepare --models-dir DIR --name NAME (--wheel | --folder PATH [--on BASE] | --hub ID [--revision R])

Prints one JSON object a line: `progress` (message), `done` (model: the manifest), `error` (code, what, next_step).
Exit status 0, or 2 after `error`. A folder appears under its name only when it is complete. Run again, the
program does nothing where the model is there, and resumes a download where it was cut off.
"""

import argparse
import contextlib
import fcntl
import hashlib
import importlib.metadata
import json
import os
import shutil
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from worker.base_models import check
from worker.base_models import folder as model_folder
from worker.base_models.adapters import from_adapter
from worker.base_models.check import QUESTION
from worker.base_models.folder import MANIFEST, Refused
from worker.base_models.sources import SOURCES, Origin, Report

MADE_BY = {**SOURCES, "adapter": from_adapter}


def prepare(models_dir: Path, name: str, request: dict[str, str], report: Report) -> dict[str, Any]:
    """The manifest of models_dir/name, made first if it isn't there.

    request: {"kind": "wheel"}, {"kind": "folder", "path": …}, {"kind": "adapter", "path": …, "base": …} or
    {"kind": "hub", "id": …, "revision": …}.
    Raises Refused.
    """
    models_dir.mkdir(parents=True, exist_ok=True)
    target = models_dir / name
    with _locked(models_dir / f".{name}.lock", report):
        if target.exists():
            return _existing(target, request)
        staging = models_dir / f".{name}.{_short_hash(request)}.partial"
        for stale in models_dir.glob(f".{name}.*.partial"):
            if stale != staging or request["kind"] != "hub":  # only a download is worth going on with
                shutil.rmtree(stale)
        staging.mkdir(exist_ok=True)
        try:
            origin = MADE_BY[request["kind"]](staging, name, request, report)
            manifest = _manifest(staging, name, origin, report)
        except Refused as error:
            if error.code != "unavailable":
                shutil.rmtree(staging)
            raise
        shutil.rmtree(staging / ".cache", ignore_errors=True)  # the downloader's own notes
        model_folder.write_json(staging / MANIFEST, manifest)
        _publish(staging, target)
    return manifest


def _existing(target: Path, request: dict[str, str]) -> dict[str, Any]:
    manifest = model_folder.read_json(target / MANIFEST)
    if not manifest:
        raise Refused(
            f"{target} exists but was not prepared by `prefloop models add`.",
            "Move it away, then add it by its path.",
            code="conflict",
        )
    if any(manifest["source"].get(key) != value for key, value in request.items()):
        raise Refused(
            f"There is a model named {manifest['name']} from another source ({_spoken(manifest['source'])}).",
            "Choose another name, or delete its folder first.",
            code="conflict",
        )
    return manifest


def _spoken(source: dict[str, Any]) -> str:
    return str(source.get("path") or source.get("id") or source.get("distribution") or source["kind"])


def _manifest(staging: Path, name: str, origin: Origin, report: Report) -> dict[str, Any]:
    """What the checks read: headers, tokenizer, one answer. Raises Refused."""
    report("Checking the files")
    config = model_folder.tidy_config(staging)
    weights = model_folder.read_weights(staging)
    report("Loading it once and asking it a question")
    tokenizer_facts, notes = check.read_tokenizer(staging, config)
    answer = check.generate(staging, weights.bytes)
    if answer is not None and origin.answer not in answer:
        raise Refused(
            f"The converted model answers {QUESTION!r} with {answer!r}.",
            "The conversion went wrong: please report this.",
        )
    if answer is None:
        notes.append("not loaded for a check: its weights need more than half of the free memory")
    return {
        "name": name,
        "title": origin.title,
        "source": origin.source,
        "licence": origin.licence or "not stated",
        "architecture": config["model_type"],
        "parameters": weights.parameters,
        "dtype": weights.dtype,
        "weights_sha256": weights.sha256,
        "weights": weights.files,
        **tokenizer_facts,
        "note": "; ".join([*origin.notes, *notes]),
        "check": {"question": QUESTION, "answer": answer},
        "prepared_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {package: importlib.metadata.version(package) for package in ("transformers", "torch")},
    }


def _publish(staging: Path, target: Path) -> None:
    for path in staging.rglob("*"):
        if path.is_dir():
            path.chmod(0o755)
            continue
        path.chmod(0o644)  # a worker may run as another user
        with path.open("rb") as file:
            os.fsync(file.fileno())
    _fsync_folder(staging)
    staging.rename(target)
    _fsync_folder(target.parent)


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _locked(path: Path, report: Report) -> Iterator[None]:
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report("Waiting: another process prepares this model")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _short_hash(request: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()[:12]


def _emit(event: str, **fields: Any) -> None:
    print(json.dumps({"event": event, **fields}, ensure_ascii=False), flush=True)


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m worker.base_models.prepare", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--models-dir", type=Path, required=True)
    parser.add_argument("--name", required=True)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--wheel", action="store_true", help="the Python package that holds this model")
    source.add_argument("--folder", help="a folder on this machine")
    source.add_argument("--hub", metavar="OWNER/NAME", help="a repository on the model hub")
    parser.add_argument("--on", metavar="BASE", help="the base model that --folder is an adapter to")
    parser.add_argument("--revision", help="branch, tag or commit, for --hub")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    options = _parse(argv)
    if options.wheel:
        request = {"kind": "wheel"}
    elif options.folder and options.on:
        request = {"kind": "adapter", "path": str(Path(options.folder).resolve()), "base": options.on}
    elif options.folder:
        request = {"kind": "folder", "path": str(Path(options.folder).resolve())}
    else:
        request = {"kind": "hub", "id": options.hub, "revision": options.revision or "main"}
    try:
        _emit(
            "done",
            model=prepare(
                options.models_dir, options.name, request, lambda message: _emit("progress", message=message)
            ),
        )
        return 0
    except Refused as error:
        _emit("error", code=error.code, what=error.what, next_step=error.next_step)
    except OSError as error:
        _emit(
            "error",
            code="unavailable",
            what=f"The model couldn't be written to {options.models_dir}: {error}.",
            next_step="Make room, or set PREFLOOP_MODELS_DIR to a folder that can be written.",
        )
    return 2


if __name__ == "__main__":
    sys.exit(main())
