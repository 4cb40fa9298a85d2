"""Which models can become GGUF files, told from two JSON files alone."""

import json

import pytest

from tests.worker.dpo.exports_for_tests import sentencepiece_tokenizer, splitting_tokenizer
from tests.worker.dpo.tiny import tiny_tokenizer
from tests.worker.dpo.tokenizers_for_tests import LLAMA
from worker.dpo.publish import gguf_support

CONFIG = {"model_type": "llama", "hidden_act": "silu", "max_position_embeddings": 4096}


def description(tokenizer) -> dict:
    return json.loads(tokenizer.backend_tokenizer.to_str())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "gemma"}, "of the types llama, mistral, qwen2, qwen3; this one is of type gemma"),
        ({"model_type": "qwen3_moe"}, "of type qwen3_moe"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantised"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"model_type": "mistral", "sliding_window": 1024}, "sliding window"),
        ({"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 1024}, "sliding window"),
        ({"model_type": "qwen3", "attention_bias": True}, "attention biases"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "positions of the kind dynamic"),
        ({"rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4}}, "positions of the kind longrope"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "lack original_max_position_embeddings"),
        (
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "mscale": 1.0}},
            "no words for mscale of rotary positions of the kind linear",
        ),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "Only a part of each head"),
    ],
)
def test_an_architecture_without_words_in_gguf_is_refused_with_its_reason(change, said):
    assert said in str(gguf_support.architecture_refusal(CONFIG | change))


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"model_type": "mistral", "sliding_window": 8192},
        {"model_type": "qwen2", "use_sliding_window": False, "sliding_window": 1024},
        {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_theta": 5000},
        {"rope_scaling": None},
    ],
)
def test_an_architecture_with_words_in_gguf_is_taken(change):
    assert gguf_support.architecture_refusal(CONFIG | change) is None


def test_positions_are_read_where_old_and_new_files_keep_them():
    old = gguf_support.rope({"rope_theta": 5000, "rope_scaling": {"type": "linear", "factor": 2.0}})
    new = gguf_support.rope({"rope_parameters": {"rope_type": "linear", "rope_theta": 5000.0, "factor": 2.0}})
    assert old == new == {"rope_type": "linear", "rope_theta": 5000.0, "factor": 2.0}
    assert gguf_support.rope({}) == {"rope_type": "default", "rope_theta": 10000.0}


def test_tokenizers_are_told_apart_by_their_rules():
    kind = gguf_support.tokenizer_kind
    assert kind(description(splitting_tokenizer("smollm"))) == gguf_support.TokenizerKind("gpt2", "smollm")
    assert kind(description(sentencepiece_tokenizer(LLAMA))) == gguf_support.TokenizerKind("llama", "default", "always")
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
    model = {"type": "BPE", "byte_fallback": True, "merges": [["a", "b"]]}
    assert kind({"model": model, "pre_tokenizer": metaspace}) == gguf_support.TokenizerKind("llama", "default", "first")


def test_a_tokenizer_of_another_kind_is_refused_with_its_reason():
    refusal = gguf_support.tokenizer_refusal
    assert "of the kind Unigram" in str(refusal({"model": {"type": "Unigram"}}))
    assert "of the kind unknown" in str(refusal({}))
    assert "merges nothing" in str(refusal(description(tiny_tokenizer())))
    other = description(splitting_tokenizer("smollm"))
    other["pre_tokenizer"]["pretokenizers"][0]["individual_digits"] = False
    assert "by a rule that llama.cpp has no name for" in str(refusal(other))
    # The words that a split skips count as well: a token that no merge makes would be cut in two.
    skipped = description(splitting_tokenizer("qwen2"))
    skipped["model"]["ignore_merges"] = True
    assert "by a rule" in str(refusal(skipped))


def test_the_demo_s_base_model_can_become_gguf(smollm2):
    config, tokenizer = (json.loads((smollm2 / name).read_text()) for name in ("config.json", "tokenizer.json"))
    assert gguf_support.architecture_refusal(config) is None
    assert gguf_support.tokenizer_refusal(tokenizer) is None
