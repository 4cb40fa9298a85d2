"""What a model that wasn't trained on a pair thinks of it, and what the base says about how it would be learnt."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from worker.dpo.data.pairs import TokenPair
from worker.dpo.ground.cache import cache_folder
from worker.dpo.ground.config import TrainConfig
from worker.dpo.ground.stopping import Stop
from worker.dpo.loss.registry import configure
from worker.dpo.model import loading
from worker.dpo.model.agreement import choose_scorer
from worker.dpo.model.scorer import PairScorer
from worker.dpo.model.scoring import score_pairs
from worker.dpo.publish.merge import has_adapter
from worker.dpo.rows.plan import micro_batches
from worker.dpo.run.memory_plan import BUDGET_CPU, BUDGET_GPU
from worker.dpo.run.reference import ReferenceCache, cached_scores, scorer_key


def score(
    model: str,
    trained: Path,
    pairs: Sequence[TokenPair],
    config: TrainConfig,
    *,
    ches: bool,
    stop: Stop,
    log: Callable[[str], None],
) -> list[dict[str, Any]]:
    """The figures of each pair by the weights in `trained`, which a run with `config` on `model` left.

    ches: add what takes another forward of the base. Raises loading.ModelError, Terminated.
    """
    device = loading.choose_device(config.device)
    budget = config.token_budget or (BUDGET_GPU if device.startswith("cuda") else BUDGET_CPU)

    def load() -> Any:
        return loading.load_base(model, dtype=config.dtype, device=device, load_in_4bit=config.load_in_4bit)

    base = load()
    start: Any = loading.load_adapter(base, config.adapter) if config.adapter else base
    scorer = _scorer(start, pairs, config, log)
    stop.check()
    dtype = config.dtype + (" and 4-bit weights" if config.load_in_4bit else "")
    key = scorer_key(scorer, weights=loading.weights_hash(start), dtype=dtype, autocast=config.mixed_precision)
    folder = Path(config.reference_cache) if config.reference_cache else cache_folder() / "reference"
    cache = ReferenceCache(folder, key)
    reference = cached_scores(scorer, pairs, cache, budget=budget)
    for remark in cache.remarks:
        log(remark)
    stop.check()
    similarity = ches_scores(scorer, pairs, budget=budget, stop=stop) if ches else None
    if has_adapter(trained):
        policy: Any = loading.load_adapter(load() if config.adapter else base, str(trained))
    else:
        policy = loading.load_base(str(trained), dtype=config.dtype, device=device)
    logps = score_pairs(_scorer(policy, pairs, config, log), pairs, budget=budget, stop=stop)
    return list(_figures(pairs, logps, reference, similarity, beta=configure(config).beta))


def _scorer(
    model: nn.Module, pairs: Sequence[TokenPair], config: TrainConfig, log: Callable[[str], None]
) -> PairScorer:
    model.requires_grad_(False)
    return choose_scorer(model, pairs, config, log=log).eval()


def _figures(
    pairs: Sequence[TokenPair], logps: Tensor, reference: Tensor, ches: Tensor | None, *, beta: float
) -> Iterator[dict[str, Any]]:
    """logps, reference: (2, pairs) log-probabilities in nats, chosen first; ches: (2, pairs) scores and their normalised form."""
    ratios = logps - reference
    for place, pair in enumerate(pairs):
        chosen, rejected = reference[:, place].tolist()
        lengths = len(pair.chosen_ids), len(pair.rejected_ids)
        figures = {
            "margin": beta * float(ratios[0, place] - ratios[1, place]),
            "logps_chosen": logps[0, place].item(),
            "logps_rejected": logps[1, place].item(),
            "ref_logps_chosen": chosen,
            "ref_logps_rejected": rejected,
            "tokens_chosen": lengths[0],
            "tokens_rejected": lengths[1],
            # Mean log-probability of a token, so that a long answer isn't taken for an unlikely one.
            "on_policy_gap": chosen / lengths[0] - rejected / lengths[1],
        }
        if ches is not None:
            figures |= {"ches": ches[0, place].item(), "ches_normalised": ches[1, place].item()}
        yield figures


@torch.no_grad()
def ches_scores(scorer: PairScorer, pairs: Sequence[TokenPair], *, budget: int, stop: Stop | None = None) -> Tensor:
    """(2, pairs): the centered hidden embedding similarity of each pair, and its length-normalised form.

    ⟨Σ h⁺, Σ h⁻⟩ − ‖Σ h⁺‖², where h⁺ and h⁻ are the last layer's states before the tokens of the chosen and the rejected answer;
    normalised: ⟨Σ h⁺, Σ h⁻⟩ / (|y⁺|·|y⁻|) − ‖Σ h⁺‖² / |y⁺|². Definition 2 of Razin et al. 2024, "Unintentional Unalignment"
    (arXiv:2410.08847): the higher, the more training on the pair lowers the chosen answer's own probability.
    """
    scores = torch.zeros(2, len(pairs), dtype=torch.float64)
    for indices in micro_batches(range(len(pairs)), scorer.packing(pairs), budget=budget, processes=1)[0]:
        if stop is not None:
            stop.check()
        some = [pairs[index] for index in indices]
        chosen, rejected = scorer.state_sums(scorer.rows(some)).cpu()
        across, within = (chosen * rejected).sum(-1), chosen.square().sum(-1)
        lengths = torch.tensor([(len(pair.chosen_ids), len(pair.rejected_ids)) for pair in some], dtype=torch.float64)
        scores[0, indices] = across - within
        scores[1, indices] = across / lengths.prod(1) - within / lengths[:, 0].square()
    return scores
