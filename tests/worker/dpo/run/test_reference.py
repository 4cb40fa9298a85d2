"""Reference log-probabilities: computed once, kept, and never read for another model or other tokens."""

import ast
import dataclasses
import sqlite3
from contextlib import closing

import pytest
import torch

from tests.worker.dpo.pairs_for_tests import events_of, random_pairs, run_folder, train_arguments
from tests.worker.dpo.tiny import tiny_llama, toy_pairs, write_pairs
from worker.dpo.data.pairs import TokenPair
from worker.dpo.ground.cache import ENGINE
from worker.dpo.ground.config import from_mapping
from worker.dpo.model.loading import prepare_policy, weights_hash
from worker.dpo.run import reference
from worker.dpo.run.reference import ReferenceCache, model_key, pair_key

KEY = {"weights": "w", "config": {"rope_theta": 1e4}, "dtype": "float32", "autocast": "no", "path": "shared"}


@pytest.mark.parametrize("part", [*KEY])
def test_every_ingredient_is_in_the_key(part):
    changed = KEY | {part: {"rope_theta": 2e4} if part == "config" else "other"}
    assert model_key(**KEY) != model_key(**changed)
    assert model_key(**KEY) == model_key(**{name: KEY[name] for name in reversed(KEY)})


def test_the_code_that_scores_and_the_version_of_torch_are_in_the_key(monkeypatch):
    before = model_key(**KEY)
    monkeypatch.setattr(reference, "code_hash", lambda *rooms: "other code")
    changed_code = model_key(**KEY)
    monkeypatch.undo()
    monkeypatch.setattr(torch, "__version__", "0.0")
    assert len({before, changed_code, model_key(**KEY)}) == 3


