"""What a folder must hold to be a base model, read without loading a weight or running any of its code.

We refuse pickled weights, code that comes with a model, quantised weights, adapters, and anything but a causal
language model that the installed transformers knows by itself.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError, safe_open

MANIFEST = "prefloop-model.json"
WEIGHTS = ("model.safetensors", "model-*-of-*.safetensors")
WANTED = (
    *WEIGHTS,
    "model.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "spiece.model",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates/*.jinja",
    "README.md",
    "LICENSE*",
    "NOTICE*",
)
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.h5", "*.msgpack")
HEADS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


class Refused(Exception):
    """The source can't be a base model: what is wrong, and what to do about it."""

    def __init__(self, what: str, next_step: str, code: str = "invalid") -> None:
        super().__init__(f"{what} {next_step}".strip())
        self.what = what
        self.next_step = next_step
        self.code = code


@dataclass(frozen=True, slots=True)
class Weights:
    """What the headers of the weight files say. `files`: name, size in bytes, SHA-256 of each."""

    files: list[dict[str, Any]]
    parameters: int
    dtype: str

    @property
    def bytes(self) -> int:
        return sum(file["size"] for file in self.files)

    @property
    def sha256(self) -> str:
        """The file's own hash; for several files the hash of their `sha256sum` lines, sorted by name."""
        if len(self.files) == 1:
            return str(self.files[0]["sha256"])
        lines = "".join(f"{file['sha256']}  {file['name']}\n" for file in self.files)
        return hashlib.sha256(lines.encode()).hexdigest()


def is_wanted(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in WANTED)


def refuse_by_names(names: set[str], where: str) -> None:
    """Refuses what file names alone give away, before anything large is copied or downloaded."""
    if "config.json" not in names:
        if "adapter_config.json" in names:
            raise Refused(
                f"{where} is an adapter, not a model.",
                "Name the base model of this machine that it was trained on: `prefloop models add NAME --from FOLDER --on BASE`.",
            )
        raise Refused(f"{where} has no config.json.", "Give a folder as `save_pretrained` of transformers writes it.")
    if not any(fnmatch(name, pattern) for name in names for pattern in WEIGHTS):
        pickled = sorted(name for name in names if any(fnmatch(name, pattern) for pattern in PICKLED))
        if pickled:
            raise Refused(
                f"{where} has only pickled weights ({pickled[0]}), and loading those can run any code.",
                "Convert them on a machine that you can spare: load with transformers, then save_pretrained().",
            )
        raise Refused(f"{where} has no model.safetensors.", "Save the weights as safetensors: save_pretrained() does.")
    if not names & {"tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt"}:
        raise Refused(f"{where} has no tokenizer.", "Add the files that the tokenizer's save_pretrained() writes.")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; empty where there is no such file."""
    if not path.exists():
        return {}
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:
        raise Refused(f"{path.name} is not JSON: {error}.", "Fetch the file again.") from error
    if not isinstance(value, dict):
        raise Refused(f"{path.name} is not a JSON object.", "Fetch the file again.")
    return value


def write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def tidy_config(folder: Path) -> dict[str, Any]:
    """Checks config.json and takes `auto_map` out of it: transformers' own class is used, or the model is refused."""
    from transformers import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    config = read_json(folder / "config.json")
    kind = config.get("model_type", "")
    if kind not in CONFIG_MAPPING or kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        own_code = (
            "needs code that comes with it, which is never run"
            if "auto_map" in config
            else "isn't a causal language model that the installed transformers knows"
        )
        raise Refused(
            f"A model of type {kind or 'unknown'!r} {own_code}.", "Choose a model that transformers supports by itself."
        )
    heads = config.get("architectures") or []
    if config.get("is_encoder_decoder") or (heads and not any(head.endswith(HEADS) for head in heads)):
        raise Refused(
            f"The model ({', '.join(heads) or kind}) doesn't write text from left to right.",
            "Choose a causal language model.",
        )
    if quantisation := config.get("quantization_config"):
        method = quantisation.get("quant_method", "quantised") if isinstance(quantisation, dict) else "quantised"
        raise Refused(
            f"The weights are quantised ({method}) and can't be trained.", "Take the model's unquantised weights."
        )
    if "auto_map" in read_json(folder / "tokenizer_config.json"):
        raise Refused(
            "The tokenizer needs code that comes with it, which is never run.",
            "Choose a model whose tokenizer transformers supports by itself.",
        )
    if config.pop("auto_map", None):
        write_json(folder / "config.json", config)
    return config


def read_weights(folder: Path) -> Weights:
    """Shapes, types and hashes of the weights; refuses a missing shard and a damaged file."""
    names = sorted(_weight_names(folder))
    files, parameters, types = [], 0, Counter[str]()
    for name in names:
        path = folder / name
        if not path.exists():
            raise Refused(f"{name} is missing, though model.safetensors.index.json names it.", "Fetch the model again.")
        try:
            for size, dtype in _tensors(path):
                parameters += size
                types[dtype] += size
        except SafetensorError as error:
            raise Refused(f"{name} is damaged: {error}.", "Fetch the file again.") from error
        files.append({"name": name, "size": path.stat().st_size, "sha256": sha256(path)})
    dtype = types.most_common(1)[0][0] if types else ""
    if dtype not in DTYPES:
        raise Refused(
            f"The weights are stored as {dtype or 'nothing'}.", "Take the model's float32, float16 or bfloat16 weights."
        )
    return Weights(files=files, parameters=parameters, dtype=DTYPES[dtype])


def _weight_names(folder: Path) -> set[str]:
    index = read_json(folder / "model.safetensors.index.json")
    if not index:
        return (
            {"model.safetensors"}
            if (folder / "model.safetensors").exists()
            else {path.name for path in folder.glob(WEIGHTS[1])}
        )
    names = set(index.get("weight_map", {}).values())
    if any(Path(name).name != name or not name.endswith(".safetensors") for name in names):
        raise Refused(
            "model.safetensors.index.json names files that aren't safetensors beside it.", "Fetch the file again."
        )
    return names


def _tensors(path: Path) -> Iterator[tuple[int, str]]:
    with safe_open(path, framework="numpy") as file:
        for key in file.keys():  # noqa: SIM118 (not a mapping)
            tensor = file.get_slice(key)
            size = 1
            for length in tensor.get_shape():
                size *= length
            yield size, tensor.get_dtype()


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def stated_licence(folder: Path) -> str:
    """The licence that the model card's front matter states; empty where it states none."""
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8", errors="replace") if card.exists() else ""
    front = re.match(r"---\n(.*?)\n---", text, flags=re.S)
    if not front:
        return ""
    try:
        facts = yaml.safe_load(front.group(1))
    except yaml.YAMLError:
        return ""
    if not isinstance(facts, dict):
        return ""
    licence = facts.get("license")
    return str(facts.get("license_name") or "other") if licence == "other" else str(licence or "")


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
