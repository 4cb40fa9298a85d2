"""Events read into dataclasses and written again: the wire stays as it is, and nothing that was printed is lost."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine

from app.db import write_session
from app.events import log as events
from app.events import wire
from app.events.reading import CLASSES, of_data, of_printed
from app.events.types import (
    CheckpointSaved,
    Done,
    Evaluated,
    Event,
    Failed,
    Logged,
    PhaseReached,
    Sampled,
    StateChanged,
    StepTaken,
)
from app.models import EventType, JobEvent, JobKind, JobState
from app.services.jobs import jobs
from tests.conftest import ROOT
from tests.factory import Factory
from worker.dpo.ground.events import Event as EngineEvent

# What the API showed before events had dataclasses, without the head that every event has (id, event, step, time).
RECORDED: list[tuple[Event, str]] = [
    (StateChanged(state=JobState.QUEUED), '{"state":"queued"}'),
    (
        StateChanged(state=JobState.RUNNING, worker="cpu-1", attempt=2),
        '{"state":"running","worker":"cpu-1","attempt":2}',
    ),
    (
        StateChanged(state=JobState.QUEUED, reason="The worker stopped."),
        '{"state":"queued","reason":"The worker stopped."}',
    ),
    (StateChanged(state=JobState.QUEUED, retried_by="engineer"), '{"state":"queued","retried_by":"engineer"}'),
    (StateChanged(state=JobState.CANCELLED, kept="state-3"), '{"state":"cancelled","kept":"state-3"}'),
    (StateChanged(state=JobState.FAILED, error="Not enough."), '{"state":"failed","error":"Not enough."}'),
    (PhaseReached(step=0, stage="training", total_steps=6), '{"stage":"training","total_steps":6}'),
    (PhaseReached(stage="publishing"), '{"stage":"publishing"}'),
    (StepTaken(step=1, more={"loss": 0.7, "grad_norm": None}), '{"loss":0.7,"grad_norm":null}'),
    (Evaluated(step=0, more={"eval_loss": 0.6931471805599453}), '{"eval_loss":0.6931471805599453}'),
    (
        Sampled(
            step=0, phase="before", decoding="greedy", prompt=[{"role": "user", "content": "Ü?"}], completion="So."
        ),
        '{"phase":"before","decoding":"greedy","prompt":[{"role":"user","content":"Ü?"}],"completion":"So."}',
    ),
    (Logged(message="It saves its state first."), '{"message":"It saves its state first."}'),
    (Logged(message="Away.", level="warning"), '{"message":"Away.","level":"warning"}'),
    (
        CheckpointSaved(step=6, checkpoint_id=1, name="final", files=4, size=51),
        '{"checkpoint_id":1,"name":"final","files":4,"size":51}',
    ),
    (Done(step=6, more={"train_loss": 0.4}), '{"train_loss":0.4}'),
    (
        Failed(code="out_of_memory", message="Not enough.", kept="", lines=[]),
        '{"code":"out_of_memory","message":"Not enough.","kept":"","lines":[]}',
    ),
    (Failed(code="worker_lost", message="Silent."), '{"code":"worker_lost","message":"Silent."}'),
]

# Lines of the engine, as it prints them.
PRINTED = [
    '{"event":"state","time":1.5,"stage":"reference","missing":3,"cached":0}',
    '{"event":"log","time":1.5,"level":"warning","message":"Slow.","fused_layers":false}',
    '{"event":"log","time":1.5,"message":"Fits.","peak_bytes":9,"token_budget":8,"shared_prefix":true,"fused_layers":true}',
    '{"event":"step","time":1.5,"step":1,"loss":0.7,"epoch":0.1,"total_steps":8,"eta_seconds":2.5,"seconds":1,"pairs":4}',
    '{"event":"eval","time":1.5,"step":0,"eval_loss":0.7,"eval_pairs":4,"eval_kl":null}',
    '{"event":"sample","time":1.5,"step":0,"phase":"after","decoding":"sampled","temperature":0.7,"prompt":"Q","completion":"A"}',
    '{"event":"checkpoint","time":1.5,"step":8,"kind":"last","files":["a.json","b.json"]}',
    '{"event":"done","time":1.5,"total_steps":8,"seconds":3.25,"loss":0.5}',
    '{"event":"error","time":1.5,"reason":"bad_data","message":"No.","exit_code":3}',
]


def head_of(line: str) -> dict[str, Any]:
    return {key: value for key, value in json.loads(line).items() if key not in ("event", "step")}


@pytest.mark.parametrize(("event", "recorded"), RECORDED, ids=[type(event).__name__ for event, _ in RECORDED])
def test_event_that_a_service_tells_has_the_wire_that_it_always_had(event: Event, recorded: str) -> None:
    assert orjson.dumps(event.data).decode() == recorded
    assert of_data(event.type, json.loads(recorded), step=event.step) == event


@pytest.mark.parametrize("line", PRINTED)
def test_line_of_the_engine_keeps_every_key_in_its_place(line: str) -> None:
    event = of_printed(json.loads(line))
    assert event is not None and not isinstance(event, StateChanged)
    assert orjson.dumps(event.data) == orjson.dumps(head_of(line))


def test_row_of_the_first_release_is_read_and_written_as_it_was() -> None:
    released = [json.loads(line) for line in (ROOT / "tests/ops/databases/0001.jsonl").read_text().splitlines()]
    rows = [row for line in released for table, row in line.items() if table == "job_events"]
    assert {row["type"] for row in rows} == set(EventType)
    for row in rows:
        event = of_data(EventType(row["type"]), row["data"], step=row["step"])
        assert (event.type, event.step) == (row["type"], row["step"])
        assert orjson.dumps(event.data) == orjson.dumps(row["data"])
        assert isinstance(event, StateChanged) == ("state" in row["data"])


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_stream_and_json_show_what_was_appended(engine: Engine, factory: Factory) -> None:
    project = factory.project()
    with write_session(engine) as session:
        job, _ = jobs.queue(session, kind=JobKind.TRAINING, project_id=project.id, by=None)
    for event, recorded in RECORDED:
        with write_session(engine) as session:
            row = events.append(session, job=job.id, event=event)
        with write_session(engine) as session:
            row = session.get_one(JobEvent, row.id)
        step = "null" if event.step is None else event.step
        head = f'{{"id":{row.id},"event":"{event.type}","step":{step},"time":'
        told = wire.sse(row).decode()
        assert told.startswith(f"id: {row.id}\nevent: {event.type.value}\ndata: {head}")
        assert told.endswith(f",{recorded[1:]}\n\n")
        assert orjson.loads(told.split("data: ")[1]) == wire.as_json(row)


def test_engine_and_app_name_the_same_events() -> None:
    assert {event.value for event in EngineEvent} == {event.value for event in EventType} == set(CLASSES)
    assert {CLASSES[type].type for type in EventType} == set(EventType)
    assert {type(event) for event, _ in RECORDED} == {*CLASSES.values(), StateChanged}


def test_value_of_another_type_stays_beside_the_fields() -> None:
    odd = {"message": ["no", "text"], "level": 5, "fused_layers": "yes", "seen": [1]}
    event = of_data(EventType.LOG, odd)
    assert event == Logged(more=odd) and event.data == odd
    assert of_data(EventType.STEP, {"total_steps": True, "eta_seconds": None}) == StepTaken(
        more={"total_steps": True, "eta_seconds": None}
    )
    assert of_data(EventType.STATE, {"state": "dreaming"}) == PhaseReached(more={"state": "dreaming"})
    assert of_data(EventType.STATE, {"state": ["queued"]}) == PhaseReached(more={"state": ["queued"]})


@pytest.mark.parametrize("record", [None, [], "log", {}, {"event": "rumour"}, {"event": ["log"]}, {"step": 1}])
def test_what_isnt_an_event_is_not_read_as_one(record: object) -> None:
    assert of_printed(record) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from(
    ["message", "level", "state", "stage", "step", "time", "lines", "prompt", "more", "order", "type"]
)


@given(st.sampled_from(EventType), st.dictionaries(KEYS | st.text(), JSON, max_size=6))
def test_any_data_comes_out_as_it_went_in(type: EventType, data: dict[str, Any]) -> None:
    event = of_data(type, data)
    assert event.type is type
    assert json.dumps(event.data) == json.dumps(data)


def test_numbers_are_neither_texts_nor_truths_nor_of_another_name() -> None:
    event = Evaluated(more={"eval_loss": 0.5, "eval_pairs": 4, "eval_ok": True, "eval_note": "x", "loss": 1.0})
    assert event.numbers("eval_") == {"loss": 0.5, "pairs": 4}
