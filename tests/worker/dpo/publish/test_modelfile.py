"""A Modelfile is written where a known Ollama template renders the chat template's text, and only there."""

import pytest

from tests.worker.dpo.tiny import CHATML
from tests.worker.dpo.tokenizers_for_tests import EMPTY_THOUGHT, LLAMA, trained_tokenizer
from worker.dpo.publish.modelfile import TEMPLATES, known_template, modelfile, render_go

LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
ZEPHYR = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
DEFAULT_SYSTEM = "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}" + CHATML


@pytest.mark.parametrize(
    ("template", "adds_bos", "name", "system"),
    [
        (CHATML, False, "ChatML", None),
        (DEFAULT_SYSTEM, False, "ChatML", "Be kind."),
        (ZEPHYR, False, "Zephyr", None),
    ],
    ids=["chatml", "chatml with a default system", "zephyr"],
)
def test_a_template_that_renders_the_same_is_named(template, adds_bos, name, system):
    known = known_template(trained_tokenizer(template=template, adds_bos=adds_bos))
    assert known is not None
    assert (known.name, known.system) == (name, system)


def test_a_bos_that_the_reader_adds_is_not_in_ollama_s_text():
    # Prompts end in white space, which this template trims and Ollama's doesn't: the last fixed prompt has none.
    known = known_template(trained_tokenizer(template=LLAMA3.replace(" | trim", ""), adds_bos=True))
    assert known is not None and known.name == "Llama 3"
    assert known_template(trained_tokenizer(template=LLAMA3.replace(" | trim", ""), adds_bos=False)) is None


@pytest.mark.parametrize(
    "template",
    [LLAMA, EMPTY_THOUGHT, CHATML.replace("<|im_end|>\n", "<|im_end|>"), LLAMA3],
    ids=["another", "a thought in the generation prompt", "one line break less", "white space trimmed"],
)
def test_a_template_that_renders_something_else_gets_none(template):
    assert known_template(trained_tokenizer(template=template, adds_bos="bos_token" in template)) is None


def test_the_modelfile_names_file_template_system_and_ends():
    known = known_template(trained_tokenizer(template=DEFAULT_SYSTEM))
    assert known is not None
    assert modelfile("model-q8_0.gguf", known, ["<|im_end|>", "</s>"]) == (
        "FROM ./model-q8_0.gguf\n"
        f'TEMPLATE """{TEMPLATES["ChatML"]}"""\n'
        'SYSTEM """Be kind."""\n'
        'PARAMETER stop "<|im_end|>"\n'
        'PARAMETER stop "</s>"\n'
    )


def test_go_s_templates_are_rendered_as_go_does():
    messages = {"Messages": [{"Role": "user", "Content": "a"}, {"Role": "assistant", "Content": "b"}]}
    template = '{{- range .Messages }}{{ if eq .Role "user" }}U{{ else if eq .Role "tool" }}T{{ else }}-{{ end }}{{ .Content }};{{ end }}.'
    assert render_go(template, messages) == "Ua;-b;."
    assert render_go("a \n {{- if .No }} x {{ else }} y {{- end -}} \n z", messages | {"No": ""}) == "a yz"
    for unknown in ("{{ len .Messages }}", "{{ if and .A .B }}x{{ end }}"):
        with pytest.raises(ValueError, match="isn't known"):
            render_go(unknown, messages)
