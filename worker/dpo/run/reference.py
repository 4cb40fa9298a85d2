"""Reference log-probabilities, computed once and kept on disk across epochs and jobs.

One SQLite file per model state. Its name is a hash of everything about the model that the numbers depend on, and each
row's key a hash of the token ids, so growing a data set computes only the new pairs, and no stale number is read.
"""

import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from worker.dpo.data.pairs import TokenPair
from worker.dpo.ground.cache import cache_folder, code_hash
from worker.dpo.ground.events import Event
from worker.dpo.ground.processes import first_ones
from worker.dpo.ground.stopping import Stop
from worker.dpo.model.loading import adapter_is_new, as_reference, weights_hash
from worker.dpo.model.scorer import PairScorer
from worker.dpo.model.scoring import score_pairs
from worker.dpo.run.run import References
from worker.dpo.run.setup import RunSetup

# The rooms and modules that decide a log-probability.
SCORING_CODE = ("model", "rows", "data/pairs.py", "ground/matmul.py")


def model_key(*, weights: str, config: dict, dtype: str, autocast: str, path: str) -> str:
    """SHA-256 of what the numbers depend on beside the tokens.

    weights: hash of base weights and, where it isn't new, the initial adapter. config: the model's configuration.
    path: attention and row layout. This engine's own scoring code and PyTorch's version are added here.
    """
    steady = {name: value for name, value in config.items() if name not in {"_name_or_path", "transformers_version"}}
    facts = {
        "weights": weights, "config": steady, "dtype": dtype, "autocast": autocast, "path": path,
        "torch": torch.__version__, "code": code_hash(*SCORING_CODE),
    }  # fmt: skip
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def pair_key(pair: TokenPair) -> bytes:
    """SHA-256 of a pair's prompt and completion ids."""
    return hashlib.sha256(json.dumps([pair.prompt_ids, pair.chosen_ids, pair.rejected_ids]).encode()).digest()


class ReferenceCache:
    """The numbers of one model state. Processes may share it; a folder that can't be written is no cache."""

    def __init__(self, folder: Path, key: str) -> None:
        self.path = folder / f"{key}.sqlite"
        self.problem: str | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with closing(self._connect()) as connection, connection:
                connection.execute(
                    "CREATE TABLE IF NOT EXISTS pair (key BLOB PRIMARY KEY, chosen REAL, rejected REAL) WITHOUT ROWID"
                )
        except (OSError, sqlite3.Error) as problem:
            self.problem = f"{self.path}: {problem}"

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, timeout=60)

    def read(self, pairs: Sequence[TokenPair]) -> tuple[Tensor, list[int]]:
        """((2, pairs) float64 numbers, NaN where unknown; indices of the unknown ones)."""
        values = torch.full((2, len(pairs)), torch.nan, dtype=torch.float64)
        if self.problem is None:
            with closing(self._connect()) as connection:
                for index, pair in enumerate(pairs):
                    row = connection.execute(
                        "SELECT chosen, rejected FROM pair WHERE key = ?", (pair_key(pair),)
                    ).fetchone()
                    if row is not None:
                        values[:, index] = torch.tensor(row, dtype=torch.float64)
        return values, values.isnan().any(0).nonzero().flatten().tolist()

    def write(self, entries: Iterable[tuple[TokenPair, float, float]]) -> None:
        """Keep numbers; a full disk ends the caching, not the run."""
        if self.problem is not None:
            return
        try:
            with closing(self._connect()) as connection, connection:
                rows = [(pair_key(pair), chosen, rejected) for pair, chosen, rejected in entries]
                connection.executemany("INSERT OR REPLACE INTO pair VALUES (?, ?, ?)", rows)
        except sqlite3.Error as problem:
            self.problem = f"{self.path}: {problem}"


