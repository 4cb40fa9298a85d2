"""The head: same numbers and gradients as all logits at once, whatever the chunk, the softcap or who trains it."""

import pytest
import torch
from torch import nn

from worker.dpo.model.head import LogitShape, logit_shape, sequence_logps

TOKENS, WIDTH, VOCAB, SEQUENCES = 13, 8, 31, 4


def inputs(seed: int = 0):
    torch.manual_seed(seed)
    hidden = torch.randn(TOKENS, WIDTH, dtype=torch.float64, requires_grad=True)
    head = nn.Linear(WIDTH, VOCAB, bias=True).double()
    return hidden, head, torch.randint(VOCAB, (TOKENS,)), torch.randint(SEQUENCES, (TOKENS,))


def all_at_once(hidden, head, target, owner, shape):
    logits = shape.apply(head(hidden))
    tokens = torch.log_softmax(logits, -1).gather(1, target[:, None]).squeeze(1)
    return torch.zeros(SEQUENCES, dtype=torch.float64).index_add(0, owner, tokens)


@pytest.mark.parametrize("chunk_bytes", [1, 3 * 3 * VOCAB * 8, 1 << 20], ids=["one token", "three tokens", "all"])
@pytest.mark.parametrize("shape", [LogitShape(), LogitShape(0.5), LogitShape(1.0, 4.0), LogitShape(0.5, 4.0)])
@pytest.mark.parametrize("trained", [False, True])
def test_log_probabilities_and_gradients_do_not_depend_on_chunks(trained, shape, chunk_bytes):
    hidden, head, target, owner = inputs()
    head.requires_grad_(trained)
    weights = [hidden, *(head.parameters() if trained else [])]
    scale = torch.arange(1.0, SEQUENCES + 1, dtype=torch.float64)
    expected = all_at_once(hidden, head, target, owner, shape)
    logps = sequence_logps(hidden, head, target, owner, sequences=SEQUENCES, shape=shape, chunk_bytes=chunk_bytes)
    torch.testing.assert_close(logps, expected, rtol=1e-12, atol=1e-12)
    for left, right in zip(
        torch.autograd.grad((logps * scale).sum(), weights),
        torch.autograd.grad((expected * scale).sum(), weights),
        strict=True,
    ):
        torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-12)


def test_a_sequence_without_tokens_has_log_probability_zero():
    hidden, head, target, _ = inputs()
    owner = torch.zeros(TOKENS, dtype=torch.long)
    logps = sequence_logps(hidden, head, target, owner, sequences=3, shape=LogitShape(), chunk_bytes=1 << 20)
    assert logps[1:].tolist() == [0.0, 0.0]


def test_no_completion_tokens_at_all_still_gives_a_gradient_of_zero():
    _, head, _, _ = inputs()
    hidden = torch.zeros(0, WIDTH, requires_grad=True)
    empty = torch.zeros(0, dtype=torch.long)
    logps = sequence_logps(hidden, head, empty, empty, sequences=2, shape=LogitShape(), chunk_bytes=1 << 20)
    logps.sum().backward()
    assert logps.tolist() == [0.0, 0.0]


def test_a_token_of_vanishing_probability_keeps_a_finite_log_probability():
    head = nn.Linear(1, 2, bias=False).requires_grad_(False)
    head.weight.copy_(torch.tensor([[0.0], [500.0]]))
    hidden = torch.ones(1, 1, requires_grad=True)
    zero = torch.zeros(1, dtype=torch.long)
    logps = sequence_logps(hidden, head, zero, zero, sequences=1, shape=LogitShape(), chunk_bytes=1 << 20)
    assert logps.item() == pytest.approx(-500.0)


def test_a_half_precision_head_normalises_and_sums_in_float32():
    hidden, head, target, owner = inputs()
    hidden, head = hidden.detach().bfloat16(), head.bfloat16().requires_grad_(False)
    summed = sequence_logps(
        hidden, head, target, owner, sequences=SEQUENCES, shape=LogitShape(), chunk_bytes=3 * 3 * VOCAB * 8
    )
    # The logits are bfloat16's, and nothing after them is: a softmax in bfloat16 would be off by parts in a hundred.
    expected = torch.log_softmax(head(hidden).double(), -1).gather(1, target[:, None]).squeeze(1)
    expected = torch.zeros(SEQUENCES, dtype=torch.float64).index_add(0, owner, expected)
    assert summed.dtype == torch.float32
    torch.testing.assert_close(summed.double(), expected, rtol=1e-5, atol=1e-5)


def test_the_frozen_head_keeps_no_logits_for_the_backward():
    hidden, head, target, owner = inputs()
    head.requires_grad_(False)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.append(tensor.shape) or tensor, lambda tensor: tensor
    ):
        sequence_logps(hidden, head, target, owner, sequences=SEQUENCES, shape=LogitShape(), chunk_bytes=1 << 20)
    assert (TOKENS, WIDTH) in kept
    assert all(VOCAB not in shape for shape in kept)


def test_configurations_name_their_logit_shape():
    class Config:
        logit_scale = 0.25
        logits_scaling = 2.0
        final_logit_softcapping = 30.0

    assert logit_shape(Config()) == LogitShape(0.125, 30.0)
    assert logit_shape(object()) == LogitShape()
