"""A file's pairs as token ids: computed once, in parallel where that pays, and kept on disk for the next run."""

import hashlib
import json
import multiprocessing
import os
import tempfile
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from importlib.metadata import version
from itertools import chain, islice
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from transformers import PreTrainedTokenizerBase as Tokenizer

from worker.dpo.data import chat, moment, refusals
from worker.dpo.data.pairs import Dataset, Pair, Problem, TokenPair
from worker.dpo.ground.cache import code_hash

CHUNK = 256
# A worker process has to import transformers first, which takes some seconds.
WORTHWHILE_SECONDS = 20.0

NOTES = {
    "boundary_split": "Prompt and answer were tokenized apart, because tokens would merge across their boundary.",
    "generation_prompt_differs": "The template's generation prompt differs from what it writes before an answer: the "
    "answer begins where they part.",
    "control_tokens_kept": "A text without a chat template holds control tokens, such as <|im_end|>: they are read as such.",
    "eos_added": "The chat template ends an answer without an end-of-turn token, so the tokenizer's EOS was added (to "
    "every answer like this one).",
}
# The template does these on every line alike, so they are said once.
ONCE = {"eos_added", "generation_prompt_differs", "control_tokens_kept"}

Encoded = tuple[list[TokenPair], list[Problem], bool]
Reader = Callable[[Callable[[Problem], None]], Iterator[Pair]]


def tokenize(
    path: Path,
    tokenizer: Tokenizer,
    *,
    read: Reader,
    cache_dir: str | Path | None = None,
    num_workers: int | None = None,
    remark: Callable[[str], None] = lambda text: None,
) -> Dataset:
    """All pairs that `read` gives of the file at `path`, as token ids of any length.

    remark: told of a cached file that is damaged; it's made again.
    """
    template = chat.ensure_template(tokenizer)
    cached = Path(cache_dir) / f"tokens-{cache_key(path, tokenizer)}.safetensors" if cache_dir is not None else None
    if cached is not None and (dataset := _load(cached, remark)) is not None:
        return dataset
    problems: list[Problem] = []
    pairs: list[TokenPair] = []
    any_plain = any_chat = False
    for encoded, remarks, plain in _encode_all(tokenizer, read(problems.append), num_workers):
        pairs += encoded
        problems += remarks
        any_plain, any_chat = any_plain or plain, any_chat or not plain
    if any_plain and not any_chat:
        template = chat.PLAIN
    dataset = Dataset(pairs, _said_once(problems), template, digest(pairs))
    if cached is not None:
        _save(dataset, cached)
    return dataset


def digest(pairs: Iterable[TokenPair]) -> str:
    """SHA-256 over ids, lengths, weights and soft labels, in order."""
    hasher = hashlib.sha256()
    for pair in pairs:
        sides = (pair.prompt_ids, pair.chosen_ids, pair.rejected_ids)
        hasher.update(array("q", [len(side) for side in sides]).tobytes())
        hasher.update(array("q", chain(*sides)).tobytes())
        hasher.update(array("d", [pair.weight, pair.p_chosen]).tobytes())
    return hasher.hexdigest()


