"""Preference files: `read_pairs` and `read_prompts` go through the lines, `load_dataset` tokenizes and fits them."""

import gzip
from collections.abc import Callable, Iterator
from pathlib import Path

from transformers import PreTrainedTokenizerBase as Tokenizer

from worker.dpo.data import chat, tokens
from worker.dpo.data.fitting import fit
from worker.dpo.data.forms import BadLine, parse_pair, parse_prompt, parse_row
from worker.dpo.data.pairs import Dataset, Pair, Problem, Prompt
from worker.dpo.ground.errors import DataFileError

GZIP_MAGIC = b"\x1f\x8b"


def read_pairs(path: str | Path, *, on_problem: Callable[[Problem], None]) -> Iterator[Pair]:
    """The pairs of a JSON Lines file, gzipped or not, one at a time; blank lines are skipped.

    Each line that is not a pair goes to `on_problem`, with the reason: `bad_encoding`, `bad_json`, `not_an_object`,
    `missing_field`, `bad_field`, `unsupported_content`, `prompts_differ`, `no_answer`, `empty_prompt`, `empty_answer`,
    `identical_completions`, `bad_weight`, `bad_p_chosen`. Raises DataFileError where the file can't be read.
    """
    for number, raw in _lines(Path(path)):
        try:
            row = parse_row(raw)
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
    given = 0
    for number, raw in _lines(Path(path)):
        if given == limit:
            return
        try:
            row = parse_row(raw)
            if row is None:
                continue
            prompt = parse_prompt(row, line=number)
            if tokenizer is not None:
                chat.encode_prompt(tokenizer, prompt.messages, prompt.tools)
        except (BadLine, chat.CannotEncode) as bad:
            on_problem(Problem(number, bad.reason, str(bad), dropped=True))
        else:
            given += 1
            yield prompt


def load_dataset(
    path: str | Path,
    tokenizer: Tokenizer,
    *,
    max_length: int | None,
    cache_dir: str | Path | None = None,
    num_workers: int | None = None,
    remark: Callable[[str], None] = lambda text: None,
) -> Dataset:
    """The usable pairs of a file as token ids, with a problem for each line dropped or changed.

    max_length: tokens of prompt and longer completion together; None keeps every pair whole. cache_dir: where token ids
    are kept, keyed by the file's bytes, the tokenizer and this code. num_workers: processes; None decides by
    the time at stake. remark: told of cached ids that are damaged. Problems beside those of `read_pairs`:
    `non_prefix_template`, `template_refused`, `boundary_split`, `generation_prompt_differs`, `eos_added`, and those of
    `fit`. A tokenizer without a chat template gets the fallback, as `chat.ensure_template` says. Raises DataFileError
    where no pair is left.
    """
    path = Path(path)

    def read(on_problem: Callable[[Problem], None]) -> Iterator[Pair]:
        return read_pairs(path, on_problem=on_problem)

    if not path.is_file():
        raise DataFileError(f"There is no preference file at {path}.")
    dataset = tokens.tokenize(path, tokenizer, read=read, cache_dir=cache_dir, num_workers=num_workers, remark=remark)
    if max_length is not None:
        dataset = fit(dataset, max_length, bos_id=tokenizer.bos_token_id)
    if not dataset.pairs:
        first = f" Line {dataset.problems[0].line}: {dataset.problems[0].message}" if dataset.problems else ""
        raise DataFileError(f"{path} has no usable pair.{first}")
    return dataset


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        with path.open("rb") as raw:
            zipped = raw.peek(2)[:2] == GZIP_MAGIC
            yield from enumerate(gzip.GzipFile(fileobj=raw) if zipped else raw, start=1)
    except FileNotFoundError as error:
        raise DataFileError(f"There is no preference file at {path}.") from error
    except (EOFError, gzip.BadGzipFile, OSError) as error:
        raise DataFileError(f"{path} can't be read to its end: {error}") from error
