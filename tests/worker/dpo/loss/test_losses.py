"""Every loss against TRL's own code where TRL has it, else against the paper's equation written out again here."""

import math
from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import logsigmoid
from trl import DPOTrainer
from trl.experimental.cpo import CPOTrainer
from trl.experimental.orpo import ORPOTrainer

from tests.worker.dpo.losses_for_tests import configure
from worker.dpo.ground.losses import LOSSES, OPTION_NAMES, TERMS
from worker.dpo.ground.values import ConfigError
from worker.dpo.loss.pair_losses import PairLosses, RewardMean, pair_losses
from worker.dpo.loss.registry import LOSS_TYPES, LossConfig

IN_TRL_DPO = [
    ("sigmoid", {"beta": 0.1}),
    ("sigmoid", {"beta": 0.7}),
    ("hinge", {"beta": 0.3}),
    ("ipo", {"beta": 0.1}),
    ("sigmoid_norm", {"beta": 2.0}),
    ("robust", {"beta": 0.1, "label_smoothing": 0.2}),
    ("exo_pair", {"beta": 0.2, "label_smoothing": 1e-3}),
    ("nca_pair", {"beta": 0.1}),
    ("bco_pair", {"beta": 0.1}),
    ("sppo_hard", {"beta": 0.05}),
    ("apo_zero", {"beta": 0.1}),
    ("apo_down", {"beta": 0.1}),
]


class Batch:
    """Token log-probabilities of six pairs of uneven lengths, as leaves that gradients reach."""

    def __init__(self, seed: int = 0, prompt: int = 3, longest: int = 9, pairs: int = 6) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.prompt, self.pairs = prompt, pairs
        self.lengths = torch.randint(1, longest + 1, (2 * pairs,), generator=generator)
        width = prompt + longest
        position = torch.arange(width)
        self.mask = ((position >= prompt) & (position < prompt + self.lengths[:, None])).long()
        shifted = self.mask[:, 1:]
        self.tokens = (-3 * torch.rand(2 * pairs, width - 1, generator=generator) * shifted).requires_grad_()
        self.ref_tokens = -3 * torch.rand(2 * pairs, width - 1, generator=generator) * shifted

    def ours(self, config: LossConfig, **overrides) -> PairLosses:
        chosen, rejected = self.tokens.sum(1).chunk(2)
        ref_chosen, ref_rejected = self.ref_tokens.sum(1).chunk(2)
        len_chosen, len_rejected = self.lengths.chunk(2)
        given = {
            "logps_chosen": chosen,
            "logps_rejected": rejected,
            "ref_logps_chosen": ref_chosen,
            "ref_logps_rejected": ref_rejected,
            "len_chosen": len_chosen,
            "len_rejected": len_rejected,
        }
        return pair_losses(config, **(given | overrides))

    def trl(self, loss_types, loss_weights=(1.0,), **options):
        """Loss and metrics from the installed DPOTrainer's own loss code, fed with these log-probabilities."""
        same = SimpleNamespace(device=torch.device("cpu"), gather=lambda t: t, gather_for_metrics=lambda t: t)
        metrics = defaultdict(list)
        trainer = SimpleNamespace(
            model=SimpleNamespace(training=True),
            accelerator=same,
            aux_loss_enabled=False,
            ld_alpha=None,
            precompute_ref_logps=True,
            f_divergence_type="reverse_kl",
            loss_types=list(loss_types),
            loss_weights=list(loss_weights),
            beta=options.get("beta", 0.1),
            label_smoothing=options.get("label_smoothing", 0.0),
            use_weighting=False,
            _metrics={"train": metrics},
            _total_train_tokens=0,
            _tp_size=1,
        )
        ref_chosen, ref_rejected = self.ref_tokens.sum(1).chunk(2)
        inputs = {
            "input_ids": torch.zeros_like(self.mask),
            "attention_mask": torch.ones_like(self.mask),
            "completion_mask": self.mask,
            "ref_chosen_logps": ref_chosen,
            "ref_rejected_logps": ref_rejected,
        }
        blank = torch.zeros_like(self.tokens)
        outputs = SimpleNamespace(log_probs=self.tokens, entropy=blank, mean_logits=blank, is_top1=blank.bool())
        return DPOTrainer._compute_loss(trainer, lambda **_: outputs, inputs, False), metrics

    def gradient(self, loss: torch.Tensor) -> torch.Tensor:
        self.tokens.grad = None
        loss.backward()
        # Prompt and padding positions are not part of any completion.
        return self.tokens.grad * self.mask[:, 1:]


