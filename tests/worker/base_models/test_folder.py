"""What a folder must hold to become a base model, and what is refused before it leaves a trace."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForMaskedLM

from tests.worker.base_models.adding import from_folder
from tests.worker.dpo.tiny import save_tiny, tiny_llama, tiny_tokenizer
from worker.base_models.folder import Refused


def edit(file: Path, **changes: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_a_folder_is_copied_without_what_a_model_does_not_need(tiny: Path, models_dir: Path) -> None:
    (tiny / "modeling_tiny.py").write_text("raise SystemExit('ran')")
    (tiny / "pytorch_model.bin").write_bytes(b"pickled")
    (tiny / "README.md").write_text("---\nlicense: mit\n---\n# Tiny")
    manifest = from_folder(models_dir, tiny)
    assert manifest["licence"] == "mit" and manifest["chat_template"] and manifest["dtype"] == "float32"
    names = {path.name for path in (models_dir / "mine").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "prefloop-model.json"} <= names
    assert not names & {"modeling_tiny.py", "pytorch_model.bin"}
    assert [path.name for path in models_dir.iterdir() if path.is_dir()] == ["mine"]


def test_shards_are_read_as_one_model(tmp_path: Path, models_dir: Path) -> None:
    folder = tmp_path / "sharded"
    tiny_llama().save_pretrained(folder, max_shard_size="20KB")
    tiny_tokenizer().save_pretrained(folder)
    manifest = from_folder(models_dir, folder)
    assert len(manifest["weights"]) > 1 and len(manifest["weights_sha256"]) == 64
    assert manifest["parameters"] == sum(weight.numel() for weight in tiny_llama().parameters())


def test_a_model_without_chat_template_is_taken_with_a_note(tiny: Path, models_dir: Path) -> None:
    (tiny / "chat_template.jinja").unlink()
    manifest = from_folder(models_dir, tiny)
    assert not manifest["chat_template"] and "no chat template" in manifest["note"]


def test_code_named_in_a_known_models_config_is_taken_out(tiny: Path, models_dir: Path) -> None:
    edit(tiny / "config.json", auto_map={"AutoModelForCausalLM": "modeling_tiny.Tiny"})
    from_folder(models_dir, tiny)
    assert "auto_map" not in json.loads((models_dir / "mine" / "config.json").read_text())
    assert "auto_map" in json.loads((tiny / "config.json").read_text())


def only_pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def an_adapter(folder: Path) -> None:
    (folder / "config.json").rename(folder / "adapter_config.json")


def no_tokenizer(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()


def unknown_kind_with_code(folder: Path) -> None:
    edit(folder / "config.json", model_type="tiny-own", auto_map={"AutoConfig": "configuration_tiny.Tiny"})


def tokenizer_with_code(folder: Path) -> None:
    edit(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["tokenization_tiny.Tiny", None]})


def quantised(folder: Path) -> None:
    edit(folder / "config.json", quantization_config={"quant_method": "gptq", "bits": 4})


def cut_off(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def a_shard_short(folder: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def a_shard_elsewhere(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../model.safetensors"}}))


def weights_short(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors.pop("model.norm.weight")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def not_finite(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"].fill_(float("nan"))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def vocabulary_too_small(folder: Path) -> None:
    save_tiny(folder, vocab_size=200)


def no_end_of_text(folder: Path) -> None:
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config.pop("eos_token")
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def an_encoder(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    BertForMaskedLM(
        BertConfig(vocab_size=260, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64)
    ).save_pretrained(folder)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (only_pickled, "pickled"),
        (an_adapter, "is an adapter"),
        (no_tokenizer, "no tokenizer"),
        (unknown_kind_with_code, "needs code"),
        (tokenizer_with_code, "needs code"),
        (quantised, r"quantised \(gptq\)"),
        (cut_off, "is damaged"),
        (a_shard_short, "model-00002-of-00002.safetensors"),
        (a_shard_elsewhere, "names files that aren't safetensors"),
        (weights_short, "missing, such as model.norm.weight"),
        (not_finite, "not finite"),
        (vocabulary_too_small, "260 tokens, the model only 200"),
        (no_end_of_text, "no end-of-text token"),
        (an_encoder, "BertForMaskedLM"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_what_cannot_be_trained_safely_is_refused_and_leaves_nothing(
    tiny: Path, models_dir: Path, spoil, reason: str
) -> None:
    spoil(tiny)
    with pytest.raises(Refused, match=reason) as refusal:
        from_folder(models_dir, tiny)
    assert refusal.value.next_step.endswith((".", "--help"))
    assert not [path for path in models_dir.iterdir() if path.is_dir()]


def test_a_model_too_large_for_the_memory_is_taken_unloaded_with_a_note(
    tiny: Path, models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import psutil

    free = psutil.virtual_memory()._replace(available=1000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    manifest = from_folder(models_dir, tiny)
    assert manifest["check"]["answer"] is None and "not loaded" in manifest["note"]
