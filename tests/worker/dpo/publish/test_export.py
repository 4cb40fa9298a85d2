"""Exports of checkpoints of several families, tokenizers and adapters, each proven with transformers and llama.cpp."""

import json

import pytest
import torch
from gguf import GGUFReader
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.worker.dpo.exports_for_tests import (
    save_checkpoint,
    sentencepiece_tokenizer,
    splitting_tokenizer,
    tiny_model,
)
from tests.worker.dpo.tokenizers_for_tests import LLAMA, trained_tokenizer
from worker.dpo.ground.errors import Terminated
from worker.dpo.publish import export as exporting
from worker.dpo.publish import llama_cpp
from worker.dpo.publish.export import ExportRefused, Progress, Request, export
from worker.dpo.publish.merge import MergeError

LLAMA3_POSITIONS = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN_POSITIONS = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 128}
LINEAR_POSITIONS = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}


def run(base, checkpoint, form, out, **options) -> dict:
    facts = export(Request(str(base), checkpoint, form, out, **options), Progress())
    assert json.loads((out / "export.json").read_text()) == json.loads(json.dumps(facts))
    return facts


def check(facts: dict, name: str, reader: str) -> dict:
    return next(check["figures"] for check in facts["checks"] if (check["name"], check["reader"]) == (name, reader))


@pytest.mark.parametrize(
    ("family", "overrides"),
    [
        ("llama", {"rope_parameters": LLAMA3_POSITIONS, "attention_bias": True}),
        ("llama", {"rope_parameters": LINEAR_POSITIONS, "tie_word_embeddings": False, "head_dim": 32}),
        ("mistral", {"sliding_window": None, "vocab_size": 430}),
        ("qwen2", {"rope_parameters": YARN_POSITIONS}),
        ("qwen3", {"tie_word_embeddings": False}),
    ],
    ids=["llama3-positions-and-biases", "linear-positions", "mistral-with-unused-rows", "qwen2-yarn", "qwen3"],
)
def test_llama_cpp_computes_what_was_trained(family, overrides, tmp_path):
    base, checkpoint = save_checkpoint(tmp_path, tiny_model(family, **overrides))
    facts = run(base, checkpoint, "gguf-f16", tmp_path / "out")
    assert facts["not_checked"] == [], "xllamacpp is installed with the tests"
    assert check(facts, "log-probabilities", "llama.cpp")["logp_difference_max"] <= 0.02
    assert check(facts, "log-probabilities", "transformers")["tokens"] > 50
    assert facts["training_moved"] > 0.1, "the adapter does something, so a lost one would show"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "model-f16.gguf",
        "export.json",
        "prefloop.json",
        "README.md",
        "Modelfile",
    }


@pytest.mark.parametrize("pre", ["gpt-2", "smollm", "llama-bpe", "qwen2", "tekken"])
def test_llama_cpp_splits_text_as_the_tokenizer_does(pre, tmp_path):
    base, checkpoint = save_checkpoint(tmp_path, tiny_model("qwen2"), splitting_tokenizer(pre))
    facts = run(base, checkpoint, "gguf-q8_0", tmp_path / "out")
    assert check(facts, "prompts", "llama.cpp") == {"prompts": 6, "differ": []}
    field = GGUFReader(tmp_path / "out" / "model-q8_0.gguf").get_field("tokenizer.ggml.pre")
    assert field is not None and field.contents() == pre


def test_a_sentencepiece_tokenizer_with_a_bos_of_its_own(tmp_path):
    tokenizer = sentencepiece_tokenizer(LLAMA)
    base, checkpoint = save_checkpoint(tmp_path, tiny_model("llama", vocab_size=len(tokenizer)), tokenizer)
    facts = run(base, checkpoint, "gguf-f16", tmp_path / "out")
    assert check(facts, "prompts", "llama.cpp")["differ"] == []
    assert "Modelfile" not in {path.name for path in (tmp_path / "out").iterdir()}
    assert facts["modelfile"] == exporting.NO_MODELFILE


