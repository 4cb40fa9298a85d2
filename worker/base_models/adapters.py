"""A LoRA adapter from elsewhere, merged into the base model of this machine that it was trained on."""

from pathlib import Path

from worker.base_models import folder as model_folder
from worker.base_models.folder import MANIFEST, Refused, first_line
from worker.base_models.sources import Origin, Report, need_room, refuse_link_out

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def from_adapter(staging: Path, name: str, request: dict[str, str], report: Report) -> Origin:
    """Adds the adapter's weights to those of the base model named `base`, which must be prepared. The sum is taken in float32
    and rounded once to the base's type, so what is added is what was trained up to that rounding. Raises Refused."""
    folder, base = Path(request["path"]), staging.parent / request["base"]
    manifest = model_folder.read_json(base / MANIFEST)
    if not manifest:
        raise Refused(
            f"There is no base model named {request['base']} to add the adapter to.",
            f"Add it first: prefloop models add {request['base']}",
            code="not_found",
        )
    _refuse_by_files(folder)
    need_room(staging, sum(file["size"] for file in manifest["weights"]))
    report(f"Merging {folder.name} into {request['base']}")
    _merge(base, folder, staging)
    source = {
        "kind": "adapter",
        "path": str(folder),
        "base": request["base"],
        "base_sha256": manifest["weights_sha256"],
        "adapter_sha256": model_folder.sha256(folder / WEIGHTS),
    }
    note = f"the adapter {folder.name} merged into {request['base']}"
    licence = model_folder.stated_licence(folder) or manifest["licence"]
    return Origin(source, f"{folder.name} on {manifest['title']}", licence, (note,))


def _refuse_by_files(folder: Path) -> None:
    if not folder.is_dir():
        raise Refused(
            f"There is no folder {folder}.", "Check the path; it is a path on the machine that Prefloop runs on."
        )
    if not (folder / CONFIG).is_file():
        raise Refused(
            f"{folder} isn't an adapter: it has no {CONFIG}.", "A whole model is added without --on, from its folder."
        )
    if not (folder / WEIGHTS).is_file():
        raise Refused(
            f"{folder} has no {WEIGHTS}.",
            "Save the adapter as safetensors: peft's save_pretrained() does. Pickled weights are never loaded.",
        )
    for path in folder.iterdir():
        if path.is_file():
            refuse_link_out(path, folder)


def _merge(base: Path, folder: Path, staging: Path) -> None:
    from worker.dpo.ground.errors import RunError
    from worker.dpo.publish import merge

    try:
        trained = merge.load_trained(str(base), folder)
        dtype = trained.dtype
        merge.write_merged(merge.merge_weights(trained), trained.tokenizer, staging, dtype=dtype)
    except RunError as problem:
        raise Refused(first_line(problem), "Check that the adapter was trained on this base model.") from problem
