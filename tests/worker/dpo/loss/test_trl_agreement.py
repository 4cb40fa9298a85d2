"""The same pairs through TRL's DPOTrainer: same losses, rewards and log-probabilities, step by step, in float32."""

import gzip
import json

import pytest
import torch
import trl
from datasets import Dataset
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.worker.dpo.pairs_for_tests import events_of, run_folder, train_arguments
from tests.worker.dpo.tiny import write_pairs
from worker.dpo.ground.config import from_mapping
from worker.dpo.model.loading import prepare_policy

STEPS = 6
KEYS = (
    "loss",
    "rewards/chosen",
    "rewards/rejected",
    "rewards/margins",
    "rewards/accuracies",
    "logps/chosen",
    "logps/rejected",
    "grad_norm",
)


def trl_steps(files, out, *, adapter=None, **settings) -> list[dict]:
    """What TRL logs at each step, with batches of the whole data set, so that no order is involved."""
    model = AutoModelForCausalLM.from_pretrained(files["model"], dtype=torch.float32)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter, is_trainable=True)
    rows = [json.loads(line) for line in files["data"].read_text().splitlines()]
    arguments = trl.DPOConfig(
        output_dir=str(out), per_device_train_batch_size=len(rows), max_steps=STEPS, learning_rate=1e-3, lr_scheduler_type="constant",
        warmup_steps=0, logging_steps=1, save_strategy="no", report_to=[], use_cpu=True, bf16=False, gradient_checkpointing=False,
        max_length=None, beta=0.1, optim="adamw_torch", max_grad_norm=1.0, **settings,
    )  # fmt: skip
    trainer = trl.DPOTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(files["model"]),
    )
    trainer.train()
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def our_steps(engine, files, out, *settings) -> list[dict]:
    common = ["batch_size=8", f"num_train_epochs={STEPS}", "lr_scheduler_type=constant", "warmup_ratio=0", *settings]
    code, events = engine(*train_arguments(files, out, *common))
    assert code == 0
    return events_of(events, "step")


def assert_agree(ours: list[dict], theirs: list[dict]) -> None:
    assert len(ours) == len(theirs) == STEPS
    for mine, other in zip(ours, theirs, strict=True):
        for key in KEYS:
            assert mine[key] == pytest.approx(other[key], rel=1e-4, abs=1e-4), (key, mine, other)


@pytest.mark.parametrize(
    "settings", [{}, {"loss_type": "ipo"}, {"loss_type": "hinge"}, {"loss_type": "apo_zero"}], ids=str
)
def test_full_fine_tuning_follows_trl_step_by_step(settings, tmp_path, engine):
    files = run_folder(tmp_path, pairs=8)
    theirs = trl_steps(files, tmp_path / "trl", **settings)
    ours = our_steps(
        engine, files, tmp_path / "ours", "lora_r=0", *(f"{name}={value}" for name, value in settings.items())
    )
    assert_agree(ours, theirs)


def test_lora_training_follows_trl_step_by_step(tmp_path, engine):
    files = run_folder(tmp_path, pairs=8)
    base = AutoModelForCausalLM.from_pretrained(files["model"])
    policy = prepare_policy(base, from_mapping({"lora_r": 4}))
    policy.save_pretrained(tmp_path / "adapter")
    theirs = trl_steps(files, tmp_path / "trl", adapter=str(tmp_path / "adapter"))
    ours = our_steps(engine, files, tmp_path / "ours", f"adapter={tmp_path / 'adapter'}")
    assert_agree(ours, theirs)
    assert ours[0]["loss"] == pytest.approx(0.6931472, abs=1e-6)


def test_real_transcripts_train_as_trl_trains_their_messages(tmp_path, engine, hh_file):
    with gzip.open(hh_file, "rt", encoding="utf-8") as stream:
        raw = [json.loads(line) for line in stream]
    ours, theirs = [], []
    for row in raw:
        chosen, rejected = _messages(row["chosen"]), _messages(row["rejected"])
        answers = {chosen[-1]["content"], rejected[-1]["content"]}
        if (
            chosen[:-1] == rejected[:-1]
            and len(answers - {""}) == 2
            and max(len(row["chosen"].encode()), len(row["rejected"].encode())) < 300
        ):
            ours.append(row)
            theirs.append({"prompt": chosen[:-1], "chosen": chosen[-1:], "rejected": rejected[-1:]})
    files = run_folder(tmp_path, pairs=8)
    write_pairs(files["data"], theirs[:8])
    expected = trl_steps(files, tmp_path / "trl")
    write_pairs(files["data"], ours[:8])
    assert_agree(our_steps(engine, files, tmp_path / "ours", "lora_r=0"), expected)


def _messages(transcript: str) -> list[dict]:
    turns = transcript.strip().split("\n\nAssistant:")
    messages = [{"role": "user", "content": turns[0].removeprefix("Human:").strip()}]
    for turn in turns[1:]:
        answer, _, question = turn.partition("\n\nHuman:")
        messages.append({"role": "assistant", "content": answer.strip()})
        if question:
            messages.append({"role": "user", "content": question.strip()})
    return messages
