"""Compiled layers, traced on a CPU and run as traced: the numbers of the others, in one graph for rows of any length."""

import pytest
import torch
from torch._dynamo.utils import counters
from torch.nn.attention import flex_attention as torch_flex

from tests.worker.dpo.pairs_for_tests import begin_alike, random_pairs
from tests.worker.dpo.tiny import tiny_llama
from worker.dpo.ground.config import from_mapping
from worker.dpo.model import compiled, flex_attention
from worker.dpo.model.agreement import choose_scorer
from worker.dpo.model.loading import as_reference, prepare_policy
from worker.dpo.model.scorer import PairScorer
from worker.dpo.rows.rows import Rows, shared_rows


@pytest.fixture
def traced(monkeypatch):
    """Layers are traced as for a GPU and run as they were traced; FlexAttention is PyTorch's own reference of it."""
    monkeypatch.setattr(torch_flex, "_validate_device", lambda *tensors: None)
    monkeypatch.setattr(flex_attention, "_kernel", torch_flex.flex_attention)
    monkeypatch.setattr(compiled, "BACKEND", "eager")
    monkeypatch.setattr(PairScorer, "rows", lambda self, pairs: shared_rows(pairs).padded(128, least=3).to("cpu"))
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def tiny_policy(dtype=torch.float32, **settings):
    policy = prepare_policy(tiny_llama(seed=2, dtype=dtype), from_mapping({"lora_r": 4} | settings))
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in policy.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    return policy


def scored(scorer, rows: Rows):
    weights = [weight for weight in scorer.parameters() if weight.requires_grad]
    logps = scorer(rows)
    gradients = torch.autograd.grad((logps[0] - 0.5 * logps[1]).sum(), weights)
    return logps.detach().double(), torch.cat([gradient.flatten().double() for gradient in gradients])


@pytest.mark.parametrize("lora_r", [4, 0])
@pytest.mark.parametrize("kind", ["compiled", "partly compiled"])
def test_compiled_layers_give_the_log_probabilities_and_gradients_of_the_model_s_own(kind, lora_r, traced):
    scorer = PairScorer(tiny_policy(lora_r=lora_r), shared=True)
    rows = shared_rows(begin_alike(random_pairs(5))).padded(128, least=3).to("cpu")
    expected = scored(scorer, rows)
    scorer.use_layers(kind)
    assert scorer.compiled_layers
    for one, other in zip(scored(scorer, rows), expected, strict=True):
        assert (one - other).norm() < 1e-5 * other.norm()
    scorer.use_layers("")
    assert not scorer.compiled_layers
    assert not [name for name, module in scorer.named_modules() if {"forward", "shadow"} & set(module.__dict__)]


def test_one_graph_serves_all_layers_and_rows_of_all_lengths(traced):
    scorer = PairScorer(tiny_policy(dtype=torch.bfloat16), shared=True)
    scorer.use_layers("compiled")
    lengths = set()
    for count in (5, 17, 30):
        rows = shared_rows(random_pairs(count)).padded(128, least=3).to("cpu")
        lengths.add(rows.tokens)
        scored(scorer, rows)
    assert len(lengths) == 3
    assert counters["stats"]["unique_graphs"] == 1


def test_the_adapter_s_matrices_are_cast_together_and_get_their_gradients_in_their_own_type(traced):
    scorer = PairScorer(tiny_policy(dtype=torch.bfloat16, lora_alpha=12), shared=True)
    matrices = [weight for weight in scorer.parameters() if weight.requires_grad]
    assert {weight.dtype for weight in matrices} == {torch.float32}
    rows = shared_rows(random_pairs(4)).padded(128, least=3).to("cpu")
    expected = scored(scorer, rows)
    scorer.use_layers("compiled")
    for one, other in zip(scored(scorer, rows), expected, strict=True):
        assert (one - other).norm() < 5e-2 * other.norm()
    scorer(rows).sum().backward()
    assert {weight.grad.dtype for weight in matrices} == {torch.float32}
    assert not [module for module in scorer.modules() if "shadow" in module.__dict__]


def test_activations_that_are_computed_again_give_the_same_gradients(traced):
    scorer = PairScorer(tiny_policy(dtype=torch.bfloat16), shared=True)
    rows = shared_rows(random_pairs(4)).padded(128, least=3).to("cpu")
    scorer.use_layers("compiled")
    scorer.train()
    expected = scored(scorer, rows)
    scorer.recomputes = True
    scorer.causal_lm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    for one, other in zip(scored(scorer, rows), expected, strict=True):
        assert torch.equal(one, other)


