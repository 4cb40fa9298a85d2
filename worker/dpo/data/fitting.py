"""Lengths and vocabulary: how many tokens a run should allow a pair, pairs cut to that many, and those that the model can't read."""

import math
from dataclasses import replace
from itertools import chain

from worker.dpo.data import tokens
from worker.dpo.data.pairs import Dataset, Problem, TokenPair, pair_length
from worker.dpo.ground.errors import DataFileError


def suggest_max_length(
    pairs: list[TokenPair], *, model_limit: int | None = None, quantile: float = 0.99, multiple: int = 64
) -> int:
    """A maximum length, in tokens, that keeps `quantile` of the pairs whole.

    The quantile of prompt plus longer completion, rounded up to `multiple`, but no more than the longest pair needs nor
    than the model's context. Raises DataFileError without pairs.
    """
    if not pairs:
        raise DataFileError("There is no pair to take a maximum length from.")
    lengths = sorted(pair_length(pair) for pair in pairs)
    wanted = lengths[math.ceil(quantile * len(lengths)) - 1]
    rounded = math.ceil(wanted / multiple) * multiple
    return min(rounded, lengths[-1], *([model_limit] if model_limit else []))


def fit(dataset: Dataset, max_length: int, *, bos_id: int | None = None) -> Dataset:
    """The dataset with every pair within `max_length` tokens.

    Completions stay whole, and both see the same prompt: its last `max_length - longer completion` tokens, with BOS in
    front if it began with it (`prompt_truncated`). A pair whose longer completion leaves no room for one prompt token
    is dropped (`completion_too_long`).
    """
    pairs, problems = [], []
    for pair in dataset.pairs:
        room = max_length - (pair_length(pair) - len(pair.prompt_ids))
        if room >= len(pair.prompt_ids):
            pairs.append(pair)
        elif room < 1:
            longest = max_length - room
            message = f"An answer has {longest} tokens: with one token of prompt that is more than {max_length}."
            problems.append(Problem(pair.line, "completion_too_long", message, dropped=True))
        else:
            pairs.append(replace(pair, prompt_ids=_last(pair.prompt_ids, room, bos_id)))
            message = f"The prompt was cut from {len(pair.prompt_ids)} to its last {room} tokens."
            problems.append(Problem(pair.line, "prompt_truncated", message, dropped=False))
    merged = sorted([*dataset.problems, *problems], key=lambda problem: problem.line)
    return Dataset(pairs, merged, dataset.template, tokens.digest(pairs))


def within_vocabulary(dataset: Dataset, rows: int) -> Dataset:
    """The dataset without the pairs that hold a token for which a model with so many rows has no weights (`unknown_token`).

    Some tokenizers know tokens of a larger sibling, such as one for images.
    """
    pairs, problems = [], []
    for pair in dataset.pairs:
        largest = max(chain(pair.prompt_ids, pair.chosen_ids, pair.rejected_ids))
        if largest < rows:
            pairs.append(pair)
            continue
        message = (
            f"A text holds token {largest} of the tokenizer, for which the model, of {rows:,} tokens, has no weights."
        )
        problems.append(Problem(pair.line, "unknown_token", message, dropped=True))
    if not problems:
        return dataset
    merged = sorted([*dataset.problems, *problems], key=lambda problem: problem.line)
    return Dataset(pairs, merged, dataset.template, tokens.digest(pairs))


def _last(ids: tuple[int, ...], room: int, bos_id: int | None) -> tuple[int, ...]:
    # Some templates use the BOS token to begin every turn: then it doesn't mark the beginning.
    if ids[0] == bos_id and ids.count(ids[0]) == 1 and room > 1:
        return (bos_id, *ids[len(ids) - room + 1 :])
    return ids[len(ids) - room :]
