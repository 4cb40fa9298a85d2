"""`margins`: every pair is scored by a run that didn't see it, flips rank at the top, and a stopped command goes on."""

import json
import math

import pytest
import torch

from tests.worker.dpo.model.test_architectures import tiny_model
from tests.worker.dpo.pairs_for_tests import random_pairs
from tests.worker.dpo.tiny import save_tiny, write_pairs
from worker.dpo.data.pairs import Pair
from worker.dpo.ground.config import from_mapping
from worker.dpo.ground.errors import Terminated
from worker.dpo.margins import procedure, rows
from worker.dpo.margins.scores import ches_scores
from worker.dpo.model.agreement import choose_scorer

FAST = (
    "learning_rate=0.02",
    "num_train_epochs=4",
    "batch_size=4",
    "lora_r=8",
    "max_length=96",
    "device=cpu",
    "threads=1",
)


def data(tmp_path, count=24, **more):
    topics = ["refunds", "an invoice", "passwords", "a parcel"]
    pairs = [
        {
            "prompt": f"{number} {topics[number % 4]}?",
            "chosen": " Thank you" + "!" * (number % 3),
            "rejected": " Go away" + "." * (number % 3),
            **{name: value(number) for name, value in more.items()},
        }
        for number in range(count)
    ]
    return write_pairs(tmp_path / "pairs.jsonl", pairs)


def asked(tmp_path, *more, folds=2, path=None):
    model = tmp_path / "model"
    if not model.exists():
        save_tiny(model, seed=3)
    settings = [part for setting in FAST for part in ("--set", setting)]
    path = path or data(tmp_path)
    return ["margins", "--model", model, "--data", path, "--out", tmp_path / "out", "--folds", folds, *settings, *more]


def read(tmp_path, name="margins.jsonl"):
    return [json.loads(line) for line in (tmp_path / "out" / name).read_text().splitlines()]


def test_planted_flips_have_the_lowest_margins(engine, tmp_path):
    code, events = engine(*asked(tmp_path, "--plant", "0.2", "0.1", "--plantings", "1"))
    assert code == 0, events[-1]
    assert sum(row["flipped"] for row in read(tmp_path, "planted-2.jsonl")) == 2
    plain, planted = read(tmp_path), read(tmp_path, "planted-1.jsonl")
    assert [(row["line"], row["pair"]) for row in plain] == [(line, 0) for line in range(1, 25)]
    assert all(row["margin"] > 0 for row in plain)
    flipped = {row["line"] for row in planted if row["flipped"]}
    lowest = sorted(planted, key=lambda row: row["margin"])[: len(flipped)]
    assert len(flipped) == 5 and {row["line"] for row in lowest} == flipped
    assert all(row["margin"] < 0 for row in lowest)
    assert {row["fold"] for row in plain} == {0, 1}
    one = plain[0]
    ratios = [one[f"logps_{side}"] - one[f"ref_logps_{side}"] for side in ("chosen", "rejected")]
    assert one["margin"] == pytest.approx(0.1 * (ratios[0] - ratios[1]))
    assert math.isfinite(one["ches"]) and math.isfinite(one["ches_normalised"]) and "ches" not in planted[0]
    steps = [event["step"] for event in events if event["event"] == "step"]
    assert steps == sorted(set(steps)) and steps[-1] == 600
    done = events[-1]
    assert done["event"] == "done" and done["files"] == ["margins.jsonl", "planted-1.jsonl", "planted-2.jsonl"]
    assert done["planted"] == [0.2, 0.1]
    assert (done["pairs"], done["groups"], done["left_out"]) == (24, 24, 0)
    assert not (tmp_path / "out" / "work").exists()


def test_a_stopped_command_goes_on_with_the_folds_that_it_lacks(engine, tmp_path, monkeypatch):
    scored = []
    score = procedure.score

    def stopped(model, trained, pairs, *rest, **more):
        scored.append(len(pairs))
        if len(scored) == 2:
            raise Terminated("Stopped from outside.")
        return score(model, trained, pairs, *rest, **more)

    monkeypatch.setattr(procedure, "score", stopped)
    code, events = engine(*asked(tmp_path))
    assert (code, events[-1]["reason"]) == (143, "terminated")
    first = tmp_path / "out" / "folds" / "0-0.jsonl"
    kept = first.read_bytes()
    trained = []
    train = procedure.train
    monkeypatch.setattr(procedure, "train", lambda *args: trained.append(args) or train(*args))
    code, events = engine(*asked(tmp_path))
    assert (code, len(scored), len(trained)) == (0, 3, 0), (
        "the second fold's run was over, and only its scores were missing"
    )
    assert first.read_bytes() == kept and len(read(tmp_path)) == 24
    code, events = engine(*asked(tmp_path))
    assert (code, len(scored)) == (0, 3)


