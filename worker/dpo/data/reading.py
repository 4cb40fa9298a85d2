"""Preference files: `read_pairs` and `read_prompts` go through the lines, `load_dataset` tokenizes and fits them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase as Tokenizer

from worker.dpo.data import chat, refusals, tokens
from worker.dpo.data.fitting import fit
from worker.dpo.data.forms import left_out, parse_pairs, parse_prompt, renamed
from worker.dpo.data.pairs import Dataset, Pair, Problem, Prompt
from worker.dpo.data.records.forms import Reader
from worker.dpo.data.records.refusals import BadLine, FileBroken
from worker.dpo.data.records.rows import Row, read_rows
from worker.dpo.ground.errors import DataFileError

# The file is its owner's own: these only keep a damaged one from filling the memory.
MAX_LINE, MAX_TOTAL = 1 << 30, 1 << 50


def read_pairs(path: str | Path, *, on_problem: Callable[[Problem], None]) -> Iterator[Pair]:
    """The pairs of a file, one at a time: JSON Lines, JSON, CSV, TSV or Parquet, gzipped or not; blank lines are skipped.

    Each line that is not a pair goes to `on_problem` with a reason of docs/preference-data.md, and so do, once, the
    columns that no line used (`columns_left_out`). Raises DataFileError where the file can't be read.
    """
    reader = Reader()
    number = 0
    for number, row, _ in _rows(Path(path)):
        try:
            if isinstance(row, BadLine):
                raise renamed(row)
            yield from parse_pairs(reader, row, line=number)
        except BadLine as bad:
            on_problem(Problem(number, bad.reason, str(bad), dropped=True))
    if unused := left_out(reader.columns()):
        names = ", ".join(f"`{column}`" for column in unused[:20]) + (" and more" if len(unused) > 20 else "")
        on_problem(Problem(number, "columns_left_out", f"Training doesn't use the columns {names}.", dropped=False))


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
    reader = Reader()
    for number, row, _ in _rows(Path(path)):
        if given == limit:
            return
        try:
            if isinstance(row, BadLine):
                raise renamed(row)
            prompt = parse_prompt(reader, row, line=number)
            if tokenizer is not None:
                chat.encode_prompt(tokenizer, prompt.messages, prompt.tools)
        except (BadLine, refusals.CannotEncode) as bad:
            on_problem(Problem(number, bad.reason, str(bad), dropped=True))
        else:
            given += 1
            yield prompt


def read_column(path: str | Path, column: str) -> Iterator[tuple[int, Any]]:
    """(line, value) of a column on each line that has it. Raises DataFileError where the file can't be read."""
    for number, row, _ in _rows(Path(path)):
        if isinstance(row, dict) and column in row:
            yield number, row[column]


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


def _rows(path: Path) -> Iterator[Row]:
    try:
        with path.open("rb") as raw:
            yield from read_rows(raw, max_line=MAX_LINE, max_total=MAX_TOTAL)
    except FileNotFoundError as error:
        raise DataFileError(f"There is no preference file at {path}.") from error
    except (FileBroken, OSError) as error:
        raise DataFileError(f"{path} can't be read to its end: {error}") from error
