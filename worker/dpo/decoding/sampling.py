"""The next token of each line: the most likely one, or one that is drawn, by a number that belongs to the line alone."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor

from worker.dpo.ground.errors import BadSetting, NotFinite

# So many of the likeliest tokens are sorted at first; more only for a line whose `top_p` they don't reach.
SORTED = 256
# Tokens whose probabilities are summed before we look in which such block a draw lies.
BLOCK = 256


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a token is chosen. temperature: 0 takes the most likely. top_p: of the likeliest tokens that together have this
    probability; 1 is all. top_k: of so many of the likeliest; 0 is all. As in transformers, top_k cuts before top_p."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature <= 100:
            raise BadSetting(f"The temperature is {self.temperature}: choose 0 (greedy) to 100, 1 for the model's own.")
        if not 0 < self.top_p <= 1:
            raise BadSetting(f"top_p is {self.top_p}: choose a number above 0 and up to 1, which leaves no token out.")
        if self.top_k < 0:
            raise BadSetting(f"top_k is {self.top_k}: choose 0, which leaves no token out, or more.")


def answer_seed(seed: int, prompt_ids: Sequence[int], sample: int) -> int:
    """The seed of one answer: a hash of the whole's seed, the prompt's tokens and the answer's number among its prompt's.

    48 bits, which every reader of JSON keeps whole.
    """
    facts = json.dumps([seed, list(prompt_ids), sample]).encode()
    return int.from_bytes(hashlib.sha256(facts).digest()[:6])


def uniforms(seed: int, count: int) -> list[float]:
    """Numbers from 0 to 1 for the tokens of an answer, the same on every machine; fewer are the first of more."""
    chance = Random(seed)  # noqa: S311
    return [chance.random() for _ in range(count)]


def choose(logits: Tensor, sampling: Sampling, chance: Sequence[float]) -> Tensor:
    """(lines,) ids. logits: (lines, vocabulary); chance: a number from 0 to 1 for each line, unused where nothing is drawn.

    A line's token depends on its own logits and number alone: it is the inverse of the distribution function at that
    number, in the order of the ids, or, where top_k or top_p cut, from the likeliest token on. Raises NotFinite for
    logits that are no numbers.
    """
    if not bool(logits.amax(-1).isfinite().all()):
        raise NotFinite("The model's logits aren't finite numbers, so it can't answer. Its weights may be damaged.")
    if sampling.temperature == 0:
        return logits.argmax(-1)
    # Apple's GPUs have no float64.
    device = torch.device("cpu") if logits.device.type == "mps" else logits.device
    at = torch.tensor(chance, dtype=torch.float64, device=device)[:, None]
    scaled = logits.to(device, torch.float32) / sampling.temperature
    if sampling.top_k or sampling.top_p < 1:
        return _of_the_likeliest(scaled, sampling, at).to(logits.device)
    return _of_all(scaled, at).to(logits.device)


def _of_all(scaled: Tensor, at: Tensor) -> Tensor:
    powers = scaled.sub_(scaled.amax(-1, keepdim=True)).exp_()
    short = -powers.shape[-1] % BLOCK
    blocks = torch.nn.functional.pad(powers, (0, short)).unflatten(-1, (-1, BLOCK))
    sums = blocks.sum(-1).double().cumsum(-1)
    wanted = at * sums[:, -1:]
    block = _place(sums, wanted)
    before = torch.where(block > 0, sums.gather(1, (block - 1).clamp(min=0)), 0.0)
    inside = blocks.gather(1, block[..., None].expand(-1, 1, BLOCK))[:, 0].double().cumsum(-1)
    # Sums of a block in float32 and in float64 differ by rounding: a draw must not fall behind its last token.
    token = _place(inside, torch.minimum(wanted - before, inside[:, -1:] * (1 - 1e-12)))
    return (block * BLOCK + token)[:, 0]


def _of_the_likeliest(scaled: Tensor, sampling: Sampling, at: Tensor) -> Tensor:
    """Draws within top_k and top_p. Without top_k it sorts more tokens until their probability reaches top_p on each line."""
    vocabulary = scaled.shape[-1]
    count = min(sampling.top_k or SORTED, vocabulary)
    while True:
        values, ids = scaled.topk(count, dim=-1)
        powers = (values - values[:, :1]).exp().double()
        reached = powers.cumsum(-1)
        whole = reached[:, -1:]
        if sampling.top_k or count == vocabulary:
            break
        whole = (scaled - values[:, :1]).exp().sum(-1, keepdim=True, dtype=torch.float64)
        if bool((whole * sampling.top_p <= reached[:, -1:]).all()):
            break
        count = min(vocabulary, 16 * count)
    # A token stays while those before it haven't reached top_p, so the likeliest always does.
    reached = (powers * (reached - powers < sampling.top_p * whole)).cumsum(-1)
    return ids.gather(1, _place(reached, at * reached[:, -1:] * (1 - 1e-12)))[:, 0]


def _place(reached: Tensor, wanted: Tensor) -> Tensor:
    """(lines, 1) the first place at which a rising sum lies above what is wanted."""
    return torch.searchsorted(reached, wanted, right=True).clamp_(max=reached.shape[-1] - 1)
