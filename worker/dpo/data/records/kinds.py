"""What kind of file it is, by its first bytes; for one that isn't read, what it is and a line that converts it."""

import csv
import io
import re

from worker.dpo.data.records.roles import ANSWER_SIDE, BY_NAME, PROMPTS, normal

BOM = b"\xef\xbb\xbf"
GZIP, PARQUET = b"\x1f\x8b", b"PAR1"
FROM_PANDAS = "python -c \"import pandas; pandas.{how}.to_json('pairs.jsonl', orient='records', lines=True)\""
# (first bytes, what it is, how it becomes a file that is read)
OTHERS = (
    (
        b"PK\x03\x04",
        "a ZIP archive or an Excel file",
        FROM_PANDAS.format(how="read_excel('FILE.xlsx')") + ", or unzip it",
    ),
    (b"BZh", "a bzip2 file", "bunzip2 FILE"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard file", "zstd -d FILE"),
    (b"\xfd7zXZ", "an xz file", "xz -d FILE"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", "7z x FILE"),
    (b"Rar!", "a RAR archive", "unrar x FILE"),
    (b"%PDF", "a PDF", "copy its pairs into a CSV file"),
    (b"\xd0\xcf\x11\xe0", "an old Excel file", FROM_PANDAS.format(how="read_excel('FILE.xls')")),
    (b"\xff\xfe", "text in UTF-16", "iconv -f UTF-16 -t UTF-8 FILE > pairs.jsonl"),
    (b"\xfe\xff", "text in UTF-16", "iconv -f UTF-16 -t UTF-8 FILE > pairs.jsonl"),
    (b"ARROW1", "an Arrow file", FROM_PANDAS.format(how="read_feather('FILE')")),
    (
        b"\xff\xff\xff\xff",
        "an Arrow stream, as Hugging Face datasets keep it",
        "python -c \"import datasets; datasets.Dataset.from_file('FILE').to_json('pairs.jsonl')\"",
    ),
    (b"ORC", "an ORC file", FROM_PANDAS.format(how="read_orc('FILE')")),
    (b"Obj\x01", "an Avro file", "convert it to Parquet"),
    (b"SQLite format 3", "a SQLite database", "sqlite3 -json FILE 'SELECT * FROM pairs' > pairs.json"),
    (b"\x89HDF", "an HDF5 file", FROM_PANDAS.format(how="read_hdf('FILE')")),
    (b"\x93NUMPY", "a NumPy file", "write its rows as JSON Lines"),
    (b"\x80\x04", "a pickle, which would run code when it is read", FROM_PANDAS.format(how="read_pickle('FILE')")),
    (b"\x80\x05", "a pickle, which would run code when it is read", FROM_PANDAS.format(how="read_pickle('FILE')")),
    (
        b"version https://git-lfs",
        "a Git LFS pointer: the file itself wasn't downloaded",
        "git lfs pull in its repository, and import the file that comes",
    ),
    (b"--", "a form or YAML", "send JSON Lines as they are: curl --data-binary @FILE"),
    (b"<", "HTML or XML, perhaps the page of an error", "download the file itself again"),
    (b"curl ", "a command", "run it in a terminal, with --data-binary @FILE in place of -d @FILE"),
)


def other_kind(head: bytes) -> str | None:
    """What to say of a file that can't be read; None where its first bytes say nothing against it."""
    start = head.removeprefix(BOM).lstrip(b" \t\r\n")
    for magic, name, how in OTHERS:
        if head.startswith(magic) or start.startswith(magic):
            return f"This is {name}. To make one that is read: {how}"
    if b"\0" in head[:64]:
        return "This is a binary file of a kind that isn't known. Export it as JSON Lines, CSV or Parquet."
    return None


def delimiter_of(head: str, known: frozenset[str]) -> str | None:
    """What stands between the columns, where the first line is the header of a table; None where it isn't one.

    known: columns that a person named, which make a header of any line that has them.
    """
    line = head.lstrip("\ufeff \r\n")
    for mark in ("\t", ",", ";", "|"):
        try:
            names = next(csv.reader(io.StringIO(line), delimiter=mark), [])
        except csv.Error:
            continue
        if len(names) < 2 or len({name.strip() for name in names}) < len(names):
            continue
        named = sum(_is_known(name.strip()) for name in names)
        if named >= 2 or known & {name.strip() for name in names}:
            return mark
    return None


def looks_like_a_table(head: str) -> str | None:
    """The mark between columns of a file whose names say nothing yet, but whose first lines have equally many."""
    lines = [line for line in head.splitlines()[:6] if line.strip()]
    for mark in ("\t", ",", ";"):
        counts = [line.count(mark) for line in lines]
        if len(lines) > 1 and counts[0] and len(set(counts)) == 1 and re.match(r"[\w\"]", lines[0]):
            return mark
    return None


def _is_known(name: str) -> bool:
    looked_up = normal(name)
    return looked_up in PROMPTS or looked_up in BY_NAME or ANSWER_SIDE.match(looked_up) is not None
