"""A label check is queued once for a run and plan, tried again where it failed, and refused where it can't be made."""

import json

import pytest
from sqlalchemy import Engine, select, update

from app.db import read_session, write_session
from app.errors import Conflict, Invalid, NotFound
from app.models import Job, JobKind, JobState, LabelCheck
from app.services.jobs import jobs
from app.services.loop.labels import checks
from app.services.loop.labels.plan import Plan
from app.services.training import checkpoints, runs
from tests.services.loop.labels.checked import PLAN, Checked
from tests.services.training.trained import trained, trained_from
from worker.kinds.label_check import CheckingLabels


def test_the_same_wish_finds_the_same_job_and_another_plan_makes_another(engine: Engine, checked: Checked) -> None:
    first, second = checked.begin(), checked.begin()
    other = checked.begin(Plan(folds=3))
    assert first.job_id == second.job_id != other.job_id
    with read_session(engine) as session:
        queued = session.scalars(select(Job).where(Job.kind == JobKind.LABEL_CHECK)).all()
        assert [one.job_id for one in checks.of_run(session, job_id=checked.run.job_id)] == [
            other.job_id,
            first.job_id,
        ]
    assert len(queued) == 2 and all(job.project_id == checked.project.id for job in queued)
    assert Plan.of(first.plan) == PLAN and first.files == () and first.result is None


def test_one_that_was_cancelled_is_queued_again(engine: Engine, checked: Checked) -> None:
    made = checked.begin()
    with write_session(engine) as session:
        jobs.cancel(session, job=jobs.get(session, made.job_id), by=None)
    assert checked.begin().job.state is JobState.QUEUED


def test_a_run_that_is_not_over_is_refused(engine: Engine, checked: Checked) -> None:
    with write_session(engine) as session:
        waiting = runs.create(
            session, snapshot=session.merge(checked.run.snapshot), base_model="tiny", config={}, by=None
        )
    with write_session(engine) as session, pytest.raises(Conflict, match="is queued"):
        checks.begin(session, run=runs.get(session, waiting.job_id), plan=PLAN, by=None)
    with read_session(engine) as session:
        assert session.scalars(select(LabelCheck)).all() == []


@pytest.mark.parametrize(
    ("plan", "field"),
    [
        (Plan(folds=1), "folds"),
        (Plan(folds=11), "folds"),  # 40 pairs
        (Plan(shares=()), "shares"),
        (Plan(shares=(0.5,)), "shares"),
        (Plan(plantings=0), "plantings"),
    ],
)
def test_a_plan_that_can_not_be_carried_out_is_refused(
    engine: Engine, checked: Checked, plan: Plan, field: str
) -> None:
    with pytest.raises(Invalid) as refused:
        checked.begin(plan)
    assert refused.value.details["field"] == field


def test_a_job_of_another_kind_and_a_file_that_is_not_there_are_not_found(engine: Engine, checked: Checked) -> None:
    made = checked.begin()
    with read_session(engine) as session:
        with pytest.raises(NotFound, match="no label check"):
            checks.get(session, checked.run.job_id)
        with pytest.raises(NotFound, match="no file"):
            checks.file(checks.get(session, made.job_id), "margins.jsonl")


def test_models_start_from_the_checkpoint_from_which_the_run_started(engine: Engine, checked: Checked) -> None:
    _, start = trained(engine, checked.settings, checked.factory.judged(4), checked.maker)
    run, _ = trained_from(engine, checked.settings, checked.project, checked.maker, start)
    before, checked.run = checked.begin(), run
    made = checked.begin()
    assert made.job_id != before.job_id and made.plan_key == f"{PLAN.key}, from checkpoint {start.id}"
    kind = inputs_of(engine, checked, made)
    checked.folder.mkdir(exist_ok=True)
    command = kind.command(checked.folder, checked.storage)
    told = json.loads((checked.folder / "config.json").read_text())
    assert told["adapter"] == str(checked.folder / "parent") and command[command.index("--model") + 1].endswith("tiny")
    assert (checked.folder / "parent" / "adapter_model.safetensors").read_bytes()


def test_a_run_whose_start_knows_its_pairs_is_refused_before_anything_is_queued(
    engine: Engine, checked: Checked
) -> None:
    with read_session(engine) as session:
        (start,) = checkpoints.of_run(session, run=runs.get(session, checked.run.job_id))
    checked.run, _ = trained_from(engine, checked.settings, checked.project, checked.maker, start, new_pairs_only=False)
    with pytest.raises(Conflict, match=f"checkpoint {start.id}, which had been trained on pairs of the run's snapshot"):
        checked.begin()
    with read_session(engine) as session:
        assert session.scalars(select(LabelCheck)).all() == []


def test_a_check_that_an_earlier_version_made_from_the_base_model_is_known_and_another_is_made(
    engine: Engine, checked: Checked
) -> None:
    _, start = trained(engine, checked.settings, checked.factory.judged(4), checked.maker)
    checked.run, _ = trained_from(engine, checked.settings, checked.project, checked.maker, start)
    old = checked.begin()
    with write_session(engine) as session:
        session.execute(update(LabelCheck).values(plan_key=PLAN.key))
    with pytest.raises(Conflict, match="Ask for a check of the run anew"):
        inputs_of(engine, checked, old)
    new = checked.begin()
    with read_session(engine) as session:
        told = [checks.is_of_another_start(checks.get(session, one.job_id)) for one in (old, new)]
    assert new.job_id != old.job_id and told == [True, False]


def inputs_of(engine: Engine, checked: Checked, check: LabelCheck) -> CheckingLabels:
    with read_session(engine) as session:
        kind = CheckingLabels(jobs.get(session, check.job_id), checked.settings)
        kind.inputs(session)
    return kind
