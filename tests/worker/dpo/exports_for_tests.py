"""Checkpoints of tiny random models of several families, to export."""

import json
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from tests.worker.dpo.tiny import CHATML
from tests.worker.dpo.tokenizers_for_tests import CORPUS, trained_tokenizer
from worker.dpo.publish.gguf_support import LLAMA3, QWEN2, TEKKEN

FAMILIES = {
    "llama": (LlamaForCausalLM, LlamaConfig),
    "mistral": (MistralForCausalLM, MistralConfig),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config),
}
SPLITS = {
    "gpt-2": [],
    "smollm": [pre_tokenizers.Digits(individual_digits=True)],
    "llama-bpe": [LLAMA3],
    "qwen2": [QWEN2],
    "tekken": [TEKKEN],
}


def tiny_model(family: str = "llama", *, seed: int = 1, **overrides) -> PreTrainedModel:
    """A model of two layers with grouped-query attention, every weight random, biases and norms included."""
    model_class, config_class = FAMILIES[family]
    settings = {
        "vocab_size": 420,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
        "initializer_range": 0.1,
    }
    torch.manual_seed(seed)
    model = model_class(config_class(**(settings | overrides)))
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data += torch.randn_like(parameter) * 0.1
    return model


def splitting_tokenizer(pre: str, *, template: str = CHATML, eos: str = "<|im_end|>") -> PreTrainedTokenizerFast:
    """A byte-level BPE that splits text into words as llama.cpp's `pre` does."""
    special = ["<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>"]
    backend = Tokenizer(models.BPE(ignore_merges=pre in ("llama-bpe", "tekken")))
    steps = SPLITS[pre]
    if steps and isinstance(steps[0], str):
        steps = [pre_tokenizers.Split(Regex(steps[0]), "isolated")]
        end = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    else:
        end = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([*steps, end]) if steps else end
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=[AddedToken(token, special=True) for token in special],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS * 3, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token=eos, pad_token="<pad>")
    tokenizer.chat_template = template
    return tokenizer


def sentencepiece_tokenizer(template: str) -> PreTrainedTokenizerFast:
    """A BPE of SentencePiece's kind, as Llama 2's: spaces are `▁`, what it lacks is written in bytes."""
    special = ["<unk>", "<s>", "</s>"]
    backend = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    words = [f"▁{word}" for text in CORPUS for word in text.split()]
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in special]
        + [AddedToken(f"<0x{byte:02X}>", special=False, normalized=False) for byte in range(256)],
        show_progress=False,
    )
    backend.normalizer, kept = normalizers.Replace(" ", "▁"), backend.normalizer
    backend.train_from_iterator(words * 3, trainer)
    backend.normalizer = kept
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_without_added_bytes(backend), bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    tokenizer.chat_template = template
    return tokenizer


def _without_added_bytes(backend: Tokenizer) -> Tokenizer:
    description = json.loads(backend.to_str())
    description["added_tokens"] = [
        token for token in description["added_tokens"] if not token["content"].startswith("<0x")
    ]
    return Tokenizer.from_str(json.dumps(description))


def save_checkpoint(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast | None = None,
    *,
    saved: tuple[str, ...] = (),
    **lora,
) -> tuple[Path, Path]:
    """(base model's folder, checkpoint's folder) of a model with a random adapter; every part of it does something.

    saved: modules that the checkpoint keeps whole.
    """
    base, checkpoint = folder / "base", folder / "checkpoint"
    tokenizer = tokenizer or trained_tokenizer(eos="<|im_end|>")
    model.save_pretrained(base)
    tokenizer.save_pretrained(base)
    torch.manual_seed(4)
    settings = {"r": 4, "init_lora_weights": False, "target_modules": "all-linear"} | lora
    policy = get_peft_model(model, LoraConfig(**settings, modules_to_save=list(saved) or None, task_type="CAUSAL_LM"))
    for name, parameter in policy.named_parameters():
        if "modules_to_save" in name or "magnitude" in name:
            parameter.data += torch.randn_like(parameter) * 0.1
    policy.save_pretrained(checkpoint)
    tokenizer.save_pretrained(checkpoint)
    return base, checkpoint
