"""An adapter's weights added into its base model: one folder that `transformers` loads without `peft`."""

import argparse
import json
import shutil
import tempfile
from pathlib import Path

import torch
from transformers import AutoConfig

from worker.dpo.ground.errors import BadSetting
from worker.dpo.model import loading

EXAMPLES = """examples:
  python -m worker.dpo merge --model models/base --adapter out --out merged
  python -m worker.dpo merge --model models/base --adapter out --out merged --dtype bfloat16
"""
DTYPES = ("float32", "bfloat16", "float16")
# What goes along from the adapter's folder: where the weights come from.
PROVENANCE = ("prefloop.json",)


class MergeError(BadSetting):
    """An adapter that can't be merged as asked. The text says what to do."""


def merge(model: str | Path, adapter: str | Path, out: str | Path, *, dtype: str | None = None) -> Path:
    """Write the base model with the adapter merged in, as safetensors with its tokenizer, to the new folder `out`.

    dtype: of the written weights; None is the base's own. The sum is taken in float32 and rounded once. A base that is
    stored quantised is refused: its weights can't take the adapter's without a loss. `out` appears when it's complete.
    Raises MergeError and models.ModelError.
    """
    model, adapter, out = str(model), Path(adapter), Path(out)
    if out.exists() and any(out.iterdir()):
        raise MergeError(f"{out} is not empty: choose a new folder for the merged model.")
    if not (adapter / "adapter_config.json").is_file():
        raise MergeError(f"{adapter} holds no adapter: there is no adapter_config.json.")
    config = _config(model)
    if getattr(config, "quantization_config", None):
        raise MergeError(f"{model} is quantised. Merge into the model that it was made from, in full precision.")
    target = getattr(torch, dtype) if dtype else (config.dtype or torch.float32)
    base = loading.load_base(model, dtype="float32")
    merged = loading.load_adapter(base, str(adapter)).merge_and_unload(safe_merge=True).to(target)
    merged.config.dtype = target
    has_tokenizer = (adapter / "tokenizer_config.json").is_file()
    tokenizer = loading.load_tokenizer(str(adapter) if has_tokenizer else model)

    out.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}-"))
    try:
        merged.save_pretrained(part)
        tokenizer.save_pretrained(part)
        for name in PROVENANCE:
            if (adapter / name).is_file():
                shutil.copyfile(adapter / name, part / name)
        part.chmod(0o755)
        part.replace(out)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return out


def _config(model: str) -> AutoConfig:
    try:
        return AutoConfig.from_pretrained(model)
    except (OSError, ValueError, KeyError) as error:
        raise MergeError(f"Cannot read the model {model}: {error}") from error


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.description = "Add a LoRA adapter into its base model and write the whole as safetensors."
    parser.epilog = EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--model", required=True, help="folder or hub id of the base model, not quantised")
    parser.add_argument("--adapter", required=True, type=Path, help="folder of the LoRA adapter")
    parser.add_argument("--out", required=True, type=Path, help="new folder for the merged model")
    parser.add_argument("--dtype", choices=DTYPES, help="type of the written weights (default: the base's)")


def run(args: argparse.Namespace) -> int:
    """Merge, and print the folder and its size as one JSON object. Returns the exit code."""
    out = merge(args.model, args.adapter, args.out, dtype=args.dtype)
    size = sum(file.stat().st_size for file in out.iterdir())
    print(json.dumps({"out": str(out), "bytes": size, "files": sorted(file.name for file in out.iterdir())}))
    return 0
