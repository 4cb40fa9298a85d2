"""Bugs 10 to 23 that other trainers shipped: each would fail here.

1 to 9 and 24 are in `test_known_bugs_data.py`, 16 is in `test_distributed.py`.
"""

import math

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from tests.worker.dpo.pairs_for_tests import events_of, one_by_one, random_pairs, run_folder, train_arguments
from tests.worker.dpo.tiny import tiny_llama
from worker.dpo.data.pairs import TokenPair
from worker.dpo.ground.config import from_mapping
from worker.dpo.model.agreement import choose_scorer
from worker.dpo.model.head import LogitShape, sequence_logps
from worker.dpo.model.loading import adapter_is_new, as_reference, load_adapter, load_base, prepare_policy
from worker.dpo.model.scorer import PairScorer
from worker.dpo.rows.plan import make_plan
from worker.dpo.rows.rows import plain_rows, shared_rows

LORA = from_mapping({"lora_r": 4})


def scorer_of(model, **options):
    return PairScorer(model.eval().requires_grad_(False), **options)


def moved_policy(seed: int = 0):
    """A LoRA policy that differs from its base."""
    policy = prepare_policy(tiny_llama(seed=seed), LORA)
    with torch.no_grad():
        for name, weight in policy.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.2, generator=torch.Generator().manual_seed(seed))
    return policy


