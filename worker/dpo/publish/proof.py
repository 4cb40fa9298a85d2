"""Proof of an export: what was written is read back by other programs' readers and compared with the trained model.

Every check says what it compared, with which reader, and the figures. One that fails stops the export.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from worker.dpo.model import loading
from worker.dpo.publish import figures, llama_cpp
from worker.dpo.publish.figures import Answer, Check, Difference, Rendered, Scores
from worker.dpo.publish.gguf_support import ARCHITECTURES
from worker.dpo.publish.gguf_tokenizer import adds_bos
from worker.dpo.publish.merge import Trained, end_tokens
from worker.dpo.publish.weights import check_weights

# Nats a token: the largest difference where both sides compute in float32, and after rounding to each type.
EXACT = 1e-4
# (which figure, its bound). 8 bits of mantissa, as bfloat16 has, are about what q8_0 keeps.
BOUNDS = {
    "float32": ("max", EXACT),
    "float16": ("max", 0.02),
    "bfloat16": ("mean", 0.05),
    "f16": ("max", 0.02),
    "q8_0": ("mean", 0.05),
}


@dataclass(frozen=True, slots=True)
class Reference:
    """The trained model's side of every comparison. moved: how far training moved a token's log-probability, in nats."""

    prompts: list[Rendered]
    answers: list[Answer]
    scores: list[Scores]
    ends: list[int]
    moved: float | None


Stop = Callable[[], None]


def reference(trained: Trained, check: Stop) -> Reference:
    """What the trained model answers to the fixed prompts, computed in float32, the adapter beside its base."""
    prompts = figures.render(trained.tokenizer)
    ends = end_tokens(trained.tokenizer)
    answers = []
    for prompt in prompts:
        check()
        answers.append(figures.greedy_answer(trained.model, prompt, ends))
    scores = figures.score_all(trained.model, answers, check)
    moved = None
    if trained.adapted:
        with trained.model.disable_adapter():
            moved = figures.difference(answers, scores, figures.score_all(trained.model, answers, check)).mean
    return Reference(prompts, answers, scores, ends, moved)


def check_merge(known: Reference, merged: PreTrainedModel, check: Stop) -> Check:
    """The merged weights in memory, before any rounding: the same greedy tokens, log-probabilities within EXACT."""
    copy = figures.score_all(merged, known.answers, check)
    apart = figures.difference(known.answers, known.scores, copy)
    passed = apart.max <= EXACT and not figures.loses_greedy(known.answers, copy, 2 * EXACT)
    return _compared("merge", "transformers", apart, passed, ("max", EXACT), "The merged weights, before any rounding,")


def check_merged_folder(
    known: Reference,
    tokenizer: PreTrainedTokenizerBase,
    sample: dict[str, Tensor],
    folder: Path,
    dtype: str,
    check: Stop,
) -> Iterator[Check]:
    """A folder of merged weights, loaded by transformers as people load it, computed in float32."""
    try:
        read = loading.load_tokenizer(str(folder))
        copy = loading.load_base(str(folder), dtype="float32").eval()
    except loading.ModelError as problem:
        yield Check("loads", "transformers", False, f"transformers doesn't take the folder: {problem}")
        return
    yield _same_prompts("transformers", known, [_ids_or_none(read, prompt) for prompt in known.prompts])
    stops = copy.generation_config.eos_token_id if copy.generation_config is not None else None
    stops = stops if isinstance(stops, list) else [stops]
    named = set(known.ends) <= set(stops) and read.eos_token_id == tokenizer.eos_token_id
    yield _ends("transformers", known.ends, [token for token in known.ends if token in stops], named)
    yield check_weights(sample, copy, dtype)
    scores = figures.score_all(copy, known.answers, check)
    apart = figures.difference(known.answers, known.scores, scores)
    passed = _within(apart, BOUNDS[dtype])
    if dtype == "float32":
        passed = passed and not figures.loses_greedy(known.answers, scores, 2 * EXACT)
    yield _compared(
        "log-probabilities",
        "transformers",
        apart,
        passed,
        BOUNDS[dtype],
        f"The weights in {dtype}, read by transformers,",
    )


def _ids_or_none(tokenizer: PreTrainedTokenizerBase, prompt: Rendered) -> list[int] | None:
    matching = [other.ids for other in figures.render(tokenizer) if other.name == prompt.name]
    return matching[0] if matching else None


def check_gguf(
    known: Reference,
    tokenizer: PreTrainedTokenizerBase,
    config: Any,
    sample: dict[str, Tensor],
    path: Path,
    weights: str,
    check: Stop,
) -> Iterator[Check]:
    """A GGUF file: its metadata, its weights by transformers, and by llama.cpp (where installed) everything together."""
    yield check_metadata(known, tokenizer, path)
    yield from check_by_transformers(known, config, sample, path, weights, check)
    if llama_cpp.version() is not None:
        yield from check_by_llama_cpp(known, path, weights, check)


def check_by_transformers(
    known: Reference, config: Any, sample: dict[str, Tensor], path: Path, weights: str, check: Stop
) -> Iterator[Check]:
    """A GGUF file's weights as transformers reads them, computed in float32."""
    options = {"gguf_file": path.name, "config": _as_gguf_names_it(config), "dtype": torch.float32}
    try:
        copy = AutoModelForCausalLM.from_pretrained(path.parent, **options)
    except (OSError, ValueError, KeyError, RuntimeError) as problem:
        yield Check("loads", "transformers", False, f"transformers doesn't take the file: {problem}.")
        return
    loading.remove_dropout(copy.eval())
    yield check_weights(sample, copy, weights)
    apart = figures.difference(known.answers, known.scores, figures.score_all(copy, known.answers, check))
    passed = _within(apart, BOUNDS[weights])
    what = f"The weights in {weights}, read by transformers,"
    yield _compared("log-probabilities", "transformers", apart, passed, BOUNDS[weights], what)


