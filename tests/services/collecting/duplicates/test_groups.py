"""Groups of near-duplicate prompts: one split for all ways in which a question was written, and nobody moves."""

import json
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select

from app.db import write_session
from app.errors import SnapshotEmpty
from app.models import Project, Prompt, PromptGroup, PromptKey, Split
from app.services.collecting import pairs
from app.services.collecting.messages import prompt_hash
from app.services.collecting.pairs import NewPair, split_of
from app.storage import Storage
from tests.conftest import ROOT
from tests.factory import Factory
from tests.services.collecting.duplicates.test_near import jaccard
from tests.services.datasets.frozen import freeze, judge_all, lines, preview

LEAK = ROOT.parent / "shared" / "cases" / "062-split-leak.jsonl"


def add(factory: Factory, project: Project, *texts: str) -> None:
    """Stores a pair for each prompt, all in one go."""
    with write_session(factory.engine) as session:
        new = [NewPair([{"role": "user", "content": text}], (f"{text} Yes.", f"{text} No.")) for text in texts]
        pairs.add_many(session, project=session.merge(project), pairs=new)


def stored(factory: Factory, project: Project) -> dict[str, tuple[Split, int | None]]:
    """(split, group) of each prompt by its text, in the order in which they came."""
    with write_session(factory.engine) as session:
        rows = session.scalars(select(Prompt).where(Prompt.project_id == project.id).order_by(Prompt.id))
        return {row.messages[0]["content"]: (row.split, row.group_id) for row in rows}


def alone(text: str, eval_percent: int) -> Split:
    return split_of(prompt_hash([{"role": "user", "content": text}]), eval_percent)


def run_of_words(begin: int, end: int, family: str) -> str:
    return " ".join(f"{family}{number}" for number in range(begin, end))


def apart(splits: tuple[Split, Split]) -> tuple[str, str, str]:
    """Two prompts that aren't near, with these splits where half are kept for evaluation, and one that is near to both."""
    for family in range(1000):
        first, last = run_of_words(0, 60, f"f{family}w"), run_of_words(8, 68, f"f{family}w")
        if (alone(first, 50), alone(last, 50)) == splits:
            return first, last, run_of_words(4, 64, f"f{family}w")
    raise AssertionError


def test_no_question_of_the_case_is_trained_on_and_evaluated_with(factory: Factory, storage: Storage) -> None:
    from app.services.collecting.imports import load

    project = factory.project(eval_percent=30)
    with LEAK.open("rb") as stream:
        row = load.load(
            factory.engine,
            project_id=project.id,
            user_id=factory.engineer().id,
            stream=stream,
            filename=LEAK.name,
            settings=factory.settings,
        )
    assert row.added == sum(1 for _ in LEAK.open("rb"))
    frozen = freeze(factory, project, storage)
    questions: dict[str, set[str]] = {file.name: set() for file in frozen.files}
    for file in frozen.files:
        for line in storage.read_bytes(file.key).splitlines():
            questions[file.name].add(json.loads(line)["prompt"][0]["content"].strip())
    assert questions["train.jsonl"] and questions["eval.jsonl"]
    assert not questions["train.jsonl"] & questions["eval.jsonl"]
    assert frozen.counts.pairs == row.added


def test_a_new_prompt_gets_the_split_of_its_groups_oldest(factory: Factory) -> None:
    project = factory.project(eval_percent=50)
    texts = [f"Question number {number}?" for number in range(40)]
    for text in texts:
        add(factory, project, text)
    before = stored(factory, project)
    add(factory, project, *(f" {text.upper()}\n" for text in texts))
    after = stored(factory, project)
    assert {split for split, _ in before.values()} == {Split.TRAIN, Split.EVAL}
    for text in texts:
        assert after[f" {text.upper()}\n"][0] is after[text][0] is before[text][0]
        assert after[f" {text.upper()}\n"][1] == after[text][1] is not None