def references(setup: RunSetup) -> References:
    """Reference log-probabilities of the training and the evaluation pairs, from the cache or computed.

    The reference is the policy as it starts, whatever it starts from: computed before the first step, by the scorer of
    the policy, without dropout. A new adapter is switched off for it, which gives the same numbers for less work.
    """
    if not setup.loss.uses_reference:
        return References(None, None)
    cache = ReferenceCache(_folder(setup), _setup_key(setup))
    splits = [setup.train.pairs, setup.evaluation.pairs if setup.evaluation else []]
    # One process's look decides what is missing: the others may look when it has written something.
    kept = first_ones(setup.accelerator, [cache.read(pairs) for pairs in splits])
    missing = sum(len(unknown) for _, unknown in kept)
    known = sum(map(len, splits)) - missing
    setup.events.emit(Event.STATE, stage="reference", missing=missing, cached=known)
    setup.events.emit(Event.LOG, message=f"Reference: {known} pairs from the cache, {missing} to compute.")
    with as_reference(setup.policy, adapter_off=adapter_is_new(setup.policy, setup.config)):
        for pairs, (values, unknown) in zip(splits, kept, strict=True):
            if unknown:
                _fill(setup, cache, pairs, values, unknown)
    if cache.problem is not None:
        setup.events.emit(
            Event.LOG, level="warning", message=f"Reference log-probabilities couldn't be kept: {cache.problem}"
        )
    return References(kept[0][0], kept[1][0] if setup.evaluation else None)


def _fill(
    setup: RunSetup, cache: ReferenceCache, pairs: Sequence[TokenPair], values: Tensor, unknown: list[int]
) -> None:
    def report(done: int) -> None:
        setup.events.emit(Event.STATE, stage="reference", done=done, missing=len(unknown))

    fill(
        setup.scorer,
        cache,
        pairs,
        values,
        unknown,
        budget=setup.memory.token_budget,
        accelerator=setup.accelerator,
        stop=setup.stop,
        on_kept=report,
    )


def fill(
    scorer: PairScorer,
    cache: ReferenceCache,
    pairs: Sequence[TokenPair],
    values: Tensor,
    unknown: list[int],
    *,
    budget: int,
    accelerator: Accelerator | None = None,
    stop: Stop | None = None,
    on_kept: Callable[[int], None] | None = None,
) -> None:
    """Compute the unknown ones of `values`, (2, pairs), and keep them. on_kept: told how many are done so far."""
    wanted = [pairs[index] for index in unknown]
    done = 0

    def keep(indices: list[int], scores: Tensor) -> None:
        nonlocal done
        done += len(indices)
        cache.write((wanted[index], *scores[:, place].tolist()) for place, index in enumerate(indices))
        if on_kept is not None:
            on_kept(done)

    values[:, unknown] = score_pairs(scorer, wanted, budget=budget, accelerator=accelerator, stop=stop, on_scored=keep)


def _folder(setup: RunSetup) -> Path:
    return Path(setup.config.reference_cache) if setup.config.reference_cache else cache_folder() / "reference"


def _setup_key(setup: RunSetup) -> str:
    config = setup.config
    return scorer_key(
        setup.scorer,
        # A new adapter, like none, leaves the base weights as they were hashed on loading.
        weights=weights_hash(setup.policy) if config.adapter else setup.weights,
        dtype=config.dtype + (" 4-bit" if config.load_in_4bit else ""),
        autocast=config.mixed_precision,
    )


def scorer_key(scorer: PairScorer, *, weights: str, dtype: str, autocast: str = "no") -> str:
    """`model_key` of what a scorer computes."""
    device = torch.cuda.get_device_name(scorer.device) if scorer.device.type == "cuda" else scorer.device.type
    layers = "compiled" if scorer.compiled_layers else "fused" if scorer.fused_layers else "plain"
    return model_key(
        weights=weights,
        config=scorer.causal_lm.config.to_dict(),
        dtype=dtype,
        autocast=autocast,
        path=f"shared={scorer.shared} own_head={scorer.own_head} layers={layers} device={device}",
    )


def cached_scores(scorer: PairScorer, pairs: Sequence[TokenPair], cache: ReferenceCache, *, budget: int) -> Tensor:
    """(2, pairs) log-probabilities, only those computed that the cache lacks, and kept there."""
    values, unknown = cache.read(pairs)
    if unknown:
        fill(scorer, cache, pairs, values, unknown, budget=budget)
    return values