def agree(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("name", "options"), IN_TRL_DPO)
def test_loss_rewards_and_gradient_agree_with_trl(name, options, seed):
    batch = Batch(seed)
    theirs, metrics = batch.trl([name], **options)
    ours = batch.ours(configure(name, **options))
    agree(ours.loss.mean(), theirs)
    assert ours.rewards_chosen.mean().item() == pytest.approx(metrics["rewards/chosen"][0], rel=1e-4)
    assert ours.rewards_rejected.mean().item() == pytest.approx(metrics["rewards/rejected"][0], rel=1e-4)
    accuracy = (ours.rewards_chosen > ours.rewards_rejected).float().mean().item()
    assert accuracy == pytest.approx(metrics["rewards/accuracies"][0])
    agree(batch.gradient(ours.loss.mean()), batch.gradient(theirs))


def test_every_loss_that_trl_has_and_we_have_is_compared():
    # `sft` and the reference-free ones have tests of their own below.
    assert {name for name, _ in IN_TRL_DPO} == set(LOSS_TYPES) - {
        "ipo_sum", "bco_pair_shifted", "simpo", "orpo", "sft"
    }  # fmt: skip


def test_weighted_sum_of_losses_agrees_with_trl():
    batch = Batch(2)
    theirs, _ = batch.trl(["sigmoid", "bco_pair"], [0.8, 0.2], beta=0.1)
    config = configure([["sigmoid", 0.8], ["bco_pair", 0.2]])
    ours = batch.ours(config)
    agree(ours.loss.mean(), theirs)
    assert set(ours.components) == {"sigmoid", "bco_pair"}
    agree(
        batch.gradient(batch.ours(config).loss.mean()),
        batch.gradient(batch.trl(["sigmoid", "bco_pair"], [0.8, 0.2])[0]),
    )


def test_sft_term_agrees_with_trl_where_pairs_do_not_share_a_micro_batch():
    batches = [Batch(seed, pairs=1) for seed in range(4)]
    config = configure("sigmoid", sft_weight=0.3)
    for batch in batches:
        theirs, _ = batch.trl(["sigmoid", "sft"], [1.0, 0.3])
        ours = batch.ours(config).loss.mean()
        agree(ours, theirs)
        agree(batch.gradient(ours), batch.gradient(theirs))
        assert torch.equal(batch.ours(configure([("sigmoid", 1.0), ("sft", 0.3)])).loss.mean(), ours)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_simpo_agrees_with_trl(smoothing):
    batch = Batch(3)
    config = configure("simpo", beta=2.0, gamma=0.8, label_smoothing=smoothing)
    trainer = SimpleNamespace(
        alpha=0.0, beta=2.0, simpo_gamma=0.8, loss_type="simpo", label_smoothing=smoothing,
        accelerator=SimpleNamespace(device=torch.device("cpu")),
    )  # fmt: skip
    means = batch.tokens.sum(1) / batch.lengths
    theirs, chosen, rejected = CPOTrainer.cpo_loss(trainer, *means.chunk(2))
    ours = batch.ours(config, ref_logps_chosen=None, ref_logps_rejected=None)
    agree(ours.loss, theirs)
    agree(ours.rewards_chosen, chosen)
    agree(ours.rewards_rejected, rejected)
    agree(batch.gradient(ours.loss.mean()), batch.gradient(theirs.mean()))