def tokenizer_hash(tokenizer: Tokenizer) -> str:
    """SHA-256 of all of a tokenizer that decides the ids of a text."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    vocabulary = backend.to_str() if backend is not None else json.dumps(sorted(tokenizer.get_vocab().items()))
    kind = type(tokenizer).__name__
    special = sorted((str(key), str(value)) for key, value in tokenizer.special_tokens_map.items())
    adds = [getattr(tokenizer, name, None) for name in ("add_bos_token", "add_eos_token")]
    parts = [kind, vocabulary, special, adds, tokenizer.chat_template, version("transformers"), version("tokenizers")]
    if (at := moment.fixed(tokenizer)) is not None:
        parts.append(at.isoformat())
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def cache_key(path: Path, tokenizer: Tokenizer) -> str:
    """Name of a file's cached ids: its bytes, the tokenizer and this code."""
    with path.open("rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()
    code = code_hash("data")
    return hashlib.sha256(f"{code} {content} {tokenizer_hash(tokenizer)}".encode()).hexdigest()


def _encode_all(tokenizer: Tokenizer, pairs: Iterator[Pair], num_workers: int | None) -> Iterator[Encoded]:
    """Encoded chunks in file order. Without a number of workers, processes start only if the first chunk shows that the
    rest will take long."""
    workers = num_workers if num_workers is not None else _cores()
    if num_workers is None:
        started = time.perf_counter()
        first = list(islice(pairs, CHUNK))
        if not first:
            return
        yield from _encode_chunk(tokenizer, first)
        seconds_a_pair = (time.perf_counter() - started) / len(first)
        rest = list(pairs)
        if seconds_a_pair * len(rest) < WORTHWHILE_SECONDS:
            workers = 1
        pairs = iter(rest)
    if workers <= 1:
        while chunk := list(islice(pairs, CHUNK)):
            yield from _encode_chunk(tokenizer, chunk)
        return
    # Not fork: torch's and the tokenizer's threads don't survive it.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(tokenizer,)) as pool:
        chunks = iter(lambda: list(islice(pairs, CHUNK)), [])
        for encoded in pool.map(_encode_in_worker, chunks):
            yield from encoded


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_worker_tokenizer: Tokenizer | None = None


def _start_worker(tokenizer: Tokenizer) -> None:
    global _worker_tokenizer
    _worker_tokenizer = tokenizer


def _encode_in_worker(chunk: list[Pair]) -> list[Encoded]:
    assert _worker_tokenizer is not None
    return _encode_chunk(_worker_tokenizer, chunk)


def _encode_chunk(tokenizer: Tokenizer, chunk: list[Pair]) -> list[Encoded]:
    return [_encode_one(tokenizer, pair) for pair in chunk]


def _encode_one(tokenizer: Tokenizer, pair: Pair) -> Encoded:
    plain = chat.is_plain(pair.prompt)
    try:
        ids, notes = chat.encode_with_notes(tokenizer, pair)
    except refusals.CannotEncode as error:
        return [], [Problem(pair.line, error.reason, str(error), dropped=True)], plain
    if ids.chosen_ids == ids.rejected_ids:
        message = "Chosen and rejected have the same tokens, so there is nothing to learn."
        return [], [Problem(pair.line, "identical_completions", message, dropped=True)], plain
    return [ids], [Problem(pair.line, note, NOTES[note], dropped=False) for note in notes], plain


def _said_once(problems: list[Problem]) -> list[Problem]:
    kept, said = [], set()
    for problem in sorted(problems, key=lambda problem: problem.line):
        if problem.reason in ONCE and problem.reason in said:
            continue
        said.add(problem.reason)
        kept.append(problem)
    return kept


def _save(dataset: Dataset, path: Path) -> None:
    """Write the ids beside their problems, whole or not at all. A full disk costs the cache, not the run."""
    pairs = dataset.pairs
    sides = [side for pair in pairs for side in (pair.prompt_ids, pair.chosen_ids, pair.rejected_ids)]
    arrays = {
        "ids": np.fromiter(chain.from_iterable(sides), dtype=np.int64),
        "lengths": np.array([len(side) for side in sides], dtype=np.int64),
        "lines": np.array([pair.line for pair in pairs], dtype=np.int64),
        "weights": np.array([[pair.weight, pair.p_chosen] for pair in pairs], dtype=np.float64).reshape(-1, 2),
    }
    problems = [[p.line, p.reason, p.message, p.dropped] for p in dataset.problems]
    metadata = {"template": dataset.template, "sha256": dataset.sha256, "problems": json.dumps(problems)}
    metadata["remarks_sha256"] = _remarks_sum(metadata, [pair.line for pair in pairs])
    with suppress(OSError, SafetensorError):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
        os.close(handle)
        try:
            save_file(arrays, temporary, metadata=metadata)
            os.replace(temporary, path)
        finally:
            Path(temporary).unlink(missing_ok=True)


def _load(path: Path, remark: Callable[[str], None]) -> Dataset | None:
    """The dataset that `_save` wrote, or None where it is missing or damaged."""
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata()
            ids, lengths = file.get_tensor("ids").tolist(), file.get_tensor("lengths").tolist()
            lines, weights = file.get_tensor("lines").tolist(), file.get_tensor("weights").tolist()
        taken = iter(ids)
        sides = [tuple(islice(taken, length)) for length in lengths]
        pairs = [
            TokenPair(line, prompt, chosen, rejected, weight, p_chosen)
            for line, prompt, chosen, rejected, (weight, p_chosen) in zip(
                lines, sides[::3], sides[1::3], sides[2::3], weights, strict=True
            )
        ]
        problems = [Problem(*item) for item in json.loads(metadata["problems"])]
        if digest(pairs) != metadata["sha256"] or _remarks_sum(metadata, lines) != metadata["remarks_sha256"]:
            raise ValueError("its SHA-256 isn't the one that was written")
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, OverflowError) as problem:
        remark(f"The cached tokens in {path} are damaged ({problem}), so the file is tokenised anew.")
        return None
    return Dataset(pairs, problems, metadata["template"], metadata["sha256"])


def _remarks_sum(metadata: Mapping[str, str], lines: list[int]) -> str:
    """SHA-256 of what a cached file holds beside the numbers that train: line numbers, problems, the template's kind."""
    return hashlib.sha256(json.dumps([lines, metadata["problems"], metadata["template"]]).encode()).hexdigest()