@pytest.mark.parametrize("shared", [True, False])
def test_bug_10_neither_prompt_nor_padding_is_in_the_sum(shared):
    pairs = random_pairs(0, lengths=[(2, 3, 9), (17, 1, 2)])
    rows = shared_rows(pairs) if shared else plain_rows(pairs, pad_id=0)
    assert sorted(rows.target.tolist()) == sorted(
        token for pair in pairs for token in (*pair.chosen_ids, *pair.rejected_ids)
    )
    scorer = scorer_of(tiny_llama(dtype=torch.float64), shared=shared)
    logps = scorer(scorer.rows(pairs))
    scorer.use_plain_attention()
    torch.testing.assert_close(logps, one_by_one(scorer.causal_lm, pairs), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("pad", [0, 3, 77])
def test_bug_10_the_pad_token_does_not_matter_even_when_it_is_a_real_token(pad):
    pairs = [TokenPair(1, (5, 6), (77, 8, 77), (9,)), TokenPair(2, (5,), (10,), (11, 12, 13, 77))]
    model = tiny_llama(dtype=torch.float64)
    model.config.pad_token_id = pad
    scorer = scorer_of(model, shared=False)
    torch.testing.assert_close(scorer(scorer.rows(pairs)), one_by_one(model, pairs), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shared", [True, False])
def test_bug_11_each_token_is_predicted_by_the_state_before_it(shared):
    model = tiny_llama(vocab_size=12)
    scorer = scorer_of(model, shared=shared)
    pair = TokenPair(1, (3, 4), (5, 6), (7,))
    rows = scorer.rows([pair])
    ids = rows.input_ids.flatten()
    # The state of token t predicts token t+1 of its own sequence.
    assert [(ids[source].item(), target) for source, target in zip(rows.source, rows.target.tolist(), strict=True)] == [
        (4, 5), (5, 6), (4, 7),
    ]  # fmt: skip
    hidden = nn.functional.one_hot(ids[rows.source], 12).float()
    follows = nn.Linear(12, 12, bias=False).requires_grad_(False)
    follows.weight.copy_(50.0 * torch.roll(torch.eye(12), 1, 0))
    follows.weight[7, 4] = 50.0
    logps = sequence_logps(
        hidden, follows, rows.target, rows.owner, sequences=2, shape=LogitShape(), chunk_bytes=1 << 20
    )
    assert logps.tolist() == pytest.approx([math.log(0.5), math.log(0.5)], abs=1e-6)


def test_bug_12_a_short_line_beside_a_long_one_keeps_its_positions():
    short, long = random_pairs(0, lengths=[(2, 2, 2), (30, 10, 10)])
    scorer = scorer_of(tiny_llama(dtype=torch.float64), shared=False)
    alone, beside = scorer(scorer.rows([short]))[:, 0], scorer(scorer.rows([short, long]))[:, 0]
    torch.testing.assert_close(alone, beside, rtol=1e-7, atol=1e-7)


def test_bug_13_packed_and_padded_rows_agree():
    pairs = random_pairs(8)
    model = tiny_llama(dtype=torch.float64)
    packed, padded = scorer_of(model, shared=True), scorer_of(model, shared=False)
    torch.testing.assert_close(packed(packed.rows(pairs)), padded(padded.rows(pairs)), rtol=1e-6, atol=1e-6)


def test_bug_14_the_reference_of_an_existing_adapter_is_the_model_with_it(tmp_path):
    first = moved_policy()
    first.save_pretrained(tmp_path / "adapter")
    config = LORA.model_copy(update={"adapter": str(tmp_path / "adapter")})
    policy = load_adapter(tiny_llama(), config.adapter, trainable=True)
    assert not adapter_is_new(policy, config)
    pairs = random_pairs(3)
    scorer = PairScorer(policy, shared=True)
    with as_reference(policy, adapter_off=adapter_is_new(policy, config)):
        logps = scorer(scorer.rows(pairs))
    expected = PairScorer(first, shared=True)
    torch.testing.assert_close(logps, expected(expected.rows(pairs)).detach(), rtol=1e-5, atol=1e-4)


def test_bug_15_an_adapter_on_the_head_is_not_bypassed():
    policy = prepare_policy(
        tiny_llama(tie_word_embeddings=False), from_mapping({"lora_r": 4, "lora_target_modules": ["lm_head"]})
    )
    with torch.no_grad():
        for name, weight in policy.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.5)
    pairs = random_pairs(3)
    scorer = choose_scorer(policy, pairs, LORA, log=lambda text: None)
    logps = scorer(scorer.rows(pairs))
    scorer.use_plain_attention()
    torch.testing.assert_close(logps.double(), one_by_one(policy, pairs).double(), rtol=1e-4, atol=1e-3)
    logps.sum().backward()
    assert all(
        weight.grad is not None and weight.grad.abs().sum() > 0
        for weight in policy.parameters()
        if weight.requires_grad
    )


def test_bug_17_precomputing_the_reference_does_not_shift_dropout_or_order(tmp_path, engine):
    files = run_folder(tmp_path)
    runs = []
    for _ in range(2):  # the first run computes the reference, the second reads it
        out = tmp_path / f"out-{len(runs)}"
        _, events = engine(
            *train_arguments(files, out, "max_steps=4", "lora_dropout=0.4", "sample_prompts=1", "sample_tokens=2")
        )
        runs.append([event["loss"] for event in events_of(events, "step")])
    assert runs[0] == runs[1]


def test_bug_17_autocast_reaches_the_forward():
    policy = moved_policy()
    pairs = random_pairs(3)
    scorer = PairScorer(policy, shared=True, autocast=torch.bfloat16)
    dtypes = []
    policy.get_base_model().model.layers[0].mlp.up_proj.register_forward_hook(
        lambda module, inputs, output: dtypes.append(output.dtype)
    )
    assert scorer(scorer.rows(pairs)).dtype == torch.float32
    assert dtypes == [torch.bfloat16]


def test_bug_18_evaluation_after_training_is_against_the_starting_policy(tmp_path, engine):
    files = run_folder(tmp_path)
    _, events = engine(*train_arguments(files, tmp_path / "out", "num_train_epochs=2", evaluate=True))
    last = events_of(events, "eval")[-1]
    _, records = engine("score", "--model", files["model"], "--adapter", tmp_path / "out", "--data", files["eval"])
    expected = sum(record["reward_chosen"] for record in records) / len(records)
    assert last["eval_rewards/chosen"] == pytest.approx(expected, rel=1e-4)
    assert abs(expected) > 0.1


def test_bug_18_full_fine_tuning_is_evaluated_against_the_starting_weights(tmp_path, engine):
    files = run_folder(tmp_path)
    _, events = engine(*train_arguments(files, tmp_path / "out", "lora_r=0", "max_steps=6", evaluate=True))
    last = events_of(events, "eval")[-1]
    _, records = engine("score", "--model", files["model"], "--policy", tmp_path / "out", "--data", files["eval"])
    expected = sum(record["reward_chosen"] for record in records) / len(records)
    assert last["eval_rewards/chosen"] == pytest.approx(expected, rel=1e-3)
    assert abs(expected) > 0.1


def test_bug_19_changed_weights_read_no_stale_reference(tmp_path, engine):
    files = run_folder(tmp_path)
    engine(*train_arguments(files, tmp_path / "a", "max_steps=1"))
    model = AutoModelForCausalLM.from_pretrained(files["model"])
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] += 0.5
    model.save_pretrained(files["model"])
    _, events = engine(*train_arguments(files, tmp_path / "b", "max_steps=1"))
    assert [event["cached"] for event in events_of(events, "state") if "cached" in event] == [0]
    assert events_of(events, "step")[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)