def test_a_tokenizer_that_adds_bos_gets_one_and_not_two(tmp_path):
    base, checkpoint = save_checkpoint(tmp_path, tiny_model(), trained_tokenizer(template=LLAMA, adds_bos=True))
    facts = run(base, checkpoint, "gguf-f16", tmp_path / "out")
    field = GGUFReader(tmp_path / "out" / "model-f16.gguf").get_field("tokenizer.ggml.add_bos_token")
    assert field is not None and field.contents() is True
    assert check(facts, "prompts", "llama.cpp")["differ"] == []


@pytest.mark.parametrize(
    "adapter",
    [
        {},
        {"use_rslora": True},
        {"use_dora": True},
        {"target_modules": ["q_proj", "lm_head"]},
        {"target_modules": ["v_proj", "embed_tokens"]},
        {"target_modules": ["q_proj"], "saved": ("lm_head",)},
        {"target_modules": ["q_proj"], "saved": ("embed_tokens",)},
    ],
    ids=["lora", "rslora", "dora", "head", "embeddings", "saved-head", "saved-embeddings"],
)
def test_every_kind_of_adapter_is_merged_exactly(adapter, tmp_path):
    base, checkpoint = save_checkpoint(tmp_path, tiny_model(), **adapter)
    facts = run(base, checkpoint, "merged", tmp_path / "out")
    assert facts["dtype"] == "float32"
    assert check(facts, "log-probabilities", "transformers")["logp_difference_max"] <= 1e-4
    assert check(facts, "log-probabilities", "transformers")["greedy_agreement"] == 1.0
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    shared = not any(
        "lm_head" in name or "embed" in name for name in (*adapter.get("target_modules", []), *adapter.get("saved", []))
    )
    assert merged.config.tie_word_embeddings is shared


def test_a_head_adapted_apart_from_its_embeddings_goes_into_gguf_as_well(tmp_path):
    base, checkpoint = save_checkpoint(tmp_path, tiny_model("qwen2"), target_modules=["q_proj", "lm_head"])
    facts = run(base, checkpoint, "gguf-f16", tmp_path / "out")
    names = {tensor.name for tensor in GGUFReader(tmp_path / "out" / "model-f16.gguf").tensors}
    assert "output.weight" in names
    assert check(facts, "weights", "transformers")["differ"] == 0


def test_weights_are_stored_in_the_base_s_type_and_the_rounding_is_measured(tmp_path):
    base, checkpoint = save_checkpoint(tmp_path, tiny_model().to(torch.bfloat16))
    facts = run(base, checkpoint, "merged", tmp_path / "out")
    assert facts["dtype"] == "bfloat16"
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").dtype == torch.bfloat16
    assert check(facts, "merge", "transformers")["logp_difference_max"] <= 1e-4
    assert 1e-4 < check(facts, "log-probabilities", "transformers")["logp_difference_mean"] <= 0.05
    wide = run(base, checkpoint, "merged", tmp_path / "wide", dtype="float32")
    assert check(wide, "log-probabilities", "transformers")["logp_difference_max"] <= 1e-4


def test_a_full_fine_tune_is_its_own_merged_form(tmp_path):
    base, _ = save_checkpoint(tmp_path, tiny_model())
    trained = tmp_path / "full"
    tiny_model(seed=5).save_pretrained(trained)
    trained_tokenizer(eos="<|im_end|>").save_pretrained(trained)
    facts = run(base, trained, "merged", tmp_path / "out")
    assert check(facts, "log-probabilities", "transformers")["logp_difference_max"] == 0
    assert facts["training_moved"] is None
    written = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    for name, weight in AutoModelForCausalLM.from_pretrained(trained).state_dict().items():
        assert torch.equal(written[name], weight), name


