"""How a token is drawn: the probabilities of the softmax, cut as transformers cuts them, by a number of the line's own."""

import pytest
import torch
from transformers import TopKLogitsWarper, TopPLogitsWarper

from worker.dpo.decoding import sampling
from worker.dpo.decoding.sampling import Sampling, answer_seed, choose, uniforms
from worker.dpo.ground.errors import BadSetting, NotFinite

LOGITS = 2 * torch.randn(1, 1000, generator=torch.Generator().manual_seed(1))


def probabilities(temperature: float, top_p: float, top_k: int) -> torch.Tensor:
    scores = LOGITS / temperature
    if top_k:
        scores = TopKLogitsWarper(top_k)(None, scores)
    if top_p < 1:
        scores = TopPLogitsWarper(top_p)(None, scores)
    return torch.softmax(scores[0].double(), -1)


@pytest.mark.parametrize(("top_p", "top_k"), [(1.0, 0), (0.9, 0), (0.999, 0), (1.0, 7), (0.6, 7), (1.0, 5000)])
def test_draws_have_the_probabilities_that_transformers_leaves(top_p, top_k, monkeypatch):
    monkeypatch.setattr(sampling, "SORTED", 8)
    wanted = probabilities(1.5, top_p, top_k)
    draws = 4000
    even = [(number + 0.5) / draws for number in range(draws)]
    drawn = choose(LOGITS.expand(draws, -1).clone(), Sampling(1.5, top_p, top_k), even)
    share = torch.bincount(drawn, minlength=1000).double() / draws
    # Even numbers leave no chance: each token's share is right to one draw at either end.
    assert (share - wanted).abs().max() <= 1.01 / draws
    assert not share[wanted == 0].any()


def test_a_line_s_draw_does_not_depend_on_the_lines_beside_it():
    torch.manual_seed(2)
    logits, chance = torch.randn(20, 1000), uniforms(3, 20)
    for how in (Sampling(1.0), Sampling(1.0, 0.95), Sampling(0.7, 0.9, 40)):
        together = choose(logits.clone(), how, chance)
        alone = [int(choose(logits[[line]].clone(), how, [chance[line]])) for line in range(20)]
        assert together.tolist() == alone


def test_an_answer_s_numbers_are_its_own_and_the_same_on_every_machine():
    seeds = {answer_seed(seed, ids, sample) for seed in (0, 1) for ids in ([1, 2], [2, 1]) for sample in range(3)}
    assert len(seeds) == 12 and max(seeds) < 2**48
    assert answer_seed(7, (1, 2, 3), 0) == 239228314105020
    assert uniforms(5, 3) == uniforms(5, 9)[:3] == [0.6229016948897019, 0.7417869892607294, 0.7951935655656966]


def test_an_end_of_the_range_draws_a_token_that_is_there():
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf], [0.0, -torch.inf, -torch.inf]])
    for how in (Sampling(1.0), Sampling(1.0, 0.5), Sampling(1.0, 1.0, 2)):
        assert choose(logits.clone(), how, [0.0, 1 - 2**-53]).tolist() == [1, 0]


@pytest.mark.parametrize(
    "values", [(-1.0, 1.0, 0), (1.0, 0.0, 0), (1.0, 1.5, 0), (1.0, 1.0, -1), (float("nan"), 1.0, 0)]
)
def test_settings_that_mean_nothing_are_refused_in_words(values):
    with pytest.raises(BadSetting, match="choose"):
        Sampling(*values)


def test_logits_that_are_no_numbers_end_it():
    with pytest.raises(NotFinite, match="damaged"):
        choose(torch.tensor([[0.0, torch.nan]]), Sampling(), [0.5])