def test_orpo_agrees_with_trl_in_its_odds_ratio_term():
    batch = Batch(4)
    trainer = SimpleNamespace(beta=0.25, accelerator=SimpleNamespace(device=torch.device("cpu")))
    means = batch.tokens.sum(1) / batch.lengths
    ratio_loss, chosen, rejected, *_ = ORPOTrainer.odds_ratio_loss(trainer, *means.chunk(2))
    theirs = -means.chunk(2)[0] - ratio_loss
    ours = batch.ours(configure("orpo", beta=0.25), ref_logps_chosen=None, ref_logps_rejected=None)
    agree(ours.loss, theirs)
    agree(ours.rewards_chosen, chosen)
    agree(ours.rewards_rejected, rejected)
    agree(batch.gradient(ours.loss.mean()), batch.gradient(theirs.mean()))


def test_orpo_stays_finite_where_the_model_is_certain():
    batch = Batch(4)
    batch.tokens = torch.zeros_like(batch.tokens).requires_grad_()
    ours = batch.ours(configure("orpo"), ref_logps_chosen=None, ref_logps_rejected=None)
    assert torch.isfinite(ours.loss).all()
    assert torch.isfinite(batch.gradient(ours.loss.sum())).all()


def ratios(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    return (batch.tokens - batch.ref_tokens).sum(1).chunk(2)


def test_conservative_dpo_is_the_note_s_equation():
    batch = Batch(5)
    r_w, r_l = ratios(batch)
    delta = 0.1 * (r_w - r_l)
    expected = -(1 - 0.2) * torch.log(1 / (1 + torch.exp(-delta))) - 0.2 * torch.log(1 / (1 + torch.exp(delta)))
    ours = batch.ours(configure("sigmoid", beta=0.1, label_smoothing=0.2)).loss
    agree(ours, expected)
    agree(batch.gradient(ours.mean()), batch.gradient(expected.mean()))


def test_ipo_sum_is_equation_17():
    batch = Batch(6)
    r_w, r_l = ratios(batch)
    tau = 0.05
    # Eq. 17: (h(y_w, y_l) - 1/(2τ))², h the difference of log-ratios.
    agree(batch.ours(configure("ipo_sum", beta=tau)).loss, torch.square((r_w - r_l) - 1 / (2 * tau)))


def test_bco_shift_is_the_paper_s_and_its_mean_covers_all_rewards():
    batch = Batch(7)
    config = configure("bco_pair_shifted", beta=0.3)
    state = RewardMean()
    first = batch.ours(config, reward_mean=state.mean)
    agree(first.loss, batch.ours(configure("bco_pair", beta=0.3)).loss)
    state.update(torch.stack([first.rewards_chosen, first.rewards_rejected]))
    other = Batch(8)
    seen = other.ours(config, reward_mean=state.mean)
    state.update(torch.stack([seen.rewards_chosen, seen.rewards_rejected]))
    rewards = torch.cat([0.3 * side for b in (batch, other) for side in ratios(b)]).detach()
    assert state.mean == pytest.approx(rewards.mean().item(), rel=1e-5)
    r_w, r_l = ratios(batch)
    expected = -torch.log(torch.sigmoid(0.3 * r_w - state.mean)) - torch.log(1 - torch.sigmoid(0.3 * r_l - state.mean))
    agree(batch.ours(config, reward_mean=state.mean).loss, expected)


def test_reward_mean_goes_on_where_it_was_saved():
    whole, first = RewardMean(), RewardMean()
    values = torch.randn(3, 8, generator=torch.Generator().manual_seed(1))
    for row in values:
        whole.update(row)
    first.update(values[0])
    resumed = RewardMean()
    resumed.load_state_dict(first.state_dict())
    for row in values[1:]:
        resumed.update(row)
    resumed.update(torch.empty(0))
    assert resumed == whole
    assert resumed.mean == pytest.approx(values.mean().item(), rel=1e-5)


def test_soft_labels_weigh_both_readings_of_the_pair():
    batch = Batch(9)
    p = torch.tensor([1.0, 0.9, 2 / 3, 0.5, 0.6, 1.0])
    r_w, r_l = ratios(batch)
    delta = 0.1 * (r_w - r_l)
    ours = batch.ours(configure("sigmoid"), p_chosen=p)
    expected = -p * logsigmoid(delta) - (1 - p) * logsigmoid(-delta)
    agree(ours.loss, expected)
    agree(batch.gradient(ours.loss.mean()), batch.gradient(expected.mean()))


@pytest.mark.parametrize("name", sorted(set(LOSS_TYPES) - {"sft"}))
def test_an_even_split_does_not_care_which_answer_is_called_chosen(name):
    batch = Batch(10)
    config, half = configure(name), torch.full((6,), 0.5)
    straight = batch.ours(config, p_chosen=half).loss
    c, r = batch.tokens.sum(1).chunk(2)
    rc, rr = batch.ref_tokens.sum(1).chunk(2)
    lc, lr = batch.lengths.chunk(2)
    swapped = batch.ours(
        config, p_chosen=half, logps_chosen=r, logps_rejected=c, ref_logps_chosen=rr, ref_logps_rejected=rc,
        len_chosen=lr, len_rejected=lc,
    ).loss  # fmt: skip
    agree(straight, swapped)


@pytest.mark.parametrize("name", sorted(set(LOSS_TYPES) - {"sft"}))
def test_certain_labels_and_weights_of_one_change_nothing_and_weights_scale(name):
    batch = Batch(11)
    plain = batch.ours(configure(name)).loss
    ones = torch.ones(6)
    agree(batch.ours(configure(name), p_chosen=ones, weight=ones).loss, plain)
    weights = torch.tensor([0.0, 0.5, 1.0, 2.0, 3.0, 0.25])
    agree(batch.ours(configure(name), weight=weights).loss, plain * weights)


def test_sppo_soft_label_pulls_as_the_paper_s_probability_does():
    # Eq. 4.7 has η(P - ½) as the target; the expectation differs from it only by a constant.
    batch, p, beta = Batch(12), torch.full((6,), 0.8), 0.05
    r_w, r_l = ratios(batch)
    paper = (r_w - (p - 0.5) / beta) ** 2 + (r_l + (p - 0.5) / beta) ** 2
    ours = batch.ours(configure("sppo_hard", beta=beta), p_chosen=p).loss
    agree(batch.gradient(ours.mean()), batch.gradient(paper.mean()))


def test_exo_target_is_the_evaluators_distribution():
    batch, p, eps = Batch(13), torch.tensor([1.0, 0.9, 0.7, 0.5, 0.6, 0.8]), 1e-3
    r_w, r_l = ratios(batch)
    policy = torch.softmax(0.1 * torch.stack([r_w, r_l]), dim=0)
    human = torch.stack([p * (1 - eps) + (1 - p) * eps, p * eps + (1 - p) * (1 - eps)])
    expected = (policy * (policy / human).log()).sum(0)
    agree(batch.ours(configure("exo_pair"), p_chosen=p).loss, expected)


def test_loss_of_an_untrained_policy_is_log_two():
    batch = Batch(14)
    batch.tokens = batch.ref_tokens.clone().requires_grad_()
    result = batch.ours(configure("sigmoid"))
    agree(result.loss, torch.full((6,), math.log(2)))
    assert not result.rewards_chosen.any()


def test_every_loss_has_a_formula_and_facts():
    assert set(LOSS_TYPES) == set(TERMS)
    assert {option for loss in LOSSES.values() for option in loss.defaults} == set(OPTION_NAMES)


@pytest.mark.parametrize("name", sorted(LOSS_TYPES))
@pytest.mark.parametrize("option", OPTION_NAMES)
def test_an_option_that_a_loss_does_not_use_is_refused(name, option):
    names = [name] if name in LOSSES else ["sigmoid_norm", name]
    if any(option in TERMS[each].defaults for each in names):
        assert getattr(configure(names, **{option: 0.2}), option) == 0.2
    else:
        with pytest.raises(ConfigError, match=f"doesn't use '{option}'"):
            configure(names, **{option: 0.2})


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"loss_type": "sigmod"}, "Did you mean 'sigmoid'"),
        ({"loss_type": []}, "must name a loss that learns from preferences"),
        ({"loss_type": "sft"}, "must name a loss that learns from preferences"),
        ({"loss_type": [["sigmoid", 0.0], ["sft", 1.0]]}, "with a weight above 0"),
        ({"loss_type": "orpo", "sft_weight": 0.1}, "SFT term already"),
        ({"loss_type": [["sigmoid", 1.0], ["sft", 0.5]], "sft_weight": 0.1}, "SFT term already"),
        ({"loss_type": ["sigmoid", "sigmoid"]}, "twice"),
        ({"loss_type": [("sigmoid", -1.0)]}, "weight of 'sigmoid' must be a number from 0"),
        ({"loss_type": [["sigmoid", 1.0, 2.0]]}, "each a name or "),
        ({"loss_type": "sigmoid", "beta": 0.0}, "above 0"),
        ({"loss_type": "sigmoid", "label_smoothing": 0.5}, "0.5"),
        ({"loss_type": "exo_pair", "label_smoothing": 0.0}, "infinite"),
        ({"loss_type": "simpo", "gamma": -1.0}, "from 0 to 100"),
        ({"loss_type": "sigmoid", "temperature": 2.0}, "no setting “temperature”"),
    ],
)
def test_a_mistaken_loss_says_what_is_wrong(arguments, said):
    with pytest.raises(ConfigError, match=said):
        configure(**arguments)


