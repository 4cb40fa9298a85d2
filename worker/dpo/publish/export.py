"""From a checkpoint to a form that others serve: merged safetensors or GGUF, proven before it's published."""

import importlib.metadata
import json
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from worker.dpo.ground.errors import EXPORT_DIFFERS, BadSetting, RunError
from worker.dpo.publish import llama_cpp, merge, proof
from worker.dpo.publish.card import write_card
from worker.dpo.publish.figures import Check
from worker.dpo.publish.folder import staged
from worker.dpo.publish.gguf import write_gguf
from worker.dpo.publish.gguf_support import architecture_refusal, tokenizer_refusal
from worker.dpo.publish.merge import Trained
from worker.dpo.publish.modelfile import known_template, modelfile
from worker.dpo.publish.proof import Reference
from worker.dpo.publish.weights import sample_weights

FORMATS = ("merged", "gguf-f16", "gguf-q8_0")
# Which share of the work is done when a stage begins.
STAGES = {"loading": 0.0, "scoring": 0.1, "merging": 0.25, "writing": 0.3, "proving": 0.6}
# Comparisons of a GGUF file after the merge's, with llama.cpp.
MOST_CHECKS = 7
RECORD = "export.json"
PACKAGES = ("torch", "transformers", "peft", "gguf", "safetensors", "tokenizers")
FOUR_BITS = (
    "Training saw the base's weights rounded to 4 bits (QLoRA). The export adds the adapter to the base in full precision, "
    "as loading the checkpoint with peft does, so its answers differ slightly from those seen during training."
)
NO_LLAMA_CPP = (
    "llama.cpp isn't installed (pip install xllamacpp): the file's tokenizer and chat template were compared by their "
    "metadata only, and llama.cpp's own log-probabilities were not compared."
)
NO_MODELFILE = "No Modelfile: none of the known Ollama templates renders what the model's chat template renders."


class ExportRefused(BadSetting):
    """A checkpoint that can't be exported in this format; nothing was computed."""

    reason = "export_refused"


class ExportDiffers(RunError):
    """What was written isn't the trained model; nothing was published."""

    exit_code, reason = EXPORT_DIFFERS, "export_differs"


@dataclass(frozen=True, slots=True)
class Request:
    """What to export: the base model's folder or hub id, the checkpoint's folder, the form, and where to.

    dtype: of merged weights (`float32`, `bfloat16`, `float16`); None is what the base is stored in.
    """

    model: str
    checkpoint: Path
    form: str
    out: Path
    dtype: str | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """Where an export says how far it is, and where it may be ended.

    state: called with the stage, and which share of all the work is done. check: raises to end it.
    """

    state: Callable[[str, float], None] = lambda stage, share: None
    check: Callable[[], None] = lambda: None
    log: Callable[[str], None] = lambda message: None


def refuse_early(request: Request) -> None:
    """Stop what can't succeed, before a weight is read. Raises ExportRefused, merge.MergeError and loading.ModelError."""
    if request.form not in FORMATS:
        raise ExportRefused(f"There is no format {request.form!r}: use one of {', '.join(FORMATS)}.")
    if request.out.exists() and (not request.out.is_dir() or any(request.out.iterdir())):
        raise ExportRefused(f"{request.out} is not empty: choose a new folder for the export.")
    adapted = merge.has_adapter(request.checkpoint)
    config = merge.read_config(request.model if adapted else str(request.checkpoint))
    if request.form == "merged":
        return
    if request.dtype:
        raise ExportRefused("--dtype is for merged weights: a GGUF file's type is in its format's name.")
    description = json.loads(merge.read_tokenizer(request.model, request.checkpoint).backend_tokenizer.to_str())
    problem = architecture_refusal(config.get_text_config().to_dict()) or tokenizer_refusal(description)
    if problem:
        raise ExportRefused(f"{problem} Export it as merged instead.")


def export(request: Request, progress: Progress) -> dict[str, Any]:
    """Write, prove and publish an export; returns the facts that `export.json` holds.

    Nothing appears in `request.out` before the proof has passed. Raises ExportRefused, ExportDiffers, MergeError and
    loading.ModelError.
    """
    refuse_early(request)
    with staged(request.out) as part:
        facts = _export(request, part, progress)
        progress.check()
    return facts


