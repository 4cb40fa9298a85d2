"""Preference files in every form that people bring, with each bad line reported by number and reason."""

import gzip
import json
from collections import Counter
from pathlib import Path

import pytest

from tests.brought import BROUGHT, Brought
from tests.worker.dpo.tiny import tiny_tokenizer, toy_pairs, write_pairs
from tests.worker.dpo.tokenizers_for_tests import NO_END, trained_tokenizer
from worker.dpo.data import chat, tokens
from worker.dpo.data.fitting import fit, suggest_max_length
from worker.dpo.data.forms import parse_pair
from worker.dpo.data.pairs import Pair, Problem, Prompt, TokenPair, pair_length
from worker.dpo.data.reading import load_dataset, read_pairs, read_prompts
from worker.dpo.ground.errors import DataFileError

USER = {"role": "user", "content": "What colour is the sky?"}
BLUE = {"role": "assistant", "content": "It is blue."}
GREEN = {"role": "assistant", "content": "It is green."}


def read(path: Path) -> tuple[list[Pair], list[Problem]]:
    problems: list[Problem] = []
    return list(read_pairs(path, on_problem=problems.append)), problems


def text(content: str) -> list[dict]:
    return [{"role": "text", "content": content}]


@pytest.mark.parametrize(
    ("row", "prompt", "chosen", "rejected"),
    [
        ({"prompt": [USER], "chosen": [BLUE], "rejected": [GREEN]}, [USER], [BLUE], [GREEN]),
        ({"chosen": [USER, BLUE], "rejected": [USER, GREEN]}, [USER], [BLUE], [GREEN]),
        ({"prompt": USER["content"], "chosen": [USER, BLUE], "rejected": [USER, GREEN]}, [USER], [BLUE], [GREEN]),
        ({"prompt": [USER], "chosen": "It is blue.", "rejected": "It is green."}, [USER], [BLUE], [GREEN]),
        ({"prompt": "Sky?", "chosen": " Blue.", "rejected": " Green."}, text("Sky?"), text(" Blue."), text(" Green.")),
        (
            {"chosen": "The sky is blue.", "rejected": "The sky is green."},
            text("The sky is"),
            text(" blue."),
            text(" green."),
        ),
        # TRL would cut "blue" and "black" after "bl".
        (
            {"chosen": "The sky is blue", "rejected": "The sky is black"},
            text("The sky is"),
            text(" blue"),
            text(" black"),
        ),
        ({"chosen": "Sky?\nBlue", "rejected": "Sky?\nBlack"}, text("Sky?\n"), text("Blue"), text("Black")),
        (
            {
                "chosen": "\n\nHuman: Hi\n\nAssistant: Hello?\n\nHuman: Sky?\n\nAssistant: Blue.",
                "rejected": "\n\nHuman: Hi\n\nAssistant: Hello?\n\nHuman: Sky?\n\nAssistant: Green. Human: no turn",
            },
            [
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "Hello?"},
                {"role": "user", "content": "Sky?"},
            ],
            [{"role": "assistant", "content": "Blue."}],
            [{"role": "assistant", "content": "Green. Human: no turn"}],
        ),
        (
            {
                "prompt": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}],
                "chosen": [BLUE],
                "rejected": [GREEN],
                "score": 3,
            },
            [{"role": "user", "content": "ab"}],
            [BLUE],
            [GREEN],
        ),
    ],
)
def test_every_form_becomes_prompt_and_two_answers(row, prompt, chosen, rejected):
    pair = parse_pair(row, line=4)
    assert (pair.line, pair.prompt, pair.chosen, pair.rejected) == (4, prompt, chosen, rejected)
    assert (pair.weight, pair.p_chosen, pair.tools) == (1.0, 1.0, None)


