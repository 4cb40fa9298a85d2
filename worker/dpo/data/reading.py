"""From a preference file to token ids: `read_pairs` reads and judges its lines, `load_dataset` tokenizes and fits them.

A line is one JSON object, in one of these forms (see `parse_pair`):

- explicit prompt: `prompt`, `chosen`, `rejected`, each a string or a list of messages;
- implicit prompt: `chosen` and `rejected` only, which begin alike;
- Anthropic HH: `chosen` and `rejected` as transcripts, `\\n\\nHuman: …\\n\\nAssistant: …`;
- and beside them `tools`, `weight` (0 or more) and `p_chosen` (0 to 1). Other columns are ignored.
"""

import gzip
import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase as Tokenizer

from worker.dpo.data import chat, tokens
from worker.dpo.data.pairs import PLAIN_TEXT, Dataset, Pair, Problem, Prompt, TokenPair

GZIP_MAGIC = b"\x1f\x8b"
TURN = re.compile(r"(?:\A|\n\n)(Human|Assistant):[ \t]?")
ROLES = {"Human": "user", "Assistant": "assistant"}
ANSWER_ROLES = {"assistant", "tool", PLAIN_TEXT}


class DataFileError(ValueError):
    """The file as a whole can't be used: missing, damaged, or without a single usable pair."""