def _export(request: Request, part: Path, progress: Progress) -> dict[str, Any]:
    progress.state("loading", STAGES["loading"])
    trained = merge.with_facts(merge.load_trained(request.model, request.checkpoint), request.model)
    progress.state("scoring", STAGES["scoring"])
    known = proof.reference(trained, progress.check)
    progress.state("merging", STAGES["merging"])
    merged = merge.merge_weights(trained)
    checks = [proof.check_merge(known, merged, progress.check)]
    _stop_if_wrong(checks)
    if request.form == "merged":
        facts = _write_merged(request, trained, merged, known, part, progress, checks)
    else:
        facts = _write_gguf(request, trained, merged, known, part, progress, checks)
    _stop_if_wrong(checks)
    facts |= _common(request, trained, known, checks)
    (part / RECORD).write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    write_card(part, trained.facts | {"export": {key: facts[key] for key in ("as", "dtype", "file") if key in facts}})
    return facts


def _write_merged(
    request: Request,
    trained: Trained,
    merged: Any,
    known: Reference,
    part: Path,
    progress: Progress,
    checks: list[Check],
) -> dict[str, Any]:
    dtype = getattr(torch, request.dtype) if request.dtype else trained.dtype
    name = str(dtype).removeprefix("torch.")
    progress.state("writing", STAGES["writing"])
    sample = sample_weights(merged)
    merge.write_merged(merged, trained.tokenizer, part, dtype=dtype)
    progress.state("proving", STAGES["proving"])
    for check in proof.check_merged_folder(known, trained.tokenizer, sample, part, name, progress.check):
        checks.append(check)
        progress.log(check.says)
        progress.state("proving", STAGES["proving"] + (1 - STAGES["proving"]) * (len(checks) - 1) / MOST_CHECKS)
    return {"dtype": name, "not_checked": []}


def _write_gguf(
    request: Request,
    trained: Trained,
    merged: Any,
    known: Reference,
    part: Path,
    progress: Progress,
    checks: list[Check],
) -> dict[str, Any]:
    weights = request.form.removeprefix("gguf-")
    path = part / f"model-{weights}.gguf"

    def report(done: int, total: int) -> None:
        progress.check()
        progress.state("writing", STAGES["writing"] + (STAGES["proving"] - STAGES["writing"]) * done / total)

    write_gguf(merged, trained.tokenizer, path, weights=weights, about=_about(trained), report=report)
    sample = sample_weights(merged)
    progress.state("proving", STAGES["proving"])
    for check in proof.check_gguf(known, trained.tokenizer, merged.config, sample, path, weights, progress.check):
        checks.append(check)
        progress.log(check.says)
        progress.state("proving", STAGES["proving"] + (1 - STAGES["proving"]) * (len(checks) - 1) / MOST_CHECKS)
    template = known_template(trained.tokenizer)
    if template is not None:
        stops = [trained.tokenizer.convert_ids_to_tokens(token) for token in known.ends]
        (part / "Modelfile").write_text(modelfile(path.name, template, stops), encoding="utf-8")
        said = f"Modelfile: Ollama's {template.name} template renders the same text as the model's chat template."
    else:
        said = NO_MODELFILE
    progress.log(said)
    not_checked = [] if llama_cpp.version() else [NO_LLAMA_CPP]
    return {"dtype": weights, "file": path.name, "modelfile": said, "not_checked": not_checked}


def _about(trained: Trained) -> dict[str, str]:
    facts = trained.facts
    base = str(facts.get("base_model") or "model")
    about = {
        "name": str(facts.get("title") or f"{Path(base).name}, preference-tuned"),
        "description": f"{base}, trained on human preferences by Prefloop",
    }
    return about | ({"license": str(facts["license"])} if facts.get("license") else {})


def _common(request: Request, trained: Trained, known: Reference, checks: list[Check]) -> dict[str, Any]:
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    versions |= {"python": platform.python_version()}
    if llama_cpp.version():
        versions[llama_cpp.PACKAGE] = str(llama_cpp.version())
    return {
        "format": 1,
        "as": request.form,
        "checks": [check.as_dict() for check in checks],
        "training_moved": known.moved,
        "prompts": [
            {"name": answer.prompt.name, "tokens": len(answer.prompt.ids), "answer_tokens": len(answer.ids)}
            for answer in known.answers
        ],
        "notes": [FOUR_BITS] if trained.trained_in_4bit else [],
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": versions,
    }


def _stop_if_wrong(checks: list[Check]) -> None:
    if wrong := [check.says for check in checks if not check.passed]:
        raise ExportDiffers(f"The export isn't the trained model, so it wasn't published. {' '.join(wrong)}")