def test_weights_soft_labels_and_tools_are_read_and_other_columns_named(tmp_path):
    tool = {"type": "function", "function": {"name": "look_up"}}
    row = {"prompt": [USER], "chosen": [BLUE], "rejected": [GREEN], "weight": 2, "p_chosen": 0.75, "extra": {"a": 1}}
    rows = [row | {"tools": [tool]}, row | {"tools": json.dumps([tool])}, row | {"weight": None, "p_chosen": None}]
    pairs, problems = read(write_pairs(tmp_path / "pairs.jsonl", rows))
    assert [(problem.reason, problem.dropped, "`extra`" in problem.message) for problem in problems] == [
        ("columns_left_out", False, True)
    ]
    assert [(pair.weight, pair.p_chosen, pair.tools) for pair in pairs] == [
        (2.0, 0.75, [tool]),
        (2.0, 0.75, [tool]),
        (1.0, 1.0, None),
    ]
    dataset = load_dataset(tmp_path / "pairs.jsonl", tiny_tokenizer(), max_length=None)
    assert [(pair.weight, pair.p_chosen) for pair in dataset.pairs] == [(2.0, 0.75), (2.0, 0.75), (1.0, 1.0)]


BAD_LINES = [
    ("{", "bad_json"),
    ("[" * 100_000, "bad_json"),
    ("[1, 2]", "not_an_object"),
    ('"text"', "not_an_object"),
    ({"prompt": "a", "chosen": "b"}, "missing_field"),
    ({"prompt": "a", "chosen": "b", "rejected": None}, "missing_field"),
    ({"prompt": "a", "chosen": 3, "rejected": "b"}, "bad_field"),
    ({"prompt": [{"content": "a"}], "chosen": [BLUE], "rejected": [GREEN]}, "bad_field"),
    ({"prompt": [{"role": "user"}], "chosen": [BLUE], "rejected": [GREEN]}, "bad_field"),
    ({"prompt": [USER], "chosen": [BLUE], "rejected": [GREEN], "tools": "{"}, "bad_field"),
    ({"prompt": [USER], "chosen": [BLUE], "rejected": [GREEN], "tools": {"a": 1}}, "bad_field"),
    (
        {"prompt": [{"role": "user", "content": [{"type": "image"}]}], "chosen": [BLUE], "rejected": [GREEN]},
        "unsupported_content",
    ),
    ({"prompt": [USER], "chosen": [BLUE], "rejected": []}, "empty_answer"),
    ({"prompt": [USER], "chosen": [BLUE], "rejected": [{"role": "assistant", "content": " \n"}]}, "empty_answer"),
    ({"prompt": "a", "chosen": "", "rejected": "b"}, "empty_answer"),
    ({"prompt": [USER], "chosen": [BLUE], "rejected": [BLUE]}, "identical_completions"),
    ({"chosen": [USER, BLUE], "rejected": [USER, BLUE]}, "identical_completions"),
    ({"prompt": [], "chosen": [BLUE], "rejected": [GREEN]}, "empty_prompt"),
    ({"chosen": [BLUE], "rejected": [GREEN]}, "empty_prompt"),
    ({"chosen": "Blue.", "rejected": "Green."}, "empty_prompt"),
    ({"chosen": [USER, BLUE, USER, BLUE], "rejected": [USER, GREEN, USER, GREEN]}, "prompts_differ"),
    ({"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: c\n\nAssistant: d"}, "prompts_differ"),
    (
        {"chosen": "\n\nHuman: a\n\nAssistant: b\n\nAssistant: c", "rejected": "\n\nHuman: a\n\nAssistant: d"},
        "prompts_differ",
    ),
    ({"prompt": [USER], "chosen": [BLUE, {"role": "tool", "content": "x"}], "rejected": [GREEN]}, "no_answer"),
    ({"prompt": "a", "chosen": "b", "rejected": "c", "weight": -1}, "bad_weight"),
    ({"prompt": "a", "chosen": "b", "rejected": "c", "weight": "heavy"}, "bad_weight"),
    ('{"prompt": "a", "chosen": "b", "rejected": "c", "weight": NaN}', "bad_weight"),
    ({"prompt": "a", "chosen": "b", "rejected": "c", "p_chosen": 1.5}, "bad_p_chosen"),
    ({"prompt": "a", "chosen": "b", "rejected": "c", "p_chosen": True}, "bad_p_chosen"),
    (b'{"prompt": "\xff", "chosen": "b", "rejected": "c"}', "bad_encoding"),
    ('{"prompt": "\\ud800", "chosen": "b", "rejected": "c"}', "bad_encoding"),
]


