"""The command `score` into a file: the same numbers as on standard output, progress, and going on where it was stopped."""

import json

from tests.worker.dpo.tiny import save_tiny, toy_pairs, write_pairs


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def arguments(tmp_path, rows=70):
    model, policy = save_tiny(tmp_path / "model", seed=3), save_tiny(tmp_path / "policy", seed=4)
    data = write_pairs(tmp_path / "pairs.jsonl", [*toy_pairs(rows), {"prompt": "No answers"}])
    cache = tmp_path / "cache"
    return ["--model", model, "--policy", policy, "--data", data, "--reference-cache", cache, "--device", "cpu"]


def test_the_file_has_what_is_printed_without_one(tmp_path, engine):
    asked, out = arguments(tmp_path), tmp_path / "scores.jsonl"
    _, printed = engine("score", *asked)
    code, events = engine("score", *asked, "--out", out)
    assert code == 0
    assert lines(out) == printed and len(printed) == 70
    assert [event["stage"] for event in events if event["event"] == "state"] == ["loading", "reference", "scoring"]
    assert [(event["step"], event["total_steps"]) for event in events if event["event"] == "step"] == [
        (64, 70),
        (70, 70),
    ]
    (done,) = [event for event in events if event["event"] == "done"]
    assert (done["pairs"], done["made"]) == (70, 70)
    assert any("line 71" in event["message"] for event in events if event["event"] == "log")


def test_the_same_command_goes_on_and_drops_a_torn_line(tmp_path, engine):
    asked, out = [*arguments(tmp_path, 6), "--out", tmp_path / "scores.jsonl"], tmp_path / "scores.jsonl"
    engine("score", *asked)
    whole = lines(out)
    out.write_text("".join(json.dumps(one) + "\n" for one in whole[:4]) + '{"line": 5, "logps')
    _, events = engine("score", *asked)
    assert events[-1]["made"] == 2
    assert lines(out) == whole


def test_scores_of_something_else_are_left_alone(tmp_path, engine):
    asked, out = [*arguments(tmp_path, 4), "--out", tmp_path / "scores.jsonl"], tmp_path / "scores.jsonl"
    engine("score", *asked)
    before = out.read_bytes()
    code, events = engine("score", *asked, "--beta", "0.5")
    assert (code, events[-1]["reason"]) == (2, "bad_setting")
    assert "Name another file" in events[-1]["message"]
    assert out.read_bytes() == before
