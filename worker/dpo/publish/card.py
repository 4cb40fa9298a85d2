"""The model card and `prefloop.json` of a checkpoint: what it is and where it comes from.

Names and texts in the facts come from people and files, so none of them can break out of its place: YAML is written by
a YAML writer, Markdown is escaped, and code holds Python literals.
"""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
MARKDOWN = re.compile(r"([\\`*_{}\[\]()<>#+|~!-])")
METRICS = ("loss", "rewards/accuracies", "rewards/margins", "rewards/chosen", "rewards/rejected", "logps/chosen")
FORMAT = 1
FACTS = "prefloop.json"


def write_card(out: str | Path, facts: Mapping[str, Any]) -> None:
    """Write README.md and prefloop.json into the folder `out`.

    facts, all optional: `title`, `base_model` (hub id or name), `base_sha256`, `starts_from` (a checkpoint, in words), `method`
    ("lora" or "full"), `loss`, `project`, `started_by`, `created` (ISO 8601), `license`, `chat_template`, `seed`; the mappings
    `data` (such as file, pairs, sha256, snapshot), `config`, `versions` and `export` (as, dtype, file); and `metrics` with
    mappings `before` and `after`, under TRL's names, and `answers`. `prefloop.json` holds all facts as given, others too.
    """
    out = Path(out)
    record = {"format": FORMAT, **facts}
    text = json.dumps(_json_safe(record), indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False, default=str)
    (out / FACTS).write_text(text + "\n", encoding="utf-8")
    (out / "README.md").write_text(card(facts), encoding="utf-8")


def card(facts: Mapping[str, Any]) -> str:
    """The model card's text."""
    parts = [_front_matter(facts), f"# {_escape(facts.get('title') or 'Preference-tuned model')}", _summary(facts)]
    parts += ["## Load it", _snippet(facts)]
    for heading, section in (
        ("Results on the evaluation pairs", _metrics(facts.get("metrics"))),
        ("What changed in its answers", _answers((facts.get("metrics") or {}).get("answers"))),
        ("Where it comes from", _table(_provenance(facts))),
        ("Export", _table(facts.get("export"))),
        ("Data", _table(facts.get("data"))),
        ("Configuration", _table(facts.get("config"))),
        ("Versions", _table(facts.get("versions"))),
    ):
        if section:
            parts += [f"## {heading}", section]
    return "\n\n".join(parts) + "\n"


def _front_matter(facts: Mapping[str, Any]) -> str:
    base = str(facts.get("base_model") or "")
    fields: dict[str, Any] = {
        "library_name": "gguf" if _gguf(facts) else "peft" if _is_adapter(facts) else "transformers"
    }
    # A local folder's name means nothing to a hub, which refuses it here.
    if HUB_ID.fullmatch(base):
        fields["base_model"] = base
    if facts.get("license"):
        fields["license"] = " ".join(str(facts["license"]).split())
    fields |= {"pipeline_tag": "text-generation", "tags": ["dpo", "preference", "prefloop"]}
    # One line a field: a wrapped one could begin with the marker that ends the front matter.
    return f"---\n{yaml.safe_dump(fields, sort_keys=False, allow_unicode=False, width=math.inf)}---"


def _is_adapter(facts: Mapping[str, Any]) -> bool:
    """Whether the folder holds an adapter: exports of one hold the whole model."""
    return str(facts.get("method", "lora")).lower() == "lora" and not facts.get("export")


def _gguf(facts: Mapping[str, Any]) -> str | None:
    """The name of the GGUF file in the folder; None where there is none."""
    file = (facts.get("export") or {}).get("file")
    return str(file) if file else None


def _summary(facts: Mapping[str, Any]) -> str:
    what = "A LoRA adapter for" if _is_adapter(facts) else "A fine-tuned version of"
    base = _escape(facts.get("base_model") or "its base model")
    loss = f" with the loss {_escape(facts['loss'])}" if facts.get("loss") else ""
    text = f"{what} {base}, trained on human preferences{loss} by Prefloop."
    if start := facts.get("starts_from"):
        text += f" Training started from {_escape(start)}, as it was then."
    return text


def _snippet(facts: Mapping[str, Any]) -> str:
    name = str(facts.get("base_model") or "BASE_MODEL")
    loads = str(facts.get("base_loads_from") or name)
    base = ascii(loads)
    # Names of a hub stand as they are; of a folder only its owner knows where it lies.
    where = "" if loads == name else f"# the folder of the base model {_one_word(name)}\n"
    if file := _gguf(facts):
        return f"```sh\nllama-server -m THIS_FOLDER/{file}\n```"
    if _is_adapter(facts):
        body = f"""from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("THIS_FOLDER")
{where}base = AutoModelForCausalLM.from_pretrained({base})
model = PeftModel.from_pretrained(base, "THIS_FOLDER")"""
    else:
        body = """from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("THIS_FOLDER")
model = AutoModelForCausalLM.from_pretrained("THIS_FOLDER")"""
    return f"```python\n{body}\n```"


def _one_word(name: str) -> str:
    return ascii(" ".join(name.split()))[1:-1]


def _metrics(metrics: Mapping[str, Any] | None) -> str:
    before, after = (metrics or {}).get("before") or {}, (metrics or {}).get("after") or {}
    names = [name for name in METRICS if f"eval_{name}" in {*before, *after} or name in {*before, *after}]
    if not names:
        return ""
    rows = [
        f"| {_escape(name)} | {_number(_metric(before, name))} | {_number(_metric(after, name))} |" for name in names
    ]
    return "\n".join(["| metric | before | after |", "|---|---|---|", *rows])


def _answers(answers: Mapping[str, Any] | None) -> str:
    """`data.answers.compared` in words."""
    if not answers:
        return ""
    prompts, before, after = answers["prompts"], answers["before"], answers["after"]
    rows = [
        ("mean length, tokens", _number(float(before["tokens"])), _number(float(after["tokens"]))),
        ("ended by themselves", f"{before['ended']} of {prompts}", f"{after['ended']} of {prompts}"),
        ("share of repeated 4-grams", _number(float(before["repetition"])), _number(float(after["repetition"]))),
    ]
    changed = (
        f"{answers['changed']} of {prompts} greedy answers to evaluation prompts differ from those before training."
    )
    lines = [f"| {name} | {was} | {now} |" for name, was, now in rows]
    return "\n".join([changed, "", "| greedy answers | before | after |", "|---|---|---|", *lines])


def _metric(values: Mapping[str, Any], name: str) -> Any:
    return values.get(f"eval_{name}", values.get(name))


def _number(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else _escape("" if value is None else value)


def _provenance(facts: Mapping[str, Any]) -> dict[str, Any]:
    names = (
        "project", "base_model", "base_sha256", "starts_from", "method", "loss", "seed", "chat_template", "started_by", "created",
    )  # fmt: skip
    return {name.replace("_", " "): facts[name] for name in names if facts.get(name) is not None}


def _table(values: Mapping[str, Any] | None) -> str:
    if not values:
        return ""
    rows = [f"| {_escape(name)} | {_escape(_plain(value))} |" for name, value in values.items()]
    return "\n".join(["| | |", "|---|---|", *rows])


def _plain(value: Any) -> str:
    return json.dumps(value, default=str) if isinstance(value, Mapping | list | tuple) else str(value)


def _escape(value: Any) -> str:
    """One line of Markdown that shows the value as it is and does nothing else."""
    return MARKDOWN.sub(r"\\\1", " ".join(str(value).split()))


def _json_safe(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _json_safe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_safe(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