def test_each_bad_line_is_reported_by_number_and_reason_and_the_good_ones_stay(tmp_path):
    path = tmp_path / "pairs.jsonl"
    good = {"prompt": [USER], "chosen": [BLUE], "rejected": [GREEN]}
    with path.open("wb") as file:
        for line, _ in BAD_LINES:
            raw = line if isinstance(line, bytes) else (line if isinstance(line, str) else json.dumps(line)).encode()
            file.write(raw + b"\n" + json.dumps(good).encode() + b"\n")
    pairs, problems = read(path)
    assert [(p.line, p.reason) for p in problems] == [(2 * i + 1, reason) for i, (_, reason) in enumerate(BAD_LINES)]
    assert [pair.line for pair in pairs] == [2 * i + 2 for i in range(len(BAD_LINES))]
    assert all(p.dropped and p.message for p in problems)


def test_gzip_is_known_by_its_content_and_blank_lines_and_a_byte_order_mark_do_no_harm(tmp_path):
    lines = b"\xef\xbb\xbf" + b"\n\n".join(json.dumps(pair).encode() for pair in toy_pairs(3))
    plain, zipped = tmp_path / "pairs.jsonl", tmp_path / "no-extension"
    plain.write_bytes(lines)
    zipped.write_bytes(gzip.compress(lines))
    assert read(zipped) == read(plain)
    assert [pair.line for pair in read(plain)[0]] == [1, 3, 5]


def test_a_damaged_or_missing_file_is_one_clear_error(tmp_path):
    whole = gzip.compress(b"".join(json.dumps(pair).encode() + b"\n" for pair in toy_pairs(400)))
    (tmp_path / "cut.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataFileError, match=r"cut\.gz can't be read to its end"):
        read(tmp_path / "cut.gz")
    with pytest.raises(DataFileError, match="no preference file"):
        read(tmp_path / "missing.jsonl")
    with pytest.raises(DataFileError, match="no preference file"):
        load_dataset(tmp_path, tiny_tokenizer(), max_length=None)


@pytest.mark.parametrize("brought", BROUGHT, ids=lambda brought: brought.name)
def test_a_file_of_another_program_trains_on_what_was_preferred(tmp_path, brought: Brought):
    """The import's forms, by the same rules: pairs of which one answer is better, others refused."""
    pairs, problems = read(write_pairs(tmp_path / "pairs.jsonl", [brought.row]))
    better = []
    for prompt, first, second, choices, _ in brought.pairs:
        if len(set(choices)) == 1 and choices[0] in ("first", "second"):
            sides = (first, second) if choices[0] == "first" else (second, first)
            better.append((prompt[-1]["content"], [message["content"] for message in prompt], *sides))
    assert [
        (
            pair.prompt[-1]["content"],
            [m["content"] for m in pair.prompt],
            pair.chosen[0]["content"],
            pair.rejected[0]["content"],
        )
        for pair in pairs
    ] == better
    refusals = {problem.reason for problem in problems if problem.dropped}
    assert refusals <= {"not_judged", "no_majority"} and bool(refusals) == (not better)


def test_answers_that_go_on_over_several_turns_are_trained_on_whole(tmp_path):
    following = {"role": "user", "content": "And at night?"}
    row = {"prompt": [USER], "chosen": [BLUE, following, BLUE], "rejected": [GREEN, following, GREEN]}
    ((pair,), problems) = read(write_pairs(tmp_path / "pairs.jsonl", [row]))
    assert (pair.chosen, problems) == (row["chosen"], [])


def test_columns_that_say_which_pair_it_is_are_no_news(tmp_path):
    row = {
        "prompt": "a",
        "chosen": "b",
        "rejected": "c",
        "comparison_id": 1,
        "external_id": "",
        "chosen_source": "m",
        "votes": 3,
    }
    assert read(write_pairs(tmp_path / "pairs.jsonl", [row]))[1] == []


def test_a_table_and_a_parquet_file_are_read_as_well(tmp_path):
    import pyarrow
    from pyarrow import parquet

    rows = toy_pairs(5)
    expected = read(write_pairs(tmp_path / "pairs.jsonl", rows))[0]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "pairs.parquet")
    assert read(tmp_path / "pairs.parquet")[0] == expected
    (tmp_path / "pairs.csv").write_text("prompt,chosen,rejected,weight\na,b,c,0.5\n")
    assert [(pair.chosen, pair.weight) for pair in read(tmp_path / "pairs.csv")[0]] == [(text("b"), 0.5)]


