"""A model or an adapter that is damaged, or isn't what it's taken for, is refused in words, never filled with random numbers."""

import json

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from tests.worker.dpo.model.test_architectures import PLAIN, SHARED, tiny_model
from tests.worker.dpo.tiny import save_tiny, tiny_llama
from worker.dpo.ground.config import from_mapping
from worker.dpo.model.loading import ModelError, load_adapter, load_base, prepare_policy

WEIGHTS, ADAPTER = "model.safetensors", "adapter_model.safetensors"
UP = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture
def model(tmp_path):
    return save_tiny(tmp_path / "model")


def changed(path, change):
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def refused(model, **more):
    with pytest.raises(ModelError) as refusal:
        load_base(str(model), dtype="float32", **more)
    return str(refusal.value)


def test_a_model_without_one_of_its_weights_is_refused(model):
    changed(model / WEIGHTS, lambda tensors: tensors.pop(UP))
    assert f"its files lack {UP}" in refused(model)


def test_a_weight_of_another_size_is_refused(model):
    changed(model / WEIGHTS, lambda tensors: tensors.update({UP: torch.zeros(3, 32)}))
    assert f"{UP} isn't of the size" in refused(model)


@pytest.mark.parametrize("content", [b"\0" * 4000, b""], ids=["zeros", "empty"])
def test_weights_that_are_no_weights_are_refused(model, content):
    (model / WEIGHTS).write_bytes(content)
    assert "Cannot load the model" in refused(model)


def test_a_torn_file_is_refused(model):
    (model / WEIGHTS).write_bytes((model / WEIGHTS).read_bytes()[:5000])
    assert "not fully covered" in refused(model)


def adapter(folder, **of):
    lora = LoraConfig(r=2, target_modules=["q_proj", "up_proj"], task_type="CAUSAL_LM")
    get_peft_model(tiny_llama(**of), lora).save_pretrained(folder)
    return folder


def adapter_refused(model, folder):
    with pytest.raises(ModelError) as refusal:
        load_adapter(load_base(str(model), dtype="float32"), str(folder))
    return str(refusal.value)


def test_an_adapter_is_not_taken_for_a_model_nor_a_model_for_an_adapter(model, tmp_path):
    folder = adapter(tmp_path / "adapter")
    assert "holds an adapter, not a model" in refused(folder)
    assert "holds no adapter_model.safetensors" in adapter_refused(model, model)


def test_an_adapter_of_another_model_is_refused(model, tmp_path):
    assert "size mismatch" in adapter_refused(model, adapter(tmp_path / "wide", hidden_size=64))
    assert "has no place" in adapter_refused(model, adapter(tmp_path / "deep", num_hidden_layers=3))
    assert "a smaller model" in adapter_refused(model, adapter(tmp_path / "shallow", num_hidden_layers=1))


def test_an_adapter_that_lacks_a_matrix_or_is_torn_is_refused(model, tmp_path):
    lacking = adapter(tmp_path / "lacking")
    changed(lacking / ADAPTER, lambda tensors: tensors.pop(min(tensors)))
    assert "lacks" in adapter_refused(model, lacking)
    torn = adapter(tmp_path / "torn")
    (torn / ADAPTER).write_bytes((torn / ADAPTER).read_bytes()[:300])
    assert "Cannot load the adapter" in adapter_refused(model, torn)
    other = adapter(tmp_path / "other")
    config = json.loads((other / "adapter_config.json").read_text())
    (other / "adapter_config.json").write_text(json.dumps(config | {"target_modules": ["c_attn"]}))
    assert "not found in the base model" in adapter_refused(model, other)


@pytest.mark.parametrize("name", [*SHARED, *PLAIN])
def test_whole_models_and_adapters_of_every_architecture_load(name, tmp_path):
    made = tiny_model(name, (SHARED | PLAIN)[name]).float()
    made.save_pretrained(tmp_path / "model")
    loaded = load_base(str(tmp_path / "model"), dtype="float32")
    excluded = ["out_proj"] if name == "mamba" else None
    policy = get_peft_model(loaded, LoraConfig(r=2, target_modules="all-linear", exclude_modules=excluded))
    policy.save_pretrained(tmp_path / "adapter")
    load_adapter(load_base(str(tmp_path / "model"), dtype="float32"), str(tmp_path / "adapter"))


def test_what_is_not_held_in_4_bits_keeps_the_type_that_the_run_computes_in():
    """Cast to float32, as PEFT's preparation has it, the head and the attention would be computed in float32, too."""
    base = tiny_llama().to(torch.bfloat16)
    policy = prepare_policy(base, from_mapping({"load_in_4bit": True, "dtype": "bfloat16"}))
    lora = {name: weight for name, weight in policy.named_parameters() if "lora_" in name}
    assert {weight.dtype for weight in lora.values()} == {torch.float32}
    assert {weight.dtype for name, weight in policy.named_parameters() if name not in lora} == {torch.bfloat16}
    assert [name for name, weight in policy.named_parameters() if weight.requires_grad] == list(lora)
