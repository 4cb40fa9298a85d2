"""Where the checks run: the device, models with random weights and the pairs, made once and kept for the next check."""

import gc
import json
import random
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from worker.dpo.data.pairs import TokenPair
from worker.dpo.data.reading import load_dataset, read_pairs

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# From the models' published configurations.
SHAPES: dict[str, dict[str, Any]] = {
    "SmolLM2-135M": {
        "model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
        "num_key_value_heads": 3, "vocab_size": 49152, "tie_word_embeddings": True, "max_position_embeddings": 8192,
    },
    "Qwen2.5-0.5B": {
        "model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
        "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True, "max_position_embeddings": 32768,
    },
    "Qwen2.5-1.5B": {
        "model_type": "qwen2", "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
        "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True, "max_position_embeddings": 32768,
    },
    "Llama-3.2-1B": {
        "model_type": "llama", "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
        "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128256, "tie_word_embeddings": True,
        "max_position_embeddings": 131072,
    },
}  # fmt: skip
WORDS = ["time", "year", "way", "day", "thing", "life", "world", "school", "state", "family"]


@dataclass
class Place:
    """device: cuda or cpu. tiny: every model two layers of 64 numbers, every data set some pairs. folder: for what is made."""

    device: str
    tiny: bool
    shared: Path
    folder: Path
    kept: dict[str, Any] = field(default_factory=dict)

    @property
    def is_gpu(self) -> bool:
        return self.device.startswith("cuda")

    @cached_property
    def texts(self) -> list[Any]:
        """The pairs of the preference file, always in the same random order."""
        pairs = list(read_pairs(self.shared / "data" / "hh-harmless-1.jsonl.gz", on_problem=lambda problem: None))
        random.Random(0).shuffle(pairs)
        return pairs

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """A byte-level BPE learnt from the pairs themselves."""
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=600 if self.tiny else 16000,
            special_tokens=SPECIAL,
            initial_alphabet=alphabet,
            show_progress=False,
        )
        texts = self.texts[:100] if self.tiny else self.texts
        backend.train_from_iterator(
            (message["content"] for pair in texts for message in (*pair.prompt, *pair.chosen, *pair.rejected)), trainer
        )
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>", bos_token=None
        )
        tokenizer.chat_template = CHATML
        return tokenizer

    def model(self, shape: str) -> Path:
        """A model folder of this shape with random weights in bfloat16."""
        folder = self.folder / "models" / shape
        if not folder.exists():
            facts = dict(SHAPES[shape])
            if self.tiny:
                facts |= {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 600}
                facts |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
            kind = facts.pop("model_type")
            config = AutoConfig.for_model(
                kind, **facts, bos_token_id=None, eos_token_id=2, pad_token_id=0, initializer_range=0.02
            )
            torch.manual_seed(0)
            with torch.device(self.device):
                made = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
            made.save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)
            del made
        return folder

    def data(self, kind: str, count: int) -> Path:
        """`count` pairs as JSON Lines: hh, long (prompts of 2,000 tokens), or prompt:completion of 240 tokens such as 1:4."""
        path = self.folder / f"{kind.replace(':', '-')}-{count}.jsonl"
        if not path.exists():
            rows = self._hh(count) if kind == "hh" else self._random(kind, count)
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    def _hh(self, count: int) -> list[dict]:
        texts = [self.texts[index % len(self.texts)] for index in range(count)]
        rows = [{"prompt": text.prompt, "chosen": text.chosen, "rejected": text.rejected} for text in texts]
        for index in range(len(self.texts), count):
            # The same pair again would find its reference, and its prompt in the row.
            first = dict(rows[index]["prompt"][0])
            first["content"] = f"{index}: {first['content']}"
            rows[index]["prompt"] = [first, *rows[index]["prompt"][1:]]
        return rows

    def _random(self, kind: str, count: int) -> list[dict]:
        drawn = random.Random(1)
        if kind == "long":
            prompt, answer = (200, 20) if self.tiny else (2000, 150)
        else:
            left, right = (int(part) for part in kind.split(":"))
            answer = 240 * right // (left + 2 * right)
            prompt = 240 - 2 * answer

        def message(role: str, length: int) -> list[dict]:
            return [{"role": role, "content": " ".join(drawn.choice(WORDS) for _ in range(length))}]

        return [
            {
                "prompt": message("user", prompt),
                "chosen": message("assistant", answer),
                "rejected": message("assistant", answer),
            }
            for _ in range(count)
        ]

    def pairs(self, kind: str, count: int) -> list[TokenPair]:
        """The token ids of `data`."""
        return load_dataset(self.data(kind, count), self.tokenizer, max_length=None).pairs

    def usable(self) -> bool:
        """Whether the device still answers."""
        try:
            if self.is_gpu:
                torch.zeros(1, device=self.device).item()
        except Exception:
            return False
        return True

    def tidy(self) -> None:
        """Give back what the last check held."""
        gc.collect()
        if self.is_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
