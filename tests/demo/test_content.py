"""The demo's content: enough of it, varied, correct where a machine can tell, and not to be guessed by length."""

import ast
import itertools
import json
import re
from collections import Counter
from pathlib import Path

import pytest
import yaml

import app

DEMO = Path(app.__file__).parent / "demo"
HOSTS = {"example.com", "api.example.com", "app.example.com", "status.example.com", "registry.example.com"}


def lines(name: str) -> list[dict]:
    return [json.loads(line) for line in (DEMO / name).read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def pairs() -> list[dict]:
    return lines("pairs.jsonl")


@pytest.fixture(scope="module")
def judgments() -> list[dict]:
    return lines("judgments.jsonl")


def turns(pair: dict) -> list[dict]:
    return [message for message in pair["prompt"] if message["role"] != "system"]


def test_there_are_enough_prompts_and_no_two_are_the_same(pairs: list[dict]) -> None:
    assert len(pairs) >= 56
    assert len({pair["id"] for pair in pairs}) == len(pairs)
    assert len({json.dumps(pair["prompt"]) for pair in pairs}) == len(pairs)


def test_every_prompt_is_a_conversation_that_ends_with_the_customer(pairs: list[dict]) -> None:
    for pair in pairs:
        roles = [message["role"] for message in turns(pair)]
        assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"], pair["id"]
        assert all(message["content"].strip() for message in pair["prompt"]), pair["id"]


def test_both_answers_are_there_and_differ(pairs: list[dict]) -> None:
    for pair in pairs:
        first, second = pair["responses"]
        assert first.strip() and second.strip() and first != second, pair["id"]
        assert pair["in_tone"] in (0, 1, None), pair["id"]


def test_prompts_vary_in_kind_and_length(pairs: list[dict]) -> None:
    kinds = Counter(pair["kind"] for pair in pairs)
    assert {
        "billing",
        "quota",
        "code",
        "list",
        "table",
        "conversation",
        "angry",
        "limits",
        "oneliner",
        "long",
        "language",
    } <= set(kinds)
    assert sum(len(turns(pair)) >= 3 for pair in pairs) >= 12
    assert sum(pair["prompt"][0]["role"] == "system" for pair in pairs) >= 2
    sizes = sorted(sum(len(message["content"]) for message in pair["prompt"]) for pair in pairs)
    assert sizes[0] < 30 and sizes[-1] > 300


def test_answers_show_what_markdown_can_do(pairs: list[dict]) -> None:
    text = "\n".join(answer for pair in pairs for answer in pair["responses"])
    assert {"python", "bash", "json", "yaml", "sql"} <= set(re.findall(r"```(\w+)", text))
    assert "\n|---" in text and "\n1. " in text and "\n- " in text and "](https://" in text


def test_every_code_block_is_closed_names_its_language_and_parses(pairs: list[dict]) -> None:
    parse = {"python": ast.parse, "json": json.loads, "yaml": yaml.safe_load}
    for pair in pairs:
        for text in pair["responses"]:
            fences = re.findall(r"^[ ]*```(\w*)$", text, flags=re.M)
            assert len(fences) % 2 == 0 and all(fences[::2]) and not any(fences[1::2]), pair["id"]
            for language, code in re.findall(r"^```(\w+)\n(.*?)^```$", text, flags=re.M | re.S):
                parse.get(language, str)(code)


def test_links_and_addresses_lead_nowhere_real(pairs: list[dict]) -> None:
    text = "\n".join(json.dumps(pair) for pair in pairs) + (DEMO / "guidelines.md").read_text(encoding="utf-8")
    assert set(re.findall(r"https?://([\w.-]+)", text)) <= HOSTS
    assert set(re.findall(r"[\w.]+@([\w-]+\.[\w.]+)", text)) <= HOSTS


def test_neither_length_nor_place_gives_the_better_answer_away(pairs: list[dict], judgments: list[dict]) -> None:
    judged = {judgment["comparison"] for judgment in judgments}
    for part in (pairs, [pair for pair in pairs if pair["id"] in judged]):
        clear = [pair for pair in part if pair["in_tone"] is not None]
        longer = sum(
            len(pair["responses"][pair["in_tone"]]) > len(pair["responses"][1 - pair["in_tone"]]) for pair in clear
        )
        assert 0.45 <= longer / len(clear) <= 0.6
        assert 0.4 <= sum(pair["in_tone"] for pair in clear) / len(clear) <= 0.6


def test_some_pairs_have_no_better_answer(pairs: list[dict]) -> None:
    assert sum(pair["in_tone"] is None for pair in pairs) >= 3


def test_judgments_cover_36_comparisons_and_leave_the_rest_to_the_newcomer(
    pairs: list[dict], judgments: list[dict]
) -> None:
    ids = {pair["id"] for pair in pairs}
    judged = {judgment["comparison"] for judgment in judgments if judgment["choice"] != "skip"}
    assert {judgment["comparison"] for judgment in judgments} <= ids
    assert len(judged) == 36
    assert len(ids - judged) >= 20


def test_judgments_are_what_people_could_have_given(judgments: list[dict]) -> None:
    assert {judgment["evaluator"] for judgment in judgments} == {f"demo-evaluator-{n}" for n in (1, 2, 3)}
    assert len({(judgment["comparison"], judgment["evaluator"]) for judgment in judgments}) == len(judgments)
    for judgment in judgments:
        decided = judgment["choice"] in ("first", "second")
        assert decided or judgment["choice"] in ("tie", "both_bad", "skip")
        assert judgment["strength"] in ((1, 2, 3) if decided else (None,))
        assert judgment["left"] in ("first", "second")
        assert 3 <= judgment["seconds"] <= 240 and judgment["hours_ago"] > 1
    assert {"tie", "both_bad", "skip"} <= {judgment["choice"] for judgment in judgments}
    assert sum(bool(judgment["rationale"]) for judgment in judgments) >= 10


def test_nobody_judges_two_comparisons_at_once(judgments: list[dict]) -> None:
    for evaluator in {judgment["evaluator"] for judgment in judgments}:
        mine = [judgment for judgment in judgments if judgment["evaluator"] == evaluator]
        for before, after in itertools.pairwise(mine):
            shown = after["hours_ago"] * 3600 + after["seconds"]
            assert before["hours_ago"] * 3600 >= shown - 1, after["comparison"]


def test_evaluators_overlap_and_sometimes_disagree(judgments: list[dict]) -> None:
    choices: dict[str, list[str]] = {}
    for judgment in judgments:
        if judgment["choice"] != "skip":
            choices.setdefault(judgment["comparison"], []).append(judgment["choice"])
    overlapping = [given for given in choices.values() if len(given) >= 2]
    assert len(overlapping) >= 8
    assert 1 <= sum(len(set(given)) > 1 for given in overlapping) <= 4


def test_the_guidelines_say_what_a_tie_and_a_skip_are() -> None:
    text = (DEMO / "guidelines.md").read_text(encoding="utf-8")
    assert text.startswith("# ") and all(word in text for word in ("**Tie**", "**Both bad**", "**Skip**", "Strength 1"))
