"""The whole way from a file to the adapter's gradient, against the installed DPOTrainer, for every loss that it has."""

from pathlib import Path

import pytest
import torch
from datasets import load_dataset as load_rows
from peft import LoraConfig
from transformers import AutoTokenizer
from trl import DPOConfig, DPOTrainer

from tests.worker.dpo.loss.test_losses import IN_TRL_DPO
from tests.worker.dpo.losses_for_tests import configure
from tests.worker.dpo.tiny import save_tiny, tiny_llama, toy_pairs, write_pairs
from worker.dpo.data.reading import load_dataset
from worker.dpo.ground.config import from_mapping
from worker.dpo.loss.pair_losses import losses_of
from worker.dpo.model import loading
from worker.dpo.model.agreement import choose_scorer


class Sides:
    """One model with a trained-looking adapter and six pairs, in TRL's trainer and in ours."""

    def __init__(self, folder: Path) -> None:
        model = save_tiny(folder / "model")
        data = write_pairs(folder / "pairs.jsonl", toy_pairs(6))
        self.trainer = DPOTrainer(
            model=str(model),
            args=DPOConfig(
                output_dir=str(folder / "trl"),
                per_device_train_batch_size=6,
                bf16=False,
                gradient_checkpointing=False,
                report_to="none",
                use_cpu=True,
                max_length=None,
            ),
            train_dataset=load_rows("json", data_files=str(data), split="train"),
            peft_config=LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"),
        )
        torch.manual_seed(3)
        for name, weight in self.trainer.model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.3)
        self.trainer.model.save_pretrained(folder / "adapter")
        prepared = [self.trainer.train_dataset[index] for index in range(6)]
        self.batch = self.trainer.data_collator(prepared)

        self.pairs = load_dataset(data, AutoTokenizer.from_pretrained(model), max_length=None).pairs
        self.policy = loading.load_adapter(tiny_llama(), str(folder / "adapter"), trainable=True)
        self.scorer = choose_scorer(self.policy, self.pairs, from_mapping({}), log=lambda text: None)
        with loading.as_reference(self.policy, adapter_off=True):
            self.reference = self.scorer(self.scorer.rows(self.pairs))

    def trl(self, name: str, options: dict) -> tuple[float, dict[str, float], dict[str, torch.Tensor]]:
        trainer = self.trainer
        trainer.loss_types, trainer.loss_weights = [name], [1.0]
        trainer.beta, trainer.label_smoothing = options.get("beta", 0.1), options.get("label_smoothing", 0.0)
        trainer.model.train()
        trainer.model.zero_grad()
        trainer._metrics["train"].clear()
        loss = trainer.compute_loss(trainer.model, dict(self.batch))
        loss.backward()
        metrics = {key: values[-1] for key, values in trainer._metrics["train"].items()}
        return loss.item(), metrics, gradients(trainer.model)

    def ours(self, name: str, options: dict):
        self.policy.zero_grad()
        logps = self.scorer(self.scorer.rows(self.pairs))
        losses = losses_of(configure(name, **options), self.pairs, logps, self.reference, soft_labels=True)
        loss = losses.loss.sum() / len(self.pairs)
        loss.backward()
        return loss.item(), losses, logps.detach(), gradients(self.policy)


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {
        name: weight.grad.clone()
        for name, weight in model.named_parameters()
        if weight.grad is not None and "lora" in name
    }


@pytest.fixture(scope="module")
def sides(tmp_path_factory):
    return Sides(tmp_path_factory.mktemp("sides"))


@pytest.mark.parametrize(("name", "options"), IN_TRL_DPO)
def test_loss_rewards_and_adapter_gradient_agree_with_trl(sides, name, options):
    loss, metrics, theirs = sides.trl(name, options)
    found_loss, losses, logps, ours = sides.ours(name, options)
    assert sides.scorer.shared, "the comparison is of prefix-shared rows with TRL's padded ones"
    assert found_loss == pytest.approx(loss, rel=1e-4)
    assert losses.rewards_chosen.mean().item() == pytest.approx(metrics["rewards/chosen"], rel=1e-4)
    assert losses.rewards_rejected.mean().item() == pytest.approx(metrics["rewards/rejected"], rel=1e-4)
    assert logps[0].mean().item() == pytest.approx(metrics["logps/chosen"], rel=1e-4)
    assert logps[1].mean().item() == pytest.approx(metrics["logps/rejected"], rel=1e-4)
    assert set(ours) == set(theirs) and len(ours) > 10
    whole = torch.cat([grad.flatten() for grad in theirs.values()]).norm()
    assert whole > 0
    for key, grad in theirs.items():
        assert (ours[key] - grad).norm() <= 1e-4 * max(grad.norm(), 0.01 * whole), key


def test_a_pair_less_sure_moves_the_adapter_less(sides):
    sure = sides.ours("sigmoid", {})[3]
    sides.policy.zero_grad()
    logps = sides.scorer(sides.scorer.rows(sides.pairs))
    split = [
        type(pair)(pair.line, pair.prompt_ids, pair.chosen_ids, pair.rejected_ids, 1.0, 0.75) for pair in sides.pairs
    ]
    losses_of(configure("sigmoid"), split, logps, sides.reference, soft_labels=True).loss.mean().backward()
    assert norm(gradients(sides.policy)) < norm(sure)


def norm(grads: dict[str, torch.Tensor]) -> float:
    return torch.cat([grad.flatten() for grad in grads.values()]).norm().item()