def test_the_folder_says_where_it_comes_from_and_how_to_load_it(tmp_path):
    base, checkpoint = save_checkpoint(tmp_path, tiny_model("qwen2"), splitting_tokenizer("qwen2"))
    facts = {
        "base_model": "team/base",
        "method": "lora",
        "seed": 3,
        "license": "apache-2.0",
        "config": {"load_in_4bit": True},
    }
    (checkpoint / "prefloop.json").write_text(json.dumps(facts))
    record = run(base, checkpoint, "merged", tmp_path / "merged")
    assert record["notes"] == [exporting.FOUR_BITS]
    card = (tmp_path / "merged" / "README.md").read_text()
    assert 'AutoModelForCausalLM.from_pretrained("THIS_FOLDER")' in card and "PeftModel" not in card
    kept = json.loads((tmp_path / "merged" / "prefloop.json").read_text())
    assert kept["seed"] == 3 and kept["export"] == {"as": "merged", "dtype": "float32"}
    run(base, checkpoint, "gguf-q8_0", tmp_path / "gguf")
    assert "llama-server -m THIS_FOLDER/model-q8_0.gguf" in (tmp_path / "gguf" / "README.md").read_text()
    assert (tmp_path / "gguf" / "Modelfile").read_text().startswith("FROM ./model-q8_0.gguf\n")


def test_answers_of_a_merged_model_end_where_the_template_s_turns_do(tmp_path):
    # The tokenizer's EOS is </s>, a turn ends with <|im_end|>: servers must know both.
    base, checkpoint = save_checkpoint(tmp_path, tiny_model("qwen2"), splitting_tokenizer("qwen2", eos="</s>"))
    run(base, checkpoint, "merged", tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    ends = AutoModelForCausalLM.from_pretrained(tmp_path / "out").generation_config.eos_token_id
    assert set(ends) == {tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|im_end|>")}
    run(base, checkpoint, "gguf-f16", tmp_path / "gguf")


def test_without_llama_cpp_the_export_says_what_was_not_checked(tmp_path, monkeypatch):
    monkeypatch.setattr(llama_cpp, "version", lambda: None)
    base, checkpoint = save_checkpoint(tmp_path, tiny_model("qwen2"))
    facts = run(base, checkpoint, "gguf-q8_0", tmp_path / "out")
    assert facts["not_checked"] == [exporting.NO_LLAMA_CPP]
    assert not [check for check in facts["checks"] if check["reader"] == "llama.cpp"]


def test_what_can_not_be_exported_is_refused_before_a_weight_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(exporting.merge, "load_trained", lambda *args: pytest.fail("weights were read"))
    base, checkpoint = save_checkpoint(tmp_path, tiny_model())
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(
        json.dumps(config | {"model_type": "gemma", "architectures": ["GemmaForCausalLM"]})
    )
    with pytest.raises(ExportRefused, match="of the types llama, mistral, qwen2, qwen3; this one is of type gemma"):
        run(base, checkpoint, "gguf-f16", tmp_path / "out")
    (base / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "bitsandbytes"}}))
    for form in exporting.FORMATS:
        with pytest.raises(MergeError, match="is quantised"):
            run(base, checkpoint, form, tmp_path / "out")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("kept")
    with pytest.raises(ExportRefused, match="not empty"):
        run(base, checkpoint, "merged", tmp_path / "mine")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "checkpoint", "mine"]


@pytest.mark.parametrize("stage", ["scoring", "writing", "proving"])
def test_an_export_that_is_stopped_leaves_nothing(stage, tmp_path):
    base, checkpoint = save_checkpoint(tmp_path, tiny_model())
    stages: list[str] = []

    def stop() -> None:
        if stages[-1:] == [stage]:
            raise Terminated("Stopped from outside.")

    progress = Progress(lambda name, share: stages.append(name), stop)
    with pytest.raises(Terminated):
        export(Request(str(base), checkpoint, "gguf-f16", tmp_path / "out"), progress)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "checkpoint"]


def test_what_a_killed_export_left_goes_with_the_next(tmp_path):
    base, checkpoint = save_checkpoint(tmp_path, tiny_model())
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial" / "half.gguf").write_text("half")
    run(base, checkpoint, "merged", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "checkpoint", "out"]
    assert not (tmp_path / "out" / "half.gguf").exists()