def test_options_that_are_not_given_are_the_first_losses_own_that_uses_them():
    assert configure("hinge", beta=None, label_smoothing=None) == configure("hinge")
    assert configure("simpo").beta == 2.0
    assert configure(["sppo_hard", "simpo"]) == LossConfig((("sppo_hard", 1.0), ("simpo", 1.0)), 0.001, 0.0, 0.5)
    assert configure("sigmoid", sft_weight=0.5).loss_type == "1·sigmoid + 0.5·sft"


def test_every_loss_states_its_formula_and_source():
    for name, spec in LOSS_TYPES.items():
        doc = spec.function.__doc__
        assert "arXiv" in doc and ("log" in doc or "²" in doc or "σ" in doc or "max" in doc), name


def test_a_loss_that_needs_the_reference_says_so_when_it_is_missing():
    batch = Batch(0)
    with pytest.raises(ValueError, match="reference"):
        batch.ours(configure("sigmoid"), ref_logps_chosen=None, ref_logps_rejected=None)


finite = st.floats(-400, 0, width=32)


@given(
    st.lists(st.tuples(finite, finite, finite, finite, st.integers(0, 4000), st.integers(0, 4000)), min_size=1),
    st.floats(0, 1),
)
def test_every_loss_and_its_gradient_stay_finite(rows, p):
    columns = [torch.tensor(column, dtype=torch.float32) for column in zip(*rows, strict=True)]
    for name in sorted(set(LOSS_TYPES) - {"sft"}):
        chosen, rejected = columns[0].clone().requires_grad_(), columns[1].clone().requires_grad_()
        result = pair_losses(
            configure(name),
            logps_chosen=chosen,
            logps_rejected=rejected,
            ref_logps_chosen=columns[2],
            ref_logps_rejected=columns[3],
            len_chosen=columns[4],
            len_rejected=columns[5],
            p_chosen=torch.full_like(chosen, p),
        )
        result.loss.sum().backward()
        assert torch.isfinite(result.loss).all(), name
        assert torch.isfinite(chosen.grad).all() and torch.isfinite(rejected.grad).all(), name
