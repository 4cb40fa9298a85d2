"""What is said of a file's columns."""

from app.services.collecting.imports.reading import told
from app.services.collecting.imports.records.forms import Reader


def test_the_sentence_names_the_form_and_every_column() -> None:
    reader = Reader()
    reader.read({"system": "S", "question": "Q", "chosen": "A", "rejected": "B", "source": "x", "at": None})
    assert told.sentence(told.columns_of(reader)) == (
        "Read as orca: `system` → system message; `question` → prompt; `chosen` → chosen answer; `rejected` → rejected "
        "answer; left out: `source`."
    )
    assert told.sentence({}) == ""


def test_what_only_training_knows_is_left_out_and_said() -> None:
    reader = Reader()
    reader.read({"prompt": "Q", "chosen": "A", "rejected": "B", "weight": 0.5, "p_chosen": 0.7, "tools": []})
    columns = told.columns_of(reader)
    assert [columns[name] for name in ("weight", "p_chosen", "tools")] == [{"left_out": 1}] * 3
    counted = Reader()
    counted.read({"prompt": "Q", "chosen": "A", "rejected": "B", "weight": 0.5, "votes": 3, "votes_chosen": 2})
    assert told.columns_of(counted)["weight"] == {"weight": 1}


def test_a_file_with_hundreds_of_columns_is_told_in_part() -> None:
    reader = Reader()
    reader.read({"prompt": "Q", "chosen": "A", "rejected": "B", **{f"c{number}": 1 for number in range(400)}})
    report = told.report(reader)
    assert len(report.columns) == told.MOST_COLUMNS and report.notes["columns_uncounted"] == 403
    assert len(report.recognised) < 400