def test_a_file_without_a_usable_pair_says_why(tmp_path):
    path = write_pairs(tmp_path / "pairs.jsonl", [{"prompt": "a", "chosen": "b", "rejected": "b"}])
    with pytest.raises(DataFileError, match=r"no usable pair\. Line 1: Chosen and rejected are the same"):
        load_dataset(path, tiny_tokenizer(), max_length=None)


def test_answers_that_differ_in_text_but_not_in_tokens_are_identical(tmp_path):
    tokenizer = trained_tokenizer()
    rows = [
        {"prompt": "Hello", "chosen": " there", "rejected": " there</s>"},
        {"prompt": "Hello", "chosen": " a", "rejected": " b"},
    ]
    dataset = load_dataset(write_pairs(tmp_path / "pairs.jsonl", rows), tokenizer, max_length=None)
    assert [(p.line, p.reason) for p in dataset.problems] == [(1, "identical_completions")]


def test_real_transcripts_are_read_and_what_is_wrong_with_them_named(hh_file):
    dataset = load_dataset(hh_file, trained_tokenizer(), max_length=1024)
    reasons = Counter(problem.reason for problem in dataset.problems if problem.dropped)
    assert reasons["empty_answer"] == 2 and reasons["prompts_differ"] == 5
    assert len(dataset.pairs) + sum(reasons.values()) == 1156
    assert {p.line for p in dataset.problems if p.reason == "prompts_differ"} == {628, 845, 976, 977, 1019}
    assert all(pair_length(pair) <= 1024 for pair in dataset.pairs)


def test_the_template_used_is_stated(tmp_path):
    path = write_pairs(tmp_path / "pairs.jsonl", toy_pairs(3))
    plain = write_pairs(tmp_path / "plain.jsonl", [{"prompt": "a", "chosen": " b", "rejected": " c"}])
    assert load_dataset(path, trained_tokenizer(), max_length=None).template == "tokenizer"
    assert load_dataset(path, trained_tokenizer(template=None), max_length=None).template == "chatml (fallback)"
    assert load_dataset(plain, trained_tokenizer(template=None), max_length=None).template == "none (plain text)"


def test_what_the_template_does_to_every_line_is_said_once(tmp_path):
    path = write_pairs(tmp_path / "pairs.jsonl", toy_pairs(5))
    problems = load_dataset(path, trained_tokenizer(template=NO_END), max_length=None).problems
    assert Counter(p.reason for p in problems)["eos_added"] == 1
    assert not any(p.dropped for p in problems)


# Maximum length


def pairs_of_lengths(*lengths: int) -> list[TokenPair]:
    return [TokenPair(i, (5,) * (length - 3), (6, 7, 1), (8, 1)) for i, length in enumerate(lengths, start=1)]


