"""Attention over shared rows on a CPU: the textbook's, whatever the lengths, the window, the groups and the type."""

from itertools import islice

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.dpo.data.pairs import TokenPair
from worker.dpo.model import cpu_attention
from worker.dpo.model.attention import shared_prefix_attention
from worker.dpo.rows.rows import shared_rows

HEADS, KV_HEADS, DIM = 4, 2, 8


def textbook(query, key, value, layout, window):
    """softmax(QKᵀ/√d + mask)·V with the whole row's mask, in float64."""
    tokens = query.shape[2]
    seen = torch.zeros(tokens, tokens, dtype=torch.bool)
    for strand in layout.strands:
        places = [place for span in strand.whole for place in range(*span)]
        for depth in range(strand.before, len(places)):
            first = 0 if window is None else max(0, depth - window + 1)
            seen[places[depth], places[first : depth + 1]] = True
    wide = [
        tensor.double()
        for tensor in (
            query,
            key.repeat_interleave(HEADS // KV_HEADS, 1),
            value.repeat_interleave(HEADS // KV_HEADS, 1),
        )
    ]
    scores = (wide[0] @ wide[1].transpose(2, 3) / DIM**0.5).masked_fill(~seen, -torch.inf)
    return (scores.softmax(-1) @ wide[2]).transpose(1, 2)


def row(*lengths, system=0):
    """The layout of pairs with prompt, chosen and rejected of these lengths after a beginning of `system` tokens."""
    ids = iter(range(10_000))

    def fresh(length):
        return tuple(islice(ids, length))

    beginning = fresh(system)
    return shared_rows(
        [TokenPair(1, beginning + fresh(prompt), fresh(chosen), fresh(other)) for prompt, chosen, other in lengths]
    ).layout


def drawn(layout, dtype):
    tokens = layout.strands[-1].end
    generator = torch.Generator().manual_seed(tokens)
    shapes = [(1, HEADS, tokens, DIM), (1, KV_HEADS, tokens, DIM), (1, KV_HEADS, tokens, DIM)]
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]


def compare(layout, window, dtype, tolerance):
    inputs = drawn(layout, dtype)
    output, _ = shared_prefix_attention(torch.nn.Identity(), *inputs, None, None, window, prefix_layout=layout)
    expected = textbook(*inputs, layout, window)
    assert output.dtype == dtype
    upstream = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    gradients = torch.autograd.grad(output, inputs, upstream)
    wanted = torch.autograd.grad(expected, inputs, upstream.double())
    for left, right in zip((output, *gradients), (expected, *wanted), strict=True):
        assert (left.double() - right.double()).norm() <= tolerance * right.double().norm().clamp_min(1e-3)


LENGTHS = st.tuples(st.integers(1, 20), st.integers(0, 9), st.integers(0, 9))


@settings(max_examples=120, deadline=None)
@given(
    lengths=st.lists(LENGTHS, min_size=1, max_size=4),
    system=st.sampled_from([0, 1, 12]),
    window=st.sampled_from([None, 1, 3, 8]),
    path=st.sampled_from(["products", "kernel", "any device's"]),
)
def test_any_lengths_and_windows_give_the_textbook_s_outputs_and_gradients(lengths, system, window, path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu_attention, "SHORT", 0 if path == "kernel" else cpu_attention.SHORT)
        patch.setattr(cpu_attention, "BLOCK", 4)
        patch.setattr(cpu_attention, "_AVAILABLE", path != "any device's" and cpu_attention._AVAILABLE)
        compare(row(*lengths, system=system), window, torch.float64, 1e-10)


@pytest.mark.parametrize("prompt", [30, cpu_attention.SHORT + 40], ids=["short", "long"])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)], ids=["float32", "bfloat16"]
)
def test_half_precision_rounds_its_inputs_and_output_and_no_more_than_its_kernel(prompt, dtype, tolerance):
    compare(row((prompt, 20, 30), (5, 1, 1), (5, 20, 9), system=12), None, dtype, tolerance)


@pytest.mark.parametrize("short", [True, False])
def test_keys_and_values_are_kept_once_and_not_once_a_query_head(short, monkeypatch):
    monkeypatch.setattr(cpu_attention, "SHORT", cpu_attention.SHORT if short else 0)
    layout = row((40, 10, 10))
    inputs = drawn(layout, torch.float32)
    kept = {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.setdefault(tensor.data_ptr(), tensor), lambda tensor: tensor
    ):
        shared_prefix_attention(torch.nn.Identity(), *inputs, None, None, None, prefix_layout=layout)
    query = inputs[0].numel()
    # Query and output, key and value with half as many heads, and, by the kernel, a sum for each query.
    sums = 0 if short else query // DIM
    assert sum(tensor.numel() for tensor in kept.values()) == 2 * query + 2 * (query // 2) + sums
