"""From a wish to figures with real processes: a trial of arms, and a run again without one person's votes, which goes on from a checkpoint."""

from pathlib import Path

import pytest
from peft import LoraConfig, get_peft_model
from sqlalchemy import Engine
from transformers import AutoModelForCausalLM

from app.config import Settings, get_settings
from app.db import read_session, write_session
from app.models import Arm, JobState, Project, Split, TrainingRun, TrialState, User
from app.services.collecting import pairs
from app.services.collecting.messages import prompt_hash
from app.services.collecting.pairs import NewPair
from app.services.loop.labels import learned, studies
from app.services.loop.labels.studies import Wanted
from app.services.loop.trials import steps, trials
from app.services.loop.trials.plan import Plan
from app.services.training import base_models, parents, runs
from app.storage import Storage
from tests.factory import Factory
from tests.pretend_worker import PretendWorker
from tests.worker.running import QUICK, Watcher, Workers

pytestmark = [pytest.mark.timeout(900), pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)]
PATIENCE = 400  # seconds that runs may need on a busy machine
ONE_STEP = QUICK | {"max_steps": 1, "eval_steps": 1, "sample_prompts": 0, "max_length": 64, "learning_rate": 0.01}
# Train pairs of each arm, and eval pairs of the random one: the fewest that a trial takes.
FEWEST = {(Split.TRAIN, Arm.RANDOM): 10, (Split.TRAIN, Arm.DIVERSITY): 10, (Split.EVAL, Arm.RANDOM): 10}


