"""The GPU's attention, run on a CPU by PyTorch's uncompiled FlexAttention: its mask is that of the row's sequences."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import flex_attention as torch_flex

from tests.worker.dpo.model.test_attention import compare, row
from worker.dpo.model import cpu_attention, flex_attention
from worker.dpo.model.attention import shared_prefix_attention
from worker.dpo.rows.masks import Layout, Strand

LENGTHS = st.tuples(st.integers(1, 200), st.integers(0, 90), st.integers(0, 90))


def seen(layout, window):
    """(queries, keys) whether a query sees a key, from the row's sequences."""
    tokens = layout.strands[-1].end
    table = np.zeros((tokens, tokens), bool)
    for strand in layout.strands:
        places = [place for span in strand.whole for place in range(*span)]
        for depth in range(strand.before, len(places)):
            first = 0 if window is None else max(0, depth - window + 1)
            table[places[depth], places[first : depth + 1]] = True
    return table


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(LENGTHS, min_size=1, max_size=4),
    system=st.sampled_from([0, 1, 140]),
    window=st.sampled_from([None, 1, 40, 130]),
    whole=st.booleans(),
)
def test_the_block_mask_is_the_mask_of_the_sequences_in_rows_of_any_length(lengths, system, window, whole):
    layout = row(*lengths, system=system)
    tokens = layout.strands[-1].end
    if whole and tokens % flex_attention.BLOCK:
        padding = Strand((), tokens, tokens + -tokens % flex_attention.BLOCK)
        layout = Layout((*layout.strands, padding))
        tokens = padding.end
    expected = seen(layout, window)
    mask = flex_attention.block_mask(layout, window, torch.device("cpu"))
    index = torch.arange(tokens)
    inside = mask.mask_mod(torch.tensor(0), torch.tensor(0), index[:, None], index[None])
    assert np.array_equal(inside.numpy(), expected)
    check_blocks(mask, expected)


def check_blocks(mask, expected):
    """Every pair is in a block that is looked at, blocks said to be whole are, and both tables say the same by key as by query."""
    block = flex_attention.BLOCK
    blocks = -(-len(expected) // block)
    by_query = tables(mask.kv_num_blocks, mask.kv_indices), tables(mask.full_kv_num_blocks, mask.full_kv_indices)
    by_key = tables(mask.q_num_blocks, mask.q_indices), tables(mask.full_q_num_blocks, mask.full_q_indices)
    for left, right in zip(by_query, by_key, strict=True):
        assert np.array_equal(left, right.T)
    partial, full = by_query
    assert not (partial & full).any()
    for query in range(blocks):
        for key in range(blocks):
            part = expected[query * block : (query + 1) * block, key * block : (key + 1) * block]
            assert partial[query, key] or full[query, key] or not part.any()
            assert not full[query, key] or (part.all() and part.shape == (block, block))


def tables(counts, indices):
    marked = np.zeros(indices.shape[-2:], bool)
    for line, count in enumerate(counts[0, 0].tolist()):
        marked[line, indices[0, 0, line, :count].tolist()] = True
    return marked


def test_a_long_prompt_s_blocks_are_seen_whole_by_its_answers_and_not_looked_at_between_strangers():
    layout = row((1024, 256, 256), (1024, 256, 256))
    mask = flex_attention.block_mask(layout, None, torch.device("cpu"))
    full = tables(mask.full_kv_num_blocks, mask.full_kv_indices)
    partial = tables(mask.kv_num_blocks, mask.kv_indices)
    # 12 blocks a pair: 8 of the prompt, 2 and 2 of the answers.
    assert full[8:10, :8].all() and full[10:12, :8].all()
    assert not (full | partial)[12:, :12].any()
    assert not (full | partial)[10:12, 8:10].any()
    assert partial.sum() == 24


@pytest.fixture
def on_a_gpu(monkeypatch):
    """Rows go the GPU's way, by FlexAttention's own reference, which PyTorch keeps from gradients on CPUs."""
    monkeypatch.setattr(torch_flex, "_validate_device", lambda *tensors: None)
    monkeypatch.setattr(flex_attention, "_kernel", torch_flex.flex_attention)
    monkeypatch.setattr(flex_attention, "serves", lambda query: True)
    monkeypatch.setattr(cpu_attention, "serves", lambda query: False)


@pytest.mark.parametrize("window", [None, 60, 150])
@pytest.mark.parametrize(
    "lengths", [[(3, 2, 1)], [(300, 40, 50), (20, 130, 10)], [(128, 128, 128)]], ids=["short", "two", "even"]
)
def test_outputs_and_gradients_are_the_textbook_s(lengths, window, on_a_gpu):
    compare(row(*lengths, system=20), window, torch.float32, 1e-5)


def test_softcapping_is_that_of_the_strands(on_a_gpu, monkeypatch):
    layout = row((150, 40, 50), (20, 30, 10), system=20)
    tokens = layout.strands[-1].end
    torch.manual_seed(0)
    inputs = [torch.randn(1, heads, tokens, 8, requires_grad=True) for heads in (4, 2, 2)]
    results = []
    for flex in (True, False):
        monkeypatch.setattr(flex_attention, "serves", lambda query, flex=flex: flex)
        output, _ = shared_prefix_attention(
            torch.nn.Identity(), *inputs, None, None, None, softcap=2.0, prefix_layout=layout
        )
        results.append((output, *torch.autograd.grad(output.square().sum(), inputs)))
    for left, right in zip(*results, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)


def test_the_mask_is_made_once_for_all_layers():
    layout = row((30, 4, 5))
    device = torch.device("cpu")
    assert flex_attention.block_mask(layout, None, device) is flex_attention.block_mask(layout, None, device)
    assert flex_attention.block_mask(layout, 3, device) is not flex_attention.block_mask(layout, None, device)