def test_other_settings_or_data_are_refused_until_fresh(engine, tmp_path):
    assert engine(*asked(tmp_path, path=data(tmp_path, 8)))[0] == 0
    code, events = engine(*asked(tmp_path, "--set", "beta=0.3", path=data(tmp_path, 8)))
    assert code == 2 and "another config" in events[-1]["message"]
    code, events = engine(*asked(tmp_path, path=data(tmp_path, 10)))
    assert code == 2 and "another data_sha256" in events[-1]["message"]
    (tmp_path / "out" / "margins.json").write_text("{")
    code, events = engine(*asked(tmp_path, path=data(tmp_path, 10)))
    assert code == 2 and "is damaged" in events[-1]["message"] and "--fresh" in events[-1]["message"]
    code, events = engine(*asked(tmp_path, "--fresh", path=data(tmp_path, 10)))
    assert code == 0 and len(read(tmp_path)) == 10


def test_lines_of_one_group_share_a_fold_and_what_can_t_be_scored_says_why(engine, tmp_path):
    path = data(tmp_path, 10, group=lambda number: f"g{number // 2}", weight=lambda number: 1.0)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[3]["chosen"] = "x" * 120
    code, events = engine(*asked(tmp_path, path=write_pairs(path, lines)))
    assert code == 0, events[-1]
    made = read(tmp_path)
    assert all(made[number]["fold"] == made[number + 1]["fold"] for number in range(0, 10, 2))
    assert made[3] == {"line": 4, "pair": 0, "fold": made[3]["fold"], "left_out": "completion_too_long"}
    assert events[-1]["groups"] == 5 and events[-1]["left_out"] == 1


@pytest.mark.parametrize(
    "more", [("--plant", "0.2"), ("--plantings", "2"), ("--plant", "0.2", "0.5", "--plantings", "1")]
)
def test_half_a_planting_is_refused(engine, tmp_path, more):
    code, events = engine(*asked(tmp_path, *more))
    assert code == 2 and "both, or neither" in events[-1]["message"]


def said(role, text):
    return [{"role": role, "content": text}]


def test_pairs_are_written_as_they_were_read(tmp_path):
    tools = [{"type": "function", "function": {"name": "f"}}]
    pairs = [
        Pair(
            1, said("user", "a"), said("assistant", "b"), said("assistant", "c"), tools=tools, weight=0.5, p_chosen=0.75
        ),
        Pair(2, said("text", "a "), said("text", "b"), said("text", " c")),
    ]
    rows.write_pairs(tmp_path / "pairs.jsonl", pairs)
    assert [one.pair for one in rows.read_grouped(tmp_path / "pairs.jsonl", [])] == pairs


def test_ches_is_that_of_the_states_before_each_token():
    model = tiny_model("llama", {})
    pairs = random_pairs(3, vocab=97)
    config = from_mapping({"dtype": "float64"})
    model.requires_grad_(False)
    scorer = choose_scorer(model, pairs, config, log=print)
    scores = ches_scores(scorer, pairs, budget=200)
    scorer.use_plain_attention()

    def summed(prompt, answer):
        states = model.model(torch.tensor([[*prompt, *answer]])).last_hidden_state[0]
        return states[len(prompt) - 1 : -1].sum(0)

    for place, pair in enumerate(pairs):
        chosen, rejected = (summed(pair.prompt_ids, side) for side in (pair.chosen_ids, pair.rejected_ids))
        assert scores[0, place].item() == pytest.approx(float(chosen @ rejected - chosen @ chosen))
        lengths = len(pair.chosen_ids), len(pair.rejected_ids)
        normalised = chosen @ rejected / (lengths[0] * lengths[1]) - chosen @ chosen / lengths[0] ** 2
        assert scores[1, place].item() == pytest.approx(float(normalised))


def test_folds_know_their_adapter_by_what_it_holds_and_those_of_before_by_its_path(tmp_path):
    save_tiny(tmp_path / "model", seed=3)
    for name, weights in (("adapter", b"one"), ("moved", b"one"), ("another", b"two")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_text(json.dumps({"r": 8, "base_model_name_or_path": name}))
        (tmp_path / name / "adapter_model.safetensors").write_bytes(weights)

    def settle(name):
        config = from_mapping({"max_length": 96, "adapter": str(tmp_path / name)})
        wanted = procedure.Wanted(str(tmp_path / "model"), data(tmp_path), tmp_path / "out", config)
        procedure._settle(wanted, [])

    settle("adapter")
    settle("moved")
    with pytest.raises(procedure.OtherMargins, match="another config"):
        settle("another")
    (kept,) = rows.read_rows(tmp_path / "out" / "margins.json")
    kept["config"]["adapter"] = str(tmp_path / "another")
    rows.write_rows(tmp_path / "out" / "margins.json", [kept])
    settle("another")
    with pytest.raises(procedure.OtherMargins, match="another config"):
        settle("adapter")