class BadLine(ValueError):
    """A line that can't be a pair. `reason` is a stable code."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def read_pairs(path: str | Path, *, on_problem: Callable[[Problem], None]) -> Iterator[Pair]:
    """The pairs of a JSON Lines file, gzipped or not, one at a time; blank lines are skipped.

    Each line that is not a pair goes to `on_problem`, with the reason: `bad_encoding`, `bad_json`, `not_an_object`,
    `missing_field`, `bad_field`, `unsupported_content`, `prompts_differ`, `no_answer`, `empty_prompt`, `empty_answer`,
    `identical_completions`, `bad_weight`, `bad_p_chosen`. Raises DataFileError where the file can't be read.
    """
    for number, raw in _lines(Path(path)):
        try:
            row = _row(raw)
            if row is not None:
                yield parse_pair(row, line=number)
        except BadLine as bad:
            on_problem(Problem(number, bad.reason, str(bad), dropped=True))


def read_prompts(
    path: str | Path,
    *,
    on_problem: Callable[[Problem], None],
    tokenizer: Tokenizer | None = None,
    limit: int | None = None,
) -> Iterator[Prompt]:
    """The prompts of a file: of preference pairs, or of lines with only a `prompt`.

    Problems as in `read_pairs`, though what is wrong with a line's answers only matters where they hold the prompt.
    With a tokenizer, a prompt that its chat template refuses is a problem too (`template_refused`).
    """
    found = 0
    for number, raw in _lines(Path(path)):
        if found == limit:
            return
        try:
            row = _row(raw)
            if row is None:
                continue
            prompt = Prompt(number, _prompt_of(row, number), _tools(row))
            if tokenizer is not None:
                chat.encode_prompt(tokenizer, prompt.messages, prompt.tools)
        except (BadLine, chat.CannotEncode) as bad:
            on_problem(Problem(number, bad.reason, str(bad), dropped=True))
        else:
            found += 1
            yield prompt


def _prompt_of(row: dict[str, Any], line: int) -> list[dict]:
    if row.get("prompt") is None:
        return parse_pair(row, line=line).prompt
    messages = _messages(row["prompt"], PLAIN_TEXT, "prompt")
    is_chat = any(isinstance(row.get(side), list) for side in ("chosen", "rejected"))
    if is_chat and isinstance(row["prompt"], str):
        messages = _messages(row["prompt"], "user", "prompt")
    if not messages:
        raise BadLine("empty_prompt", "The prompt has no message.")
    return messages


def load_dataset(
    path: str | Path,
    tokenizer: Tokenizer,
    *,
    max_length: int | None,
    cache_dir: str | Path | None = None,
    num_workers: int | None = None,
) -> Dataset:
    """The usable pairs of a file as token ids, with a problem for each line dropped or changed.

    max_length: tokens of prompt and longer completion together; None keeps every pair whole. cache_dir: where token ids
    are kept, keyed by the file's bytes, the tokenizer and this code. num_workers: processes; None decides by
    the time at stake. Problems beside those of `read_pairs`: `non_prefix_template`, `template_refused`,
    `boundary_split`, `generation_prompt_differs`, `eos_added`, and those of `fit`. A tokenizer without a chat template
    gets the fallback, as `chat.ensure_template` says. Raises DataFileError where no pair is left.
    """
    path = Path(path)

    def read(on_problem: Callable[[Problem], None]) -> Iterator[Pair]:
        return read_pairs(path, on_problem=on_problem)

    if not path.is_file():
        raise DataFileError(f"There is no preference file at {path}.")
    dataset = tokens.tokenize(path, tokenizer, read=read, cache_dir=cache_dir, num_workers=num_workers)
    if max_length is not None:
        dataset = fit(dataset, max_length, bos_id=tokenizer.bos_token_id)
    if not dataset.pairs:
        first = f" Line {dataset.problems[0].line}: {dataset.problems[0].message}" if dataset.problems else ""
        raise DataFileError(f"{path} has no usable pair.{first}")
    return dataset


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


def pair_length(pair: TokenPair) -> int:
    """Tokens of the prompt and the longer completion."""
    return len(pair.prompt_ids) + max(len(pair.chosen_ids), len(pair.rejected_ids))


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


def _last(ids: tuple[int, ...], room: int, bos_id: int | None) -> tuple[int, ...]:
    # Some templates use the BOS token to begin every turn: then it is no mark of the beginning.
    if ids[0] == bos_id and ids.count(ids[0]) == 1 and room > 1:
        return (bos_id, *ids[len(ids) - room + 1 :])
    return ids[len(ids) - room :]


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        with path.open("rb") as raw:
            zipped = raw.peek(2)[:2] == GZIP_MAGIC
            yield from enumerate(gzip.GzipFile(fileobj=raw) if zipped else raw, start=1)
    except FileNotFoundError as error:
        raise DataFileError(f"There is no preference file at {path}.") from error
    except (EOFError, gzip.BadGzipFile, OSError) as error:
        raise DataFileError(f"{path} can't be read to its end: {error}") from error


def _row(raw: bytes) -> dict[str, Any] | None:
    """A line's JSON object, or None for a blank line."""
    try:
        text = raw.decode("utf-8-sig").strip()
        if not text:
            return None
        row = json.loads(text)
        # Lone surrogates pass JSON but are no text: tokenizers fail on them.
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeError as error:
        raise BadLine("bad_encoding", f"The line is not valid UTF-8 text: {error}") from error
    except (json.JSONDecodeError, RecursionError) as error:
        raise BadLine("bad_json", f"The line is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise BadLine("not_an_object", "The line is JSON, but not an object with chosen and rejected.")
    return row


def parse_pair(row: dict[str, Any], *, line: int) -> Pair:
    """The pair that a row holds, in any of the forms above. Raises BadLine.

    A prompt that is repeated at the start of both answers' messages is taken out of them. An answer may hold assistant
    and tool messages only: conversations that differ before the last question are refused (`prompts_differ`).
    """
    for name in ("chosen", "rejected"):
        if row.get(name) is None:
            raise BadLine("missing_field", f"The line has no '{name}'.")
    prompt, chosen, rejected = row.get("prompt"), row["chosen"], row["rejected"]
    if _is_transcript(chosen) and _is_transcript(rejected):
        sides = _transcripts(chosen, rejected)
    elif isinstance(chosen, str) and isinstance(rejected, str) and (prompt is None or isinstance(prompt, str)):
        sides = _plain(prompt, chosen, rejected)
    else:
        sides = _conversations(prompt, chosen, rejected)
    _check_answers(*sides)
    return Pair(line, *sides, tools=_tools(row), weight=_weight(row), p_chosen=_p_chosen(row))


def _is_transcript(value: Any) -> bool:
    return isinstance(value, str) and value.lstrip().startswith("Human:") and "\n\nAssistant:" in value


def _transcripts(chosen: str, rejected: str) -> tuple[list[dict], list[dict], list[dict]]:
    sides = _conversations(None, _turns(chosen), _turns(rejected))
    if any(len(side) != 1 for side in sides[1:]):
        raise BadLine("prompts_differ", "The two transcripts differ before their last answer.")
    return sides


def _turns(transcript: str) -> list[dict]:
    """The messages of an Anthropic HH transcript."""
    parts = TURN.split(transcript.lstrip())
    turns = zip(parts[1::2], parts[2::2], strict=True)
    return [{"role": ROLES[speaker], "content": text.strip()} for speaker, text in turns]


def _plain(prompt: str | None, chosen: str, rejected: str) -> tuple[list[dict], list[dict], list[dict]]:
    if prompt is None:
        shared = _shared_text(chosen, rejected)
        prompt, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
        if not prompt.strip() and chosen != rejected:
            raise BadLine("empty_prompt", "The line has no 'prompt', and its answers don't begin alike.")
    return tuple([{"role": PLAIN_TEXT, "content": text}] for text in (prompt, chosen, rejected))  # type: ignore[return-value]


def _shared_text(left: str, right: str) -> int:
    """Length of the implicit prompt: the common beginning up to a word's end, so that no word is cut in two."""
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(left, right, strict=False)))
    if same == min(len(left), len(right)) and all(text[same : same + 1].strip() == "" for text in (left, right)):
        return same
    while same and not left[same - 1].isspace():
        same -= 1
    # A space before a word belongs to the word, as tokenizers have it.
    return same - 1 if same and left[same - 1] == " " else same