@pytest.mark.parametrize("settings", [["token_budget=1"], ["token_budget=150"]])
def test_bug_20_the_gradient_does_not_depend_on_how_a_batch_is_cut(settings, tmp_path, engine):
    files = run_folder(tmp_path, pairs=14)  # the last batch of the epoch is smaller than the others
    norms = []
    for name, extra in (("whole", []), ("cut", settings)):
        _, events = engine(*train_arguments(files, tmp_path / name, "num_train_epochs=1", *extra))
        norms.append([event["grad_norm"] for event in events_of(events, "step")])
    assert norms[1] == pytest.approx(norms[0], rel=1e-3)
    assert len(norms[0]) == 4


def test_bug_21_every_epoch_has_its_own_order():
    plan = make_plan(40, batch_size=4, seed=0, epochs=3)
    orders = {tuple(tuple(plan.batch(step)) for step in range(epoch * 10, epoch * 10 + 10)) for epoch in range(3)}
    assert len(orders) == 3


@pytest.mark.parametrize(
    "settings", [[], ["lora_r=0"], ["dtype=bfloat16"], ["lora_dropout=0.5"], ["share_prefix=off"], ["token_budget=1"]]
)
def test_bug_22_the_loss_of_step_0_is_log_2(settings, tmp_path, engine):
    _, events = engine(
        *train_arguments(run_folder(tmp_path), tmp_path / "out", "max_steps=1", *settings, evaluate=True)
    )
    assert events_of(events, "eval")[0]["eval_loss"] == pytest.approx(math.log(2), abs=2e-6)
    if "lora_dropout=0.5" not in settings:
        assert events_of(events, "step")[0]["loss"] == pytest.approx(math.log(2), abs=2e-6)


def test_bug_23_the_reference_pass_has_no_dropout():
    policy = prepare_policy(tiny_llama(), LORA.model_copy(update={"lora_dropout": 0.9})).train()
    with torch.no_grad():
        for name, weight in policy.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.5)
    scorer = PairScorer(policy, shared=True)
    pairs = random_pairs(3)
    with as_reference(policy, adapter_off=False):
        first, second = scorer(scorer.rows(pairs)), scorer(scorer.rows(pairs))
    assert torch.equal(first, second)
    assert policy.training
    assert not torch.equal(scorer(scorer.rows(pairs)), scorer(scorer.rows(pairs)))


def test_bug_23_the_base_models_own_dropout_is_off_in_training_too(tmp_path):
    model = tiny_llama(attention_dropout=0.5)
    model.save_pretrained(tmp_path)
    loaded = load_base(str(tmp_path), dtype="float32").train()
    pairs = random_pairs(3)
    for shared in (True, False):
        scorer = PairScorer(loaded, shared=shared)
        assert torch.equal(scorer(scorer.rows(pairs)), scorer(scorer.rows(pairs)))
    loaded.save_pretrained(tmp_path / "again")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "again").config.attention_dropout == 0.5