def test_suggested_length_keeps_99_in_100_pairs_whole():
    pairs = pairs_of_lengths(*range(101, 201), *([200] * 99), 5000)
    assert suggest_max_length(pairs) == 256
    assert suggest_max_length(pairs, model_limit=150) == 150
    assert suggest_max_length(pairs_of_lengths(10, 12, 11)) == 12
    with pytest.raises(DataFileError):
        suggest_max_length([])


def test_fitting_changes_the_hash_only_where_it_changes_a_pair(tmp_path):
    dataset = load_dataset(write_pairs(tmp_path / "pairs.jsonl", toy_pairs(6)), tiny_tokenizer(), max_length=None)
    longest = max(map(pair_length, dataset.pairs))
    assert fit(dataset, longest) == dataset
    assert fit(dataset, longest - 1).sha256 != dataset.sha256


def test_the_hash_covers_ids_weights_and_labels():
    base = TokenPair(1, (3, 4), (5, 1), (6, 1))
    others = [
        TokenPair(1, (3,), (4, 5, 1), (6, 1)),
        TokenPair(1, (3, 4), (6, 1), (5, 1)),
        TokenPair(1, (3, 4), (5, 1), (6, 1), weight=2.0),
        TokenPair(1, (3, 4), (5, 1), (6, 1), p_chosen=0.9),
    ]
    assert len({tokens.digest([pair]) for pair in [base, *others]}) == 5


# Cache and processes


def test_ids_are_taken_from_the_cache_the_second_time(tmp_path, monkeypatch):
    rows = [*toy_pairs(4), {"prompt": "a", "chosen": "b", "rejected": "b"}]
    path, cache = write_pairs(tmp_path / "pairs.jsonl", rows), tmp_path / "cache"
    first = load_dataset(path, tiny_tokenizer(), max_length=60, cache_dir=cache)

    def fail(*_):
        raise AssertionError("tokenized again")

    monkeypatch.setattr(chat, "encode_with_notes", fail)
    assert load_dataset(path, tiny_tokenizer(), max_length=60, cache_dir=cache) == first
    # Another maximum length uses the same ids.
    assert load_dataset(path, tiny_tokenizer(), max_length=80, cache_dir=cache).problems != first.problems
    assert [file.suffix for file in cache.iterdir()] == [".safetensors"]


def test_another_file_tokenizer_or_template_is_another_cache_entry(tmp_path):
    path = write_pairs(tmp_path / "a.jsonl", toy_pairs(3))
    other = write_pairs(tmp_path / "b.jsonl", toy_pairs(4))
    keys = {
        tokens.cache_key(path, tiny_tokenizer()),
        tokens.cache_key(other, tiny_tokenizer()),
        tokens.cache_key(path, tiny_tokenizer(chat_template=NO_END)),
        tokens.cache_key(path, tiny_tokenizer(eos="<|endoftext|>")),
        tokens.cache_key(path, trained_tokenizer()),
        tokens.cache_key(path, trained_tokenizer(adds_bos=True)),
    }
    assert len(keys) == 6
    assert tokens.cache_key(path, tiny_tokenizer()) in keys


@pytest.mark.parametrize("harm", [b"", b"not safetensors", None])
def test_a_damaged_cache_entry_is_made_again(tmp_path, harm):
    path, cache = write_pairs(tmp_path / "pairs.jsonl", toy_pairs(4)), tmp_path / "cache"
    first = load_dataset(path, tiny_tokenizer(), max_length=None, cache_dir=cache)
    (entry,) = cache.iterdir()
    sound = entry.read_bytes()
    damaged = harm if harm is not None else sound[:-8] + b"\x01" + sound[-7:]
    entry.write_bytes(damaged)
    remarks: list[str] = []
    assert load_dataset(path, tiny_tokenizer(), max_length=None, cache_dir=cache, remark=remarks.append) == first
    assert entry.read_bytes() != damaged
    assert len(remarks) == 1 and "are damaged" in remarks[0] and str(entry) in remarks[0]