@pytest.fixture
def settings(settings: Settings, tiny_models: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    quick = {"MODELS_DIR": str(tiny_models), "HEARTBEAT_SECONDS": "0.2", "SWEEP_SECONDS": "0.2"}
    for name, value in quick.items():
        monkeypatch.setenv(f"PREFLOOP_{name}", value)
    get_settings.cache_clear()
    return get_settings()


@pytest.fixture
def engineer(factory: Factory) -> User:
    return factory.engineer()


def judged(
    engine: Engine, factory: Factory, engineer: User, wanted: dict[tuple[Split, Arm], int]
) -> tuple[Project, User]:
    """A project with so many pairs of each split and arm, and one of two people who judged every second one."""
    left, number, new = dict(wanted), 0, []
    while any(left.values()):
        number += 1
        prompt = [{"role": "user", "content": f"{number}?"}]
        split = pairs.split_of(prompt_hash(prompt), 50)
        arm = next((arm for arm in Arm if left.get((split, arm))), None)
        if arm is not None:
            left[split, arm] -= 1
            new.append(NewPair(prompt, (f"Yes{number}.", f"No, {number}."), arm=arm))
    project = factory.project(by=engineer, eval_percent=50)
    with write_session(engine) as session:
        pairs.add_many(session, project=session.merge(project), pairs=new)
    people = [factory.user(), factory.user()]
    for place in range(len(new)):
        assert factory.judge(project, people[place % 2], "left" if place % 3 else "right")
    return project, people[1]


def begin_run(engine: Engine, project: Project, by: User, storage: Storage, start: int | None = None) -> TrainingRun:
    with read_session(engine) as session:
        parent = None if start is None else parents.find(session, start)
    return runs.train_on_current(
        engine, project=project, by_id=by.id, base_model="tiny", config=ONE_STEP, storage=storage, parent=parent
    )


def adapter(model: Path, folder: Path) -> dict[str, bytes]:
    """The files of a checkpoint that ONE_STEP on the tiny model might have left."""
    base = AutoModelForCausalLM.from_pretrained(model)
    lora = LoraConfig(
        r=ONE_STEP["lora_r"],
        lora_alpha=32,
        target_modules="all-linear",
        init_lora_weights=False,
        task_type="CAUSAL_LM",
    )
    get_peft_model(base, lora).save_pretrained(folder)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    return {name: files[name] for name in ("adapter_config.json", "adapter_model.safetensors")} | {
        "prefloop.json": b"{}"
    }


def end_well(watcher: Watcher, *job_ids: int) -> None:
    for job_id in job_ids:
        over = watcher.until_over(job_id, PATIENCE)
        assert over.state is JobState.SUCCEEDED, f"{over.error}\n{watcher.workers.logs()}"


@pytest.mark.long  # six runs, each a process that loads PyTorch
def test_a_trial_of_arms_comes_to_what_an_arm_bought(
    engine: Engine,
    settings: Settings,
    factory: Factory,
    engineer: User,
    workers: Workers,
    watcher: Watcher,
    storage: Storage,
) -> None:
    project, _ = judged(engine, factory, engineer, FEWEST)
    run = begin_run(engine, project, engineer, storage)
    # A trial takes this run's snapshot and settings, not its weights.
    pretended = PretendWorker(engine, settings)
    pretended.claim()
    pretended.publish()
    with write_session(engine) as session:
        of, plan = runs.get(session, run.job_id), Plan.of(["diversity"])
        row, _ = trials.begin(session, project=session.merge(project), run=of, plan=plan, by=session.merge(engineer))
    assert steps.advance_all(engine, storage) == [row.id]
    with read_session(engine) as session:
        made = [job.id for _, job in trials.runs_of(session, trial_id=row.id)]
    workers.start()
    end_well(watcher, *made)
    assert steps.advance_all(engine, storage) == [row.id]
    with read_session(engine) as session:
        done = trials.get(session, row.id)
    assert done.state is TrialState.FINISHED and done.result is not None, done.problem
    assert (len(made), done.result["pairs"], done.result["prompts"], done.result["seeds"]) == (6, 10, 10, 3)
    bought = done.result["arms"]["diversity"]
    for figure in (bought["accuracy"], bought["margin"]):
        assert figure["low"] <= figure["value"] <= figure["high"] and figure["low"] < figure["high"]


def test_a_run_again_without_one_person_s_votes_comes_to_what_they_brought(
    engine: Engine,
    settings: Settings,
    factory: Factory,
    engineer: User,
    workers: Workers,
    watcher: Watcher,
    storage: Storage,
    tmp_path: Path,
) -> None:
    # Of both runs only the adapter, the snapshot and the settings count.
    pretended = PretendWorker(engine, settings)
    begin_run(engine, factory.judged(4, eval_percent=0), engineer, storage)
    pretended.claim()
    files = adapter(base_models.path(settings, "tiny"), tmp_path / "adapter")
    start = pretended.publish(files, base_sha256=base_models.get(settings, "tiny").weights_sha256)
    project, ben = judged(engine, factory, engineer, {(Split.TRAIN, Arm.RANDOM): 8, (Split.EVAL, Arm.RANDOM): 8})
    run = begin_run(engine, project, engineer, storage, start=start.id)
    pretended.claim()
    pretended.publish()
    workers.start()
    wanted = Wanted((ben.id,))
    study = studies.begin(engine, job_id=run.job_id, wanted=wanted, by_id=engineer.id, storage=storage)
    with read_session(engine) as session:
        made = [row.job_id for row, _ in studies.progress(session, study_ids=[study.id])[study.id]]
    end_well(watcher, *made)
    assert [watcher.run(job_id).parent_id for job_id in made] == [start.id, start.id]
    assert learned.settle_all(engine, storage) == [study.id]
    with read_session(engine) as session:
        (done,) = studies.of_run(session, job_id=run.job_id)
    assert done.result is not None and done.result["problem"] == ""
    (person,) = done.result["people"]
    assert (person["user_id"], person["pairs"]) == (ben.id, 4)
    assert person["labels"]["low"] <= person["labels"]["value"] <= person["labels"]["high"]
    assert f"what checkpoint {start.id}" in learned.sentence(person, "Ben", 1, start.id)