@pytest.mark.parametrize("splits", [(Split.TRAIN, Split.EVAL), (Split.EVAL, Split.TRAIN), (Split.TRAIN, Split.TRAIN)])
@pytest.mark.parametrize("groups", [0, 1, 2])
def test_one_that_joins_two_groups_merges_them_and_moves_nobody(
    factory: Factory, splits: tuple[Split, Split], groups: int
) -> None:
    project = factory.project(eval_percent=50)
    first, last, between = apart(splits)
    add(factory, project, "Something else?", first, last)
    add(factory, project, *(text.upper() for text in (last, first)[:groups]))
    before = stored(factory, project)
    add(factory, project, between)
    after = stored(factory, project)
    assert {text: after[text][0] for text in before} == {text: split for text, (split, _) in before.items()}
    assert after[between][0] is splits[0]
    (group,) = {number for text, (_, number) in after.items() if text != "Something else?"}
    assert group is not None and after["Something else?"][1] is None
    with write_session(factory.engine) as session:
        assert list(session.execute(select(PromptGroup.id, PromptGroup.split)).tuples()) == [(group, splits[0])]
    add(factory, project, f"{between} ")
    assert stored(factory, project)[f"{between} "] == (splits[0], group)


def test_training_leaves_out_what_also_stands_in_evaluation_and_says_so(factory: Factory, storage: Storage) -> None:
    project = factory.project(eval_percent=50)
    first, last, between = apart((Split.TRAIN, Split.EVAL))
    other = next(text for text in map(str, range(100)) if alone(text, 50) is Split.TRAIN)
    add(factory, project, first, last, between, other)
    judge_all(factory, project, *["left"] * 4)
    now = preview(factory, project)
    assert (now.counts.train, now.counts.eval, now.counts.left_out) == (1, 1, {"near_duplicate": 2})
    assert "left out: 2 nearly the same as a prompt kept for evaluation." in now.sentence
    frozen = lines(storage, freeze(factory, project, storage))
    assert {row["prompt"][0]["content"] for row in frozen} == {last, other}
    everything = preview(factory, project, include_near_duplicates=True).counts
    assert (everything.train, everything.eval, everything.left_out) == (3, 1, {})


def test_a_dataset_without_anything_else_says_why_nothing_is_left(factory: Factory, storage: Storage) -> None:
    project = factory.project(eval_percent=50)
    add(factory, project, *apart((Split.TRAIN, Split.EVAL)))
    judge_all(factory, project, *["left"] * 3)
    with pytest.raises(SnapshotEmpty) as empty:
        freeze(factory, project, storage)
    assert "include_near_duplicates" in empty.value.next_step


def test_groups_are_a_projects_own(factory: Factory) -> None:
    one, other = factory.project(), factory.project()
    add(factory, one, "Why?")
    add(factory, other, "why?")
    assert [group for _, group in (*stored(factory, one).values(), *stored(factory, other).values())] == [None, None]


def components(texts: Sequence[str]) -> list[set[str]]:
    """Prompts that are near duplicates by the definition, or so through others."""
    parts: list[set[str]] = []
    for text in texts:
        near = [part for part in parts if any(jaccard(text.lower(), other.lower()) >= 0.8 for other in part)]
        parts = [part for part in parts if part not in near] + [set().union({text}, *near)]
    return parts


def expected_splits(texts: Sequence[str]) -> dict[str, Split]:
    """Each prompt's split, were they stored one after the other."""
    splits: dict[str, Split] = {}
    for at, text in enumerate(texts):
        (part,) = [part for part in components(texts[: at + 1]) if text in part]
        oldest = next(other for other in texts if other in part)
        splits[text] = alone(text, 50) if oldest == text else splits[oldest]
    return splits


@given(
    st.lists(
        st.lists(st.sampled_from("aB"), min_size=1, max_size=10).map(" ".join), min_size=1, max_size=14, unique=True
    ),
    st.lists(st.integers(1, 6), min_size=14, max_size=14),
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_prompts_in_any_batches_are_grouped_as_the_definition_says(
    factory: Factory, texts: list[str], sizes: list[int]
) -> None:
    project, left = factory.project(eval_percent=50), list(texts)
    for size in sizes:
        if left:
            add(factory, project, *left[:size])
        left = left[size:]
    rows = stored(factory, project)
    assert {text: split for text, (split, _) in rows.items()} == expected_splits(texts)
    for part in components(texts):
        groups = {rows[text][1] for text in part}
        assert len(groups) == 1 and (groups == {None}) == (len(part) == 1)
    with write_session(factory.engine) as session:
        groups = session.scalar(select(func.count(PromptGroup.id)).where(PromptGroup.project_id == project.id))
        assert groups == sum(len(part) > 1 for part in components(texts))
        filed = select(PromptKey.prompt_id).where(PromptKey.project_id == project.id).distinct()
        assert set(session.scalars(filed)) <= set(session.scalars(select(Prompt.id)))
