"""An adapter's weights added into its base model, and the whole as one folder that transformers loads without peft."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase

from worker.dpo.data import chat
from worker.dpo.ground.errors import BadSetting
from worker.dpo.model import loading
from worker.dpo.publish.card import FACTS
from worker.dpo.publish.finite import require_finite_model


class MergeError(BadSetting):
    """A checkpoint that can't be merged as asked. The text says what to do."""


@dataclass(frozen=True, slots=True)
class Trained:
    """What a training run left, ready to compute in float32.

    model: the base with its adapter around it, or the fully fine-tuned model. facts: the checkpoint's `prefloop.json`,
    empty where it has none. dtype: what the base's weights are stored in.
    """

    model: PreTrainedModel | PeftModel
    tokenizer: PreTrainedTokenizerBase
    facts: dict[str, Any]
    dtype: torch.dtype

    @property
    def adapted(self) -> bool:
        """Whether the weights are a base's with an adapter's beside them."""
        return isinstance(self.model, PeftModel)

    @property
    def config(self) -> Any:
        """transformers' configuration of the model inside."""
        return self.model.get_base_model().config if isinstance(self.model, PeftModel) else self.model.config

    @property
    def trained_in_4bit(self) -> bool:
        """Whether training saw the base's weights rounded to 4 bits (QLoRA)."""
        return bool((self.facts.get("config") or {}).get("load_in_4bit"))


def has_adapter(checkpoint: Path) -> bool:
    """Whether a checkpoint's folder holds an adapter; otherwise it holds a whole model."""
    return (checkpoint / "adapter_config.json").is_file()


def read_config(model: str) -> Any:
    """transformers' configuration of a model folder or hub id. Raises MergeError, for quantised weights too."""
    try:
        config = AutoConfig.from_pretrained(model)
    except (OSError, ValueError, KeyError) as error:
        raise MergeError(f"Cannot read the model {model}: {error}") from error
    if getattr(config, "quantization_config", None):
        raise MergeError(f"{model} is quantised. Merge into the model that it was made from, in full precision.")
    return config


def read_tokenizer(model: str, checkpoint: Path) -> PreTrainedTokenizerBase:
    """The checkpoint's own tokenizer, else its base's. Raises loading.ModelError."""
    has_tokenizer = (checkpoint / "tokenizer_config.json").is_file()
    return loading.load_tokenizer(str(checkpoint) if has_tokenizer else model)


def load_trained(model: str, checkpoint: Path) -> Trained:
    """The trained model in float32, from its base `model` and the folder of its checkpoint.

    A checkpoint of full fine-tuning is read as it is; `model` only stands in for a tokenizer that it lacks. Raises
    MergeError and loading.ModelError.
    """
    adapted = has_adapter(checkpoint)
    if not adapted and not (checkpoint / "config.json").is_file():
        raise MergeError(f"{checkpoint} holds neither an adapter nor a model. Name the folder that a run wrote.")
    weights = model if adapted else str(checkpoint)
    dtype = read_config(weights).dtype or torch.float32
    whole: PreTrainedModel | PeftModel = loading.load_base(weights, dtype="float32")
    if adapted:
        tied = whole.config.get_text_config().tie_word_embeddings
        whole = loading.load_adapter(whole, str(checkpoint))
        if tied:
            _untie_adapted(whole)
    tokenizer = read_tokenizer(model, checkpoint)
    chat.ensure_template(tokenizer)
    return Trained(whole.eval(), tokenizer, read_facts(checkpoint), dtype)


def read_facts(checkpoint: Path) -> dict[str, Any]:
    """The checkpoint's `prefloop.json`; empty where there is none. Raises MergeError."""
    path = checkpoint / FACTS
    if not path.is_file():
        return {}
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise MergeError(f"{path} is not JSON: {error}") from error
    return facts if isinstance(facts, dict) else {}


def _untie_adapted(policy: PeftModel) -> None:
    """Give the head weights of its own where an adapter sits on it or on the embeddings it shares them with.

    The adapter's sum belongs to one of the two; added to shared weights it would change the other as well.
    """
    base = policy.get_base_model()
    head, embeddings = base.get_output_embeddings(), base.get_input_embeddings()
    if not any(isinstance(layer, BaseTunerLayer) for layer in (head, embeddings)):
        return
    inner = head.get_base_layer() if isinstance(head, BaseTunerLayer) else head
    inner.weight = nn.Parameter(inner.weight.detach().clone(), requires_grad=False)


def merge_weights(trained: Trained) -> PreTrainedModel:
    """The trained model as one plain model in float32; `trained.model` isn't usable afterwards.

    The adapter's product is added to the base in float32. A head whose weights differ from the embeddings' afterwards
    is no longer tied to them. Raises NotFinite for weights that aren't finite.
    """
    if not isinstance(trained.model, PeftModel):
        require_finite_model(trained.model, "The checkpoint")
        return trained.model
    require_finite_model(trained.model, "The adapter or its base model")
    merged = trained.model.merge_and_unload()
    require_finite_model(merged, "The merged model")
    head, embeddings = merged.get_output_embeddings(), merged.get_input_embeddings()
    if head is not None and head.weight.data_ptr() != embeddings.weight.data_ptr():
        for config in {id(config): config for config in (merged.config, merged.config.get_text_config())}.values():
            config.tie_word_embeddings = False
    return merged


def end_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that end an answer: the tokenizer's EOS first, then the template's end of turn."""
    ends = sorted(chat.end_token_ids(tokenizer))
    return sorted(ends, key=lambda token: token != tokenizer.eos_token_id)


def write_merged(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, *, dtype: torch.dtype
) -> None:
    """Write a merged model into the empty `folder`: safetensors rounded once to `dtype`, and its tokenizer.

    `generation_config.json` names every token that ends an answer, so that servers stop where training did. The model
    is in `dtype` afterwards: a second copy of it would take the memory of the first. Raises NotFinite for a weight that
    `dtype` can't hold.
    """
    if model.generation_config is not None:
        kept = model.generation_config.eos_token_id
        more = kept if isinstance(kept, list) else [] if kept is None else [kept]
        ends = end_tokens(tokenizer)
        model.generation_config.eos_token_id = ends + [token for token in more if token not in ends]
    model.to(dtype)
    require_finite_model(model, f"The model in {str(dtype).removeprefix('torch.')}")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def with_facts(trained: Trained, model: str) -> Trained:
    """The same with a `base_model` among its facts, for a checkpoint that doesn't name one."""
    return replace(trained, facts={"base_model": model, **trained.facts})
