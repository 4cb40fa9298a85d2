"""A run that was killed goes on as if nothing had happened, bit for bit."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.worker.dpo.pairs_for_tests import events_of, run_folder, train_arguments
from worker.dpo.ground.config import from_mapping
from worker.dpo.machine.threads import Others
from worker.dpo.run import loop, state
from worker.dpo.run.resume import fingerprint

ROOT = Path(__file__).parents[4]


def published(out: Path) -> dict[str, torch.Tensor]:
    (file,) = out.glob("*model.safetensors")
    return load_file(file)


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


class Interrupted(BaseException):
    """Stands for kill -9 inside this process: nothing of ours may catch it."""


SETTINGS = {
    "lora": ["lora_dropout=0.3", "weight_decay=0.1"],
    "full": ["lora_r=0"],
    "full bfloat16": ["lora_r=0", "dtype=bfloat16", "learning_rate=1e-2"],
    "running reward mean": ["loss_type=bco_pair_shifted"],
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("after", [1, 4, 6])
def test_a_run_killed_after_any_step_ends_with_the_same_weights(after, settings, tmp_path, engine, monkeypatch):
    files = run_folder(tmp_path)
    common = [*settings, "num_train_epochs=2", "save_steps=2"]
    assert engine(*train_arguments(files, tmp_path / "whole", *common))[0] == 0
    real = loop.optimizer_step

    def dies(run):
        if run.progress.step == after:
            raise Interrupted
        return real(run)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "optimizer_step", dies)
        with pytest.raises(Interrupted):
            engine(*train_arguments(files, tmp_path / "killed", *common))
    code, events = engine(*train_arguments(files, tmp_path / "killed", *common))
    assert code == 0
    assert events_of(events, "step")[0]["step"] == after // 2 * 2 + 1
    assert same(published(tmp_path / "whole"), published(tmp_path / "killed"))


class Restless(Others):
    """Other programs that come and go with every look."""

    def __init__(self) -> None:
        self._looks = 0

    def since_last(self) -> float:
        self._looks += 1
        return self._looks % 3 * 0.6


def recorded(out: Path) -> str:
    return json.loads((out / "prefloop.json").read_text())["threads"]


def test_a_run_whose_threads_changed_is_repeated_by_its_record_and_resumed_within_it(tmp_path, engine, monkeypatch):
    files = run_folder(tmp_path)
    common = ["num_train_epochs=3", "save_steps=2", "lora_dropout=0.2"]
    with monkeypatch.context() as patch:
        patch.setattr("worker.dpo.machine.threads.Others", Restless)
        patch.setattr("worker.dpo.run.setup.usable_cores", lambda: 2)
        assert engine(*train_arguments(files, tmp_path / "chosen", *common))[0] == 0
    record = recorded(tmp_path / "chosen")
    assert "@" in record and {"1", "2"} <= set(record.replace("@", " ").replace(",", " ").replace(";", " ").split())

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    repeated = [*common, f'threads="{record}"']
    assert engine(*train_arguments(files, tmp_path / "again", *repeated))[0] == 0
    assert recorded(tmp_path / "again") == record
    assert same(published(tmp_path / "chosen"), published(tmp_path / "again"))

    real = loop.optimizer_step

    def dies(run):
        if run.progress.step == 3:
            raise Interrupted
        return real(run)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "optimizer_step", dies)
        with pytest.raises(Interrupted):
            engine(*train_arguments(files, tmp_path / "killed", *repeated))
    assert engine(*train_arguments(files, tmp_path / "killed", *repeated))[0] == 0
    assert same(published(tmp_path / "chosen"), published(tmp_path / "killed"))


def start(arguments: list[str], **options) -> subprocess.Popen:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "worker.dpo", *arguments]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, **options)


def read_until(process: subprocess.Popen, wanted: str, step: int) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        event = json.loads(line)
        if event["event"] == wanted and event.get("step", -1) >= step:
            return
    pytest.fail(f"The run ended before {wanted} {step}.")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 143)])
def test_a_real_process_that_is_killed_or_asked_to_end_resumes_to_the_same_weights(number, code, tmp_path):
    files = run_folder(tmp_path)
    common = ["num_train_epochs=8", "save_steps=3", "lora_dropout=0.2"]
    whole = start(train_arguments(files, tmp_path / "whole", *common))
    whole.communicate(timeout=120)
    assert whole.returncode == 0
    process = start(train_arguments(files, tmp_path / "killed", *common))
    read_until(process, "step", 7)
    process.send_signal(number)
    process.communicate(timeout=120)
    assert process.returncode == code
    resumed = start(train_arguments(files, tmp_path / "killed", *common))
    output, _ = resumed.communicate(timeout=120)
    assert resumed.returncode == 0
    steps = [json.loads(line)["step"] for line in output.splitlines() if '"event": "step"' in line]
    assert steps[0] >= (7 if number == signal.SIGKILL else 8)
    assert same(published(tmp_path / "whole"), published(tmp_path / "killed"))


def test_a_stop_is_told_as_one_and_keeps_the_last_step(tmp_path, engine, monkeypatch):
    files = run_folder(tmp_path)
    real = loop.optimizer_step

    def stops(run):
        metrics = real(run)
        if run.progress.step == 3:
            run.setup.stop.requested = True
        return metrics

    monkeypatch.setattr(loop, "optimizer_step", stops)
    code, events = engine(*train_arguments(files, tmp_path / "out"))
    assert code == 143
    assert events[-1]["event"] == "error" and events[-1]["reason"] == "terminated"
    assert "Stopped at step 3 of 4" in events[-1]["message"]
    assert [path.name for path in state.states(tmp_path / "out")] == ["step-00000003"]


def test_a_stop_during_the_reference_keeps_what_was_scored(tmp_path, engine, monkeypatch):
    files = run_folder(tmp_path)
    from worker.dpo.run import reference

    real = reference.ReferenceCache.write

    def write(cache, entries):
        real(cache, entries)
        raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(reference.ReferenceCache, "write", write)
        with pytest.raises(Interrupted):
            engine(*train_arguments(files, tmp_path / "out", "token_budget=200"))
    _, events = engine(*train_arguments(files, tmp_path / "out", "token_budget=200"))
    cached = [event["cached"] for event in events_of(events, "state") if "cached" in event]
    assert cached[0] > 0


@pytest.mark.parametrize("change", [["beta=0.5"], ["seed=1"], ["lora_r=2"], ["data"]])
def test_a_state_of_another_run_is_not_gone_on_from(change, tmp_path, engine):
    files = run_folder(tmp_path)
    engine(*train_arguments(files, tmp_path / "out"))
    settings = [] if change == ["data"] else change
    if change == ["data"]:
        files["data"].write_text("\n".join(files["data"].read_text().splitlines()[:-1]))
    code, events = engine(*train_arguments(files, tmp_path / "out", *settings))
    assert code == 2
    assert "Use another --out, or --fresh" in events[-1]["message"]
    code, events = engine(*train_arguments(files, tmp_path / "out", *settings), "--fresh")
    assert code == 0
    assert events_of(events, "step")[0]["step"] == 1


def test_a_finished_run_started_again_publishes_the_same_and_trains_nothing(tmp_path, engine):
    files = run_folder(tmp_path)
    engine(*train_arguments(files, tmp_path / "out", evaluate=True))
    before, margins = published(tmp_path / "out"), (tmp_path / "out" / "eval_margins.json").read_text()
    code, events = engine(*train_arguments(files, tmp_path / "out", evaluate=True))
    assert code == 0
    assert events_of(events, "step") == []
    assert same(before, published(tmp_path / "out"))
    assert (tmp_path / "out" / "eval_margins.json").read_text() == margins


def test_early_stopping_goes_on_counting_where_it_was(tmp_path, engine, monkeypatch):
    files = run_folder(tmp_path)
    rows = [json.loads(line) for line in files["eval"].read_text().splitlines()]
    flipped = [row | {"chosen": row["rejected"], "rejected": row["chosen"]} for row in rows]
    files["eval"].write_text("".join(json.dumps(row) + "\n" for row in flipped))
    common = ["num_train_epochs=5", "eval_steps=1", "early_stopping_patience=3", "save_steps=1"]
    real = loop.optimizer_step

    def dies(run):
        if run.progress.step == 2:
            raise Interrupted
        return real(run)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "optimizer_step", dies)
        with pytest.raises(Interrupted):
            engine(*train_arguments(files, tmp_path / "out", *common, evaluate=True))
    code, events = engine(*train_arguments(files, tmp_path / "out", *common, evaluate=True))
    assert code == 0
    assert [event["step"] for event in events_of(events, "step")] == [3]
    assert events_of(events, "checkpoint")[-1]["kind"] == "best"


def test_a_full_disk_ends_the_run_with_its_code_and_leaves_the_state_before_it_whole(tmp_path, engine, monkeypatch):
    files = run_folder(tmp_path)
    real = state.save_file

    def full(tensors, path):
        if "step-00000004" in str(path):
            Path(path).write_bytes(b"half of it")
            raise OSError(errno.ENOSPC, "No space left on device")
        real(tensors, path)

    with monkeypatch.context() as patch:
        patch.setattr(state, "save_file", full)
        code, events = engine(*train_arguments(files, tmp_path / "out", "save_steps=2"))
    assert code == 6
    assert "disk" in events[-1]["message"]
    assert [path.name for path in state.states(tmp_path / "out")] == ["step-00000002"]
    code, events = engine(*train_arguments(files, tmp_path / "out", "save_steps=2"))
    assert code == 0
    assert events_of(events, "step")[0]["step"] == 3


def test_a_really_full_disk_is_told_as_one(tmp_path, engine, monkeypatch):
    files = run_folder(tmp_path)
    monkeypatch.setattr(state, "save_file", lambda tensors, path: Path("/dev/full").write_bytes(b"x" * 65536))
    code, _ = engine(*train_arguments(files, tmp_path / "out"))
    assert code == 6


def test_a_half_written_state_is_no_state(tmp_path, engine):
    files = run_folder(tmp_path)
    engine(*train_arguments(files, tmp_path / "out", "save_steps=2"))
    (tmp_path / "out" / "state" / "step-00000099.part").mkdir()
    code, events = engine(*train_arguments(files, tmp_path / "out", "save_steps=2"))
    assert code == 0
    assert events_of(events, "step") == []


def test_states_hold_no_pickle(tmp_path, engine):
    files = run_folder(tmp_path)
    engine(*train_arguments(files, tmp_path / "out"))
    names = {path.name for path in (tmp_path / "out" / "state").rglob("*") if path.is_file()}
    assert names == {"tensors.safetensors", "state.json", "SHA256SUMS"}


RELEASED = {
    "6a9a7b84df7e4506d43845a015347e6b1b8481fb2f8275030100cb0bd83756fe": {},
    "2528cfbcda2fa6476a8629c3ef606104d4c921b6740fdb3159cec4a8b609605a": {
        "lora_r": 0,
        "beta": 0.2,
        "dtype": "bfloat16",
        "loss_type": [["sigmoid", 0.8], ["bco_pair", 0.2]],
    },
}


@pytest.mark.parametrize("released", RELEASED)
def test_a_training_state_of_the_first_release_is_recognised(released):
    settings = from_mapping({"dtype": "float32", "pair_order": "position"} | RELEASED[released]).as_dict()
    assert fingerprint(settings, "weights", "train", "evaluation", 2) == released


def test_training_states_have_the_form_of_the_first_release(tmp_path, engine):
    files = run_folder(tmp_path)
    engine(*train_arguments(files, tmp_path / "out", "max_steps=1", "lora_r=0", "dtype=bfloat16"))
    (folder,) = state.states(tmp_path / "out")
    facts = json.loads((folder / "state.json").read_text())
    assert facts.keys() == {"format", "fingerprint", "progress", "numbers"} and facts["format"] == 1
    assert facts["progress"].keys() == {
        "step", "token_budget", "best_value", "best_step", "evaluations_without_gain", "reward_mean", "seconds",
        "pairs_seen",
    }  # fmt: skip
    # The last four came later; the release reads past them.
    assert facts["numbers"].keys() == {"scaler", "before", "after", "last", "answers", "dtype", "pair_order", "threads"}
    kinds = ("weight", "master", "adam/step", "adam/exp_avg", "adam/exp_avg_sq")
    name = "model.model.layers.0.self_attn.q_proj.weight"
    saved = [key for key in load_file(folder / "tensors.safetensors") if key.endswith(name)]
    assert sorted(saved) == sorted(f"{kind}/{name}" for kind in kinds)


def test_a_state_is_saved_once_more_than_save_minutes_have_passed(tmp_path, engine, monkeypatch):
    files = run_folder(tmp_path)
    now, real = [0.0], loop.optimizer_step

    def takes_100_seconds(run):
        now[0] += 100.0
        return real(run)

    monkeypatch.setattr(loop, "optimizer_step", takes_100_seconds)
    monkeypatch.setattr(loop.time, "monotonic", lambda: now[0])
    _, events = engine(*train_arguments(files, tmp_path / "out", "num_train_epochs=4", "save_minutes=5"))
    saved = [event["step"] for event in events_of(events, "checkpoint") if event["kind"] == "state"]
    assert saved == [4, 8, 12, 16]


def test_a_state_of_before_goes_on_by_the_plan_of_before(tmp_path, engine, monkeypatch):
    """Versions that drew an epoch's order from places didn't say so in their states."""
    files = run_folder(tmp_path)
    common = ["num_train_epochs=2", "save_steps=2"]
    assert engine(*train_arguments(files, tmp_path / "whole", *common, "pair_order=position"))[0] == 0
    assert engine(*train_arguments(files, tmp_path / "content", *common))[0] == 0
    assert not same(published(tmp_path / "whole"), published(tmp_path / "content"))
    real = loop.optimizer_step

    def dies(run):
        if run.progress.step == 4:
            raise Interrupted
        return real(run)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "optimizer_step", dies)
        with pytest.raises(Interrupted):
            engine(*train_arguments(files, tmp_path / "old", *common, "pair_order=position"))
    for folder in state.states(tmp_path / "old"):
        facts = json.loads((folder / state.FACTS).read_text())
        del facts["numbers"]["pair_order"]
        (folder / state.FACTS).write_text(json.dumps(facts))
        (folder / state.SUMS).unlink()
    assert engine(*train_arguments(files, tmp_path / "old", *common))[0] == 0
    assert same(published(tmp_path / "whole"), published(tmp_path / "old"))
