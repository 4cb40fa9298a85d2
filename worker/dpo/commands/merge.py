"""An adapter's weights added into its base model: one folder that `transformers` loads without `peft`."""

import argparse
import json
import shutil
from pathlib import Path

import torch

from worker.dpo.publish.card import FACTS
from worker.dpo.publish.folder import staged
from worker.dpo.publish.merge import MergeError, has_adapter, load_trained, merge_weights, write_merged

EXAMPLES = """examples:
  python -m worker.dpo merge --model models/base --adapter out --out merged
  python -m worker.dpo merge --model models/base --adapter out --out merged --dtype bfloat16
"""
DTYPES = ("float32", "bfloat16", "float16")


def merge(model: str | Path, adapter: str | Path, out: str | Path, *, dtype: str | None = None) -> Path:
    """Write the base model with the adapter merged in, as safetensors with its tokenizer, to the new folder `out`.

    dtype: of the written weights; None is the base's own. The sum is taken in float32 and rounded once. A base that is
    stored quantised is refused: its weights can't take the adapter's without a loss. `out` appears when it's complete.
    Raises MergeError and loading.ModelError.
    """
    model, adapter, out = str(model), Path(adapter), Path(out)
    if out.exists() and any(out.iterdir()):
        raise MergeError(f"{out} is not empty: choose a new folder for the merged model.")
    if not has_adapter(adapter):
        raise MergeError(f"{adapter} holds no adapter: there is no adapter_config.json.")
    trained = load_trained(model, adapter)
    with staged(out) as part:
        target = getattr(torch, dtype) if dtype else trained.dtype
        write_merged(merge_weights(trained), trained.tokenizer, part, dtype=target)
        if (adapter / FACTS).is_file():
            shutil.copyfile(adapter / FACTS, part / FACTS)
    return out


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