def _conversations(prompt: Any, chosen: Any, rejected: Any) -> tuple[list[dict], list[dict], list[dict]]:
    sides = [_messages(value, "assistant", name) for value, name in ((chosen, "chosen"), (rejected, "rejected"))]
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(*sides, strict=False)))
    given = _messages(prompt, "user", "prompt") if prompt is not None else []
    if not given:
        # Equal conversations are all shared: their last turn is still the answer.
        shared = min(shared, *(len(side) - 1 for side in sides))
        return sides[0][:shared], sides[0][shared:], sides[1][shared:]
    repeated = len(given)
    if all(side[:repeated] == given and len(side) > repeated for side in sides):
        sides = [side[repeated:] for side in sides]
    elif isinstance(prompt, str) and all(side[0]["role"] in ("system", "user") for side in sides):
        return _conversations(None, *sides)
    return given, sides[0], sides[1]


def _messages(value: Any, role: str, name: str) -> list[dict]:
    """A field as messages; a string is one message of `role`."""
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise BadLine("bad_field", f"'{name}' is neither a string nor a list of messages.")
    if name != "prompt" and not value:
        raise BadLine("empty_answer", f"'{name}' has no message.")
    return [_message(item, name) for item in value]


def _message(item: dict, name: str) -> dict:
    if not isinstance(item.get("role"), str):
        raise BadLine("bad_field", f"A message of '{name}' has no role.")
    content = item.get("content")
    if isinstance(content, list):
        if not all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in content):
            raise BadLine("unsupported_content", f"A message of '{name}' holds something other than text.")
        content = "".join(part["text"] for part in content)
    if content is None and item.get("tool_calls"):
        content = ""
    if not isinstance(content, str):
        raise BadLine("bad_field", f"A message of '{name}' has no text in 'content'.")
    return {key: part for key, part in item.items() if part is not None} | {"content": content}


def _check_answers(prompt: list[dict], chosen: list[dict], rejected: list[dict]) -> None:
    if not prompt:
        raise BadLine("empty_prompt", "There is no prompt before the answers.")
    for name, side in (("chosen", chosen), ("rejected", rejected)):
        if any(message["role"] not in ANSWER_ROLES for message in side):
            raise BadLine("prompts_differ", "The two conversations differ before their last answer.")
        if side[-1]["role"] == "tool":
            raise BadLine("no_answer", f"'{name}' ends with a tool's message, not with an answer.")
        if not side[-1]["content"].strip() and not side[-1].get("tool_calls"):
            raise BadLine("empty_answer", f"'{name}' is an empty answer.")
    if chosen == rejected:
        raise BadLine("identical_completions", "Chosen and rejected are the same, so there is nothing to learn.")


def _tools(row: dict[str, Any]) -> list | None:
    tools = row.get("tools")
    if isinstance(tools, str):
        try:
            tools = json.loads(tools)
        except json.JSONDecodeError as error:
            raise BadLine("bad_field", f"'tools' is a string but not JSON: {error}") from error
    if tools is not None and not isinstance(tools, list):
        raise BadLine("bad_field", "'tools' is not a list.")
    return tools or None


def _weight(row: dict[str, Any]) -> float:
    return _number(row, "weight", "bad_weight", lambda value: value >= 0, "a number of 0 or more")


def _p_chosen(row: dict[str, Any]) -> float:
    return _number(row, "p_chosen", "bad_p_chosen", lambda value: 0 <= value <= 1, "a number from 0 to 1")


def _number(row: dict[str, Any], name: str, reason: str, allowed: Callable[[float], bool], wanted: str) -> float:
    value = row.get(name)
    if value is None:
        return 1.0
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not allowed(value):
        raise BadLine(reason, f"'{name}' is {value!r}, not {wanted}.")
    return float(value)
