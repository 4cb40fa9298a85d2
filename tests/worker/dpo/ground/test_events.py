"""Events: one JSON object a line for programs, a progress line for people."""

import io
import json

import pytest
import torch

from worker.dpo.ground.events import EventWriter


def test_each_event_is_one_line_with_time_and_step():
    stream = io.StringIO()
    writer = EventWriter(stream, clock=lambda: 1700000000.25)
    writer.emit("state", stage="loading")
    writer.emit("step", 3, loss=torch.tensor(0.5), total_steps=10, eta_seconds=7.0)
    writer.emit("sample", 3, text="two\nlines – ünïcödé")
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert lines == [
        {"event": "state", "time": 1700000000.25, "stage": "loading"},
        {"event": "step", "time": 1700000000.25, "step": 3, "loss": 0.5, "total_steps": 10, "eta_seconds": 7.0},
        {"event": "sample", "time": 1700000000.25, "step": 3, "text": "two\nlines – ünïcödé"},
    ]


def test_numbers_that_json_has_not_become_null():
    stream = io.StringIO()
    EventWriter(stream).emit("step", 1, loss=float("nan"), nested={"a": [float("inf"), torch.tensor(float("nan"))]})
    line = json.loads(stream.getvalue(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert line["loss"] is None and line["nested"] == {"a": [None, None]}


def test_a_reader_sees_each_line_at_once():
    class Flushed(io.StringIO):
        seen = ""

        def flush(self) -> None:
            Flushed.seen = self.getvalue()

    EventWriter(Flushed()).emit("log", message="hello")
    assert json.loads(Flushed.seen)["message"] == "hello"


def test_an_event_outside_the_contract_is_refused():
    with pytest.raises(ValueError, match="Unknown event 'progress'"):
        EventWriter(io.StringIO()).emit("progress")


def test_only_the_first_process_writes():
    stream = io.StringIO()
    EventWriter(stream, enabled=False).emit("log", message="hello")
    assert stream.getvalue() == ""


def test_a_terminal_gets_a_progress_line_and_plain_text_as_it_is():
    stream = io.StringIO()
    with EventWriter(stream, rich=True) as writer:
        writer.emit("state", stage="training", total_steps=4)
        writer.emit("step", 2, loss=0.4321, total_steps=4)
        writer.emit("eval", 2, **{"eval_rewards/accuracies": 0.75})
        writer.emit("log", message="[red]model's own brackets[/red]")
        writer.emit("error", message="out of memory")
        writer.emit("done", steps=4)
    shown = stream.getvalue()
    for part in (
        "training",
        "2/4",
        "loss 0.4321",
        "0.7500",
        "[red]model's own brackets[/red]",
        "out of memory",
        "steps=4",
    ):
        assert part in shown
    assert '"event"' not in shown
