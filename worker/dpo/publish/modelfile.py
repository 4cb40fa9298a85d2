"""Ollama's Modelfile for a GGUF file, written only where a known template renders what the chat template renders.

Ollama has its own templates, in Go's language. Each known one stands here as Ollama takes it; `render_go` renders the
part of that language that they use, so that the claim is computed and not assumed.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from worker.dpo.publish.figures import Rendered, render
from worker.dpo.publish.gguf_tokenizer import adds_bos

TEMPLATES = {
    "ChatML": "{{- range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n",
    "Llama 3": (
        "{{- range .Messages }}<|start_header_id|>{{ .Role }}<|end_header_id|>\n\n{{ .Content }}<|eot_id|>{{ end }}"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    ),
    "Zephyr": "{{- range .Messages }}<|{{ .Role }}|>\n{{ .Content }}</s>\n{{ end }}<|assistant|>\n",
    "Mistral": (
        '{{- range .Messages }}{{ if eq .Role "user" }}[INST] {{ .Content }} [/INST]'
        '{{ else if eq .Role "assistant" }} {{ .Content }}</s>{{ end }}{{ end }}'
    ),
}
ACTION = re.compile(r"\{\{(-?)\s*(.*?)\s*(-?)\}\}", re.S)
PROBE = "\x00"


@dataclass(frozen=True, slots=True)
class Known:
    """A template that renders what the tokenizer's renders. system: its words where a conversation has no system turn."""

    name: str
    template: str
    system: str | None


def known_template(tokenizer: PreTrainedTokenizerBase) -> Known | None:
    """The first known template that renders every fixed prompt as the tokenizer's chat template does; None where none does."""
    prompts = render(tokenizer)
    # A reader that adds BOS adds it in front of Ollama's text too.
    bos = tokenizer.bos_token if adds_bos(tokenizer) else ""
    for name, template in TEMPLATES.items():
        for system in (None, _default_system(template, prompts[0], bos)):
            if all(_ollama(template, prompt, system) == prompt.text.removeprefix(bos) for prompt in prompts):
                return Known(name, template, system)
    return None


def modelfile(file: str, known: Known, stops: Sequence[str]) -> str:
    """The Modelfile's text for the GGUF file named `file`, which lies beside it."""
    lines = [f"FROM ./{file}", f'TEMPLATE """{known.template}"""']
    if known.system is not None:
        lines.append(f'SYSTEM """{known.system}"""')
    lines += [f"PARAMETER stop {json.dumps(stop, ensure_ascii=False)}" for stop in stops]
    return "\n".join(lines) + "\n"


def _default_system(template: str, prompt: Rendered, bos: str) -> str | None:
    """What the chat template says as the system where a conversation has no system turn; None where it says nothing."""
    marked = render_go(template, _context([{"role": "system", "content": PROBE}, *prompt.messages]))
    before, marker, after = marked.partition(PROBE)
    text = prompt.text.removeprefix(bos)
    if not marker or not text.startswith(before) or not text.endswith(after) or len(text) < len(before) + len(after):
        return None
    words = text[len(before) : len(text) - len(after)]
    return None if '"""' in words else words


def _ollama(template: str, prompt: Rendered, system: str | None) -> str:
    messages = prompt.messages
    if system is not None and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": system}, *messages]
    return render_go(template, _context(messages))


def _context(messages: list[dict[str, str]]) -> dict[str, Any]:
    return {"Messages": [{"Role": message["role"], "Content": message["content"]} for message in messages]}


def render_go(template: str, context: dict[str, Any]) -> str:
    """A Go template's text: fields, `range`, `if`, `else if`, `else` and `eq` with a string, `{{-` and `-}}` trimming.

    Raises ValueError for anything else.
    """
    return "".join(_run(_parse(iter(_pieces(template)))[0], context))


def _pieces(template: str) -> Iterator[tuple[str, str]]:
    """("text", …) and ("action", …), white space trimmed where an action asks for it."""
    end, trim = 0, False
    for match in ACTION.finditer(template):
        text = template[end : match.start()]
        text = text.lstrip() if trim else text
        yield "text", text.rstrip() if match[1] else text
        yield "action", match[2]
        end, trim = match.end(), bool(match[3])
    yield "text", template[end:].lstrip() if trim else template[end:]


def _parse(pieces: Iterator[tuple[str, str]]) -> tuple[list[Any], str]:
    """(nodes, the action that closed them): a node is a text, ("field", name), ("range", name, nodes) or
    ("if", condition, nodes, nodes otherwise)."""
    nodes: list[Any] = []
    for kind, piece in pieces:
        word, _, rest = piece.partition(" ")
        if kind == "text":
            nodes.append(piece)
        elif word == "range":
            nodes.append(("range", rest.strip(), _parse(pieces)[0]))
        elif word == "if":
            nodes.append(_condition(rest.strip(), pieces))
        elif word in ("end", "else"):
            return nodes, piece
        elif re.fullmatch(r"\.\w+", piece):
            nodes.append(("field", piece))
        else:
            raise ValueError(f"An action that isn't known: {piece!r}")
    return nodes, "end"


def _condition(condition: str, pieces: Iterator[tuple[str, str]]) -> tuple[str, str, list[Any], list[Any]]:
    then, closed = _parse(pieces)
    if closed == "end":
        return "if", condition, then, []
    if closed.startswith("else if "):
        return "if", condition, then, [_condition(closed.removeprefix("else if ").strip(), pieces)]
    return "if", condition, then, _parse(pieces)[0]


def _run(nodes: list[Any], context: dict[str, Any]) -> Iterator[str]:
    for node in nodes:
        match node:
            case str():
                yield node
            case ("field", name):
                yield str(context[name[1:]])
            case ("range", name, body):
                for item in context[name[1:]]:
                    yield from _run(body, item)
            case ("if", condition, then, otherwise):
                yield from _run(then if _holds(condition, context) else otherwise, context)


def _holds(condition: str, context: dict[str, Any]) -> bool:
    if equal := re.fullmatch(r'eq \.(\w+) "([^"]*)"', condition):
        return bool(context[equal[1]] == equal[2])
    if field := re.fullmatch(r"\.(\w+)", condition):
        return bool(context.get(field[1]))
    raise ValueError(f"A condition that isn't known: {condition!r}")
