"""What the proof catches: exports that were broken on purpose, one way at a time."""

import json

import pytest
from gguf import GGUFWriter
from peft import LoraModel
from safetensors.torch import load_file, save_file

from tests.worker.dpo.exports_for_tests import save_checkpoint, splitting_tokenizer, tiny_model
from tests.worker.dpo.tiny import CHATML
from tests.worker.dpo.tokenizers_for_tests import LLAMA, trained_tokenizer
from worker.dpo.ground.errors import NotFinite
from worker.dpo.publish import export as exporting
from worker.dpo.publish import gguf as writing
from worker.dpo.publish import gguf_tokenizer, llama_cpp, merge
from worker.dpo.publish.export import ExportDiffers, Progress, Request, export

FORMS = ["merged", "gguf-f16", "gguf-q8_0"]
OTHER_TEMPLATE = CHATML.replace("<|im_end|>\n", "<|im_end|>")


def refused(tmp_path, form, base, checkpoint) -> str:
    """The refusal's text; nothing may have been published."""
    with pytest.raises(ExportDiffers) as refusal:
        export(Request(str(base), checkpoint, form, tmp_path / "out"), Progress())
    assert (refusal.value.reason, refusal.value.exit_code) == ("export_differs", 7)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "checkpoint"]
    return str(refusal.value)


@pytest.fixture
def checkpoint(tmp_path):
    return save_checkpoint(tmp_path, tiny_model())


def corrupt_merged(monkeypatch, change) -> None:
    """Has `change` do its work on every merged folder as soon as it's written."""
    write = merge.write_merged

    def corrupted(model, tokenizer, folder, **options) -> None:
        write(model, tokenizer, folder, **options)
        change(folder)

    monkeypatch.setattr(merge, "write_merged", corrupted)


def test_a_wrong_chat_template_of_merged_weights(checkpoint, tmp_path, monkeypatch):
    corrupt_merged(monkeypatch, lambda folder: (folder / "chat_template.jinja").write_text(OTHER_TEMPLATE))
    assert "becomes other tokens than in training" in refused(tmp_path, "merged", *checkpoint)


