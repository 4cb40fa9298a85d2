"""What goes wrong on the disk or in the numbers is said, never trained on, and never published."""

import errno
import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.worker.dpo.pairs_for_tests import events_of, run_folder, train_arguments
from worker.dpo.ground.errors import EXIT_CODES
from worker.dpo.model import loading
from worker.dpo.run import evaluation, finish, loop, state, step

STEPS = ["save_steps=1", "max_steps=4"]


def published(out: Path) -> dict[str, torch.Tensor]:
    (file,) = out.glob("*model.safetensors")
    return load_file(file)


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def warnings(events: list[dict]) -> str:
    return " ".join(event["message"] for event in events_of(events, "log") if event.get("level") == "warning")


def offered(out: Path) -> list[str]:
    """What somebody would take for a result."""
    return [path.name for path in out.glob("*") if path.name not in ("state", "runs")]


def refuse(*arguments, **options):
    raise AssertionError("a model was loaded")


@pytest.mark.parametrize("evaluate", [True, False])
@pytest.mark.parametrize("kind", ["lora_r=4", "lora_r=0"])
def test_a_last_step_that_destroys_the_model_is_not_published(kind, evaluate, tmp_path, engine, monkeypatch):
    files = run_folder(tmp_path)
    # The settings' own bounds keep such a rate out: a data file and a model can do as much in more steps.
    monkeypatch.setattr(step, "learning_rate", lambda *arguments: 1e38)
    code, events = engine(*train_arguments(files, tmp_path / "out", kind, "max_steps=1", evaluate=evaluate))
    assert code == 5
    assert (events[-1]["event"], events[-1]["reason"], events[-1]["exit_code"]) == ("error", "not_finite", 5)
    assert "Lower learning_rate" in events[-1]["message"] and "weights" in EXIT_CODES[5]
    assert events_of(events, "done") == events_of(events, "checkpoint") == []
    assert offered(tmp_path / "out") == []


def test_weights_that_a_step_made_nan_are_neither_kept_nor_published(tmp_path, engine, monkeypatch):
    files, real = run_folder(tmp_path), loop.optimizer_step

    def destroys(run):
        metrics = real(run)
        if run.progress.step == 3:
            next(iter(run.named.values())).data[0, 0] = math.nan
        return metrics

    monkeypatch.setattr(loop, "optimizer_step", destroys)
    code, events = engine(*train_arguments(files, tmp_path / "out", *STEPS))
    assert code == 5 and "After step 3 the weights in" in events[-1]["message"]
    assert [path.name for path in state.states(tmp_path / "out")] == ["step-00000001", "step-00000002"]
    assert offered(tmp_path / "out") == []


def test_finite_weights_whose_losses_are_not_finite_are_not_published(tmp_path, engine, monkeypatch):
    files, real = run_folder(tmp_path), loop.optimizer_step

    def overflows(run):
        metrics = real(run)
        if run.progress.step == 4:
            run.named["model.model.norm.weight"].data.fill_(3e38)
        return metrics

    monkeypatch.setattr(loop, "optimizer_step", overflows)
    code, events = engine(*train_arguments(files, tmp_path / "out", "lora_r=0", "max_steps=4"))
    assert code == 5 and "After step 4 the loss isn't a finite number (data lines" in events[-1]["message"]
    assert offered(tmp_path / "out") == []


def best_run(tmp_path: Path) -> list[str]:
    files = run_folder(tmp_path)
    return train_arguments(
        files, tmp_path / "out", *STEPS, "eval_steps=1", "publish=best", "metric_for_best_model=eval_kl", evaluate=True
    )


def test_best_weights_that_are_not_finite_are_not_published(tmp_path, engine, monkeypatch):
    def destroyed(path):
        return {name: torch.full_like(tensor, math.nan) for name, tensor in load_file(path).items()}

    monkeypatch.setattr("worker.dpo.run.evaluation.load_file", destroyed)
    code, _ = engine(*best_run(tmp_path))
    assert code == 5 and offered(tmp_path / "out") == []


