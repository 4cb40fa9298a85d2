"""Reference log-probabilities, computed once and kept on disk across epochs and jobs.

One SQLite file per model state. Its name is a hash of everything about the model that the numbers depend on, and each
row's key a hash of the token ids, so growing a data set computes only the new pairs, and no stale number is read.
"""

import hashlib
import json
import math
import sqlite3
import struct
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, suppress
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from worker.dpo.data.pairs import TokenPair
from worker.dpo.ground.cache import cache_folder, code_hash
from worker.dpo.ground.events import Event
from worker.dpo.ground.processes import first_ones
from worker.dpo.ground.stopping import Stop
from worker.dpo.machine.threads import Threads
from worker.dpo.model.loading import adapter_is_new, as_reference, weights_hash
from worker.dpo.model.scorer import PairScorer
from worker.dpo.model.scoring import score_pairs
from worker.dpo.run.run import References
from worker.dpo.run.setup import RunSetup

# The rooms and modules that decide a log-probability.
SCORING_CODE = ("model", "rows", "data/pairs.py", "ground/matmul.py")


COLUMNS = "key BLOB PRIMARY KEY, chosen REAL, rejected REAL, sum BLOB"
# What SQLite says of a file that isn't what it wrote. Anything else, a lock or a full disk, isn't a reason to set it aside.
DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_FORMAT}


def model_key(*, weights: str, config: dict, dtype: str, autocast: str, path: str) -> str:
    """SHA-256 of what the numbers depend on beside the tokens.

    weights: hash of base weights and, where it isn't new, the initial adapter. config: the model's configuration.
    path: attention and row layout. This engine's own scoring code and PyTorch's version are added here.
    """
    steady = {name: value for name, value in config.items() if name not in {"_name_or_path", "transformers_version"}}
    facts = {
        "weights": weights, "config": steady, "dtype": dtype, "autocast": autocast, "path": path,
        "torch": torch.__version__, "code": code_hash(*SCORING_CODE), "table": COLUMNS,
    }  # fmt: skip
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def pair_key(pair: TokenPair) -> bytes:
    """SHA-256 of a pair's prompt and completion ids."""
    return hashlib.sha256(json.dumps([pair.prompt_ids, pair.chosen_ids, pair.rejected_ids]).encode()).digest()


class ReferenceCache:
    """The numbers of one model state. Processes may share it; a folder that can't be used isn't a cache.

    Each row has a sum over its key and numbers: SQLite finds a torn file, but not a number with another bit in it.
    problem: why nothing is kept any more, or None. remarks: what was found damaged, for people.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.path = folder / f"{key}.sqlite"
        self.problem: str | None = None
        self.remarks: list[str] = []
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._create()
        except sqlite3.Error as problem:
            self._give_up_or_begin_anew(problem)
        except OSError as problem:
            self.problem = f"{self.path}: {problem}"

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, timeout=60)

    def _create(self) -> None:
        with closing(self._connect()) as connection, connection:
            connection.execute(f"CREATE TABLE IF NOT EXISTS pair ({COLUMNS}) WITHOUT ROWID")

    def _give_up_or_begin_anew(self, problem: sqlite3.Error) -> None:
        """Set a damaged file aside and begin a new one; do without a cache for any other reason."""
        # The low byte is the kind of error, the rest says more of it.
        if getattr(problem, "sqlite_errorcode", 0) & 0xFF not in DAMAGE:
            self.problem = f"{self.path}: {problem}"
            return
        aside = self.path.with_suffix(".damaged")
        try:
            # The journal goes first: SQLite would roll it back into the new file.
            for ending in ("-journal", "-wal", "-shm"):
                self.path.with_name(self.path.name + ending).unlink(missing_ok=True)
            with suppress(FileNotFoundError):
                self.path.replace(aside)
            self._create()
        except (OSError, sqlite3.Error) as again:
            self.problem = f"{self.path}: {problem}, and no new file: {again}"
            return
        self.remarks.append(
            f"The cache of reference log-probabilities was damaged ({problem}): it was set aside as {aside}, and its "
            "numbers are computed anew."
        )

    def read(self, pairs: Sequence[TokenPair]) -> tuple[Tensor, list[int]]:
        """((2, pairs) float64 numbers, NaN where unknown; indices of the unknown ones)."""
        values = torch.full((2, len(pairs)), torch.nan, dtype=torch.float64)
        if self.problem is None:
            try:
                self._read_into(values, pairs)
            except sqlite3.Error as problem:
                # What was read before the damage may come from it.
                values.fill_(torch.nan)
                self._give_up_or_begin_anew(problem)
        return values, values.isnan().any(0).nonzero().flatten().tolist()

    def _read_into(self, values: Tensor, pairs: Sequence[TokenPair]) -> None:
        damaged = 0
        with closing(self._connect()) as connection:
            for index, pair in enumerate(pairs):
                key = pair_key(pair)
                row = connection.execute("SELECT chosen, rejected, sum FROM pair WHERE key = ?", (key,)).fetchone()
                if row is None:
                    continue
                if isinstance(row[0], float) and isinstance(row[1], float) and row[2] == row_sum(key, row[0], row[1]):
                    values[:, index] = torch.tensor(row[:2], dtype=torch.float64)
                else:
                    damaged += 1
        if damaged:
            self.remarks.append(f"{damaged} reference log-probabilities in {self.path} were damaged: computed anew.")

    def write(self, entries: Iterable[tuple[TokenPair, float, float]]) -> None:
        """Keep numbers that are finite; a full disk ends the caching, not the run."""
        if self.problem is not None:
            return
        finite = [entry for entry in entries if math.isfinite(entry[1]) and math.isfinite(entry[2])]
        rows = [(key := pair_key(pair), *numbers, row_sum(key, *numbers)) for pair, *numbers in finite]
        try:
            with closing(self._connect()) as connection, connection:
                connection.executemany("INSERT OR REPLACE INTO pair VALUES (?, ?, ?, ?)", rows)
        except sqlite3.Error as problem:
            self.problem = f"{self.path}: {problem}"


def row_sum(key: bytes, chosen: float, rejected: float) -> bytes:
    """The first 8 bytes of the SHA-256 over a row's key and numbers."""
    return hashlib.sha256(key + struct.pack("<dd", chosen, rejected)).digest()[:8]


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
    for remark in cache.remarks:
        setup.events.emit(Event.LOG, level="warning", message=remark)
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
        threads=setup.threads,
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
    threads: Threads | None = None,
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

    values[:, unknown] = score_pairs(
        scorer, wanted, budget=budget, accelerator=accelerator, stop=stop, threads=threads, on_scored=keep
    )


def _folder(setup: RunSetup) -> Path:
    return Path(setup.config.reference_cache) if setup.config.reference_cache else cache_folder() / "reference"


def _setup_key(setup: RunSetup) -> str:
    config = setup.config
    return scorer_key(
        setup.scorer,
        # A new adapter, like none, leaves the base weights as they were hashed on loading.
        weights=weights_hash(setup.policy) if config.adapter else setup.weights,
        dtype=config.dtype + (" and 4-bit weights" if config.load_in_4bit else ""),
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


def cached_scores(
    scorer: PairScorer, pairs: Sequence[TokenPair], cache: ReferenceCache, *, budget: int, stop: Stop | None = None
) -> Tensor:
    """(2, pairs) log-probabilities, only those computed that the cache lacks, and kept there."""
    values, unknown = cache.read(pairs)
    if unknown:
        fill(scorer, cache, pairs, values, unknown, budget=budget, stop=stop)
    return values