@pytest.mark.parametrize("form", FORMS[1:])
def test_a_wrong_chat_template_in_gguf(form, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(GGUFWriter, "add_chat_template", wrong(GGUFWriter.add_chat_template, OTHER_TEMPLATE))
    said = refused(tmp_path, form, *checkpoint)
    assert "metadata differs in the chat template" in said
    assert "Read by llama.cpp, the prompt “one question” becomes other tokens" in said


def wrong(method, value):
    """The writer's method, called with another value."""
    return lambda writer, _: method(writer, value)


def test_a_second_bos_of_merged_weights(tmp_path, monkeypatch):
    base, adapter = save_checkpoint(tmp_path, tiny_model(), trained_tokenizer(template=LLAMA, adds_bos=True))
    corrupt_merged(
        monkeypatch,
        lambda folder: (folder / "chat_template.jinja").write_text("{{ bos_token }}{{ bos_token }}" + LLAMA),
    )
    assert "becomes other tokens than in training" in refused(tmp_path, "merged", base, adapter)


@pytest.mark.parametrize("template", [CHATML, "{{ bos_token }}" + CHATML], ids=["none-trained", "one-trained"])
def test_a_second_bos_in_gguf(template, tmp_path, monkeypatch):
    # The template writes what BOS there is, and the file says to put another before every text.
    base, adapter = save_checkpoint(tmp_path, tiny_model(), trained_tokenizer(template=template, eos="<|im_end|>"))
    if "bos_token" in template:
        monkeypatch.setattr(
            GGUFWriter,
            "add_chat_template",
            wrong(GGUFWriter.add_chat_template, "{{ bos_token }}{{ bos_token }}" + CHATML),
        )
    monkeypatch.setattr(GGUFWriter, "add_add_bos_token", wrong(GGUFWriter.add_add_bos_token, True))
    said = refused(tmp_path, "gguf-f16", base, adapter)
    assert "whether BOS and EOS are added" in said
    assert "Read by llama.cpp, the prompt “one question” becomes other tokens than in training (6 of 6 do)" in said


def test_a_missing_eos_of_merged_weights(checkpoint, tmp_path, monkeypatch):
    def lose_the_end(folder) -> None:
        settings = json.loads((folder / "generation_config.json").read_text())
        (folder / "generation_config.json").write_text(json.dumps(settings | {"eos_token_id": 3}))

    corrupt_merged(monkeypatch, lose_the_end)
    assert "Read by transformers, an answer doesn't end at token" in refused(tmp_path, "merged", *checkpoint)


def test_a_missing_eos_in_gguf(tmp_path, monkeypatch):
    # "[/answer]" isn't a name that llama.cpp guesses an end by.
    tokenizer = trained_tokenizer(template=CHATML.replace("<|im_end|>", "<s>"), eos="<s>")
    base, adapter = save_checkpoint(tmp_path, tiny_model(), tokenizer)
    monkeypatch.setattr(gguf_tokenizer, "end_tokens", lambda tokenizer: [2])
    said = refused(tmp_path, "gguf-f16", base, adapter)
    assert "metadata differs in the tokens that end an answer" in said
    assert "Read by llama.cpp, an answer doesn't end at token 0." in said


@pytest.mark.parametrize("form", FORMS)
def test_an_adapter_merged_twice(form, checkpoint, tmp_path, monkeypatch):
    once = LoraModel.merge_and_unload

    def twice(policy, **options):
        policy.merge_adapter()
        deltas = {name: module.get_delta_weight("default") for name, module in lora_layers(policy)}
        policy.unmerge_adapter()
        merged = once(policy, **options)
        for name, delta in deltas.items():
            merged.get_submodule(name.removeprefix("model.")).weight.data += delta
        return merged

    monkeypatch.setattr(LoraModel, "merge_and_unload", twice)
    assert "The merged weights, before any rounding," in refused(tmp_path, form, *checkpoint)


def lora_layers(policy) -> list:
    return [(name, module) for name, module in policy.named_modules() if hasattr(module, "lora_A")]


@pytest.mark.parametrize("form", FORMS)
def test_an_adapter_that_is_lost_between_merging_and_writing(form, checkpoint, tmp_path, monkeypatch):
    # A light adapter, as preference training makes them: its loss hides below what rounding may change.
    base, adapter = checkpoint
    weights = adapter / "adapter_model.safetensors"
    save_file({name: tensor * 0.05 for name, tensor in load_file(weights).items()}, weights)
    plain = {name: tensor.clone() for name, tensor in merge.load_trained(str(base), base).model.state_dict().items()}

    def lose(model, *args, **options) -> None:
        model.load_state_dict(plain)

    if form == "merged":
        write = merge.write_merged
        monkeypatch.setattr(
            merge, "write_merged", lambda model, *args, **options: (lose(model), write(model, *args, **options))
        )
    else:
        write_file = writing.write_gguf

        def write_lost(model, *args, **options) -> None:
            kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
            lose(model)
            write_file(model, *args, **options)
            model.load_state_dict(kept)

        monkeypatch.setattr(exporting, "write_gguf", write_lost)
    said = refused(tmp_path, form, base, adapter)
    assert "differs from the trained model's weights" in said


@pytest.mark.parametrize("form", FORMS[1:])
def test_swapped_queries_and_keys(form, tmp_path, monkeypatch):
    base, adapter = save_checkpoint(tmp_path, tiny_model(num_key_value_heads=4))
    names = writing.name_map

    class Swapped:
        def __init__(self, *args) -> None:
            self.names = names(*args)

        def get_name(self, name: str, **options) -> str | None:
            swapped = name.replace("q_proj", "?").replace("k_proj", "q_proj").replace("?", "k_proj")
            return self.names.get_name(swapped, **options)

    monkeypatch.setattr(writing, "name_map", Swapped)
    said = refused(tmp_path, form, base, adapter)
    assert (
        "Read by transformers, model.layers.0.self_attn.q_proj.weight, model.layers.0.self_attn.k_proj.weight" in said
    )
    assert said.count("read by llama.cpp, give each of") == 1


@pytest.mark.parametrize("form", FORMS[1:])
def test_queries_and_keys_in_transformers_order(form, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "_rotated", lambda name, tensor, config, arch: tensor)
    said = refused(tmp_path, form, *checkpoint)
    assert "self_attn.q_proj.weight" in said and "read by llama.cpp" in said


def test_positions_that_only_llama_cpp_reads(tmp_path, monkeypatch):
    positions = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}
    base, adapter = save_checkpoint(tmp_path, tiny_model(rope_parameters=positions))
    monkeypatch.setattr(GGUFWriter, "add_rope_scaling_factor", wrong(GGUFWriter.add_rope_scaling_factor, 8.0))
    said = refused(tmp_path, "gguf-f16", base, adapter)
    assert "read by llama.cpp" in said and "read by transformers" not in said


def test_another_split_into_words(tmp_path, monkeypatch):
    base, adapter = save_checkpoint(tmp_path, tiny_model("qwen2"), splitting_tokenizer("qwen2"))
    monkeypatch.setattr(GGUFWriter, "add_tokenizer_pre", wrong(GGUFWriter.add_tokenizer_pre, "gpt-2"))
    assert "Read by llama.cpp, the prompt" in refused(tmp_path, "gguf-f16", base, adapter)


def test_a_file_that_no_reader_takes(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(GGUFWriter, "add_head_count_kv", wrong(GGUFWriter.add_head_count_kv, 3))
    said = refused(tmp_path, "gguf-f16", *checkpoint)
    assert "llama.cpp doesn't take the file: " in said and "transformers doesn't take the file: " in said


def test_weights_that_are_not_finite(tmp_path):
    base, adapter = save_checkpoint(tmp_path, tiny_model(tie_word_embeddings=False))
    weights = load_file(base / "model.safetensors")
    # Not within float16's range: only the token of the last row would say it.
    weights["lm_head.weight"][7, 3] = 1e6
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    for form in ("gguf-f16", "merged"):
        with pytest.raises(NotFinite, match="finite"):
            export(
                Request(str(base), adapter, form, tmp_path / form, dtype=None if "gguf" in form else "float16"),
                Progress(),
            )
        assert not (tmp_path / form).exists()


def test_the_reading_process_may_die(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(llama_cpp, "serve", die)
    assert "llama.cpp ended with status 9" in refused(tmp_path, "gguf-f16", *checkpoint)


def die(pipe, request) -> None:
    raise SystemExit(9)
