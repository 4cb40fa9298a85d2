"""A tokenizer as GGUF's metadata: its tokens, how they merge, which of them begin and end a text, the chat template."""

import json
from collections.abc import Mapping
from typing import Any

from gguf import GGUFWriter, TokenType
from transformers import PreTrainedTokenizerBase

from worker.dpo.data import chat
from worker.dpo.publish.gguf_support import tokenizer_kind, tokenizer_refusal
from worker.dpo.publish.merge import MergeError, end_tokens

# A token that no merge makes is never preferred to one that a merge makes.
NO_MERGE = -1e9
PROBE = [{"role": "user", "content": "a"}]


def write_tokenizer(writer: GGUFWriter, tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> None:
    """Add the tokenizer's metadata to a GGUF file. vocab_size: rows of the model's embeddings, at least as many as tokens.

    Rows without a token are called `[PAD…]` and marked as unused. Raises MergeError for a tokenizer that GGUF has no
    words for.
    """
    description = json.loads(tokenizer.backend_tokenizer.to_str())
    if problem := tokenizer_refusal(description):
        raise MergeError(problem)
    kind = tokenizer_kind(description)
    assert kind is not None
    tokens, types = _tokens(description, vocab_size, bytes_as_tokens=kind.model == "llama")
    writer.add_tokenizer_model(kind.model)
    writer.add_tokenizer_pre(kind.pre)
    writer.add_token_list(tokens)
    merges = [pair if isinstance(pair, list) else pair.split(" ", 1) for pair in description["model"]["merges"]]
    if kind.model == "llama":
        writer.add_token_scores(_scores(tokens, merges))
        first_is_special = bool(_rendered(tokenizer) and _rendered(tokenizer)[0] in tokenizer.all_special_ids)
        writer.add_add_space_prefix(kind.space == "always" or (kind.space == "first" and not first_is_special))
    else:
        writer.add_token_merges([" ".join(part.replace(" ", "Ġ") for part in pair) for pair in merges])
    writer.add_token_types(types)
    _special_tokens(writer, tokenizer)
    named = tokenizer.chat_template
    if isinstance(named, dict):
        named = [{"name": name, "template": template} for name, template in named.items()]
    writer.add_chat_template(named)


def _tokens(description: Mapping[str, Any], size: int, *, bytes_as_tokens: bool) -> tuple[list[str], list[int]]:
    """(the token of each row of the embeddings, its type)."""
    names = {index: token for token, index in description["model"]["vocab"].items()}
    added = {token["id"]: token for token in description["added_tokens"]}
    unknown = description["model"].get("unk_token")
    tokens, types = [], []
    for index in range(size):
        if index in added:
            tokens.append(added[index]["content"])
            kind = TokenType.CONTROL if added[index]["special"] else TokenType.USER_DEFINED
            types.append(TokenType.UNKNOWN if bytes_as_tokens and tokens[-1] == unknown else kind)
        elif index in names:
            tokens.append(names[index])
            is_byte = bytes_as_tokens and len(names[index]) == 6 and names[index].startswith("<0x")
            types.append(TokenType.BYTE if is_byte else TokenType.NORMAL)
        else:
            tokens.append(f"[PAD{index}]")
            types.append(TokenType.UNUSED)
    return tokens, [int(kind) for kind in types]


def _scores(tokens: list[str], merges: list[list[str]]) -> list[float]:
    """SentencePiece's score of each token: the earlier its first merge, the higher."""
    ranks: dict[str, float] = {}
    for rank, (left, right) in enumerate(merges):
        ranks.setdefault(left + right, -float(rank))
    return [ranks.get(token, NO_MERGE) for token in tokens]


def _special_tokens(writer: GGUFWriter, tokenizer: PreTrainedTokenizerBase) -> None:
    ends = end_tokens(tokenizer)
    writer.add_eos_token_id(ends[0])
    # Without an EOT token of its own llama.cpp guesses one by its name.
    writer.add_eot_token_id(ends[-1])
    if tokenizer.bos_token_id is not None:
        writer.add_bos_token_id(tokenizer.bos_token_id)
    if tokenizer.unk_token_id is not None:
        writer.add_unk_token_id(tokenizer.unk_token_id)
    if tokenizer.pad_token_id is not None:
        writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_add_bos_token(adds_bos(tokenizer))
    writer.add_add_eos_token(False)


def adds_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a reader of the file should put BOS before a text.

    Only where the tokenizer does so before plain text and the chat template begins with it as well: the file has one
    switch for both, and what was trained is the chat. A template that writes BOS where the tokenizer doesn't add it
    brings it along as text.
    """
    bos = tokenizer.bos_token_id
    plain = tokenizer("a")["input_ids"]
    return bos is not None and plain[:1] == [bos] and _rendered(tokenizer)[:1] == [bos]


def _rendered(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    return chat.encode_prompt(tokenizer, PROBE)
