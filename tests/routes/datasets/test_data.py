"""The data page, snapshots and one comparison, as an engineer sees them."""

import html
import json
import re
import threading
from collections.abc import Callable

import pytest
from sqlalchemy import Engine
from starlette.testclient import TestClient

from app.db import read_session
from app.models import User
from app.services.collecting import listing, projects
from app.services.datasets import figures, snapshots
from tests.factory import Factory

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

OWN = {"Sec-Fetch-Site": "same-origin"}


@pytest.fixture
def browser(sign_in: Callable[[User], TestClient], factory: Factory) -> TestClient:
    return sign_in(factory.engineer())


def words(page: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())


def test_the_sentence_at_the_top_is_what_training_would_use(
    browser: TestClient, factory: Factory, engine: Engine
) -> None:
    project = factory.judged(12, eval_percent=30)
    factory.comparisons(project, 3)
    page = browser.get(f"/projects/{project.slug}/data").text
    with read_session(engine) as session:
        preview = snapshots.preview(session, project=projects.get(session, project.slug))
    assert preview.sentence in words(page)
    assert "3 without a judgment" in preview.sentence
    for _, text in preview.warnings:
        assert text in words(page)
    assert f'href="/projects/{project.slug}/train"' in page


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Projects of more than four comparisons are large."""
    monkeypatch.setattr(figures, "MOST_COMPARISONS", 4)
    monkeypatch.setattr(listing, "MOST_COUNTED", 4)


def wait_for_figures() -> None:
    for thread in threading.enumerate():
        if thread.name.startswith("figures of"):
            thread.join()


def test_a_large_projects_page_comes_before_its_figures_and_then_says_of_when_they_are(
    browser: TestClient, factory: Factory, large: None, api: Callable[[User], dict[str, str]]
) -> None:
    project, token = factory.judged(12), api(factory.engineer())
    address = f"/projects/{project.slug}/data"
    first = browser.get(address).text
    assert "being computed for the first time" in first and f'hx-get="{address}"' in first
    wait_for_figures()
    part = browser.get(address, headers={"HX-Request": "true"}).text
    assert "<html" not in part and "Figures as of" in words(part) and "hx-get" not in part
    assert "pairs to train on" in words(browser.get(address).text)
    told = browser.get(f"/api/v1/projects/{project.slug}/preview", headers=token).json()
    assert told["counts"]["judgments"] == 12 and told["as_of"]


def test_a_large_project_can_be_trained_on_before_it_is_counted(
    browser: TestClient, factory: Factory, large: None, api: Callable[[User], dict[str, str]]
) -> None:
    project, token = factory.judged(12), api(factory.engineer())
    reply = browser.post(
        f"/api/v1/projects/{project.slug}/preview", headers=token, json={"rule": {"soft_labels": True}}
    )
    assert (reply.status_code, reply.json()["code"]) == (503, "still_counting")
    wait_for_figures()
    form = browser.get(f"/projects/{project.slug}/train").text
    assert "are being counted" in form and "Train on current dataset" in form
    wait_for_figures()
    assert "Figures as of" in words(browser.get(f"/projects/{project.slug}/train").text)
    assert "Figures as of" in words(browser.get(f"/projects/{project.slug}/train/preview").text)


def test_a_search_in_a_large_project_is_gone_on_with(
    browser: TestClient,
    factory: Factory,
    large: None,
    monkeypatch: pytest.MonkeyPatch,
    api: Callable[[User], dict[str, str]],
) -> None:
    monkeypatch.setattr(listing, "SEARCHED_AT_ONCE", 5)
    monkeypatch.setattr(listing, "SEARCH_SECONDS", 0.0)
    project, token = factory.project(), api(factory.engineer())
    for number in range(12):
        factory.comparison(project, answers=(f"{'rare' if number == 11 else 'often'} {number}", "No."))
    address, pages = f"/projects/{project.slug}/data?text=rare", []
    while address:
        pages.append(words(browser.get(address).text))
        more = re.search(r'href="([^"]*)"[^>]*>Search on', browser.get(address).text)
        address = html.unescape(more[1]).partition("#")[0] if more else ""
    assert len(pages) == 3
    assert "0 found among 5 comparisons; there is more to search." in pages[0]
    assert "1 found among 2 comparisons, up to the end." in pages[2]
    first = browser.get(f"/api/v1/projects/{project.slug}/comparisons?text=rare", headers=token).json()
    assert (first["items"], first["total"]) == ([], None)
    rest = f"/api/v1/projects/{project.slug}/comparisons?text=rare&after={first['next_after'] + 5}"
    assert len(browser.get(rest, headers=token).json()["items"]) == 1
    whole = browser.get(f"/api/v1/projects/{project.slug}/comparisons?size=5&page=3", headers=token).json()
    assert (whole["page"], whole["pages"], whole["total"], len(whole["items"])) == (3, 3, 12, 2)


def test_an_empty_project_says_what_to_do_next(browser: TestClient, factory: Factory) -> None:
    project = factory.project()
    page = browser.get(f"/projects/{project.slug}/data").text
    assert "No comparisons yet" in page and f"/projects/{project.slug}/import" in page


def test_a_project_without_judgments_shows_dashes_instead_of_shares(browser: TestClient, factory: Factory) -> None:
    project = factory.project()
    factory.comparisons(project, 2)
    page = words(browser.get(f"/projects/{project.slug}/data").text)
    assert "Chosen is longer – nothing to count yet" in page
    assert "Nobody has judged yet." in page


@pytest.mark.parametrize(
    ("query", "shown", "hidden"),
    [
        ("state=judged", "Judged prompt", "Waiting prompt"),
        ("state=waiting", "Waiting prompt", "Judged prompt"),
        ("text=needle", "Judged prompt", "Waiting prompt"),
        ("source=nowhere", "No comparisons match.", "Judged prompt"),
        ("state=nonsense&split=nonsense&import_id=x", "Judged prompt", "No comparisons match."),
    ],
)
def test_filters_narrow_the_table(browser: TestClient, factory: Factory, query: str, shown: str, hidden: str) -> None:
    project = factory.project()
    factory.comparison(project, prompt="Judged prompt", answers=("a needle here", "nothing"))
    factory.judge(project, factory.user())
    factory.comparison(project, prompt="Waiting prompt")
    page = browser.get(f"/projects/{project.slug}/data?{query}").text
    assert shown in page and hidden not in page


def test_pages_keep_the_filter(browser: TestClient, factory: Factory) -> None:
    project = factory.project()
    factory.comparisons(project, 30)
    first = browser.get(f"/projects/{project.slug}/data?state=waiting").text
    following = html.unescape(re.search(r'rel="next" href="([^"]+)"', first)[1])
    assert "state=waiting" in following
    assert "Page 2 of 2" in words(browser.get(following).text)


def test_both_splits_can_be_told_apart(browser: TestClient, factory: Factory) -> None:
    project = factory.project(eval_percent=50)
    factory.comparisons(project, 12)
    train, evaluated = (browser.get(f"/projects/{project.slug}/data?split={split}").text for split in ("train", "eval"))
    shown = [len(re.findall(r'href="/comparisons/\d+"', page)) for page in (train, evaluated)]
    assert sum(shown) == 12 and min(shown) > 0


def test_an_answer_s_text_is_text_on_these_pages(browser: TestClient, factory: Factory) -> None:
    project = factory.project()
    row = factory.comparison(project, prompt="<script>alert(1)</script>", answers=("<img src=x onerror=alert(1)>", "b"))
    for address in (f"/projects/{project.slug}/data", f"/comparisons/{row.id}"):
        page = browser.get(address).text
        assert "<script>alert" not in page and "<img src=x" not in page


def test_a_comparison_shows_its_sources_and_every_judgment(browser: TestClient, factory: Factory) -> None:
    project = factory.project()
    row = factory.comparison(project)
    person = factory.user(username="ada")
    factory.judge(project, person, "left", rationale="It names the cause.", strength=2)
    page = words(browser.get(f"/comparisons/{row.id}").text)
    assert "It names the cause." in page and person.display_name in page and "clearly" in page


def test_freezing_twice_without_new_judgments_gives_the_same_snapshot(browser: TestClient, factory: Factory) -> None:
    project = factory.judged(8, eval_percent=0)
    first = browser.post(f"/projects/{project.slug}/snapshots", headers=OWN)
    page = browser.get(first.headers["location"])
    assert "Snapshot 1 was frozen." in page.text
    again = browser.post(f"/projects/{project.slug}/snapshots", headers=OWN)
    assert again.headers["location"] == first.headers["location"]
    assert "Nothing has changed since" in browser.get(again.headers["location"]).text
    assert 'href="/snapshots/1"' in browser.get(f"/projects/{project.slug}/data").text


def test_a_snapshot_s_file_downloads_whole_and_by_range(browser: TestClient, factory: Factory) -> None:
    snapshot = factory.snapshot()
    file = next(file for file in snapshot.files if file.name == "train.jsonl")
    address = f"/snapshots/{snapshot.id}/files/train.jsonl"
    assert address in browser.get(f"/snapshots/{snapshot.id}").text
    whole = browser.get(address)
    assert len(whole.content) == file.size
    assert [set(json.loads(line)) >= {"prompt", "chosen", "rejected"} for line in whole.text.splitlines()] == [
        True
    ] * snapshot.counts.train
    assert browser.get(address, headers={"Range": "bytes=5-9"}).content == whole.content[5:10]
    assert browser.get(f"/snapshots/{snapshot.id}/files/other.jsonl").status_code == 404


def test_a_snapshot_page_shows_its_hash_its_rule_and_what_was_trained_on_it(
    browser: TestClient, factory: Factory
) -> None:
    snapshot = factory.snapshot()
    page = browser.get(f"/snapshots/{snapshot.id}").text
    assert snapshot.sha256 in page
    assert "No runs yet." in words(page)
    assert f"train?snapshot={snapshot.id}" in page


def test_what_is_not_there_is_not_found(browser: TestClient) -> None:
    for address in (
        "/projects/nowhere/data",
        "/projects/nowhere/runs",
        "/projects/nowhere/train",
        "/projects/nowhere/checkpoints",
        "/snapshots/9",
        "/jobs/9",
        "/checkpoints/9",
        "/imports/9",
        "/comparisons/9",
    ):
        assert browser.get(address).status_code == 404, address


def test_workers_are_for_admins(browser: TestClient, sign_in: Callable[[User], TestClient], factory: Factory) -> None:
    assert browser.get("/workers").status_code == 403
    assert "No worker" in sign_in(factory.admin()).get("/workers").text