def test_damaged_best_weights_are_not_published_and_the_next_start_makes_them_again(tmp_path, engine, monkeypatch):
    arguments, real = best_run(tmp_path), evaluation.settle_weights

    def damages(run):
        flip(next((tmp_path / "out" / "state").glob("best-*.safetensors")))
        return real(run)

    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "settle_weights", damages)
        code, events = engine(*arguments)
    assert code == 2 and "are damaged" in events[-1]["message"] and offered(tmp_path / "out") == []
    code, events = engine(*arguments)
    assert code == 0 and "is damaged" in warnings(events)
    assert events_of(events, "checkpoint")[-1]["kind"] == "best"
    assert all(not tensor.any() for name, tensor in published(tmp_path / "out").items() if "lora_B" in name)


def folders(tmp_path: Path, how: str) -> tuple[Path, Path]:
    """(the model's folder as --model names it, the folder for --out)."""
    model, link = tmp_path / "model", tmp_path / "link"
    if how == "link to the model":
        link.symlink_to(model)
        return model, link
    if how == "model through a link":
        link.symlink_to(model)
        return link, model
    if how == "in the model":
        return model, model / "deep" / "out"
    if how == "in the model through a link":
        link.symlink_to(model)
        return model, link / "out"
    if how == "around the model":
        return model, tmp_path
    if how == "holds the model's files":
        (tmp_path / "snapshot").mkdir()
        for file in model.iterdir():
            (tmp_path / "snapshot" / file.name).symlink_to(file)
        return tmp_path / "snapshot", model
    return model, model


@pytest.mark.parametrize(
    "how",
    ["the same", "link to the model", "model through a link", "in the model", "in the model through a link",
     "around the model", "holds the model's files"],
)  # fmt: skip
def test_the_model_is_never_written_over(how, tmp_path, engine, monkeypatch):
    files = run_folder(tmp_path)
    model, out = folders(tmp_path, how)
    before = {file.name: file.read_bytes() for file in files["model"].iterdir()}
    monkeypatch.setattr(loading, "load_tokenizer", refuse)
    code, events = engine(*train_arguments(files | {"model": model}, out, "lora_r=0", "max_steps=1"))
    assert code == 2 and "would write over the model" in events[-1]["message"]
    assert {file.name: file.read_bytes() for file in files["model"].iterdir() if file.is_file()} == before


def test_neither_the_adapter_nor_a_file_is_taken_for_the_result_s_folder(tmp_path, engine, monkeypatch):
    files, first = run_folder(tmp_path), tmp_path / "first"
    engine(*train_arguments(files, first, "max_steps=1"))
    monkeypatch.setattr(loading, "load_tokenizer", refuse)
    code, events = engine(*train_arguments(files, first, "max_steps=1", f"adapter={first}"))
    assert code == 2 and "is the adapter that the run starts from" in events[-1]["message"]
    code, events = engine(*train_arguments(files, files["data"], "max_steps=1"))
    assert code == 2 and "is a file" in events[-1]["message"]


def flip(path: Path) -> None:
    """Change a bit of the last byte."""
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def tear(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGE = {
    "a bit of the weights": lambda folder: flip(folder / "tensors.safetensors"),
    "torn weights": lambda folder: tear(folder / "tensors.safetensors"),
    "no weights": lambda folder: (folder / "tensors.safetensors").unlink(),
    "torn facts": lambda folder: tear(folder / "state.json"),
    "torn sums": lambda folder: tear(folder / "SHA256SUMS"),
    "empty sums": lambda folder: (folder / "SHA256SUMS").write_bytes(b""),
    "unreadable": lambda folder: (shutil.rmtree(folder), folder.write_text("a file")),
    "torn weights of the first release": lambda folder: (
        (folder / "SHA256SUMS").unlink(),
        tear(folder / "tensors.safetensors"),
    ),
    "torn facts of the first release": lambda folder: ((folder / "SHA256SUMS").unlink(), tear(folder / "state.json")),
    "of another run": lambda folder: of_another_run(folder),
}


def of_another_run(folder: Path) -> None:
    (folder / "SHA256SUMS").unlink()
    facts = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps(facts | {"fingerprint": "another"}))


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_state_is_set_aside_and_the_one_before_it_used(damage, tmp_path, engine):
    files, out = run_folder(tmp_path), tmp_path / "out"
    assert engine(*train_arguments(files, out, *STEPS))[0] == 0
    whole = published(out)
    damage(out / "state" / "step-00000004")
    code, events = engine(*train_arguments(files, out, *STEPS))
    assert code == 0
    said = "another model, data or configuration" if damage is DAMAGE["of another run"] else "is damaged"
    assert said in warnings(events) and "The run goes on from step-00000003." in warnings(events)
    assert [event["step"] for event in events_of(events, "step")] == [4]
    assert (out / "state" / "damaged-step-00000004").exists()
    assert same(published(out), whole)