def test_a_cached_remark_with_another_bit_is_made_again(tmp_path):
    path, cache = (
        write_pairs(tmp_path / "pairs.jsonl", [{"prompt": "", "chosen": "a", "rejected": "a"}, *toy_pairs(2)]),
        tmp_path / "cache",
    )
    first = load_dataset(path, tiny_tokenizer(), max_length=None, cache_dir=cache)
    (entry,) = cache.iterdir()
    sound = entry.read_bytes()
    entry.write_bytes(sound.replace(b"tokenizer", b"tokeniser", 1))
    remarks: list[str] = []
    assert load_dataset(path, tiny_tokenizer(), max_length=None, cache_dir=cache, remark=remarks.append) == first
    assert len(remarks) == 1


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(tmp_path):
    path = write_pairs(tmp_path / "pairs.jsonl", toy_pairs(2))
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where a folder should be")
    assert len(load_dataset(path, tiny_tokenizer(), max_length=None, cache_dir=blocked).pairs) == 2


def test_several_processes_give_the_same_dataset(tmp_path):
    rows = [*toy_pairs(300), {"prompt": "a", "chosen": "b", "rejected": "b"}, *toy_pairs(300)]
    path = write_pairs(tmp_path / "pairs.jsonl", rows)
    alone = load_dataset(path, tiny_tokenizer(), max_length=None, num_workers=1)
    assert load_dataset(path, tiny_tokenizer(), max_length=None, num_workers=2) == alone
    assert load_dataset(path, tiny_tokenizer(), max_length=None) == alone
    assert [pair.line for pair in alone.pairs] == [*range(1, 301), *range(302, 602)]


def test_prompts_are_read_from_pairs_and_from_lines_with_a_prompt_only(tmp_path):
    rows = [
        {"prompt": [USER], "chosen": [BLUE], "rejected": [GREEN]},
        {"prompt": [USER]},
        {"prompt": "Sky?"},
        {"prompt": "Sky?", "chosen": [BLUE], "rejected": [GREEN]},
        {"chosen": [USER, BLUE], "rejected": [USER, GREEN]},
        {"prompt": []},
        {"prompt": "last"},
    ]
    path, problems = write_pairs(tmp_path / "prompts.jsonl", rows), []
    prompts = list(read_prompts(path, on_problem=problems.append))
    user = [{"role": "user", "content": "Sky?"}]
    expected = [(1, [USER]), (2, [USER]), (3, text("Sky?")), (4, user), (5, [USER]), (7, text("last"))]
    assert prompts == [Prompt(line, messages) for line, messages in expected]
    assert [(p.line, p.reason) for p in problems] == [(6, "empty_prompt")]
    assert list(read_prompts(path, on_problem=problems.append, limit=2)) == prompts[:2]


def test_what_was_left_out_where_a_file_was_made_is_not_trained_on(tmp_path):
    """Prefloop's own form: a pair is dropped, and a vote isn't counted."""
    left_out = {"at": "2026-01-31T12:00:00+00:00", "reason": "Guessed."}
    row = {"prompt": [USER], "responses": [{"text": "Blue."}, {"text": "Green."}]}
    for_first, for_second = {"rater": "a", "choice": "first"}, {"rater": "b", "choice": "second"}
    rows = [
        {**row, "judgments": [for_first], "excluded": left_out},
        {**row, "judgments": [for_first, for_second], "excluded": None},
        {**row, "judgments": [for_first, {**for_second, "excluded": left_out}]},
        {**row, "judgments": [{**for_second, "excluded": left_out}]},
        {**row, "judgments": [for_second], "excluded": False},  # another program's column
    ]
    pairs, problems = read(write_pairs(tmp_path / "pairs.jsonl", rows))
    assert [(pair.line, pair.chosen[0]["content"]) for pair in pairs] == [(3, "Blue."), (5, "Green.")]
    dropped = [(problem.line, problem.reason) for problem in problems if problem.dropped]
    assert dropped == [(1, "excluded"), (2, "no_majority"), (4, "not_judged")]
