"""The whole story as one person lives it: sign in, judge, import, train, watch, download, load."""

import hashlib
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from app.db import get_engine, read_session
from app.models import Job, JobEvent, JobState, Role, User
from app.services.training import base_models
from tests.browser.keys import close_guidelines, press_for_next
from tests.live import LiveServer
from tests.worker.dpo.tiny import save_tiny

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def judge_by_keys(page: Page, count: int) -> None:
    close_guidelines(page)
    for number in range(count):
        press_for_next(page, "12"[number % 2])


def start_run(page: Page, address: str, **settings: object) -> int:
    """Fills the new-run form and clicks the button twice, as impatient people do; returns the run's number."""
    page.goto(address)
    page.locator("details.advanced > summary").click()
    for name, value in settings.items():
        page.locator(f"[name='config.{name}']").fill(str(value))
    page.get_by_role("button", name="Train on current dataset").dblclick()
    page.wait_for_url("**/jobs/*")
    return int(page.url.rsplit("/", 1)[1])


def download_checkpoint(page: Page, folder: Path) -> Path:
    """Clicks through to the checkpoint, downloads the archive, checks each file's hash against the page, unpacks it."""
    page.locator("#run-outcome").get_by_role("link", name="Checkpoint").first.click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Checkpoint")
    with page.expect_download() as waiting:
        page.get_by_role("link", name="Download all").click()
    archive = folder / "checkpoint.tar"
    waiting.value.save_as(archive)
    with tarfile.open(archive) as tar:
        tar.extractall(folder / "unpacked", filter="data")
    (root,) = (folder / "unpacked").iterdir()
    text = page.content()
    for path in (path for path in root.rglob("*") if path.is_file()):
        assert hashlib.sha256(path.read_bytes()).hexdigest() in text, f"{path.name} is not what the page says"
    return root


def test_from_the_sign_in_link_to_an_adapter_that_loads(
    live_server: LiveServer, page: Page, signed_in: Callable[[Role], User], tmp_path: Path
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = save_tiny(tmp_path / "tiny")
    base_models.add(live_server.settings, "tiny", str(base))
    project = live_server.factory.project(slug="tone", eval_percent=30, default_base_model="tiny")
    live_server.factory.comparisons(project, 8)
    live_server.start("worker")
    signed_in(Role.ENGINEER)

    page.goto(f"{live_server.url}/projects/tone/compare")
    judge_by_keys(page, 5)

    lines = [
        {"prompt": f"Question {n} from a file?", "chosen": f"Good answer {n}.", "rejected": f"Bad reply {n}, sorry."}
        for n in range(30)
    ]
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(json.dumps(line) for line in lines) + "\n{not json\n")
    page.goto(f"{live_server.url}/projects/tone/import")
    page.locator("input[type=file]").set_input_files(file)
    page.get_by_role("button", name="Look at it").click()
    page.wait_for_url("**/imports/*")
    expect(page.locator(".recognised")).to_contain_text("chosen → chosen answer")
    page.get_by_role("button", name="Import", exact=True).click()
    expect(page.locator(".stat", has_text="Added").locator(".num")).to_have_text("30")
    expect(page.get_by_role("region", name="Rejected lines").locator("tbody tr td.num")).to_have_text("31")

    number = start_run(page, f"{live_server.url}/projects/tone/train", max_steps=300, batch_size=4, lora_r=2)
    loss = page.locator("[data-chart='loss'] output").first
    expect(loss).not_to_have_text("–", timeout=60_000)  # a point came without a reload
    page.reload()
    expect(loss).not_to_have_text("–")
    expect(page.locator("#run-status")).to_contain_text("succeeded", timeout=120_000, ignore_case=True)

    with read_session(get_engine(live_server.settings)) as session:
        assert [job.state for job in session.query(Job)] == [JobState.SUCCEEDED], "two clicks made one run"
        steps = [
            event.step for event in session.query(JobEvent).filter_by(job_id=number, type="step").order_by(JobEvent.id)
        ]
    assert steps == sorted(set(steps))
    assert steps[-1] == 300

    root = download_checkpoint(page, tmp_path)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), root)
    tokenizer = AutoTokenizer.from_pretrained(root)
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Question 1 from a file?"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    with torch.no_grad():
        trained = model(**ids).logits
        with model.disable_adapter():
            before = model(**ids).logits
    assert not torch.allclose(trained, before), "the adapter changes nothing"


@pytest.mark.long
@pytest.mark.timeout(900)  # a real model on two busy cores
def test_the_demo_trains_the_real_small_model(
    live_server: LiveServer, page: Page, signed_in: Callable[[Role], User], smollm2: Path, tmp_path: Path
) -> None:
    """SmolLM2-135M for a few steps on the demo's own judgments, from the button to the file."""
    from app.db import write_session
    from app.demo import seed

    live_server.settings.models.mkdir(parents=True, exist_ok=True)
    (live_server.settings.models / seed.MODEL).symlink_to(smollm2)
    live_server.factory.admin()
    with write_session(get_engine(live_server.settings)) as session:
        assert seed.seed(session, content=seed.content())
    live_server.start("worker")
    signed_in(Role.ENGINEER)
    start_run(page, f"{live_server.url}/projects/{seed.SLUG}/train", max_steps=3, batch_size=2, sample_tokens=8)
    expect(page.locator("#run-status")).to_contain_text("succeeded", timeout=600_000, ignore_case=True)
    expect(page.locator("#run-samples")).to_contain_text("Before", ignore_case=True)
    root = download_checkpoint(page, tmp_path)
    facts = json.loads((root / "prefloop.json").read_text())
    assert facts["provenance"]["snapshot"]["sha256"] in page.content()
    assert facts["config"]["max_steps"] == 3
    expect(page.locator("main")).to_contain_text("4-bit")
