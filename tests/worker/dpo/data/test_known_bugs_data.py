"""Bugs that other trainers shipped in tokenization, truncation and loss options: each one can't happen here.

The numbers are those of the list in docs/engine.md.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.worker.dpo.losses_for_tests import configure
from tests.worker.dpo.tiny import CHATML, toy_pairs, write_pairs
from tests.worker.dpo.tokenizers_for_tests import LLAMA, NO_END, REWRITES_HISTORY, trained_tokenizer, trl_ids
from worker.dpo.data import chat, refusals
from worker.dpo.data.fitting import fit
from worker.dpo.data.forms import parse_pair
from worker.dpo.data.pairs import Dataset, TokenPair, pair_length
from worker.dpo.data.reading import load_dataset
from worker.dpo.ground.values import ConfigError


def chat_row(question: str, chosen: str, rejected: str) -> dict:
    return {
        "prompt": [{"role": "user", "content": question}],
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
    }


def encoded(tokenizer, row: dict) -> TokenPair:
    return chat.encode_with_notes(tokenizer, parse_pair(row, line=1))[0]


def dataset_of(pairs: list[TokenPair]) -> Dataset:
    return Dataset(pairs, [], "tokenizer", "")


def test_bug_1_bos_comes_once_from_template_and_tokenizer():
    tokenizer = trained_tokenizer(template=LLAMA, adds_bos=True)
    ids = encoded(tokenizer, toy_pairs(1)[0])
    assert ids.prompt_ids[0] == tokenizer.bos_token_id
    assert (ids.prompt_ids + ids.chosen_ids).count(tokenizer.bos_token_id) == 1


def test_bug_1_bos_comes_once_where_the_text_brings_its_own():
    tokenizer = trained_tokenizer(adds_bos=True)
    ids = encoded(tokenizer, {"prompt": "<s>The parcel", "chosen": " is late", "rejected": " is wrong"})
    assert ids.prompt_ids.count(tokenizer.bos_token_id) == 1
    doubled = trained_tokenizer(template="{{ bos_token }}" + LLAMA, adds_bos=True)
    assert encoded(doubled, toy_pairs(1)[0]).prompt_ids.count(doubled.bos_token_id) == 1


def test_bug_2_tokens_do_not_merge_across_prompt_and_answer():
    tokenizer = trained_tokenizer()
    row = chat_row("Lines?", "\n\nHello there", "\n\nNo.")
    prompt = chat.encode_prompt(tokenizer, row["prompt"])
    merged = trl_ids(tokenizer, [row])[0][0]
    assert len(merged) < len(prompt), "this pair must be one whose tokens merge, or the test shows nothing"
    ids, notes = chat.encode_with_notes(tokenizer, parse_pair(row, line=1))
    assert list(ids.prompt_ids) == prompt
    assert tokenizer.decode(ids.chosen_ids) == "\n\nHello there<|im_end|>\n"
    assert notes == ("boundary_split",)


def test_bug_2_plain_text_does_not_merge_across_prompt_and_answer():
    tokenizer = trained_tokenizer()
    ids = encoded(tokenizer, {"prompt": "The parcel was ", "chosen": "here", "rejected": "wrong"})
    assert list(ids.prompt_ids) == tokenizer("The parcel was ")["input_ids"]
    assert tokenizer.decode(ids.prompt_ids + ids.chosen_ids) == "The parcel was here</s>"


@pytest.mark.parametrize("template", [NO_END, CHATML])
def test_bug_3_an_answer_ends_with_an_end_token(template):
    tokenizer = trained_tokenizer(template=template)
    ends = chat.end_token_ids(tokenizer)
    for row in toy_pairs(6):
        ids, notes = chat.encode_with_notes(tokenizer, parse_pair(row, line=1))
        for side in (ids.chosen_ids, ids.rejected_ids):
            assert sum(side.count(end) for end in ends) == 1
            assert not tokenizer.decode([i for i in side if i not in ends]).endswith("<|im_end|>")
        assert ("eos_added" in notes) == (template == NO_END)


@pytest.mark.parametrize(
    ("tokenizer", "row"),
    [
        (trained_tokenizer(template=LLAMA), chat_row("Hello", "there</s>", "hope</s></s>")),
        (trained_tokenizer(), chat_row("Hello", "there<|im_end|>", "hope")),
        (trained_tokenizer(), {"prompt": "Hello", "chosen": " there</s>", "rejected": " hope"}),
        (trained_tokenizer(adds_eos=True), {"prompt": "Hello", "chosen": " there", "rejected": " hope</s>"}),
    ],
)
def test_bug_3_an_answer_ends_once_only(tokenizer, row):
    ids = encoded(tokenizer, row)
    end = tokenizer.convert_tokens_to_ids(
        "<|im_end|>" if tokenizer.chat_template == CHATML and "user" in str(row) else "</s>"
    )
    assert end not in ids.prompt_ids[-1:]
    for side in (ids.chosen_ids, ids.rejected_ids):
        assert side.count(end) == 1


def test_bug_4_padding_with_eos_hides_no_eos(tmp_path):
    path = write_pairs(tmp_path / "pairs.jsonl", toy_pairs(8))
    apart = load_dataset(path, trained_tokenizer(template=LLAMA, pad="<pad>"), max_length=None)
    shared = load_dataset(path, trained_tokenizer(template=LLAMA, pad="</s>"), max_length=None)
    assert shared.sha256 == apart.sha256
    assert all(pair.chosen_ids[-1] == 1 and pair.rejected_ids[-1] == 1 for pair in shared.pairs)


def test_bug_5_a_template_that_rewrites_history_is_reported_by_line(tmp_path):
    tokenizer = trained_tokenizer(template=REWRITES_HISTORY)
    with pytest.raises(refusals.NonPrefixTemplate):
        encoded(tokenizer, toy_pairs(1)[0])
    rows = [{"prompt": "Hello", "chosen": " there", "rejected": " hope"}, *toy_pairs(2)]
    dataset = load_dataset(write_pairs(tmp_path / "pairs.jsonl", rows), tokenizer, max_length=None)
    assert [(p.line, p.reason, p.dropped) for p in dataset.problems] == [
        (2, "non_prefix_template", True),
        (3, "non_prefix_template", True),
    ]
    assert [pair.line for pair in dataset.pairs] == [1]


def test_bug_6_a_conversation_repeated_in_the_answers_is_not_the_answer():
    tokenizer = trained_tokenizer()
    plain = toy_pairs(1)[0]
    expected = encoded(tokenizer, plain)
    whole = {name: [*plain["prompt"], *plain[name]] for name in ("chosen", "rejected")}
    assert encoded(tokenizer, whole) == expected
    assert encoded(tokenizer, {"prompt": plain["prompt"], **whole}) == expected
    assert encoded(tokenizer, {"prompt": plain["prompt"][0]["content"], **whole}) == expected


ids = st.lists(st.integers(3, 400), min_size=1, max_size=30)


@given(prompt=ids, shared=st.lists(st.integers(3, 400), max_size=5), chosen=ids, rejected=ids, limit=st.integers(2, 60))
def test_bugs_7_to_9_truncation_takes_from_the_prompt_only_and_bounds_both_sides(
    prompt, shared, chosen, rejected, limit
):
    pair = TokenPair(1, tuple(prompt), (*shared, *chosen), (*shared, *rejected))
    fitted = fit(dataset_of([pair]), limit)
    longest = max(len(pair.chosen_ids), len(pair.rejected_ids))
    if not fitted.pairs:
        assert longest + 1 > limit
        assert [p.reason for p in fitted.problems] == ["completion_too_long"]
        return
    (kept,) = fitted.pairs
    assert kept.chosen_ids == pair.chosen_ids and kept.rejected_ids == pair.rejected_ids
    assert pair_length(kept) <= limit
    assert kept.prompt_ids and kept.prompt_ids == pair.prompt_ids[-len(kept.prompt_ids) :]
    # Nothing more is cut than has to be.
    assert len(kept.prompt_ids) == min(len(prompt), limit - longest)
    assert [p.reason for p in fitted.problems] == (["prompt_truncated"] if kept != pair else [])


def test_bug_7_an_answer_is_never_cut_and_one_that_cannot_fit_is_dropped_and_counted():
    long_prompt = TokenPair(1, tuple(range(3, 103)), (5, 6, 1), (7, 1))
    long_answer = TokenPair(2, (3, 4), tuple(range(3, 53)), (7, 1))
    exact = TokenPair(3, (3,), tuple(range(3, 12)), (7, 1))
    fitted = fit(dataset_of([long_prompt, long_answer, exact]), 10)
    assert [pair.line for pair in fitted.pairs] == [1, 3]
    assert fitted.pairs[0].chosen_ids == (5, 6, 1) and len(fitted.pairs[0].prompt_ids) == 7
    assert fitted.pairs[1] == exact
    assert [(p.line, p.reason, p.dropped) for p in fitted.problems] == [
        (1, "prompt_truncated", False),
        (2, "completion_too_long", True),
    ]


def test_bug_7_truncation_keeps_bos_in_front():
    pair = TokenPair(1, (0, *range(3, 23)), (5, 1), (6, 7, 1))
    (kept,) = fit(dataset_of([pair]), 10, bos_id=0).pairs
    assert kept.prompt_ids == (0, 17, 18, 19, 20, 21, 22)
    # ChatML models have BOS at each turn's start, where it says nothing about the text's.
    turns = TokenPair(1, (0, *range(3, 13), 0, *range(13, 23)), (5, 1), (6, 7, 1))
    assert fit(dataset_of([turns]), 10, bos_id=0).pairs[0].prompt_ids == (16, 17, 18, 19, 20, 21, 22)


def test_bug_8_one_answer_s_length_takes_nothing_from_the_other_and_both_see_one_prompt():
    pair = TokenPair(1, tuple(range(3, 43)), (5,) * 2, (6,) * 25)
    (kept,) = fit(dataset_of([pair]), 40).pairs
    assert len(kept.chosen_ids) == 2 and len(kept.rejected_ids) == 25
    assert kept.prompt_ids == pair.prompt_ids[-15:]


def test_bug_9_the_rejected_side_is_held_to_the_limit():
    pair = TokenPair(1, (3, 4), (5, 1), (6,) * 40)
    fitted = fit(dataset_of([pair]), 20)
    assert not fitted.pairs
    assert fitted.problems[0].reason == "completion_too_long"


def test_bug_24_label_smoothing_is_used_or_refused_never_ignored():
    import torch

    from worker.dpo.loss.pair_losses import pair_losses

    def loss(smoothing: float) -> float:
        sides = {
            f"{ref}logps_{side}": torch.tensor([value])
            for ref in ("", "ref_")
            for side, value in (("chosen", -3.0), ("rejected", -9.0))
        }
        sides["ref_logps_chosen"] = torch.tensor([-8.0])
        lengths = torch.tensor([4])
        config = configure("sigmoid", beta=0.1, label_smoothing=smoothing)
        return pair_losses(config, **sides, len_chosen=lengths, len_rejected=lengths).loss.item()

    # Δ = 0.1·((-3 + 8) - (-9 + 9)) = 0.5: smoothing adds ε·Δ.
    assert loss(0.2) - loss(0.0) == pytest.approx(0.2 * 0.5, rel=1e-5)
    for name in ("hinge", "ipo", "apo_zero", "nca_pair", "bco_pair", "sppo_hard", "orpo"):
        with pytest.raises(ConfigError, match="doesn't use 'label_smoothing'"):
            configure(name, label_smoothing=0.2)
