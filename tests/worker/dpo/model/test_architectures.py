"""Every architecture that the engine shares prompts in agrees with its own plain, unshared forward, in float64."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tests.worker.dpo.pairs_for_tests import begin_alike, one_by_one, random_pairs
from worker.dpo.ground.config import from_mapping
from worker.dpo.model import layers
from worker.dpo.model.agreement import choose_scorer
from worker.dpo.model.loading import prepare_policy, remove_dropout

SMALL = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
SHARED = {
    "llama": {},
    "llama3-rope": {
        "model_type": "llama",
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 10000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    },
    "qwen2": {},
    "qwen3": {},
    "mistral": {"sliding_window": 5},
    "gemma2": {
        "sliding_window": 5,
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 3.0,
        "query_pre_attn_scalar": 8,
    },
    "gemma3_text": {"sliding_window": 5, "query_pre_attn_scalar": 8},
    "phi3": {},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128},
    "gpt_neox": {"rotary_pct": 0.5},
    "cohere": {"logit_scale": 0.25},
    "granite": {
        "logits_scaling": 3.0,
        "attention_multiplier": 0.2,
        "residual_multiplier": 0.5,
        "embedding_multiplier": 2.0,
    },
    "olmo2": {},
    "starcoder2": {"sliding_window": 5},
}
# What of each architecture runs in its fused form: all that is of a kind that has one. `last` is the last layer's end.
LLAMA_LIKE = {"linear", "norm", "mlp", "last"}
FUSED = {
    **dict.fromkeys(["llama", "llama3-rope", "qwen2", "qwen3", "mistral", "granite", "olmo2"], LLAMA_LIKE),
    **{key: {"linear", "norm", "last"} for key in ["gemma2", "gemma3_text", "phi3"]},
    "cohere": {"linear", "mlp", "last"},
    **{key: {"linear", "last"} for key in ["gpt_neox", "starcoder2"]},
    "gpt2": {"last"},
}
PLAIN = {
    "mamba": {"state_size": 4, "conv_kernel": 3, "expand": 2, "time_step_rank": 4},
    "phi3-longrope": {
        "model_type": "phi3",
        "original_max_position_embeddings": 16,
        "rope_parameters": {
            "rope_type": "longrope",
            "rope_theta": 10000.0,
            "short_factor": [1.0] * 4,
            "long_factor": [2.0] * 4,
            "original_max_position_embeddings": 16,
        },
    },
    "lfm2": {"layer_types": ["conv", "full_attention"], "conv_L_cache": 3},
}


def tiny_model(name: str, overrides: dict) -> torch.nn.Module:
    settings = SMALL | overrides
    config = AutoConfig.for_model(settings.pop("model_type", name), **settings)
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_config(config).double().eval()
    remove_dropout(model)
    # Norms start at one and biases at zero: move them, or a wrong use of them would not show.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def with_lora(model: torch.nn.Module) -> torch.nn.Module:
    policy = prepare_policy(model, from_mapping({"lora_r": 2, "lora_alpha": 4, "dtype": "float64"}))
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.1 * torch.randn_like(parameter))
    return policy.double()


def logps_and_gradients(policy: torch.nn.Module, logps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    loss = -torch.nn.functional.logsigmoid(0.1 * (logps[0] - logps[1])).sum()
    weights = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(loss, weights, allow_unused=True)
    return logps.detach(), torch.cat([gradient.flatten() for gradient in gradients if gradient is not None])


@pytest.mark.parametrize("lora", [True, False], ids=["lora", "full"])
@pytest.mark.parametrize("name", [*SHARED, *PLAIN])
def test_log_probabilities_and_gradients_are_those_of_plain_unshared_rows(name, lora):
    overrides = (SHARED | PLAIN)[name]
    model = tiny_model(name, overrides)
    policy = with_lora(model) if lora else model
    pairs = begin_alike(random_pairs(0, vocab=97, lengths=[(9, 4, 6), (1, 3, 1), (12, 1, 7)]))
    expected = logps_and_gradients(policy, one_by_one(policy, pairs))

    said: list[str] = []
    warned: list[str] = []
    config = from_mapping({"dtype": "float64", "lora_r": 2 if lora else 0})
    scorer = choose_scorer(policy, pairs, config, log=said.append, warn=lambda text, layers: warned.append(text))
    actual = logps_and_gradients(policy, scorer(scorer.rows(pairs)))

    assert scorer.shared == (name in SHARED), said
    assert scorer.own_head, said
    assert layers.installed(scorer.causal_lm.base_model) == FUSED.get(name, set()), said
    assert scorer.fused_layers == (name in FUSED)
    assert warned == []
    # Not closer: transformers computes most norms and all rotary angles in float32, whatever the model's type.
    torch.testing.assert_close(actual[0], expected[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(actual[1], expected[1], rtol=1e-4, atol=1e-6 * expected[1].abs().max().item())


@pytest.mark.parametrize("name", PLAIN)
def test_a_model_that_cannot_share_says_why(name):
    said: list[str] = []
    model = tiny_model(name, PLAIN[name])
    choose_scorer(model, random_pairs(2, vocab=97), from_mapping({"dtype": "float64", "lora_r": 0}), log=said.append)
    assert "can't be used: " in said[0]
    assert said[-1].startswith("Plain rows")
