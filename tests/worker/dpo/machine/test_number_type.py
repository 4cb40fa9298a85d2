"""What `dtype=auto` stands for: a type that is fast here and trains as well, decided once."""

import json

import pytest

from tests.worker.dpo.pairs_for_tests import events_of, run_folder, train_arguments
from worker.dpo.ground.config import from_mapping
from worker.dpo.machine import number_type, rates
from worker.dpo.machine.number_type import best, choose

FAST, EVEN, SLOW = ({"float32": 100.0, "bfloat16": rate, "float64": 50.0} for rate in (190.0, 120.0, 4.0))
REAL_RATES = rates.product_rates


@pytest.fixture
def as_good(monkeypatch):
    """The comparison on record says that bfloat16 trains as well."""
    monkeypatch.setattr(number_type, "ACCURACY_INTERVAL", (-0.012, 0.007))


@pytest.mark.parametrize(
    ("measured", "settings", "expected"),
    [
        (FAST, {}, "bfloat16"),
        (EVEN, {}, "float32"),
        (SLOW, {}, "float32"),
        ({}, {}, "float32"),
        (FAST, {"mixed_precision": "bf16"}, "float32"),
        (FAST, {"lora_r": 0}, "float32"),
    ],
)
def test_auto_is_the_fast_type_where_it_is_worth_it(measured, settings, expected, as_good):
    chosen = choose(from_mapping(settings), measured)
    assert chosen.dtype == expected
    assert chosen.why.startswith(expected) and chosen.warning is None


@pytest.mark.parametrize("interval", [(-0.03, 0.01), (-0.01, 0.021), (-1.0, 1.0)])
def test_auto_is_float32_where_the_comparison_does_not_hold(interval, monkeypatch):
    monkeypatch.setattr(number_type, "ACCURACY_INTERVAL", interval)
    chosen = best(from_mapping({}), FAST)
    assert chosen.dtype == "float32"
    assert "isn't shown" in chosen.why


def test_what_a_run_began_with_stays(as_good):
    assert choose(from_mapping({}), FAST, kept="float32").dtype == "float32"
    assert choose(from_mapping({"dtype": "bfloat16"}), SLOW, kept="float32").dtype == "bfloat16"


@pytest.mark.parametrize(
    ("asked", "measured", "factor"),
    [
        ("bfloat16", SLOW, "25.0"),
        ("float32", FAST, "1.9"),
        ("float64", EVEN, "2.0"),
        ("float32", EVEN, ""),
        ("bfloat16", FAST, ""),
    ],
)
def test_an_explicit_choice_that_is_slow_here_is_warned_of_with_the_factor(asked, measured, factor, as_good):
    warning = choose(from_mapping({"dtype": asked}), measured).warning
    assert warning is None if not factor else f"take {factor} times as long" in (warning or "")


def test_products_are_measured_once_per_device_and_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    file = tmp_path / "prefloop" / "product-rates.json"
    measured = []
    monkeypatch.setattr(rates, "measure", lambda device, types: measured.append(device) or dict.fromkeys(types, 7.0))
    first = REAL_RATES("cpu")
    assert REAL_RATES("cpu") == first == {"float32": 7.0, "bfloat16": 7.0, "float64": 7.0}
    assert measured == ["cpu"]
    for damage in ("torn {", "[]", file.read_text().replace("7.0", "NaN"), file.read_text().replace("7.0", "-1")):
        file.write_text(damage)
        assert REAL_RATES("cpu") == first
    assert measured == 5 * ["cpu"]
    assert list(json.loads(file.read_text()).values()) == [first]


def test_a_type_that_is_very_slow_is_not_measured_again_and_again(monkeypatch):
    monkeypatch.setattr(rates, "SIZE_CPU", 8)
    clock = iter(float(second) for second in range(0, 1000, 2))
    calls = []
    monkeypatch.setattr("worker.dpo.ground.matmul.product", lambda left, right: calls.append(left.dtype))
    measured = rates.measure("cpu", ("float32", "bfloat16"), clock=lambda: next(clock))
    assert len(calls) == 2 and set(measured) == {"float32", "bfloat16"}


def test_a_run_says_what_it_chose_and_why_and_its_resumes_keep_it(tmp_path, engine, monkeypatch, as_good):
    files = run_folder(tmp_path)
    monkeypatch.setattr(rates, "product_rates", lambda device: FAST)
    code, events = engine(*train_arguments(files, tmp_path / "out", "max_steps=2", "save_steps=1"))
    assert code == 0
    (said,) = [event for event in events_of(events, "log") if "asked" in event]
    assert (said["asked"], said["dtype"]) == ("auto", "bfloat16")
    assert "1.9 times" in said["why"] and said["why"] in said["message"]
    facts = json.loads((tmp_path / "out" / "prefloop.json").read_text())
    assert facts["config"]["dtype"] == facts["number_type"]["dtype"] == "bfloat16"
    assert facts["number_type"]["product_gflops"] == FAST
    assert events[-1]["dtype"] == "bfloat16"

    monkeypatch.setattr(rates, "product_rates", lambda device: SLOW)
    code, events = engine(*train_arguments(files, tmp_path / "out", "max_steps=2", "save_steps=1"))
    assert code == 0
    assert "as this run began with" in next(event["why"] for event in events if "asked" in event)
    assert not events_of(events, "step")


def test_a_state_of_an_earlier_release_goes_on_in_float32(tmp_path, engine, monkeypatch, as_good):
    files = run_folder(tmp_path)
    assert engine(*train_arguments(files, tmp_path / "out", "max_steps=2", "save_steps=1", "dtype=float32"))[0] == 0
    for path in (tmp_path / "out" / "state").glob("step-*"):
        facts = json.loads((path / "state.json").read_text())
        del facts["numbers"]["dtype"], facts["numbers"]["threads"]
        (path / "state.json").write_text(json.dumps(facts))
        (path / "SHA256SUMS").unlink()
    monkeypatch.setattr(rates, "product_rates", lambda device: FAST)
    code, events = engine(*train_arguments(files, tmp_path / "out", "max_steps=2", "save_steps=1"))
    assert code == 0 and events[-1]["dtype"] == "float32"
    assert any("Resumed after step 2" in event.get("message", "") for event in events)


def test_a_slow_choice_is_a_warning_of_the_run(tmp_path, engine, monkeypatch):
    monkeypatch.setattr(rates, "product_rates", lambda device: SLOW)
    arguments = train_arguments(run_folder(tmp_path), tmp_path / "out", "max_steps=1", "dtype=bfloat16")
    code, events = engine(*arguments)
    assert code == 0
    assert any(event.get("level") == "warning" and "25.0 times as long" in event["message"] for event in events)
