"""A project's votes, read and decided."""

from sqlalchemy import Engine, update

from app.db import write_session
from app.models import Agreed, Choice, Prompt, Split
from app.services.collecting import desk, judgments
from app.storage import Storage
from tests.factory import Factory
from tests.services.collecting.test_exclusions import exclude
from tests.services.datasets.frozen import freeze, judge_all, lines, preview

FIRST, SECOND, TIE, BOTH_BAD, SKIP = Choice.FIRST, Choice.SECOND, Choice.TIE, Choice.BOTH_BAD, Choice.SKIP


def test_what_is_left_out_is_counted_by_reason(factory: Factory, storage: Storage) -> None:
    project = factory.project(eval_percent=0)
    factory.comparisons(project, 7)
    judge_all(factory, project, "left", "right", "tie", "both_bad", "skip")
    assert factory.judge(project, factory.user(), "left", flags=["unsafe"])  # the pair that was skipped before
    factory.comparison(project, gold=Choice.FIRST)
    now = preview(factory, project)
    assert now.counts.left_out == {"not_judged": 2, "tie": 1, "both_bad": 1, "flagged": 1, "gold": 1}
    assert (now.counts.pairs, now.counts.train, now.counts.eval, now.counts.comparisons) == (2, 2, 0, 8)
    assert "2 pairs to train on and 0 pairs to evaluate with" in now.sentence and "1 judged a tie" in now.sentence
    assert freeze(factory, project, storage).counts == now.counts


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
    statistics = preview(factory, project).statistics
    assert {(one.name, one.judgments, one.share, one.agreement) for one in statistics.evaluators} == {
        ("Ann", 4, 0.5, 1.0),
        ("Bo", 4, 0.5, 1.0),
    }
    assert statistics.agreement == Agreed(comparisons=4, same=1.0, alpha=None)
    assert statistics.left_picked.total == 8


def test_a_pair_of_a_kept_prompt_that_is_left_out_is_counted_once(engine: Engine, factory: Factory) -> None:
    project = factory.project(eval_percent=0)
    kept = factory.comparison(project)
    factory.comparisons(project, 3)
    with write_session(engine) as session:
        session.execute(update(Prompt).where(Prompt.id == kept.prompt_id).values(split=Split.KEPT))
    judge_all(factory, project, "left", "left")
    before = preview(factory, project).counts
    assert (before.left_out["kept"], sum(before.left_out.values()) + before.pairs) == (1, before.comparisons)
    exclude(engine, project, "pair", kept.id, factory.admin())
    after = preview(factory, project).counts
    assert (after.left_out["excluded"], "kept" in after.left_out) == (1, False)
    assert sum(after.left_out.values()) + after.pairs == after.comparisons == 4