def test_the_reference_is_scored_without_the_adapter(traced):
    scorer = PairScorer(tiny_policy(), shared=True)
    rows = shared_rows(random_pairs(3)).padded(128, least=3).to("cpu")
    with torch.no_grad(), scorer.model.disable_adapter():
        expected = scorer(rows)
        scorer.use_layers("compiled")
        torch.testing.assert_close(scorer(rows), expected, rtol=1e-5, atol=1e-4)
    assert not torch.allclose(scorer(rows), expected, rtol=1e-3)


def test_a_layer_that_can_not_be_compiled_is_a_warning_and_the_others_are_used(traced, monkeypatch):
    def refuses(graph, inputs):
        raise RuntimeError("no such card " + "x" * 5000)

    monkeypatch.setattr(compiled, "BACKEND", refuses)
    said, warned = [], []
    scorer = choose_scorer(
        tiny_policy(),
        random_pairs(2),
        from_mapping({"lora_r": 4}),
        compile_layers=True,
        log=said.append,
        warn=lambda text, layers: warned.append((text, layers)),
    )
    assert [layers for _, layers in warned] == ["compiled", "compiled"]
    assert all("no such card" in text and len(text) < 600 for text, _ in warned)
    assert scorer.fused_layers
    assert not scorer.compiled_layers
    assert said == ["Prefix-shared rows with fused layers: checked against the model's own forward."]


def test_compiled_layers_are_checked_against_the_model_s_own_forward(traced):
    said: list[str] = []
    scorer = choose_scorer(
        tiny_policy(), random_pairs(2), from_mapping({"lora_r": 4}), compile_layers=True, log=said.append
    )
    assert said == ["Prefix-shared rows with compiled layers: checked against the model's own forward."]
    assert scorer.compiled_layers


@pytest.mark.parametrize("form", ["reference", "evaluation", "dropout"])
def test_a_form_of_a_layer_that_can_not_be_compiled_costs_its_speed_not_the_run(form, traced, monkeypatch):
    """What the check's first forward doesn't call is compiled before the run relies on it, too."""
    policy = tiny_policy(lora_dropout=0.5 if form == "dropout" else 0.0)
    really = compiled._Compiled._forward

    def refuses(layer):
        lora = layer.lora
        wanted = {
            "reference": lora._disable_adapters and not torch.is_grad_enabled(),
            "evaluation": not lora._disable_adapters and not torch.is_grad_enabled(),
            "dropout": layer.layer.training,
        }
        if wanted[form]:
            raise RuntimeError("no such kernel")
        return really(layer)

    monkeypatch.setattr(compiled._Compiled, "_forward", refuses)
    warned = []
    before = torch.get_rng_state()
    scorer = choose_scorer(
        policy,
        random_pairs(2),
        from_mapping({"lora_r": 4}),
        compile_layers=True,
        scores={True, False},
        log=lambda text: None,
        warn=lambda text, layers: warned.append((text, layers)),
    )
    assert [layers for _, layers in warned] == ["compiled", "compiled"]
    assert all("no such kernel" in text for text, _ in warned)
    assert not scorer.compiled_layers
    assert torch.equal(torch.get_rng_state(), before)
    pairs = random_pairs(3)
    with as_reference(scorer.model, adapter_off=True):
        assert scorer(scorer.rows(pairs)).isfinite().all()


def test_layers_of_one_kind_share_one_compile_and_others_have_their_own(traced):
    scorer = PairScorer(tiny_policy(), shared=True)
    scorer.use_layers("compiled")
    forwards = [layer.forward for layer in compiled.decoder_layers(scorer.causal_lm)]
    assert len(forwards) > 1
    assert {forward.kind for forward in forwards} == {0}
    rows = shared_rows(random_pairs(3)).padded(128, least=3).to("cpu")
    scored(scorer, rows)
    assert len(forwards[0].functions) == 1
    assert forwards[0].functions is forwards[-1].functions
    # Another epsilon is another computation: what it was compiled for would be wrong for it.
    scorer.use_layers("")
    compiled.decoder_layers(scorer.causal_lm)[-1].input_layernorm.variance_epsilon *= 100
    expected = scored(scorer, rows)
    scorer.use_layers("compiled")
    forwards = [layer.forward for layer in compiled.decoder_layers(scorer.causal_lm)]
    assert forwards[-1].kind != forwards[0].kind
    for one, other in zip(scored(scorer, rows), expected, strict=True):
        assert (one - other).norm() < 1e-5 * other.norm()
