"""Model cards: the whole provenance, and no name can break out of its place."""

import json
import math
import re

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from worker.dpo.publish.card import card, write_card

FACTS = {
    "title": "Support tone",
    "base_model": "acme/small-1b",
    "method": "lora",
    "loss": "sigmoid",
    "project": "support-tone",
    "started_by": "ada@example.org",
    "created": "2026-05-04T10:00:00Z",
    "license": "apache-2.0",
    "seed": 42,
    "data": {"snapshot": 3, "pairs": 320, "sha256": "ab" * 32},
    "config": {"beta": 0.1, "learning_rate": 5e-6, "lora_target_modules": ["q_proj", "v_proj"]},
    "versions": {"torch": "2.13.0"},
    "metrics": {
        "before": {"eval_loss": math.log(2), "eval_rewards/accuracies": 0.0},
        "after": {"eval_loss": 0.51, "eval_rewards/accuracies": 0.78125, "eval_runtime": 3.0},
    },
}
HOSTILE = [
    "---\ntags: [hacked]\n---",
    "name: |\n  x",
    "a: b # c",
    "<script>alert(1)</script>",
    "![x](https://example.org/x.png)",
    "| cell | cell |",
    "```\ncode",
    "# Heading\n\n- list",
    '"); import os; os.system("x',
    "\u2028---\u2028tags: x",
    "&lt;b&gt; **bold** ~~s~~ \\",
]


def parts(text: str) -> tuple[dict, str]:
    """Front matter and Markdown, split at the first closing line as the hub does it."""
    match = re.match(r"---\n(.*?)\n---\n(.*)", text, re.DOTALL)
    assert match
    return yaml.safe_load(match[1]), match[2]


def front_matter(text: str) -> dict:
    return parts(text)[0]


def test_the_card_tells_where_a_checkpoint_comes_from():
    text = card(FACTS)
    assert front_matter(text) == {
        "library_name": "peft",
        "base_model": "acme/small-1b",
        "license": "apache-2.0",
        "pipeline_tag": "text-generation",
        "tags": ["dpo", "preference", "prefloop"],
    }
    html = MarkdownIt("commonmark").enable("table").render(parts(text)[1])
    for shown in (
        "Support tone",
        "acme/small-1b",
        "support-tone",
        "ada@example.org",
        "ab" * 32,
        "0.6931",
        "0.7812",
        "2.13.0",
        "q_proj",
    ):
        assert shown in html
    assert "PeftModel.from_pretrained(base" in html and "<table>" in html


def test_a_full_checkpoint_loads_without_peft_and_a_local_base_is_not_linked():
    text = card(FACTS | {"method": "full", "base_model": "/srv/models/small"})
    assert front_matter(text)["library_name"] == "transformers"
    assert "base_model" not in front_matter(text)
    assert "peft" not in text


def test_prefloop_json_holds_all_facts(tmp_path):
    write_card(tmp_path, FACTS | {"extra": {"nan": math.nan, "path": tmp_path}})
    record = json.loads((tmp_path / "prefloop.json").read_text(), parse_constant=pytest.fail)
    assert record["format"] == 1
    assert record["extra"] == {"nan": None, "path": str(tmp_path)}
    assert {key: record[key] for key in FACTS} == FACTS
    assert (tmp_path / "README.md").read_text() == card(FACTS)


def test_a_card_can_be_made_of_nothing():
    assert front_matter(card({}))["library_name"] == "peft"


def everywhere(value: str) -> dict:
    named = dict.fromkeys(
        ("title", "base_model", "loss", "project", "started_by", "license", "created", "chat_template"), value
    )
    tables = {name: {value: value} for name in ("data", "config", "versions")}
    return named | tables | {"metrics": {"before": {"loss": value}, "after": {"loss": 0.5}}}


def is_harmless(value: str) -> None:
    text = card(everywhere(value))
    matter = front_matter(text)
    assert set(matter) <= {"library_name", "base_model", "license", "pipeline_tag", "tags"}
    assert matter["tags"] == ["dpo", "preference", "prefloop"]
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(parts(text)[1])
    kinds = [token.type for token in tokens]
    inline = {child.type for token in tokens if token.children for child in token.children}
    assert not inline & {"html_inline", "link_open", "image", "code_inline", "strong_open", "em_open", "s_open"}
    assert not set(kinds) & {
        "html_block",
        "bullet_list_open",
        "ordered_list_open",
        "blockquote_open",
        "code_block",
        "hr",
    }
    assert kinds.count("fence") == 1 and kinds.count("heading_open") == 7 and kinds.count("table_open") == 5
    (code,) = (token.content for token in tokens if token.type == "fence")
    compile(code, "snippet", "exec")
    assert code.count("import") - ascii(value).count("import") == 2


@pytest.mark.parametrize("value", HOSTILE)
def test_a_hostile_name_stays_a_name(value):
    is_harmless(value)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda value: value.split()))
def test_any_name_stays_a_name(value):
    is_harmless(value)
