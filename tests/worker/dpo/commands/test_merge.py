"""Merged weights: the same answers as base and adapter together, in one plain folder."""

import argparse
import json

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.worker.dpo.tiny import save_tiny, tiny_llama, tiny_tokenizer
from worker.dpo.commands import merge as command
from worker.dpo.commands.merge import MergeError, merge
from worker.dpo.model.loading import ModelError


@pytest.fixture
def base(tmp_path):
    return save_tiny(tmp_path / "base", seed=1)


@pytest.fixture
def adapter(tmp_path, base):
    torch.manual_seed(4)
    model = get_peft_model(tiny_llama(seed=1), LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    model.save_pretrained(tmp_path / "adapter")
    (tmp_path / "adapter" / "prefloop.json").write_text('{"format": 1}')
    return tmp_path / "adapter"


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.arange(4, 40)[None]).logits


def test_the_merged_model_computes_what_base_and_adapter_do(base, adapter, tmp_path):
    out = merge(base, adapter, tmp_path / "deep" / "merged")
    together = logits(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter))
    merged = AutoModelForCausalLM.from_pretrained(out)
    torch.testing.assert_close(logits(merged), together, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(logits(AutoModelForCausalLM.from_pretrained(base)), together, atol=1e-2)
    names = {file.name for file in out.iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja", "prefloop.json"} <= names
    assert not {name for name in names if name.startswith("adapter") or name.endswith((".bin", ".pt", ".pkl"))}
    assert AutoTokenizer.from_pretrained(out).chat_template == tiny_tokenizer().chat_template
    assert [file.name for file in out.parent.iterdir()] == ["merged"], "nothing half-made stays beside it"


def test_the_adapter_s_own_tokenizer_goes_along(base, adapter, tmp_path):
    tokenizer = tiny_tokenizer(chat_template="{{ messages[0]['content'] }}")
    tokenizer.save_pretrained(adapter)
    out = merge(base, adapter, tmp_path / "merged")
    assert AutoTokenizer.from_pretrained(out).chat_template == tokenizer.chat_template


def test_dtype_is_the_base_s_or_the_one_asked_for(tmp_path, adapter):
    half = save_tiny(tmp_path / "half", seed=1, dtype=torch.bfloat16)
    kept = AutoModelForCausalLM.from_pretrained(merge(half, adapter, tmp_path / "kept"))
    assert kept.dtype == torch.bfloat16
    wide = AutoModelForCausalLM.from_pretrained(merge(half, adapter, tmp_path / "wide", dtype="float32"))
    assert wide.dtype == torch.float32
    # Rounded once: the written bfloat16 weights are the float32 sums' nearest.
    for name, weight in wide.state_dict().items():
        assert torch.equal(kept.state_dict()[name], weight.to(torch.bfloat16)), name


def test_a_quantised_base_is_refused(base, adapter, tmp_path):
    config = json.loads((base / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (base / "config.json").write_text(json.dumps(config))
    with pytest.raises(MergeError, match="is quantised"):
        merge(base, adapter, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_what_cannot_be_merged_is_named_and_nothing_is_left(base, adapter, tmp_path):
    with pytest.raises(MergeError, match="holds no adapter"):
        merge(base, base, tmp_path / "merged")
    with pytest.raises((MergeError, ModelError), match="Cannot"):
        merge(tmp_path / "nothing", adapter, tmp_path / "merged")
    other = save_tiny(tmp_path / "other", seed=1, hidden_size=64, intermediate_size=96)
    with pytest.raises(ModelError):
        merge(other, adapter, tmp_path / "merged")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    with pytest.raises(MergeError, match="not empty"):
        merge(base, adapter, tmp_path / "full")
    assert not (tmp_path / "merged").exists()
    assert not list(tmp_path.glob(".merged*"))


def test_the_command_says_what_it_wrote(base, adapter, tmp_path, capsys):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    argv = ["--model", str(base), "--adapter", str(adapter), "--out", str(tmp_path / "merged"), "--dtype", "bfloat16"]
    assert command.run(parser.parse_args(argv)) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["out"] == str(tmp_path / "merged") and "model.safetensors" in said["files"]
    assert said["bytes"] == sum(file.stat().st_size for file in (tmp_path / "merged").iterdir())
