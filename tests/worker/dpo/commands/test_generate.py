"""The command `generate`: one answer a line, by the tokenizer's template and the line's tools."""

import json

from tests.worker.dpo.tiny import CHATML, save_tiny, tiny_llama, tiny_tokenizer, toy_pairs, write_pairs
from worker.dpo.commands import generate as command
from worker.dpo.data.pairs import Prompt
from worker.dpo.model.generation import generate

PROMPTS = [Prompt(number, pair["prompt"]) for number, pair in enumerate(toy_pairs(3), start=1)]


def parsed(*argv: str):
    import argparse

    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args(argv)


def test_the_command_prints_one_answer_a_line(tmp_path, capsys):
    folder = save_tiny(tmp_path / "model", seed=3)
    rows = [*toy_pairs(2), {"prompt": []}, {"prompt": "Plain text"}]
    path = write_pairs(tmp_path / "prompts.jsonl", rows)
    assert (
        command.run(parsed("--model", str(folder), "--data", str(path), "--max-new-tokens", "5", "--device", "cpu"))
        == 0
    )
    printed = capsys.readouterr()
    lines = [json.loads(line) for line in printed.out.splitlines()]
    assert [line["line"] for line in lines] == [1, 2, 4]
    assert lines[0]["prompt"] == rows[0]["prompt"]
    expected = generate(tiny_llama(seed=3), tiny_tokenizer(), [Prompt(1, rows[0]["prompt"])], max_new_tokens=5)
    assert lines[0]["completion"] == expected[0].text
    assert "line 3" in printed.err


def test_a_prompt_that_the_template_refuses_is_named_and_the_others_answered(tmp_path, capsys):
    folder = save_tiny(tmp_path / "model", seed=3)
    refuses = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turn') }}{% endif %}" + CHATML
    tiny_tokenizer(chat_template=refuses).save_pretrained(folder)
    rows = [
        {"prompt": [{"role": "system", "content": "Be brief."}, *PROMPTS[0].messages]},
        {"prompt": PROMPTS[0].messages},
    ]
    path = write_pairs(tmp_path / "prompts.jsonl", rows)
    assert (
        command.run(parsed("--model", str(folder), "--data", str(path), "--max-new-tokens", "2", "--device", "cpu"))
        == 0
    )
    printed = capsys.readouterr()
    assert [json.loads(line)["line"] for line in printed.out.splitlines()] == [2]
    assert "line 1: The chat template refuses these messages: no system turn" in printed.err


def test_the_tools_of_a_line_reach_its_prompt(tmp_path, capsys):
    folder = save_tiny(tmp_path / "model", seed=3)
    with_tools = "{% for tool in tools or [] %}<tool>{{ tool.function.name }}</tool>{% endfor %}" + CHATML
    tokenizer = tiny_tokenizer(chat_template=with_tools)
    tokenizer.save_pretrained(folder)
    tools = [{"type": "function", "function": {"name": "weather_in_a_town", "parameters": {}}}]
    path = write_pairs(
        tmp_path / "prompts.jsonl", [{"prompt": PROMPTS[0].messages}, {"prompt": PROMPTS[0].messages, "tools": tools}]
    )
    assert (
        command.run(parsed("--model", str(folder), "--data", str(path), "--max-new-tokens", "9", "--device", "cpu"))
        == 0
    )
    answers = [json.loads(line)["completion"] for line in capsys.readouterr().out.splitlines()]
    without, given = Prompt(1, PROMPTS[0].messages), Prompt(2, PROMPTS[0].messages, tools)
    expected = generate(tiny_llama(seed=3), tokenizer, [without, given], max_new_tokens=9)
    assert answers == [answer.text for answer in expected]
    assert answers[0] != answers[1]