def imported_by(module: str, known: set[str]) -> set[str]:
    """The engine's modules that a module imports, and those that they import, itself included."""
    if module in known:
        return known
    known.add(module)
    for node in ast.walk(ast.parse((ENGINE / f"{module}.py").read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("worker.dpo."):
            source = node.module.removeprefix("worker.dpo.").replace(".", "/")
            names = [source] if (ENGINE / f"{source}.py").exists() else [f"{source}/{name.name}" for name in node.names]
            for name in names:
                imported_by(name, known)
    return known


def test_all_code_that_decides_a_log_probability_is_in_the_key():
    scoring = imported_by("model/scorer", set())
    assert {"model/head", "model/cpu_attention", "model/fused", "rows/masks", "ground/matmul"} <= scoring
    hashed = {
        file.relative_to(ENGINE).with_suffix("").as_posix()
        for place in reference.SCORING_CODE
        for file in ([ENGINE / place] if place.endswith(".py") else (ENGINE / place).rglob("*.py"))
    }
    assert scoring - hashed == set()


@pytest.mark.parametrize("field", ["prompt_ids", "chosen_ids", "rejected_ids"])
def test_every_token_is_in_a_pairs_key(field):
    pair = TokenPair(1, (1, 2), (3,), (4,))
    assert pair_key(pair) != pair_key(dataclasses.replace(pair, **{field: (9,)}))


def test_tokens_that_move_between_prompt_and_completions_change_the_key():
    assert pair_key(TokenPair(1, (1, 2), (3,), (4,))) != pair_key(TokenPair(1, (1,), (2, 3), (4,)))


def test_line_weight_and_label_are_not_in_a_pairs_key():
    pair = TokenPair(1, (1, 2), (3,), (4,))
    assert pair_key(pair) == pair_key(dataclasses.replace(pair, line=9, weight=2.0, p_chosen=0.6))


def test_one_changed_weight_changes_the_hash():
    model = tiny_llama()
    before = weights_hash(model)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 4] += 1e-6
    assert weights_hash(model) != before


def test_a_trained_adapter_counts_in_the_hash():
    first, second = (prepare_policy(tiny_llama(), from_mapping({"lora_r": 4, "seed": seed})) for seed in (1, 2))
    assert weights_hash(first) != weights_hash(second)


def test_a_new_adapter_of_any_shape_or_seed_reads_the_same_references(tmp_path, engine):
    files = run_folder(tmp_path)
    engine(*train_arguments(files, tmp_path / "a", "max_steps=1"))
    for name, settings in {
        "b": ["seed=9"],
        "c": ["lora_r=2", "lora_target_modules=[q_proj]"],
        "d": ["lora_r=0"],
    }.items():
        (log,) = scored(engine(*train_arguments(files, tmp_path / name, "max_steps=1", *settings))[1])
        assert log["missing"] == 0


def test_an_adapter_that_is_trained_on_has_references_of_its_own(tmp_path, engine):
    files = run_folder(tmp_path)
    engine(*train_arguments(files, tmp_path / "a", "num_train_epochs=2"))
    (log,) = scored(engine(*train_arguments(files, tmp_path / "b", "max_steps=1", f"adapter={tmp_path / 'a'}"))[1])
    assert log["cached"] == 0


def test_numbers_come_back_exactly(tmp_path):
    pairs = random_pairs(3)
    cache = ReferenceCache(tmp_path, "k")
    cache.write([(pairs[0], -1.1, -2.2), (pairs[2], -5.5, -6.6)])
    values, unknown = ReferenceCache(tmp_path, "k").read(pairs)
    assert unknown == [1]
    assert values[:, [0, 2]].tolist() == [[-1.1, -5.5], [-2.2, -6.6]]


def test_a_folder_that_cannot_be_written_is_no_cache_and_no_failure(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    cache = ReferenceCache(blocked, "k")
    cache.write([(random_pairs(1)[0], -1.0, -2.0)])
    assert cache.problem is not None
    assert cache.read(random_pairs(1))[1] == [0]


def not_a_database(path):
    path.write_bytes(b"not a database" * 100)


def another_table(path):
    path.unlink()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE pair (key TEXT)")


def torn(path):
    path.write_bytes(path.read_bytes()[:-4096])


def broken_page(path):
    path.write_bytes(path.read_bytes()[:4096] + b"\xff" * 4096)


@pytest.mark.parametrize("harm", [not_a_database, another_table, torn, broken_page])
def test_a_damaged_file_is_set_aside_and_computed_anew(harm, tmp_path):
    pairs = random_pairs(40)
    ReferenceCache(tmp_path, "k").write([(pair, -1.0, -2.0) for pair in pairs])
    harm(tmp_path / "k.sqlite")
    cache = ReferenceCache(tmp_path, "k")
    assert cache.read(pairs)[1] == list(range(40))
    assert cache.problem is None and "set aside" in " ".join(cache.remarks)
    assert (tmp_path / "k.damaged").exists()
    cache.write([(pairs[0], -3.0, -4.0)])
    assert ReferenceCache(tmp_path, "k").read(pairs[:1])[0].tolist() == [[-3.0], [-4.0]]


@pytest.mark.parametrize("wrong", [-1.5, None, "text", b"bytes", float("inf")])
def test_a_number_that_is_not_the_one_written_is_never_used(wrong, tmp_path):
    pairs = random_pairs(2)
    ReferenceCache(tmp_path, "k").write([(pair, -1.0, -2.0) for pair in pairs])
    with closing(sqlite3.connect(tmp_path / "k.sqlite")) as connection, connection:
        connection.execute("UPDATE pair SET chosen = ? WHERE key = ?", (wrong, pair_key(pairs[1])))
    cache = ReferenceCache(tmp_path, "k")
    assert cache.read(pairs)[1] == [1]
    assert "1 reference log-probabilities" in cache.remarks[0]


def test_a_cache_that_another_holds_is_not_set_aside(tmp_path, monkeypatch):
    pairs = random_pairs(2)
    ReferenceCache(tmp_path, "k").write([(pair, -1.0, -2.0) for pair in pairs])
    cache = ReferenceCache(tmp_path, "k")
    monkeypatch.setattr(cache, "_connect", lambda: sqlite3.connect(cache.path, timeout=0))
    with closing(sqlite3.connect(cache.path)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert cache.read(pairs)[1] == [0, 1]
    assert cache.problem is not None and "locked" in cache.problem
    assert ReferenceCache(tmp_path, "k").read(pairs)[1] == []


def test_numbers_that_are_not_finite_are_not_kept(tmp_path):
    pairs = random_pairs(3)
    cache = ReferenceCache(tmp_path, "k")
    cache.write([(pairs[0], float("nan"), -1.0), (pairs[1], -1.0, float("-inf")), (pairs[2], -1.0, -2.0)])
    assert cache.read(pairs)[1] == [0, 1]


def test_a_run_with_a_damaged_cache_says_so_and_trains_the_same(tmp_path, engine):
    files, folder = run_folder(tmp_path), tmp_path / "references"
    settings = ("max_steps=2", f"reference_cache={folder}")
    _, first = engine(*train_arguments(files, tmp_path / "a", *settings))
    (file,) = folder.iterdir()
    broken_page(file)
    code, second = engine(*train_arguments(files, tmp_path / "b", *settings))
    assert code == 0 and any("was damaged" in event["message"] for event in events_of(second, "log"))
    losses = [[event["loss"] for event in events_of(events, "step")] for events in (first, second)]
    assert losses[0] == losses[1]


def scored(events):
    return [event for event in events_of(events, "state") if event.get("stage") == "reference" and "cached" in event]


def test_a_second_job_computes_nothing_and_a_grown_data_set_only_the_new_pairs(tmp_path, engine):
    files = run_folder(tmp_path)
    (first,) = scored(engine(*train_arguments(files, tmp_path / "a", "max_steps=1"))[1])
    (second,) = scored(engine(*train_arguments(files, tmp_path / "b", "max_steps=1", "seed=7", "beta=0.5"))[1])
    write_pairs(files["data"], toy_pairs(20))
    (third,) = scored(engine(*train_arguments(files, tmp_path / "c", "max_steps=1"))[1])
    assert (first["missing"], second["missing"], third["missing"]) == (16, 0, 4)


def test_cached_and_computed_references_train_the_same(tmp_path, engine):
    files = run_folder(tmp_path)
    losses = []
    for name in ("computed", "cached"):
        _, events = engine(*train_arguments(files, tmp_path / name, "max_steps=3", "lora_dropout=0.3"))
        losses.append([event["loss"] for event in events_of(events, "step")])
    assert losses[0] == losses[1]


def test_another_type_or_model_reads_nothing_of_the_first(tmp_path, engine):
    files = run_folder(tmp_path)
    engine(*train_arguments(files, tmp_path / "a", "max_steps=1"))
    (other_type,) = scored(engine(*train_arguments(files, tmp_path / "b", "max_steps=1", "dtype=bfloat16"))[1])
    (plain_rows,) = scored(engine(*train_arguments(files, tmp_path / "c", "max_steps=1", "share_prefix=off"))[1])
    assert other_type["cached"] == plain_rows["cached"] == 0


def test_losses_without_a_reference_score_none(tmp_path, engine):
    files = run_folder(tmp_path)
    _, events = engine(*train_arguments(files, tmp_path / "a", "max_steps=1", "loss_type=simpo"))
    assert scored(events) == []
    folder = tmp_path / "nothing"
    assert not folder.exists()


def test_the_file_is_an_ordinary_sqlite_table(tmp_path):
    ReferenceCache(tmp_path, "k").write([(random_pairs(1)[0], -1.0, -2.0)])
    with sqlite3.connect(tmp_path / "k.sqlite") as connection:
        assert connection.execute("SELECT chosen, rejected FROM pair").fetchall() == [(-1.0, -2.0)]


def test_scoring_reads_what_a_training_run_kept_and_keeps_what_it_computes(tmp_path, engine, monkeypatch):
    files = run_folder(tmp_path)
    engine(*train_arguments(files, tmp_path / "out", "max_steps=1"))
    arguments = ("score", "--model", files["model"], "--adapter", tmp_path / "out", "--data")
    computed: list[int] = []
    real = reference.score_pairs
    monkeypatch.setattr(
        reference,
        "score_pairs",
        lambda scorer, pairs, **rest: computed.append(len(pairs)) or real(scorer, pairs, **rest),
    )
    _, first = engine(*arguments, files["data"])
    assert first and computed == [], "the run had scored these pairs for its reference"
    _, second = engine(*arguments, files["eval"])
    assert computed == [len(second)] == [4]
    assert engine(*arguments, files["eval"])[1] == second
    assert computed == [4]
