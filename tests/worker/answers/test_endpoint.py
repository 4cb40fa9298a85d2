"""A server of answers that is busy, broken, silent, elsewhere or talks nonsense, asked by the real program over a real socket."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.worker.answers.serving import Call, Said, Server, completion, serving

SAMPLING = {"temperature": 0.7, "top_p": 0.9, "max_new_tokens": 33, "seed": 5}


def plan_of(folder: Path, server: Server, *, prompts: int = 3, samples: int = 1, **more: Any) -> Path:
    data = folder / "prompts.jsonl"
    data.write_text(
        "".join(
            json.dumps({"prompt": [{"role": "user", "content": f"Question {number}?"}]}) + "\n"
            for number in range(prompts)
        )
    )
    questions = [(line, sample) for line in range(1, prompts + 1) for sample in range(samples)]
    source = {
        "number": 0, "title": "far (m)", "kind": "endpoint", "missing": len(questions), "there": 0, "data": str(data),
        "out": str(folder / "answers.jsonl"), "base_url": server.url, "model": "m", "key": "ANSWERS_KEY_0",
        "sampling": SAMPLING, "seconds": 5.0, "at_once": 1, "requests_per_minute": None, "questions": questions,
        "backoff_seconds": 0.02,
    }  # fmt: skip
    path = folder / "plan.json"
    wanted = len(more.get("questions", questions))
    path.write_text(json.dumps({"known": 0, "wanted": wanted, "sources": [source | {"missing": wanted} | more]}))
    return path


def start(plan: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "worker.answers", str(plan)],
        cwd=ROOT, env=os.environ | {"ANSWERS_KEY_0": "sesame"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def run(plan: Path) -> tuple[int, list[dict[str, Any]], list[dict[str, Any]]]:
    """(exit code, events, answers)."""
    process = start(plan)
    out, errors = process.communicate(timeout=60)
    assert errors == ""
    return process.returncode, [json.loads(line) for line in out.splitlines()], written(plan)


def written(plan: Path) -> list[dict[str, Any]]:
    path = plan.parent / "answers.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def error_of(events: list[dict[str, Any]]) -> dict[str, Any]:
    (error,) = [event for event in events if event["event"] == "error"]
    return error


def test_it_is_asked_for_each_answer_with_its_own_seed(tmp_path: Path) -> None:
    with serving(lambda _, call: Said(body=completion(f"To {call.body['messages'][0]['content']}"))) as server:
        code, events, answers = run(plan_of(tmp_path, server, samples=2))
    assert code == 0
    assert [(one["line"], one["sample"], one["completion"]) for one in answers] == [
        (line, sample, f"To Question {line - 1}?") for line in (1, 2, 3) for sample in (0, 1)
    ]
    assert {(one["finish"], one["tokens"], one["prompt_tokens"]) for one in answers} == {("stop", 3, 7)}
    assert len({one["seed"] for one in answers}) == 6
    assert [seed for _, seed in server.asked()] == [one["seed"] for one in answers]
    first = server.calls[0]
    assert (first.path, first.headers["host"], first.headers["authorization"]) == (
        "/v1/chat/completions",
        server.host,
        "Bearer sesame",
    )
    assert {name: first.body[name] for name in ("model", "temperature", "top_p", "max_tokens")} == {
        "model": "m",
        "temperature": 0.7,
        "top_p": 0.9,
        "max_tokens": 33,
    }
    assert [event for event in events if event["event"] == "step"][-1]["step"] == 6
    assert "sesame" not in json.dumps(events)


def test_one_that_is_busy_is_asked_again_when_it_wants(tmp_path: Path) -> None:
    def answer(number: int, call: Call) -> Said:
        return Said(429, b"{}", {"Retry-After": "1"}) if number == 1 else Said(body=completion("Aye."))

    with serving(answer) as server:
        code, events, answers = run(plan_of(tmp_path, server))
    assert (code, len(answers), len(server.calls)) == (0, 3, 4)
    assert server.calls[2].at - server.calls[1].at >= 0.99
    assert [event["level"] for event in events if event.get("level")] == ["warning"]


def test_retry_after_may_be_a_date(tmp_path: Path) -> None:
    from email.utils import formatdate

    def answer(number: int, call: Call) -> Said:
        return (
            Said(503, b"", {"Retry-After": formatdate(time.time() + 2, usegmt=True)})
            if not number
            else Said(body=completion("Aye."))
        )

    with serving(answer) as server:
        code, _, answers = run(plan_of(tmp_path, server, prompts=1))
    assert (code, len(answers)) == (0, 1)
    assert server.calls[1].at - server.calls[0].at >= 0.9


BROKEN: dict[str, Said] = {
    "hangs up": Said(cut=True),
    "is silent": Said(hang=3),
    "drips": Said(body=completion("Aye." * 30), drip=0.1),
    "sends nonsense": Said(body=b"\xff\x00<html>"),
    "sends JSON of another kind": Said(body=b'[{"choices": 3}]'),
    "sends deep JSON": Said(body=b"[" * 100_000),
    "sends far too much": Said(body=b"x" * 5_000_000),
    "sends packed nonsense": Said(body=b"\x1f\x8b\x08\x00", headers={"Content-Encoding": "gzip"}),
    "breaks": Said(500, b"Traceback"),
}


@pytest.mark.parametrize("said", BROKEN.values(), ids=BROKEN.keys())
def test_one_that_is_broken_once_is_asked_again(tmp_path: Path, said: Said) -> None:
    with serving(lambda number, _: said if not number else Said(body=completion("Aye."))) as server:
        code, _, answers = run(plan_of(tmp_path, server, prompts=2, seconds=1.0))
    assert (code, [one["completion"] for one in answers], len(server.calls)) == (0, ["Aye.", "Aye."], 3)


def test_one_that_stays_broken_fails_the_job_and_what_arrived_is_kept(tmp_path: Path) -> None:
    with serving(lambda number, _: Said(502) if number else Said(body=completion("Aye."))) as server:
        code, events, answers = run(plan_of(tmp_path, server))
    assert (code, len(answers), len(server.calls)) == (1, 1, 7)
    assert error_of(events)["reason"] == "endpoint_unavailable"
    assert error_of(events)["message"].startswith("far (m): ")


@pytest.mark.parametrize("broken", [Said(500, b"Traceback"), Said(hang=2)], ids=["fails", "hangs"])
def test_a_prompt_that_it_breaks_on_keeps_no_other_from_it(tmp_path: Path, broken: Said) -> None:
    def answer(number: int, call: Call) -> Said:
        return broken if call.body["messages"][0]["content"] == "Question 0?" else Said(body=completion("Aye."))

    with serving(answer) as server:
        code, _, answers = run(plan_of(tmp_path, server, seconds=0.5))
    assert (code, [one["finish"] for one in answers]) == (0, ["failed", "stop", "stop"])
    assert answers[0]["completion"].startswith("It was asked 6 times and didn't answer: ")
    assert len(server.calls) == 6 + 1 + 2, "a greeting tells a prompt that it can't answer from a server that is gone"


def test_one_that_breaks_on_everything_fails_the_job(tmp_path: Path) -> None:
    with serving(lambda *_: Said(500, b"Traceback")) as server:
        code, events, answers = run(plan_of(tmp_path, server))
    assert (code, answers, len(server.calls)) == (1, [], 7)
    assert error_of(events)["reason"] == "endpoint_unavailable"


def test_one_that_breaks_on_every_prompt_and_greets_is_not_asked_for_all(tmp_path: Path) -> None:
    def answer(number: int, call: Call) -> Said:
        greeted = call.body["messages"][0]["content"] == "Hello."
        return Said(body=completion("Hello!")) if greeted else Said(500, b"Traceback")

    with serving(answer) as server:
        code, events, _ = run(plan_of(tmp_path, server, prompts=50, backoff_seconds=0.001))
    assert (code, len(server.calls)) == (1, 10 * 7)
    assert error_of(events)["reason"] == "endpoint_failed"


def test_one_that_is_busy_and_says_not_how_long_is_given_a_minute(tmp_path: Path) -> None:
    with serving(lambda number, _: Said(429) if number < 5 else Said(body=completion("Aye."))) as server:
        code, events, answers = run(plan_of(tmp_path, server, prompts=1, backoff_seconds=0.01))
    waits = [event for event in events if event.get("level") == "warning"]
    assert (code, len(answers), len(waits)) == (0, 1, 5)
    ordinary = 0.5 / 0.01  # of what the product waits by itself
    assert (server.calls[5].at - server.calls[0].at) * ordinary >= 30


@pytest.mark.parametrize(
    "header",
    ["Fri, 01 Jan 99999999999999999999 00:00:00 GMT", "Fri, 01 Jan 2030 10:00:00 +999999999999999999", "-5", "nan", "x" * 9_000],
    ids=["year", "zone", "negative", "nan", "long"],
)  # fmt: skip
def test_a_retry_after_that_is_none_is_no_reason_to_end(tmp_path: Path, header: str) -> None:
    def answer(number: int, call: Call) -> Said:
        return Said(429, b"{}", {"Retry-After": header}) if not number else Said(body=completion("Aye."))

    with serving(answer) as server:
        code, _, answers = run(plan_of(tmp_path, server, prompts=1))
    assert (code, len(answers), len(server.calls)) == (0, 1, 2)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (Said(302, b"", {"Location": "http://169.254.169.254/latest"}), "endpoint_redirects"),
        (Said(401, b'{"error": {"message": "no such key"}}'), "endpoint_key"),
        (Said(404, b'{"error": "model m not found"}'), "endpoint_missing"),
        (Said(418, b"\x1b[31mteapot"), "endpoint_failed"),
    ],
)
def test_what_asking_again_does_not_change_ends_it_at_once(tmp_path: Path, said: Said, reason: str) -> None:
    with serving(lambda *_: said) as server:
        code, events, answers = run(plan_of(tmp_path, server))
    assert (code, answers, len(server.calls)) == (1, [], 1)
    assert error_of(events)["reason"] == reason
    assert "\x1b" not in error_of(events)["message"]


def test_a_prompt_that_is_refused_is_told_and_the_others_are_asked(tmp_path: Path) -> None:
    def answer(number: int, call: Call) -> Said:
        refused = Said(400, b'{"error": {"message": "too many tokens"}}')
        filtered = Said(body=completion("", "content_filter"))
        return [refused, filtered, Said(body=completion("Cut", "length", usage={}))][number]

    with serving(answer) as server:
        code, _, answers = run(plan_of(tmp_path, server))
    assert code == 0
    assert [(one["finish"], one["tokens"]) for one in answers] == [("failed", None), ("failed", None), ("length", None)]
    assert "too many tokens" in answers[0]["completion"]


def test_one_that_refuses_everything_is_not_asked_for_all(tmp_path: Path) -> None:
    with serving(lambda *_: Said(400, b'{"error": "no such model"}')) as server:
        code, events, _ = run(plan_of(tmp_path, server, prompts=50))
    assert (code, len(server.calls)) == (1, 10)
    assert "no such model" in error_of(events)["message"]


def test_no_more_calls_at_once_and_a_minute_than_it_takes(tmp_path: Path) -> None:
    with serving(lambda *_: Said(body=completion("Aye."), hang=0.3)) as server:
        assert run(plan_of(tmp_path, server, prompts=9, at_once=3))[0] == 0
        assert server.together == 3
    (tmp_path / "slow").mkdir()
    with serving(lambda *_: Said(body=completion("Aye."))) as server:
        assert run(plan_of(tmp_path / "slow", server, prompts=4, at_once=4, requests_per_minute=300))[0] == 0
        assert (
            server.calls[3].at - server.calls[0].at > 0.4
        )  # three times a fifth of a second, less what the first took


@pytest.mark.parametrize("hang", [0.5, 30.0], ids=["answers-in-time", "hangs"])
def test_told_to_stop_it_asks_no_more_and_keeps_what_arrives(tmp_path: Path, hang: float) -> None:
    def answer(number: int, call: Call) -> Said:
        return Said(body=completion("Aye."), hang=hang if number == 2 else 0)

    with serving(answer) as server:
        plan = plan_of(tmp_path, server, prompts=6, seconds=60)
        process = start(plan)
        until(lambda: len(server.calls) == 3)
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)
        assert process.returncode == 143
        assert time.monotonic() - began < 10
        arrived = written(plan)
        assert len(arrived) == (3 if hang < 1 else 2)
        assert len(server.calls) == 3
        left = [(line, 0) for line in range(1, 7) if line not in {one["line"] for one in arrived}]
        code, _, answers = run(plan_of(tmp_path, server, prompts=6, questions=left))
    assert code == 0
    assert sorted(one["line"] for one in answers) == [1, 2, 3, 4, 5, 6]


def until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_key_is_sent_to_nobody_where_there_is_none(tmp_path: Path) -> None:
    with serving(lambda *_: Said(body=completion("Aye."))) as server:
        assert run(plan_of(tmp_path, server, prompts=1, key=""))[0] == 0
    assert "authorization" not in server.calls[0].headers


def test_half_surrogates_and_other_languages_arrive(tmp_path: Path) -> None:
    with serving(lambda *_: Said(body=b'{"choices": [{"message": {"content": "\\ud800 \xc3\xa4"}}]}')) as server:
        code, _, answers = run(plan_of(tmp_path, server, prompts=1))
    assert (code, answers[0]["completion"]) == (0, "\ud800 ä")
