"""An adapter from elsewhere becomes a base model that computes what the adapter did."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from tests.worker.base_models.adding import from_folder
from worker.base_models.folder import Refused
from worker.base_models.prepare import prepare


@pytest.fixture
def adapter(tiny: Path, tmp_path: Path) -> Path:
    """A LoRA adapter to the tiny model whose weights aren't zero."""
    torch.manual_seed(1)
    model: Any = AutoModelForCausalLM.from_pretrained(tiny)
    model = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    for name, weights in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weights)
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def add(models_dir: Path, adapter: Path, base: str = "mine", name: str = "tuned") -> dict[str, Any]:
    request = {"kind": "adapter", "path": str(adapter), "base": base}
    return prepare(models_dir, name, request, lambda message: None)


def test_an_adapter_and_its_base_become_one_model(models_dir: Path, tiny: Path, adapter: Path) -> None:
    from_folder(models_dir, tiny)
    manifest = add(models_dir, adapter)
    assert manifest["source"]["base"] == "mine"
    assert "merged into mine" in manifest["note"]
    merged: Any = AutoModelForCausalLM.from_pretrained(models_dir / "tuned", dtype=torch.float32)
    base: Any = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        untouched = base(input_ids=ids).logits
        adapted = PeftModel.from_pretrained(base, adapter)(input_ids=ids).logits
        torch.testing.assert_close(merged(input_ids=ids).logits, adapted, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(untouched, adapted, atol=1e-3)
    assert add(models_dir, adapter) == manifest


def test_without_its_base_an_adapter_is_nothing(models_dir: Path, adapter: Path) -> None:
    with pytest.raises(Refused, match="prefloop models add mine"):
        add(models_dir, adapter)
    assert not (models_dir / "tuned").exists()


def pickled(folder: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


def damaged(folder: Path) -> None:
    (folder / "adapter_model.safetensors").write_bytes(b"\x00" * 100)


def no_adapter(folder: Path) -> None:
    (folder / "adapter_config.json").unlink()


def linked(folder: Path) -> None:
    (folder / "README.md").unlink(missing_ok=True)
    (folder / "README.md").symlink_to("/etc/passwd")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [(pickled, "safetensors"), (damaged, "adapter"), (no_adapter, "isn't an adapter"), (linked, "is a link")],
)
def test_what_is_no_sound_adapter_is_refused(
    models_dir: Path, tiny: Path, adapter: Path, spoil: Any, words: str
) -> None:
    from_folder(models_dir, tiny)
    spoil(adapter)
    with pytest.raises(Refused, match=words):
        add(models_dir, adapter)
    assert not (models_dir / "tuned").exists()