def _as_gguf_names_it(config: Any) -> Any:
    """The trained model's configuration, under the architecture that GGUF counts it to.

    It is passed on since transformers doesn't read all of a file's rotary positions; llama.cpp does.
    """
    arch = ARCHITECTURES[config.model_type]
    if arch == config.model_type:
        return config
    own = {name: value for name, value in config.to_dict().items() if name not in ("model_type", "architectures")}
    return AutoConfig.for_model(arch, **own)


def check_metadata(known: Reference, tokenizer: PreTrainedTokenizerBase, path: Path) -> Check:
    """The file's own words on tokens, ends, BOS and chat template against the trained model's tokenizer."""
    reader = GGUFReader(path)

    def value(name: str) -> Any:
        part = reader.get_field(f"tokenizer.{name}")
        return None if part is None else part.contents()

    wrong = []
    if value("chat_template") != tokenizer.get_chat_template():
        wrong.append("the chat template")
    ends = {value("ggml.eos_token_id"), value("ggml.eot_token_id")}
    if value("ggml.eos_token_id") != known.ends[0] or not set(known.ends) <= ends:
        wrong.append("the tokens that end an answer")
    if bool(value("ggml.add_bos_token")) != adds_bos(tokenizer) or value("ggml.add_eos_token"):
        wrong.append("whether BOS and EOS are added")
    tokens = value("ggml.tokens") or []
    vocabulary = tokenizer.get_vocab()
    if any(index >= len(tokens) or tokens[index] != token for token, index in vocabulary.items()):
        wrong.append("the vocabulary")
    says = (
        f"The file's metadata differs in {' and '.join(wrong)}."
        if wrong
        else f"The file's {len(vocabulary):,} tokens, end tokens and chat template are the trained model's."
    )
    return Check("metadata", "gguf", not wrong, says, {"differ": wrong})


def check_by_llama_cpp(known: Reference, path: Path, weights: str, check: Stop) -> Iterator[Check]:
    """The file as llama.cpp serves it: prompts, end tokens and log-probabilities."""
    try:
        reading = llama_cpp.read(path, known.prompts, known.answers, known.ends, check=check)
    except llama_cpp.Unreadable as problem:
        yield Check("loads", "llama.cpp", False, str(problem))
        return
    yield _same_prompts("llama.cpp", known, list(reading.ids))
    ended = [token for token, ends in reading.ends.items() if ends]
    yield _ends("llama.cpp", known.ends, ended, len(ended) == len(known.ends))
    apart = figures.difference(known.answers, known.scores, reading.scores)
    passed = _within(apart, BOUNDS[weights])
    what = f"The weights in {weights}, read by llama.cpp,"
    yield _compared("log-probabilities", "llama.cpp", apart, passed, BOUNDS[weights], what)


def _same_prompts(reader: str, known: Reference, ids: Sequence[list[int] | None]) -> Check:
    wrong = [prompt.name for prompt, theirs in zip(known.prompts, ids, strict=True) if theirs != prompt.ids]
    count = len(known.prompts)
    says = (
        f"Read by {reader}, the prompt “{wrong[0]}” becomes other tokens than in training ({len(wrong)} of {count} do)."
        if wrong
        else f"Read by {reader}, all {count} prompts become the same tokens as in training."
    )
    return Check("prompts", reader, not wrong, says, {"prompts": count, "differ": wrong})


def _ends(reader: str, wanted: Sequence[int], ended: Sequence[int], passed: bool) -> Check:
    says = (
        f"Read by {reader}, answers end where the trained model's do."
        if passed
        else f"Read by {reader}, an answer doesn't end at token {', '.join(map(str, set(wanted) - set(ended) or wanted))}."
    )
    return Check("ends", reader, passed, says, {"tokens": list(wanted), "end": list(ended)})


def _within(apart: Difference, bound: tuple[str, float]) -> bool:
    figure, most = bound
    return bool((apart.max if figure == "max" else apart.mean) <= most)


def _compared(name: str, reader: str, apart: Difference, passed: bool, bound: tuple[str, float], what: str) -> Check:
    figure, most = bound
    value = apart.max if figure == "max" else apart.mean
    words = "at most" if figure == "max" else "on average"
    says = (
        f"{what} give each of {apart.tokens} tokens the trained model's log-probability within "
        f"{value:.2g} nats {words} (allowed: {most:g}) and choose the same token in {100 * apart.agreement:.1f} % of places."
    )
    if not passed and value <= most:
        says += " The greedy tokens differ."
    return Check(name, reader, passed, says, {**apart.as_dict(), "bound": most, "bound_of": figure})
