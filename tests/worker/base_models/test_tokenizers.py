"""Tokenizers that know more than their model, and templates beside the first."""

import json
from pathlib import Path

import pytest
from tokenizers import AddedToken
from transformers import AutoTokenizer

from tests.worker.base_models.adding import from_folder
from tests.worker.dpo.tiny import tiny_llama
from worker.base_models.folder import Refused


def test_a_token_of_a_larger_sibling_is_taken_with_a_note(tiny: Path, models_dir: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.add_tokens([AddedToken("<image_soft_token>", special=True)])
    tokenizer.save_pretrained(tiny)
    manifest = from_folder(models_dir, tiny)
    assert "no weights for <image_soft_token>" in manifest["note"] and "left out" in manifest["note"]


def test_a_tokenizer_whose_own_vocabulary_is_too_large_is_refused(tiny: Path, models_dir: Path) -> None:
    tiny_llama(vocab_size=200).save_pretrained(tiny)
    with pytest.raises(Refused, match="the model only 200"):
        from_folder(models_dir, tiny)


def test_an_end_token_that_the_model_lacks_is_refused(tiny: Path, models_dir: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.add_special_tokens({"eos_token": "<|the_end|>"})
    tokenizer.save_pretrained(tiny)
    with pytest.raises(Refused, match=r"no weights for the tokenizer's <\|the_end\|>"):
        from_folder(models_dir, tiny)


def test_named_templates_come_along(tiny: Path, models_dir: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.chat_template = {"default": tokenizer.chat_template, "tool_use": "tools: {{ tools }}"}
    tokenizer.save_pretrained(tiny)
    (tiny / "additional_chat_templates" / "notes.txt").write_text("not a template")
    assert from_folder(models_dir, tiny)["chat_template"]
    assert AutoTokenizer.from_pretrained(models_dir / "mine").chat_template == tokenizer.chat_template
    assert [path.name for path in (models_dir / "mine" / "additional_chat_templates").iterdir()] == ["tool_use.jinja"]
    assert json.loads((models_dir / "mine" / "prefloop-model.json").read_text())["name"] == "mine"
