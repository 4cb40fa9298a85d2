"""Which models can become GGUF files, told from `config.json` and `tokenizer.json` alone.

This module knows only the standard library: the web app holds a copy of it, so that a page can say why a model can't be
exported before a job is queued.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# transformers' model types, and llama.cpp's name of the same computation.
ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
# What GGUF's metadata can say of rotary positions, and which settings it takes.
ROPE_KEYS: dict[str, frozenset[str]] = {
    "default": frozenset(),
    "linear": frozenset({"factor"}),
    "llama3": frozenset({"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}),
    "yarn": frozenset({"factor", "original_max_position_embeddings"}),
}
CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{REST}"
QWEN2 = rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{REST}"
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# (how text is split into words, whether a word that is a token skips the merges): llama.cpp's `tokenizer.ggml.pre`.
SPLITS = {
    (("bytes",), False): "gpt-2",
    (("digits", "bytes"), False): "smollm",
    ((f"split {LLAMA3}",), True): "llama-bpe",
    ((f"split {LLAMA3}",), False): "dbrx",
    ((f"split {QWEN2}",), False): "qwen2",
    ((f"split {TEKKEN}",), True): "tekken",
}


@dataclass(frozen=True, slots=True)
class TokenizerKind:
    """`model` and `pre` of GGUF's `tokenizer.ggml`, and where a space goes before a text: always, at its start, never."""

    model: str
    pre: str
    space: str = "never"


def architecture_refusal(config: Mapping[str, Any]) -> str | None:
    """Why the GGUF writer has no names for this architecture; None when it has."""
    kind = str(config.get("model_type") or "unknown")
    if kind not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        return f"GGUF is written for models of the types {known}; this one is of type {kind}."
    if config.get("quantization_config"):
        return "The base model's weights are quantised; GGUF is written from full precision."
    if config.get("hidden_act", "silu") != "silu":
        return f"llama.cpp computes this architecture with SiLU; this model uses {config['hidden_act']}."
    if kind == "mistral" and _shorter(config.get("sliding_window"), config):
        return "The model attends over a sliding window, which GGUF's llama architecture doesn't have."
    if config.get("use_sliding_window") and _shorter(config.get("sliding_window"), config):
        return f"The model attends over a sliding window, which GGUF's {kind} architecture doesn't have."
    if kind == "qwen3" and config.get("attention_bias"):
        return "GGUF's qwen3 architecture has no attention biases; this model has them."
    return _rope_refusal(rope(config))


def _shorter(window: Any, config: Mapping[str, Any]) -> bool:
    return isinstance(window, int) and window < int(config.get("max_position_embeddings") or 0)


def rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """The rotary positions' settings, wherever this version of `config.json` keeps them: `rope_type`, `rope_theta`, …"""
    settings = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    settings["rope_type"] = str(settings.pop("type", None) or settings.get("rope_type") or "default")
    theta = settings.get("rope_theta", config.get("rope_theta"))
    settings["rope_theta"] = float(theta) if theta is not None else 10000.0
    return settings


def _rope_refusal(settings: Mapping[str, Any]) -> str | None:
    kind = settings["rope_type"]
    if kind not in ROPE_KEYS:
        return f"GGUF has no words for rotary positions of the kind {kind}."
    if settings.get("partial_rotary_factor", 1.0) not in (None, 1, 1.0):
        return "Only a part of each head is rotated, which these GGUF architectures don't have."
    given = {name for name, value in settings.items() if value is not None}
    unknown = given - ROPE_KEYS[kind] - {"rope_type", "rope_theta", "partial_rotary_factor"}
    if unknown:
        return f"GGUF has no words for {', '.join(sorted(unknown))} of rotary positions of the kind {kind}."
    if missing := ROPE_KEYS[kind] - given:
        return f"Rotary positions of the kind {kind} lack {', '.join(sorted(missing))} in config.json."
    return None


def tokenizer_refusal(tokenizer: Mapping[str, Any]) -> str | None:
    """Why llama.cpp has no tokenizer that splits text as this one does; None when it has."""
    model = tokenizer.get("model") or {}
    if model.get("type") != "BPE":
        return f"The tokenizer is of the kind {model.get('type') or 'unknown'}; GGUF is written for BPE."
    if not model.get("merges"):
        return "The tokenizer merges nothing, and llama.cpp reads no tokenizer without merges."
    if tokenizer_kind(tokenizer) is None:
        return "The tokenizer splits text into words by a rule that llama.cpp has no name for."
    return None


def tokenizer_kind(tokenizer: Mapping[str, Any]) -> TokenizerKind | None:
    """llama.cpp's name of a `tokenizer.json`'s rules; None where it has none."""
    model = tokenizer.get("model") or {}
    if model.get("byte_fallback"):
        space = _space_before(tokenizer)
        return TokenizerKind("llama", "default", space) if space else None
    steps = tuple(step for part in _parts(tokenizer.get("pre_tokenizer"), "pretokenizers") if (step := _step(part)))
    pre = SPLITS.get((steps, bool(model.get("ignore_merges"))))
    return TokenizerKind("gpt2", pre) if pre else None


def _space_before(tokenizer: Mapping[str, Any]) -> str | None:
    """Where SentencePiece's `▁` is put before a text that doesn't begin with a space; None for rules of another kind."""
    normalizers = _parts(tokenizer.get("normalizer"), "normalizers")
    splitters = _parts(tokenizer.get("pre_tokenizer"), "pretokenizers")
    kinds = [part.get("type") for part in normalizers]
    if not splitters and kinds in (["Prepend", "Replace"], ["Replace"]) and _replaces_spaces(normalizers[-1]):
        return "always" if "Prepend" in kinds else "never"
    if not normalizers and [part.get("type") for part in splitters] == ["Metaspace"]:
        metaspace = splitters[0]
        if metaspace.get("replacement") == "▁" and not metaspace.get("split", True):
            return {"always": "always", "first": "first"}.get(str(metaspace.get("prepend_scheme")), "never")
    return None


def _replaces_spaces(part: Mapping[str, Any]) -> bool:
    return part.get("pattern") == {"String": " "} and part.get("content") == "▁"


def _parts(value: Mapping[str, Any] | None, inner: str) -> list[Mapping[str, Any]]:
    if not value:
        return []
    return list(value.get(inner) or []) if value.get("type") == "Sequence" else [value]


def _step(part: Mapping[str, Any]) -> str | None:
    """One step of splitting as SPLITS writes it; None for one that splits nothing."""
    match part:
        case {"type": "ByteLevel", "add_prefix_space": False} if part.get("use_regex", True):
            return "bytes"
        case {"type": "ByteLevel", "add_prefix_space": False}:
            return None
        case {"type": "Digits", "individual_digits": True}:
            return "digits"
        case {"type": "Split", "behavior": "Isolated", "pattern": {"Regex": pattern}} if not part.get("invert"):
            return f"split {pattern}"
    return f"unknown {part.get('type')}"
