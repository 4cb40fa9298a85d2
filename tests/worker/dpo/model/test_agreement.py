"""The check at the start: what our own layers and rows get wrong is told as a warning, never hidden in a slow run."""

import json

import pytest

from tests.worker.dpo.pairs_for_tests import events_of, random_pairs, run_folder, train_arguments
from tests.worker.dpo.tiny import tiny_llama
from worker.dpo.ground.config import from_mapping
from worker.dpo.model import fused, layers
from worker.dpo.model.agreement import choose_scorer
from worker.dpo.model.loading import prepare_policy


def crashes(x, weight, bias=None):
    raise RuntimeError("no kernel for this shape")


def a_percent_too_much(x, weight, bias=None):
    return 1.01 * (x @ weight.t() if bias is None else x @ weight.t() + bias)


MISTAKES = {
    crashes: "no kernel for this shape",
    a_percent_too_much: "its log-probabilities would differ from plain rows by",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_fused_layer_that_fails_is_a_warning_and_a_fact_of_the_run(mistake, tmp_path, engine, monkeypatch):
    files = run_folder(tmp_path)
    monkeypatch.setattr(fused, "product", mistake)
    code, events = engine(*train_arguments(files, tmp_path / "out", "max_steps=1"))
    assert code == 0
    warnings = [event for event in events_of(events, "log") if event.get("level") == "warning"]
    assert [event["fused_layers"] for event in warnings] == [False]
    assert warnings[0]["message"].startswith(
        "Prefix-shared rows with fused layers can't be used, so this run is slower than it could be: "
    )
    assert MISTAKES[mistake] in warnings[0]["message"]
    facts = json.loads((tmp_path / "out" / "prefloop.json").read_text())
    assert (events[-1]["fused_layers"], facts["fused_layers"], facts["shared_prefix"]) == (False, False, True)


def test_a_run_with_fused_layers_says_so_and_warns_of_nothing(tmp_path, engine):
    files = run_folder(tmp_path)
    _, events = engine(*train_arguments(files, tmp_path / "out", "max_steps=1"))
    assert [event for event in events_of(events, "log") if event.get("level") == "warning"] == []
    facts = json.loads((tmp_path / "out" / "prefloop.json").read_text())
    assert (events[-1]["fused_layers"], facts["fused_layers"]) == (True, True)


def test_rows_that_a_setting_rules_out_are_no_warning(tmp_path, engine):
    files = run_folder(tmp_path)
    _, events = engine(*train_arguments(files, tmp_path / "out", "max_steps=1", "share_prefix=off"))
    logs = events_of(events, "log")
    assert [event for event in logs if event.get("level") == "warning"] == []
    assert "Prefix-shared rows can't be used: share_prefix is off." in [event["message"] for event in logs]
    assert events[-1]["shared_prefix"] is False


def test_a_forward_that_another_library_put_on_a_module_stays():
    from functools import partial

    policy = prepare_policy(tiny_llama(), from_mapping({"lora_r": 4}))
    attention = policy.get_base_model().model.layers[0].self_attn
    attention.forward = hooked = partial(attention.forward)
    layers.install(policy)
    layers.remove(policy)
    assert attention.__dict__["forward"] is hooked
    assert not choose_scorer(
        policy, random_pairs(2), from_mapping({"lora_r": 4, "share_prefix": "off"}), log=lambda text: None
    ).fused_layers
