"""The command `generate`: one answer a line, by the tokenizer's template and the line's tools."""

import json
import os
import signal
import subprocess
import sys

from tests.worker.dpo.tiny import CHATML, save_tiny, tiny_llama, tiny_tokenizer, toy_pairs, write_pairs
from worker.dpo.commands import generate as command
from worker.dpo.data.pairs import Prompt
from worker.dpo.decoding.generation import generate

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


def ask(tmp_path, rows=3, **more):
    folder = tmp_path / "model"
    if not folder.exists():
        save_tiny(folder, seed=3)
    path = write_pairs(tmp_path / "prompts.jsonl", [{"prompt": pair["prompt"]} for pair in toy_pairs(rows)])
    values = {"model": folder, "data": path, "out": tmp_path / "answers.jsonl", "device": "cpu", "samples": 2}
    values |= {"max-new-tokens": 6, "temperature": 1.0, "seed": 5, "batch-size": 2} | more
    return ["generate", *(part for name, value in values.items() for part in (f"--{name}", value))]


def answers(tmp_path):
    lines = (tmp_path / "answers.jsonl").read_bytes().splitlines(keepends=True)
    assert all(line.endswith(b"\n") for line in lines)
    return {(answer["line"], answer["sample"]): answer for answer in map(json.loads, lines)}


def test_each_prompt_gets_its_samples_and_events_say_how_far_it_is(engine, tmp_path):
    code, events = engine(*ask(tmp_path))
    assert code == 0
    made = answers(tmp_path)
    assert sorted(made) == [(line, sample) for line in (1, 2, 3) for sample in (0, 1)]
    assert len({answer["seed"] for answer in made.values()}) == 6
    assert all(set(answer) == {"line", "sample", "seed", "completion", "tokens", "finish"} for answer in made.values())
    assert all((answer["finish"] == "length") == (answer["tokens"] == 6) for answer in made.values())
    assert [event["stage"] for event in events if event["event"] == "state"] == ["loading", "generating"]
    steps = [event["step"] for event in events if event["event"] == "step"]
    assert steps[0] == 0 and steps[-1] == 6
    done = events[-1]
    assert done["event"] == "done"
    assert (done["answers"], done["made"], done["prompts"], done["left_out"]) == (6, 6, 3, 0)


def test_what_is_there_is_kept_a_torn_line_is_asked_for_again(engine, tmp_path):
    engine(*ask(tmp_path))
    whole, path = answers(tmp_path), tmp_path / "answers.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2]) + lines[2][:-9])
    code, events = engine(*ask(tmp_path))
    assert code == 0
    assert answers(tmp_path) == whole
    assert path.read_bytes().startswith(b"".join(lines[:2]))
    assert (events[-1]["answers"], events[-1]["made"]) == (6, 4)
    assert any("weren't whole" in event.get("message", "") for event in events)
    code, events = engine(*ask(tmp_path))
    assert (code, events[-1]["made"]) == (0, 0)


def test_more_samples_and_more_prompts_go_on_in_the_same_file(engine, tmp_path):
    engine(*ask(tmp_path))
    first = answers(tmp_path)
    code, events = engine(*ask(tmp_path, rows=4, samples=3))
    assert (code, events[-1]["made"]) == (0, 6)
    assert first.items() <= answers(tmp_path).items()


def test_answers_of_other_settings_model_or_seed_are_refused_and_dropped_on_request(engine, tmp_path):
    engine(*ask(tmp_path))
    before = (tmp_path / "answers.jsonl").read_bytes()
    other = save_tiny(tmp_path / "other", seed=4)
    for change, named in (
        ({"temperature": 0.5}, "temperature 1.0, not 0.5"),
        ({"model": other}, "model"),
        ({"seed": 6}, "seed"),
    ):
        code, events = engine(*ask(tmp_path, **change))
        assert (code, events[-1]["reason"]) == (2, "bad_setting")
        assert named in events[-1]["message"] and "--fresh" in events[-1]["message"]
        assert (tmp_path / "answers.jsonl").read_bytes() == before
    code, events = engine(*ask(tmp_path, seed=6), "--fresh")
    assert (code, events[-1]["made"]) == (0, 6)


def test_a_signal_ends_it_with_what_was_made_kept(tmp_path):
    command = [str(part) for part in ask(tmp_path, rows=40, samples=8, **{"max-new-tokens": 200})]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-m", "worker.dpo", *command], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        for line in process.stdout:
            if json.loads(line)["event"] == "step" and json.loads(line)["step"] > 0:
                process.send_signal(signal.SIGTERM)
                break
        last = json.loads(process.stdout.read().splitlines()[-1])
        assert process.wait() == 143
    assert (last["event"], last["reason"]) == ("error", "terminated")
    assert 0 < len(answers(tmp_path)) < 320


def test_a_prompt_with_a_token_that_the_model_has_no_weights_for_is_left_out(engine, tmp_path):
    folder = save_tiny(tmp_path / "model", seed=3)
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["picture"])
    tokenizer.save_pretrained(folder)
    path = write_pairs(tmp_path / "p.jsonl", [{"prompt": "a picture"}, {"prompt": "a text"}])
    code, events = engine(*ask(tmp_path, data=path))
    assert code == 0
    assert {line for line, _ in answers(tmp_path)} == {2}
    (warning,) = [event for event in events if event.get("reason") == "unknown_token"]
    assert warning["line"] == 1 and "no weights" in warning["message"]
    assert events[-1]["left_out"] == 1
    code, events = engine(*ask(tmp_path, data=write_pairs(tmp_path / "p.jsonl", [{"prompt": "a picture"}])), "--fresh")
    assert (code, events[-1]["reason"]) == (3, "bad_data")
