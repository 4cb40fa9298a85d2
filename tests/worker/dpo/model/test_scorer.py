"""The scorer gives every pair the numbers that it has alone, in both layouts, for any lengths."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.worker.dpo.pairs_for_tests import begin_alike, one_by_one, random_pairs
from tests.worker.dpo.tiny import tiny_llama
from worker.dpo.data.pairs import TokenPair
from worker.dpo.ground import matmul
from worker.dpo.ground.config import from_mapping
from worker.dpo.ground.matmul import product
from worker.dpo.model import fused, layers
from worker.dpo.model.agreement import choose_scorer
from worker.dpo.model.loading import prepare_policy
from worker.dpo.model.scorer import PairScorer
from worker.dpo.rows.masks import Layout, Strand
from worker.dpo.rows.rows import shared_rows

MODEL = tiny_llama(dtype=torch.float64).eval().requires_grad_(False)
IDS = st.lists(st.integers(4, 250), min_size=1, max_size=14).map(tuple)
# So that many prompts have one in common, or one is the beginning of another.
BEGINNINGS = [(), tuple(range(10, 16)), tuple(range(10, 40))]
COMPLETIONS = st.lists(st.integers(4, 250), min_size=0, max_size=14).map(tuple)


@st.composite
def token_pairs(draw) -> TokenPair:
    chosen, rejected = draw(COMPLETIONS), draw(COMPLETIONS)
    shared = draw(COMPLETIONS) if draw(st.booleans()) else ()
    beginning = draw(st.sampled_from(BEGINNINGS))
    return TokenPair(1, beginning + draw(IDS), shared + chosen, shared + rejected)


@given(pairs=st.lists(token_pairs(), min_size=1, max_size=4), shared=st.booleans())
@settings(max_examples=40, deadline=None)
def test_any_lengths_and_shared_beginnings_score_as_each_sequence_alone(pairs, shared):
    scorer = PairScorer(MODEL, shared=shared, chunk_bytes=50_000)
    logps = scorer(scorer.rows(pairs))
    scorer.use_plain_attention()
    torch.testing.assert_close(logps, one_by_one(MODEL, pairs), rtol=1e-6, atol=1e-6)


@given(cut=st.integers(1, 20))
@settings(max_examples=10, deadline=None)
def test_completions_up_to_the_models_longest_row_score_as_alone(cut):
    longest = MODEL.config.max_position_embeddings
    pairs = random_pairs(0, lengths=[(cut, longest - cut, 1), (longest - 1, 1, 1), (1, 1, longest - 1)])
    scorer = PairScorer(MODEL, shared=True)
    logps = scorer(scorer.rows(pairs))
    scorer.use_plain_attention()
    torch.testing.assert_close(logps, one_by_one(MODEL, pairs), rtol=1e-6, atol=1e-6)


def test_a_pair_scores_the_same_whoever_shares_its_row():
    pairs = begin_alike(random_pairs(6))
    scorer = PairScorer(MODEL, shared=True)
    together = scorer(scorer.rows(pairs))
    alone = torch.cat([scorer(scorer.rows([pair])) for pair in pairs], dim=1)
    torch.testing.assert_close(together, alone, rtol=1e-6, atol=1e-6)


def test_changing_the_chosen_answer_leaves_the_rejected_one_alone():
    pair = TokenPair(1, (5, 6, 7), (8, 9, 10), (11, 12))
    scorer = PairScorer(MODEL, shared=True)
    before = scorer(scorer.rows([pair]))
    after = scorer(scorer.rows([TokenPair(1, (5, 6, 7), (20, 21, 22), (11, 12))]))
    assert before[1, 0].item() == pytest.approx(after[1, 0].item(), abs=1e-9)
    assert before[0, 0].item() != pytest.approx(after[0, 0].item(), abs=1e-3)


@pytest.mark.parametrize("lora_r", [4, 0], ids=["lora", "full"])
def test_fused_layers_give_the_same_gradients_in_float32(lora_r):
    policy = prepare_policy(tiny_llama(seed=2), from_mapping({"lora_r": lora_r}))
    with torch.no_grad():
        for name, weight in policy.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    pairs, results = begin_alike(random_pairs(5)), []
    scorer = PairScorer(policy, shared=True)
    for fast in (False, True):
        if fast:
            layers.install(policy)
        logps = scorer(scorer.rows(pairs))
        gradients = torch.autograd.grad(
            (logps[0] - logps[1]).sum(), [weight for weight in policy.parameters() if weight.requires_grad]
        )
        results.append((logps.detach(), torch.cat([gradient.flatten() for gradient in gradients])))
    torch.testing.assert_close(results[1][0], results[0][0], rtol=1e-5, atol=1e-4)
    assert (results[1][1] - results[0][1]).norm() < 1e-4 * results[0][1].norm()


def test_after_its_attention_the_last_layer_computes_only_what_the_head_reads(monkeypatch):
    policy = prepare_policy(tiny_llama(seed=2), from_mapping({"lora_r": 4}))
    layers.install(policy)
    tokens = {}
    monkeypatch.setattr(
        fused,
        "product",
        lambda x, weight, *bias: tokens.update({weight.data_ptr(): len(x)}) or product(x, weight, *bias),
    )
    scorer, pairs = PairScorer(policy, shared=True), begin_alike(random_pairs(4))
    rows = scorer.rows(pairs)
    computed = {}
    for scorer.recomputes in (False, True):
        computed[scorer.recomputes] = scorer(rows).detach()
        *others, last = scorer.causal_lm.model.layers
        read = rows.tokens if scorer.recomputes else len(set(rows.source.tolist()))
        assert {tokens[layer.mlp.down_proj.base_layer.weight.data_ptr()] for layer in others} == {rows.tokens}
        assert (
            tokens[last.mlp.down_proj.base_layer.weight.data_ptr()]
            == tokens[last.self_attn.o_proj.base_layer.weight.data_ptr()]
            == read
        )
        assert tokens[last.self_attn.v_proj.base_layer.weight.data_ptr()] == rows.tokens
    torch.testing.assert_close(computed[False], computed[True], rtol=1e-6, atol=1e-5)


def test_answers_without_a_token_score_nothing_in_fused_layers_too():
    policy = prepare_policy(tiny_llama(), from_mapping({"lora_r": 4}))
    layers.install(policy)
    scorer = PairScorer(policy, shared=True)
    logps = scorer(scorer.rows([TokenPair(1, (5, 6), (), ())]))
    logps.sum().backward()
    assert logps.tolist() == [[0.0], [0.0]]


def test_removing_the_fused_layers_restores_the_model():
    policy = prepare_policy(tiny_llama(), from_mapping({"lora_r": 4}))
    layers.install(policy)
    assert any("forward" in module.__dict__ for module in policy.modules())
    layers.remove(policy)
    assert not any("forward" in module.__dict__ for module in policy.modules())


@pytest.mark.parametrize("onednn", [False, True] if hasattr(torch.ops.mkldnn, "_linear_pointwise") else [False])
@pytest.mark.parametrize("strided", [False, True])
def test_the_cpu_product_is_exact_to_float32(strided, onednn, monkeypatch):
    monkeypatch.setattr(matmul, "_ONEDNN", onednn)
    torch.manual_seed(0)
    x, weight = torch.randn(37, 24), torch.randn(24, 53).t() if strided else torch.randn(53, 24)
    bias = torch.randn(53)
    torch.testing.assert_close(
        product(x, weight, bias), (x.double() @ weight.double().t() + bias).float(), rtol=1e-5, atol=1e-5
    )


def let_rejected_see_chosen(pairs):
    rows = shared_rows(pairs)
    strands = tuple(
        Strand(((0, strand.begin),) if strand.seen else (), strand.begin, strand.end) for strand in rows.layout.strands
    )
    return replace(rows, layout=Layout(strands))


def shift_positions(pairs):
    rows = shared_rows(pairs)
    return replace(rows, position_ids=torch.arange(rows.tokens)[None])


def shift_sources(pairs):
    rows = shared_rows(pairs)
    return replace(rows, source=rows.source + 1)


@pytest.mark.parametrize("mistake", [let_rejected_see_chosen, shift_positions, shift_sources])
def test_the_check_at_the_start_catches_a_wrong_mask_position_or_shift(mistake, monkeypatch):
    monkeypatch.setattr("worker.dpo.model.scorer.shared_rows", mistake)
    said: list[str] = []
    policy = prepare_policy(tiny_llama(), from_mapping({"lora_r": 4}))
    scorer = choose_scorer(policy, random_pairs(4), from_mapping({"lora_r": 4}), log=said.append)
    assert not scorer.shared
    assert "would differ from plain rows" in said[0]


def test_the_check_leaves_gradients_and_random_state_as_they_were():
    policy = prepare_policy(tiny_llama(), from_mapping({"lora_r": 4, "lora_dropout": 0.5}))
    state = torch.get_rng_state()
    scorer = choose_scorer(
        policy, random_pairs(4), from_mapping({"lora_r": 4, "lora_dropout": 0.5}), log=lambda text: None
    )
    assert scorer.shared
    assert torch.equal(torch.get_rng_state(), state)
    assert all(weight.grad is None for weight in policy.parameters())
