"""Snapshots: from votes to files that never change and that TRL reads."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import func, select

from app.db import read_session, write_session
from app.errors import Invalid, NotFound, SnapshotEmpty
from app.models import AuditEntry, Choice, Project, Snapshot, Split, User
from app.services.collecting import desk, judgments, pairs
from app.services.datasets import snapshots
from app.services.datasets.report import Collected, Pair, counts, sentence, statistics, warnings
from app.services.datasets.rules import LEFT_OUT, Rule, Verdict, Vote, decide
from app.services.datasets.snapshots import Preview
from app.storage import Storage
from tests.factory import Factory

FIRST, SECOND, TIE, BOTH_BAD, SKIP = Choice.FIRST, Choice.SECOND, Choice.TIE, Choice.BOTH_BAD, Choice.SKIP


def votes(*choices: Choice, strength: int | None = None) -> list[Vote]:
    return [Vote(number, choice, strength, False, False) for number, choice in enumerate(choices)]


def freeze(factory: Factory, project: Project, storage: Storage, by: User | None = None, **rule: object) -> Snapshot:
    with write_session(factory.engine) as session:
        return snapshots.freeze(session, project=session.merge(project), by=by, storage=storage, rule=rule)


def preview(factory: Factory, project: Project, **rule: object) -> Preview:
    with read_session(factory.engine) as session:
        return snapshots.preview(session, project=project, rule=rule)


def lines(storage: Storage, snapshot: Snapshot) -> list[dict[str, Any]]:
    return [json.loads(line) for file in snapshot.files for line in storage.read_bytes(file["key"]).splitlines()]


@pytest.mark.parametrize(
    ("choices", "rule", "expected"),
    [
        ([], {}, "not_judged"),
        ([SKIP, SKIP], {}, "skipped"),
        ([FIRST], {}, FIRST),
        ([SECOND, SKIP], {}, SECOND),
        ([TIE], {}, "tie"),
        ([BOTH_BAD], {}, "both_bad"),
        ([FIRST, SECOND], {}, "no_majority"),
        ([FIRST, TIE], {}, "no_majority"),
        ([FIRST, FIRST, SECOND], {}, FIRST),
        ([FIRST, TIE, TIE], {}, "tie"),
        ([FIRST, FIRST, SECOND, SECOND, TIE], {}, "no_majority"),
        ([SECOND, SECOND, FIRST, TIE], {}, SECOND),
        ([FIRST], {"min_judgments": 2}, "too_few_judgments"),
        ([FIRST, SKIP], {"min_judgments": 2}, "too_few_judgments"),
        ([FIRST, FIRST], {"min_judgments": 2}, FIRST),
    ],
)
def test_the_choice_with_most_votes_wins(choices: list[Choice], rule: dict[str, Any], expected: Choice | str) -> None:
    verdict = decide(votes(*choices), Rule.of(rule))
    assert (verdict.chosen or verdict.left_out) == expected
    assert isinstance(expected, Choice) or expected in LEFT_OUT


def test_soft_labels_are_the_share_of_the_votes() -> None:
    soft = Rule(soft_labels=True)
    assert decide(votes(FIRST, FIRST, SECOND), soft).p_chosen == pytest.approx(2 / 3, abs=1e-6)
    assert decide(votes(SECOND, SECOND, TIE), soft).p_chosen == pytest.approx(2.5 / 3, abs=1e-6)
    assert decide(votes(FIRST), soft).p_chosen == 1
    assert decide(votes(FIRST, FIRST, SECOND), Rule()).p_chosen == 1


def test_weights_follow_the_strength_of_the_winning_votes() -> None:
    by_strength = Rule(weights="strength")
    assert [decide(votes(FIRST, strength=strength), by_strength).weight for strength in (None, 1, 2, 3)] == [
        1,
        0.5,
        1,
        1.5,
    ]
    mixed = [Vote(1, FIRST, 3, False, False), Vote(2, FIRST, 1, False, False), Vote(3, SECOND, 3, False, False)]
    assert decide(mixed, by_strength).weight == 1.0
    assert decide(votes(FIRST, strength=3), Rule()).weight == 1


def test_late_and_flagged_votes_follow_the_rule() -> None:
    late, flagged = Vote(1, FIRST, None, True, False), Vote(1, FIRST, None, False, True)
    assert decide([late], Rule()).chosen is FIRST and decide([late], Rule(include_late=False)).left_out == "not_judged"
    assert (
        decide([flagged], Rule()).left_out == "flagged"
        and decide([flagged], Rule(include_flagged=True)).chosen is FIRST
    )


@given(st.lists(st.sampled_from(Choice), max_size=8), st.booleans(), st.randoms())
def test_the_order_of_votes_decides_nothing_and_the_chosen_one_is_likelier(
    choices: list[Choice], soft: bool, random: Any
) -> None:
    rule = Rule(soft_labels=soft)
    verdict = decide(votes(*choices), rule)
    shuffled = list(choices)
    random.shuffle(shuffled)
    assert decide(votes(*shuffled), rule) == verdict
    if verdict.chosen:
        assert 0.5 < verdict.p_chosen <= 1 and 1 <= verdict.votes_chosen <= verdict.votes
        mirrored = {FIRST: SECOND, SECOND: FIRST}
        assert (
            decide(votes(*(mirrored.get(choice, choice) for choice in choices)), rule).chosen
            is mirrored[verdict.chosen]
        )


@pytest.mark.parametrize(
    "rule",
    [
        {"min_judgments": 0},
        {"min_judgments": 26},
        {"min_judgments": True},
        {"min_judgments": "2"},
        {"soft_labels": 1},
        {"weights": "votes"},
        {"decision": "majority"},
    ],
)
def test_a_rule_that_means_nothing_is_refused(rule: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        Rule.of(rule)
    assert Rule.of(Rule(min_judgments=3).as_dict()) == Rule(min_judgments=3)


def judge_all(factory: Factory, project: Project, *choices: judgments.SideChoice, user: User | None = None) -> None:
    user = user or factory.user()
    for choice in choices:
        assert factory.judge(project, user, choice)


def test_what_is_left_out_is_counted_by_reason(factory: Factory, storage: Storage) -> None:
    project = factory.project(eval_percent=0)
    factory.comparisons(project, 7)
    judge_all(factory, project, "left", "right", "tie", "both_bad", "skip")
    assert factory.judge(project, factory.user(), "left", flags=["unsafe"])  # the pair that was skipped before
    factory.comparison(project, gold=Choice.FIRST)
    found = preview(factory, project)
    assert found.left_out == {"not_judged": 2, "tie": 1, "both_bad": 1, "flagged": 1, "gold": 1}
    assert (found.pairs, found.train_pairs, found.eval_pairs, found.counts["comparisons"]) == (2, 2, 0, 8)
    assert "2 pairs to train on and 0 pairs to evaluate with" in found.sentence and "1 judged a tie" in found.sentence
    assert freeze(factory, project, storage).counts == found.counts


def test_the_chosen_answer_is_the_one_that_was_picked_on_whatever_side(factory: Factory, storage: Storage) -> None:
    project, user = factory.project(), factory.user()
    for number in range(20):
        factory.comparison(project, answers=(f"good {number}", f"bad {number}"))
    for _ in range(20):
        with write_session(factory.engine) as session:
            pair = desk.show_next(session, project=session.merge(project), user=session.merge(user))
            assert pair
            judgments.record(
                session,
                token=pair.token,
                user=session.merge(user),
                choice="left" if pair.left.startswith("good") else "right",
            )
    rows = lines(storage, freeze(factory, project, storage))
    assert len(rows) == 20
    assert all(
        row["chosen"][0]["content"].startswith("good") and row["rejected"][0]["content"].startswith("bad")
        for row in rows
    )


def test_a_superseded_judgment_counts_for_nothing(factory: Factory, storage: Storage) -> None:
    project, user = factory.project(eval_percent=0), factory.user()
    factory.comparison(project)
    judge_all(factory, project, "left", user=user)
    before = lines(storage, freeze(factory, project, storage))
    with write_session(factory.engine) as session:
        again = desk.undo(session, project=session.merge(project), user=session.merge(user))
        assert again
        judgments.record(session, token=again.token, user=session.merge(user), choice="right")
    after = lines(storage, freeze(factory, project, storage))
    assert (after[0]["chosen"], after[0]["rejected"]) == (before[0]["rejected"], before[0]["chosen"]) and after[0][
        "votes"
    ] == 1


def test_the_files_are_what_the_snapshot_says_and_their_hash_can_be_made_with_sha256sum(
    factory: Factory, storage: Storage, tmp_path: Path
) -> None:
    snapshot = freeze(factory, factory.judged(40, eval_percent=50), storage)
    assert [file["name"] for file in snapshot.files] == ["eval.jsonl", "train.jsonl"]
    printed = ""
    for file in snapshot.files:
        data = storage.read_bytes(file["key"])
        assert (len(data), hashlib.sha256(data).hexdigest(), data.count(b"\n")) == (
            file["size"],
            file["sha256"],
            file["pairs"],
        )
        printed += f"{file['sha256']}  {file['name']}\n"
    assert snapshot.sha256 == hashlib.sha256(printed.encode()).hexdigest()
    assert (
        snapshot.files[0]["pairs"] == snapshot.counts["eval"] > 0
        and snapshot.files[1]["pairs"] == snapshot.counts["train"] > 0
    )


def test_a_prompt_is_never_in_both_files(factory: Factory, storage: Storage) -> None:
    project = factory.project(eval_percent=50)
    for number in range(30):
        factory.comparison(project, prompt=f"Question {number % 10}?")
    judge_all(factory, project, *["left"] * 30)
    snapshot = freeze(factory, project, storage)
    evaluated, trained = (
        {
            line
            for row in storage.read_bytes(file["key"]).splitlines()
            for line in [json.dumps(json.loads(row)["prompt"])]
        }
        for file in snapshot.files
    )
    assert evaluated and trained and not evaluated & trained


def test_freezing_again_gives_the_same_snapshot_until_something_changes(factory: Factory, storage: Storage) -> None:
    project = factory.judged(6, eval_percent=0)
    first = freeze(factory, project, storage)
    assert freeze(factory, project, storage).id == first.id
    factory.comparison(project)
    assert freeze(factory, project, storage).id == first.id  # it has no judgment yet
    judge_all(factory, project, "left")
    second = freeze(factory, project, storage)
    assert (first.number, second.number) == (1, 2) and second.sha256 != first.sha256
    assert freeze(factory, factory.judged(3, eval_percent=0), storage).number == 1
    with read_session(factory.engine) as session:
        assert [row.number for row in snapshots.listing(session, project=project)] == [2, 1]
        assert session.scalar(select(func.count(AuditEntry.id)).where(AuditEntry.action == "snapshot.freeze")) == 3
        assert snapshots.file(snapshots.get(session, first.id), "train.jsonl")["pairs"] == 6
        for wrong in (lambda: snapshots.get(session, 99), lambda: snapshots.file(first, "../secret")):
            with pytest.raises(NotFound):
                wrong()


def test_an_old_snapshot_stays_as_it_was(factory: Factory, storage: Storage) -> None:
    project = factory.judged(5, eval_percent=0)
    first = freeze(factory, project, storage)
    before = [storage.read_bytes(file["key"]) for file in first.files]
    factory.comparison(project)
    judge_all(factory, project, "right")
    freeze(factory, project, storage)
    assert [storage.read_bytes(file["key"]) for file in first.files] == before


def test_nothing_to_train_on_is_an_error_with_counts_and_advice(factory: Factory, storage: Storage) -> None:
    project = factory.project()
    with pytest.raises(SnapshotEmpty, match=r"no comparisons yet\. Import some"):
        freeze(factory, project, storage)
    factory.comparisons(project, 3)
    judge_all(factory, project, "tie")
    with pytest.raises(SnapshotEmpty, match=r"2 without a judgment, 1 judged a tie\. Collect more") as empty:
        freeze(factory, project, storage)
    assert empty.value.details["left_out"] == {"not_judged": 2, "tie": 1}


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_trl_trains_on_the_files_as_they_are(factory: Factory, storage: Storage, tmp_path: Path) -> None:
    from datasets import load_dataset
    from trl import DPOConfig, DPOTrainer

    from tests.worker.dpo.tiny import tiny_llama, tiny_tokenizer

    project = factory.project(eval_percent=40)
    turns = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello!"},
    ]
    for number in range(12):
        with write_session(factory.engine) as session:
            pairs.add(
                session,
                project=session.merge(project),
                prompt=[*turns, {"role": "user", "content": f"Question {number}?"}],
                responses=(f"Yes, {number}.", f"No, {number}."),
                external_id=f"row-{number}" if number else None,
            )
    judge_all(factory, project, *["left"] * 12)
    snapshot = freeze(factory, project, storage, weights="strength", soft_labels=True)
    for file in snapshot.files:
        (tmp_path / file["name"]).write_bytes(storage.read_bytes(file["key"]))
    loaded = load_dataset(
        "json",
        data_files={"train": str(tmp_path / "train.jsonl"), "eval": str(tmp_path / "eval.jsonl")},
        cache_dir=str(tmp_path / "cache"),
    )
    assert (len(loaded["train"]), len(loaded["eval"])) == (snapshot.counts["train"], snapshot.counts["eval"])
    assert loaded["train"][0]["prompt"][:3] == turns
    config = DPOConfig(
        output_dir=str(tmp_path / "out"),
        max_steps=1,
        per_device_train_batch_size=2,
        eval_strategy="no",
        report_to=[],
        use_cpu=True,
        bf16=False,
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = DPOTrainer(
        model=tiny_llama(),
        ref_model=tiny_llama(),
        args=config,
        train_dataset=loaded["train"],
        eval_dataset=loaded["eval"],
        processing_class=tiny_tokenizer(),
    )
    text = trainer.processing_class.decode(
        trainer.train_dataset[0]["prompt_ids"] + trainer.train_dataset[0]["chosen_ids"]
    )
    assert (
        text.startswith("<|im_start|>system\nBe kind.<|im_end|>") and loaded["train"][0]["chosen"][0]["content"] in text
    )
    assert trainer.train().training_loss == pytest.approx(
        0.6931, abs=1e-3
    )  # log 2: policy and reference are the same model
    assert len(trainer.eval_dataset) == snapshot.counts["eval"] and "eval_loss" in trainer.evaluate()


def pair(
    number: int,
    *,
    split: Split = Split.TRAIN,
    characters: tuple[int, int] = (10, 10),
    chosen: str = "",
    sources: tuple[str, str] = ("", ""),
) -> Pair:
    return Pair(
        number,
        number,
        split,
        Verdict(chosen=FIRST, votes=1, votes_chosen=1),
        characters,
        characters,
        chosen or str(number),
        sources,
    )


def codes(found: Collected) -> set[str]:
    return {code for code, _ in warnings(counts(found), statistics(found))}


def good(train: int = 200, evaluated: int = 40) -> Collected:
    """A set that nothing is to be said against."""
    pairs = [
        pair(number, split=Split.EVAL if number < evaluated else Split.TRAIN, characters=(10, 11 - 2 * (number % 2)))
        for number in range(train + evaluated)
    ]
    said = [
        (number, person, "first" if number % 2 else "second")
        for number in range(train + evaluated)
        for person in (1, 2)
    ]
    return Collected(
        comparisons=len(pairs),
        judgments=len(said),
        pairs=pairs,
        votes=said,
        sided=400,
        left_picked=205,
        names={1: "Ann", 2: "Bo"},
    )


def test_a_good_set_gets_no_warning() -> None:
    assert codes(good()) == set()
    assert (
        sentence(counts(good()))
        == "200 pairs to train on and 40 pairs to evaluate with, from 480 judgments of 240 comparisons."
    )


@pytest.mark.parametrize(
    "code",
    [
        "too_few_pairs",
        "no_eval_pairs",
        "few_eval_pairs",
        "one_evaluator",
        "chosen_longer",
        "position_bias",
        "low_agreement",
        "repeated_chosen",
    ],
)
def test_each_fault_is_warned_of_alone(code: str) -> None:
    found = good()
    if code == "too_few_pairs":
        found = good(train=99)
    elif code == "no_eval_pairs":
        found = good(evaluated=0)
    elif code == "few_eval_pairs":
        found = good(evaluated=19)
    elif code == "one_evaluator":
        found.votes = [vote for vote in found.votes if vote[1] == 1] + [vote for vote in found.votes if vote[1] == 2][
            :50
        ]
    elif code == "chosen_longer":
        found.pairs = [
            pair(one.comparison_id, split=one.split, characters=(12, 10) if number % 4 else (10, 12))
            for number, one in enumerate(found.pairs)
        ]
    elif code == "position_bias":
        found.left_picked = 250
    elif code == "low_agreement":
        found.votes = [
            (unit, person, "first" if person == 1 or unit % 2 else "second") for unit, person, _ in found.votes
        ]
    elif code == "repeated_chosen":
        found.pairs[:30] = [
            pair(one.comparison_id, split=one.split, characters=one.characters, chosen="same")
            for one in found.pairs[:30]
        ]
    assert codes(found) == {code}


def test_sources_are_ranked_where_they_met() -> None:
    found = Collected(
        pairs=[
            pair(1, sources=("new", "old")),
            pair(2, sources=("new", "old")),
            pair(3, sources=("old", "new")),
            pair(4, sources=("old", "old")),
        ]
    )
    assert statistics(found)["sources"] == [
        {"name": "new", "chosen": 2, "pairs": 3},
        {"name": "old", "chosen": 1, "pairs": 3},
    ]


def test_the_preview_tells_who_judged_and_how_they_agree(factory: Factory) -> None:
    project, ann, bo = (
        factory.project(judgments_per_comparison=2),
        factory.user(username="ann"),
        factory.user(username="bo"),
    )
    factory.comparisons(project, 4)
    for user in (ann, bo):
        for _ in range(4):
            with write_session(factory.engine) as session:
                lease = desk.show_next(session, project=session.merge(project), user=session.merge(user))
                assert lease
                judgments.record(
                    session,
                    token=lease.token,
                    user=session.merge(user),
                    choice="left" if "one" in lease.left else "right",
                )
    facts = preview(factory, project).statistics
    assert {(row["name"], row["judgments"], row["share"], row["agreement"]) for row in facts["evaluators"]} == {
        ("Ann", 4, 0.5, 1.0),
        ("Bo", 4, 0.5, 1.0),
    }
    assert facts["agreement"] == {"comparisons": 4, "same": 1.0, "alpha": None}
    assert facts["left_picked"]["total"] == 8
