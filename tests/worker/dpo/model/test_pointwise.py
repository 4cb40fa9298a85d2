"""What GPUs compute by compiled functions, run uncompiled on a CPU: the numbers of the layers and the head as CPUs compute them."""

import pytest
import torch

from tests.worker.dpo.pairs_for_tests import begin_alike, random_pairs
from tests.worker.dpo.tiny import tiny_llama
from worker.dpo.ground.config import from_mapping
from worker.dpo.model import layers, pointwise
from worker.dpo.model.head import LogitShape, sequence_logps
from worker.dpo.model.loading import prepare_policy
from worker.dpo.model.scorer import PairScorer

COMPILED = [name for name, value in vars(pointwise).items() if hasattr(value, "__wrapped__")]


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """`as_on_a_gpu(True)`: layers and head compute as on a GPU; False: as here."""
    for name in COMPILED:
        monkeypatch.setattr(pointwise, name, getattr(pointwise, name).__wrapped__)

    def switch(wanted):
        monkeypatch.setattr(pointwise, "serves", lambda x: wanted)

    return switch


@pytest.mark.parametrize(("lora_r", "dtype"), [(4, torch.float32), (0, torch.float32), (4, torch.bfloat16)])
def test_a_gpu_s_layers_and_head_give_the_log_probabilities_and_gradients_of_a_cpu_s(lora_r, dtype, as_on_a_gpu):
    policy = prepare_policy(tiny_llama(seed=2, dtype=dtype), from_mapping({"lora_r": lora_r}))
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in policy.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    layers.install(policy)
    scorer, pairs = PairScorer(policy, shared=True, chunk_bytes=50_000), begin_alike(random_pairs(5))
    weights = [weight for weight in policy.parameters() if weight.requires_grad]
    results = []
    for gpu in (False, True):
        as_on_a_gpu(gpu)
        logps = scorer(scorer.rows(pairs))
        gradients = torch.autograd.grad((logps[0] - logps[1]).sum(), weights)
        with torch.no_grad():
            alone = scorer(scorer.rows(pairs))
        torch.testing.assert_close(alone, logps.detach(), rtol=2e-2, atol=1e-4)
        results.append((logps.detach().double(), torch.cat([gradient.flatten() for gradient in gradients]).double()))
    for one, other in zip(*results, strict=True):
        assert (one - other).norm() < (1e-5 if dtype == torch.float32 else 4e-2) * one.norm()


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("shape", [LogitShape(), LogitShape(0.5, 3.0)], ids=["plain", "softcapped"])
def test_a_gpu_s_blocks_of_logits_give_the_log_softmax_whatever_their_size(trained, shape, as_on_a_gpu):
    as_on_a_gpu(True)
    torch.manual_seed(0)
    hidden, target = torch.randn(9, 8, requires_grad=True), torch.randint(0, 50, (9,))
    head = torch.nn.Linear(8, 50)
    head.requires_grad_(trained)
    owner = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2])
    inputs = [hidden, *(head.parameters() if trained else ())]
    expected = torch.log_softmax(shape.apply(head(hidden)), -1).gather(1, target[:, None])[:, 0]
    expected = torch.zeros(3).index_add(0, owner, expected)
    upstream = torch.tensor([1.0, -2.0, 0.5])
    wanted = torch.autograd.grad(expected, inputs, upstream)
    for columns in (1, 7, 50, 64):
        logps = sequence_logps(hidden, head, target, owner, sequences=3, shape=shape, chunk_bytes=columns * 9 * 2 * 4)
        gradients = torch.autograd.grad(logps, inputs, upstream)
        for left, right in zip((logps, *gradients), (expected, *wanted), strict=True):
            torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)


def test_nothing_is_compiled_where_there_is_no_gpu():
    assert COMPILED
    assert not pointwise.serves(torch.randn(2))
