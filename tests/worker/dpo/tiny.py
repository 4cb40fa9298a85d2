"""A tiny random Llama and a byte-level tokenizer, built in the test: real code paths in milliseconds."""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"]
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tiny_tokenizer(*, chat_template: str | None = CHATML, eos: str = "<|im_end|>") -> PreTrainedTokenizerFast:
    """A tokenizer with one token a byte, so that every text can be written and nothing has to be downloaded."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(SPECIAL + alphabet)}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=eos, pad_token="<|pad|>", additional_special_tokens=SPECIAL[:3]
    )
    tokenizer.chat_template = chat_template
    return tokenizer


def tiny_llama(
    *, seed: int = 0, vocab_size: int = 260, dtype: torch.dtype = torch.float32, **overrides
) -> LlamaForCausalLM:
    """A Llama of two layers with grouped-query attention, the same weights for the same seed."""
    settings = {
        "vocab_size": vocab_size,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
        "initializer_range": 0.2,
    }
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**(settings | overrides))).to(dtype)


def save_tiny(folder: Path, *, seed: int = 0, **overrides) -> Path:
    """A model folder as `--model` takes it."""
    tiny_llama(seed=seed, **overrides).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def write_pairs(path: Path, pairs: list[dict]) -> Path:
    """A preference file, one JSON object a line."""
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")
    return path


def toy_pairs(count: int) -> list[dict]:
    """Pairs in which the polite answer is always the chosen one, with prompts and answers of many lengths."""
    topics = ["refunds", "an invoice", "passwords", "the late parcel", "two accounts", "opening hours"]
    return [
        {
            "prompt": [
                {"role": "user", "content": f"Question {number} about {topics[number % 6]}" + "?" * (number % 4)}
            ],
            "chosen": [
                {"role": "assistant", "content": f"Thank you for asking! {number % 3}" + " Gladly." * (number % 3)}
            ],
            "rejected": [{"role": "assistant", "content": "No." + " Go away." * (number % 4)}],
        }
        for number in range(count)
    ]
