"""Attention over shared rows on a CPU: the textbook's, whatever the lengths, the window, the groups and the type."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.dpo import cpu_attention
from worker.dpo.attention import shared_prefix_attention
from worker.dpo.rows import Layout, Segment

HEADS, KV_HEADS, DIM = 4, 2, 8


def textbook(query, key, value, layout, window):
    """softmax(QKᵀ/√d + mask)·V with the whole row's mask, in float64."""
    tokens = query.shape[2]
    pair, part, place = torch.zeros(3, tokens, dtype=torch.long)
    start = 0
    for index, segment in enumerate(layout.segments):
        for kind, (length, first) in enumerate(((segment.prompt, 0), (segment.chosen, segment.prompt), (segment.rejected, segment.prompt))):
            pair[start : start + length], part[start : start + length] = index, kind
            place[start : start + length] = torch.arange(first, first + length)
            start += length
    distance = place[:, None] - place[None, :]
    seen = (pair[:, None] == pair) & (distance >= 0) & ((part[:, None] == part) | (part[None, :] == 0))
    if window is not None:
        seen &= distance < window
    wide = [
        tensor.double() for tensor in (query, key.repeat_interleave(HEADS // KV_HEADS, 1), value.repeat_interleave(HEADS // KV_HEADS, 1))
    ]
    scores = (wide[0] @ wide[1].transpose(2, 3) / DIM**0.5).masked_fill(~seen, -torch.inf)
    return (scores.softmax(-1) @ wide[2]).transpose(1, 2)


def drawn(layout, dtype):
    tokens = sum(part.prompt + part.chosen + part.rejected for part in layout.segments)
    generator = torch.Generator().manual_seed(tokens)
    shapes = [(1, HEADS, tokens, DIM), (1, KV_HEADS, tokens, DIM), (1, KV_HEADS, tokens, DIM)]
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]


def compare(layout, window, dtype, tolerance):
    inputs = drawn(layout, dtype)
    found, _ = shared_prefix_attention(torch.nn.Identity(), *inputs, None, None, window, prefix_layout=layout)
    expected = textbook(*inputs, layout, window)
    assert found.dtype == dtype
    upstream = torch.randn(found.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    gradients = torch.autograd.grad(found, inputs, upstream)
    wanted = torch.autograd.grad(expected, inputs, upstream.double())
    for left, right in zip((found, *gradients), (expected, *wanted), strict=True):
        assert (left.double() - right.double()).norm() <= tolerance * right.double().norm().clamp_min(1e-3)


LENGTHS = st.tuples(st.integers(1, 20), st.integers(0, 9), st.integers(0, 9))


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(LENGTHS, min_size=1, max_size=4), window=st.sampled_from([None, 1, 3, 8]))
def test_any_lengths_and_windows_give_the_textbook_s_outputs_and_gradients(lengths, window):
    compare(Layout(tuple(Segment(*three) for three in lengths)), window, torch.float64, 1e-10)


@pytest.mark.parametrize("prompt", [30, cpu_attention.WIDE_UP_TO + 40], ids=["short", "long"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)], ids=["float32", "bfloat16"])
def test_half_precision_rounds_its_inputs_and_output_and_no_more_than_its_kernel(prompt, dtype, tolerance):
    compare(Layout((Segment(prompt, 20, 30), Segment(5, 1, 1))), None, dtype, tolerance)


def test_without_the_cpu_kernels_the_result_is_the_same(monkeypatch):
    monkeypatch.setattr(cpu_attention, "_AVAILABLE", False)
    for window in (None, 4):
        compare(Layout((Segment(9, 3, 5), Segment(4, 6, 1))), window, torch.float64, 1e-10)


def test_keys_and_values_are_kept_once_and_not_once_a_query_head():
    layout = Layout((Segment(40, 10, 10),))
    inputs = drawn(layout, torch.float32)
    kept = {}
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.setdefault(tensor.data_ptr(), tensor), lambda tensor: tensor):
        shared_prefix_attention(torch.nn.Identity(), *inputs, None, None, None, prefix_layout=layout)
    query = inputs[0].numel()
    # Query and output, key and value with half as many heads, and a sum for each query.
    assert sum(tensor.numel() for tensor in kept.values()) == 2 * query + 2 * (query // 2) + query // DIM