def test_with_no_whole_state_the_run_starts_from_the_beginning(tmp_path, engine):
    files, out = run_folder(tmp_path), tmp_path / "out"
    engine(*train_arguments(files, out, *STEPS))
    whole = published(out)
    for folder in state.states(out):
        flip(folder / "tensors.safetensors")
    code, events = engine(*train_arguments(files, out, *STEPS))
    assert code == 0 and "the run starts from the beginning" in warnings(events)
    assert [event["step"] for event in events_of(events, "step")] == [1, 2, 3, 4]
    assert same(published(out), whole)


@pytest.mark.parametrize("settings", [["lora_r=4"], ["publish=best", "metric_for_best_model=eval_kl"]])
def test_a_state_of_the_first_release_is_resumed(settings, tmp_path, engine):
    files, out = run_folder(tmp_path), tmp_path / "out"
    arguments = train_arguments(files, out, *STEPS, "eval_steps=1", *settings, evaluate=True)
    engine(*arguments)
    whole = published(out)
    # That release kept one state, without sums, and called the best weights by another name.
    for folder in state.states(out):
        (folder / "SHA256SUMS").unlink()
    shutil.rmtree(out / "state" / "step-00000004")
    for best in (out / "state").glob("best-*.safetensors"):
        save_file(load_file(best), out / "state" / "best.safetensors", metadata={"step": "0"})
        best.unlink()
    code, events = engine(*arguments)
    assert code == 0 and warnings(events) == ""
    assert [event["step"] for event in events_of(events, "step")] == [4]
    assert same(published(out), whole)


def test_two_states_are_kept_each_with_the_sums_of_its_files(tmp_path, engine):
    files, out = run_folder(tmp_path), tmp_path / "out"
    engine(*train_arguments(files, out, *STEPS))
    assert [path.name for path in state.states(out)] == ["step-00000003", "step-00000004"]
    for folder in state.states(out):
        sums = dict(reversed(line.split("  ")) for line in (folder / "SHA256SUMS").read_text().splitlines())
        assert sums == {name: state.file_sha256(folder / name) for name in ("tensors.safetensors", "state.json")}


def test_on_a_full_disk_the_older_of_two_states_makes_room(tmp_path, engine, monkeypatch):
    files, out, real = run_folder(tmp_path), tmp_path / "out", state.save_file

    def has_room_for_two(tensors, path):
        if len(state.states(out)) >= 2:
            Path(path).write_bytes(b"half of it")
            raise OSError(errno.ENOSPC, "No space left on device")
        real(tensors, path)

    monkeypatch.setattr(state, "save_file", has_room_for_two)
    code, events = engine(*train_arguments(files, out, *STEPS))
    assert code == 0 and "step-00000001 makes room for a new one" in warnings(events)
    assert [path.name for path in state.states(out)] == ["step-00000003", "step-00000004"]


def test_a_result_that_is_replaced_only_in_part_is_not_offered(tmp_path, engine, monkeypatch):
    files, out = run_folder(tmp_path), tmp_path / "out"
    engine(*train_arguments(files, out, "max_steps=1"))
    assert (out / "prefloop.json").exists()

    def dies(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(finish.publish.__globals__["os"], "replace", dies)
    with pytest.raises(KeyboardInterrupt):
        engine(*train_arguments(files, out, "max_steps=1"))
    assert not (out / "prefloop.json").exists()
