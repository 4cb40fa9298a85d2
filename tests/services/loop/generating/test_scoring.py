"""What the program is told of the margin arm, and what is read from its files."""

import json
from pathlib import Path

from sqlalchemy import Engine

from app.db import read_session, write_session
from app.models import Arm, Finish, GenerationPlan, Pairing, Split
from app.services.loop import generations
from app.services.loop.generating import answers, prompts
from app.services.loop.generating.answers import Arrived
from app.services.loop.generating.arms import Arms
from app.services.loop.generating.scoring import Scores
from app.services.loop.generating.wanted import AnswerSource, Sampling
from tests.factory import Factory

HALF = Arms.parse("random=0.5,margin=0.5")


def planned(engine: Engine, factory: Factory, arms: Arms) -> GenerationPlan:
    project = factory.project()
    given = prompts.read_given([f"Question {number}?" for number in range(12)])
    ids = prompts.store(engine, project_id=project.id, given=given)
    with write_session(engine) as session:
        made = generations.start(
            session,
            project=session.merge(project),
            by=None,
            sources=[AnswerSource.base("tiny")],
            sampling=Sampling(seed=2),
            samples=2,
            pairing=Pairing.ROUND_ROBIN,
            prompts=ids,
        )
        made.arms = arms.stored() | ({"checkpoint": 7} if arms.wants_margins else {})
        session.flush()
        told = [
            Arrived(ids[0], 0, 0, 1, "Aye.", Finish.STOP),
            Arrived(ids[1], 0, 0, 1, "It broke.", Finish.FAILED),
        ]
        answers.store(session, job_id=made.job_id, arrived=told)
        return generations.get(session, made.job_id)


def scores(engine: Engine, plan: GenerationPlan) -> Scores:
    with read_session(engine) as session:
        return Scores(session, plan, prompts.messages_of(session, ids=generations.prompt_ids(plan)))


def test_without_a_margin_arm_nothing_is_scored(engine: Engine, factory: Factory) -> None:
    assert not scores(engine, planned(engine, factory, Arms.parse("random=0.5,diversity=0.5"))).wanted


def test_the_program_is_told_the_arms_prompts_and_what_is_stored(
    engine: Engine, factory: Factory, tmp_path: Path
) -> None:
    plan = planned(engine, factory, HALF)
    made = scores(engine, plan)
    assert (made.wanted, made.checkpoint_id) == (True, 7)
    told = made.told(tmp_path, ["--model", "m", "--adapter", "a"])
    asked = [json.loads(line)["id"] for line in Path(told["prompts"]).read_text().splitlines()]
    ids = generations.prompt_ids(plan)
    with read_session(engine) as session:
        splits = prompts.splits_of(session, ids=ids)
    assert set(splits.values()) <= {Split.TRAIN, Split.EVAL}
    assert asked == [number for number in ids if HALF.of_prompt(number, splits[number], seed=2) is Arm.MARGIN]
    known = [json.loads(line) for line in Path(told["known"]).read_text().splitlines()]
    assert [one["text"] for one in known] == (["Aye."] if ids[0] in asked else [])
    assert told["model"][:4] == ["--model", "m", "--adapter", "a"]


def test_each_answer_gets_its_reward_and_what_is_no_number_none(
    engine: Engine, factory: Factory, tmp_path: Path
) -> None:
    made = scores(engine, planned(engine, factory, HALF))
    assert made.read(tmp_path) == {}, "no prompt had two answers"
    folder = tmp_path / "scoring"
    folder.mkdir()
    (folder / "index.json").write_text(json.dumps([[[[1, 0, 0], [1, 0, 2]], [[1, 0, 1]]], [[[2, 0, 0]], [[2, 0, 1]]]]))
    lines = [
        {"line": 1, "reward_chosen": 0.5, "reward_rejected": -1.0},
        {"line": 2, "reward_chosen": float("nan"), "reward_rejected": 2.0},
    ]
    (folder / "scores.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert made.read(tmp_path) == {(1, 0, 0): 0.5, (1, 0, 2): 0.5, (1, 0, 1): -1.0, (2, 0, 1): 2.0}
