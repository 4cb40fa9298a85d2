"""The comparison desk, as a browser without JavaScript and as htmx use it."""

import re
from collections.abc import Callable
from datetime import timedelta
from html import unescape

import pytest
from sqlalchemy import Engine, func, select, update
from starlette.testclient import TestClient

from app.db import read_session, write_session
from app.models import Judgment, Project, Role, Slot, SlotState, User
from app.models.base import now
from app.services.collecting import guidelines, projects
from tests.factory import Factory

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

HTMX = {"HX-Request": "true", "HX-Request-Type": "partial"}
SignIn = Callable[[User], TestClient]


@pytest.fixture
def client(client: TestClient) -> TestClient:
    """As a browser sends what a page of ours submits."""
    client.headers["Sec-Fetch-Site"] = "same-origin"
    return client


@pytest.fixture
def project(factory: Factory) -> Project:
    return factory.project(slug="tone")


@pytest.fixture
def desk(factory: Factory, sign_in: SignIn) -> TestClient:
    return sign_in(factory.user(username="eve"))


def token_of(html: str) -> str:
    match = re.search(r'name="token" value="([^"]+)"', html)
    assert match, "no pair on the page"
    return match.group(1)


def text_of(html: str) -> str:
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", html)).split())


def change_project(engine: Engine, project: Project, by: User, **rules: object) -> Project:
    with write_session(engine) as session:
        return projects.update(session, project=session.merge(project), by=by, **rules)


def judgments(engine: Engine) -> list[Judgment]:
    with read_session(engine) as session:
        return list(session.scalars(select(Judgment).order_by(Judgment.id)))


def post(desk: TestClient, token: str, choice: str = "left", htmx: bool = True, **more: object):  # type: ignore[no-untyped-def]
    return desk.post(
        "/projects/tone/compare",
        data={"token": token, "choice": choice, "seen_guidelines": "1", **more},
        headers=HTMX if htmx else {},
    )


def test_the_desk_shows_question_answers_guidelines_and_what_is_left(
    desk: TestClient, factory: Factory, project: Project
) -> None:
    factory.comparison(project, prompt="Why is the sky blue?", answers=("Because of *scattering*.", "No idea."))
    factory.comparison(project)
    page = desk.get("/projects/tone/compare")
    assert page.status_code == 200
    for part in ("Why is the sky blue?", "<em>scattering</em>", "No idea.", "Pick the shorter answer.", "2 waiting"):
        assert part in page.text


def test_earlier_turns_are_folded_and_the_last_is_open(
    desk: TestClient, factory: Factory, project: Project, engine: Engine
) -> None:
    from app.services.collecting import pairs

    with write_session(engine) as session:
        pairs.add(
            session,
            project=session.merge(project),
            responses=("a", "b"),
            prompt=[
                {"role": "system", "content": "Be kind."},
                {"role": "user", "content": "first"},
                {"role": "assistant", "content": "second"},
                {"role": "user", "content": "third"},
            ],
        )
    html = desk.get("/projects/tone/compare").text
    folded = html[
        html.index('<details class="earlier">') : html.index("</details>", html.index('<details class="earlier">'))
    ]
    assert "3 earlier turns" in folded and "Be kind." in folded and "second" in folded and "third" not in folded
    assert "third" in html


def test_nothing_on_the_page_tells_which_model_wrote_an_answer(
    desk: TestClient, factory: Factory, project: Project
) -> None:
    from app.models import SourceKind
    from app.services.collecting.pairs import Source

    factory.comparison(
        project,
        sources=(Source(SourceKind.MODEL, "secret-model-one"), Source(SourceKind.CHECKPOINT, "secret-model-two")),
    )
    assert "secret-model" not in desk.get("/projects/tone/compare").text


def test_judging_by_a_plain_form_comes_back_to_the_next_pair(
    desk: TestClient, factory: Factory, project: Project, engine: Engine
) -> None:
    factory.comparisons(project, 2)
    first = token_of(desk.get("/projects/tone/compare").text)
    reply = post(desk, first, "right", htmx=False, strength="3", rationale=" warmer ", flags=["unsafe", "broken"])
    assert reply.status_code == 303 and reply.headers["location"] == "/projects/tone/compare"
    assert token_of(desk.get("/projects/tone/compare").text) != first
    (judgment,) = judgments(engine)
    assert (judgment.strength, judgment.rationale, judgment.flags, judgment.guideline_version) == (
        3,
        "warmer",
        ["broken", "unsafe"],
        1,
    )
    assert judgment.shown_at is not None and judgment.shown_at <= judgment.submitted_at


def test_the_reply_to_a_choice_is_the_next_pair(desk: TestClient, factory: Factory, project: Project) -> None:
    factory.comparisons(project, 2)
    first = token_of(desk.get("/projects/tone/compare").text)
    reply = post(desk, first)
    assert reply.status_code == 200
    assert token_of(reply.text) != first
    assert "<html" not in reply.text
    assert 'data-said="Answer 1 is better, saved."' in reply.text
    assert "today 1 / 60" in text_of(reply.text) and 'id="guidelines-text"' not in reply.text


@pytest.mark.parametrize("htmx", [True, False])
def test_a_second_click_keeps_one_judgment(
    desk: TestClient, factory: Factory, project: Project, engine: Engine, htmx: bool
) -> None:
    factory.comparisons(project, 2)
    token = token_of(desk.get("/projects/tone/compare").text)
    replies = [post(desk, token, htmx=htmx) for _ in range(3)]
    assert {reply.status_code for reply in replies} == {200 if htmx else 303}
    assert len(judgments(engine)) == 1
    if htmx:
        assert len({token_of(reply.text) for reply in replies}) == 1


def test_another_choice_for_a_judged_pair_is_refused_and_the_next_pair_shown(
    desk: TestClient, factory: Factory, project: Project, engine: Engine
) -> None:
    factory.comparisons(project, 2)
    token = token_of(desk.get("/projects/tone/compare").text)
    post(desk, token, "left")
    reply = post(desk, token, "right")
    assert reply.status_code == 200 and "another judgment of yours already" in text_of(reply.text)
    assert token_of(reply.text) != token
    assert len(judgments(engine)) == 1


def test_a_reload_shows_the_same_pair_on_the_same_sides(desk: TestClient, factory: Factory, project: Project) -> None:
    factory.comparisons(project, 5)
    pages = [desk.get("/projects/tone/compare").text for _ in range(3)]
    assert len({token_of(page) for page in pages}) == 1
    assert len({page[page.index('class="answers"') : page.index('class="judge-bar"')] for page in pages}) == 1


def test_undo_brings_the_pair_back_and_a_new_choice_replaces_the_old(
    desk: TestClient, factory: Factory, project: Project, engine: Engine
) -> None:
    factory.comparisons(project, 2)
    first = desk.get("/projects/tone/compare").text
    post(desk, token_of(first), "left", strength="2", rationale="kinder")
    undone = desk.post("/projects/tone/compare/undo", headers=HTMX)
    answers = slice(first.index('class="answers"'), first.index('class="judge-bar"'))
    again = undone.text[undone.text.index('class="answers"') : undone.text.index('class="judge-bar"')]
    assert text_of(again) == text_of(first[answers]), "the answers changed sides"
    assert "You are changing a judgment" in undone.text and ">kinder</textarea>" in undone.text
    assert re.search(r'id="strength-2"[^>]* checked', undone.text)
    post(desk, token_of(undone.text), "right")
    old, new = judgments(engine)
    assert old.superseded and new.supersedes_id == old.id and new.choice != old.choice


def test_undo_by_a_plain_form_and_leaving_it_changes_nothing(
    desk: TestClient, factory: Factory, project: Project, engine: Engine
) -> None:
    factory.comparisons(project, 2)
    post(desk, token_of(desk.get("/projects/tone/compare").text))
    reply = desk.post("/projects/tone/compare/undo")
    assert reply.status_code == 303
    assert "You are changing a judgment" in desk.get(reply.headers["location"]).text
    assert "You are changing" not in desk.get("/projects/tone/compare").text
    (judgment,) = judgments(engine)
    assert not judgment.superseded


def test_undo_with_nothing_to_undo_says_so(desk: TestClient, factory: Factory, project: Project) -> None:
    factory.comparison(project)
    assert "nothing to undo" in desk.post("/projects/tone/compare/undo", headers=HTMX).text


def test_skipping_gives_the_pair_to_somebody_else(
    desk: TestClient, factory: Factory, project: Project, sign_in: SignIn
) -> None:
    factory.comparison(project, prompt="Only one?")
    reply = post(desk, token_of(desk.get("/projects/tone/compare").text), "skip")
    assert "Nothing waits for you" in reply.text
    assert "Only one?" in sign_in(factory.user()).get("/projects/tone/compare").text


def test_a_judgment_after_its_lease_ran_out_is_kept(
    desk: TestClient, factory: Factory, project: Project, engine: Engine
) -> None:
    factory.comparison(project)
    token = token_of(desk.get("/projects/tone/compare").text)
    with write_session(engine) as session:
        ended = update(Slot).where(Slot.state == SlotState.LEASED).values(leased_until=now() - timedelta(seconds=1))
        session.execute(ended)
    assert factory.judge(project, factory.user(), "left") is not None
    reply = post(desk, token)
    assert reply.status_code == 200 and "had gone to somebody else" in text_of(reply.text)
    assert [judgment.late for judgment in judgments(engine)] == [False, True]


def test_somebody_else_s_pair_can_not_be_judged(
    desk: TestClient, factory: Factory, project: Project, engine: Engine, sign_in: SignIn
) -> None:
    factory.comparisons(project, 2)
    token = token_of(desk.get("/projects/tone/compare").text)
    other = sign_in(factory.user())
    reply = post(other, token)
    assert reply.status_code == 200 and "isn't yours any more" in unescape(reply.text)
    assert judgments(engine) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"choice": "left", "strength": "9"}, "strength isn't one of those"),
        ({"choice": "sideways"}, "isn't a choice"),
        ({"choice": "tie"}, "doesn't allow"),
        ({"choice": "left", "rationale": "x" * 4001}, "4,001 characters"),
        ({"choice": "left", "flags": ["nonsense"]}, "isn't a flag"),
    ],
)
def test_what_does_not_fit_is_told_and_nothing_typed_is_lost(
    desk: TestClient, factory: Factory, engine: Engine, project: Project, change: dict[str, object], message: str
) -> None:
    project = change_project(engine, project, factory.admin(), allow_tie=False)
    factory.comparison(project)
    token = token_of(desk.get("/projects/tone/compare").text)
    reply = post(desk, token, **{"choice": "left", "rationale": "my reason", **change})  # type: ignore[arg-type]
    assert reply.status_code == 200 and message in text_of(reply.text)
    assert token_of(reply.text) == token
    assert str(change.get("rationale", "my reason")) in reply.text
    assert judgments(engine) == []


def test_a_choice_that_the_project_forbids_has_no_button(
    desk: TestClient, factory: Factory, engine: Engine, project: Project
) -> None:
    project = change_project(engine, project, factory.admin(), allow_tie=False, allow_skip=False)
    factory.comparison(project)
    html = desk.get("/projects/tone/compare").text
    assert (
        "choose-left" in html and "choose-both_bad" in html and "choose-tie" not in html and "choose-skip" not in html
    )


def test_guidelines_that_changed_come_with_the_next_pair(
    desk: TestClient, factory: Factory, engine: Engine, project: Project
) -> None:
    factory.comparisons(project, 3)
    token = token_of(desk.get("/projects/tone/compare").text)
    admin = factory.admin()
    with write_session(engine) as session:
        guidelines.write(session, project=session.merge(project), text="Now pick the **kinder** one.", by=admin)
    reply = post(desk, token)
    assert "<strong>kinder</strong>" in reply.text and 'data-version="2"' in reply.text
    reply = desk.post(
        "/projects/tone/compare",
        data={"token": token_of(reply.text), "choice": "left", "seen_guidelines": "2"},
        headers=HTMX,
    )
    assert "kinder" not in reply.text
    assert [judgment.guideline_version for judgment in judgments(engine)] == [1, 2]


@pytest.mark.parametrize(
    ("role", "words"), [(Role.EVALUATOR, "as soon as somebody imports them"), (Role.ENGINEER, "Import pairs")]
)
def test_an_empty_project_says_what_to_do(
    factory: Factory, project: Project, sign_in: SignIn, role: Role, words: str
) -> None:
    assert words in sign_in(factory.user(role)).get("/projects/tone/compare").text


def test_when_everything_is_judged_the_page_says_so_with_counts(
    desk: TestClient, factory: Factory, project: Project
) -> None:
    factory.comparisons(project, 2)
    for _ in range(2):
        reply = post(desk, token_of(desk.get("/projects/tone/compare").text))
    for html in (reply.text, desk.get("/projects/tone/compare").text):
        assert "Nothing waits for you" in html and "Judged by everybody 2 of 2" in text_of(html)


def test_a_signed_out_evaluator_is_sent_to_sign_in_and_back(client: TestClient, project: Project) -> None:
    reply = client.get("/projects/tone/compare")
    assert (reply.status_code, reply.headers["location"]) == (303, "/sign-in?next=/projects/tone/compare")
    reply = client.post(
        "/projects/tone/compare",
        data={"token": "x", "choice": "left"},
        headers={**HTMX, "HX-Current-URL": "http://testserver/projects/tone/compare"},
    )
    assert (reply.status_code, reply.headers["hx-redirect"]) == (401, "/sign-in?next=/projects/tone/compare")


def test_an_unknown_project_is_not_found(desk: TestClient) -> None:
    assert desk.get("/projects/nowhere/compare").status_code == 404


def test_two_people_never_get_the_same_single_slot(factory: Factory, project: Project, sign_in: SignIn) -> None:
    factory.comparison(project)
    assert "choose-left" in sign_in(factory.user()).get("/projects/tone/compare").text
    assert "Nothing waits for you" in sign_in(factory.user()).get("/projects/tone/compare").text


def test_the_history_lists_one_s_own_judgments_and_leads_back_to_each(
    desk: TestClient, factory: Factory, project: Project, engine: Engine
) -> None:
    factory.comparison(project, prompt="Mine?", answers=("Mine A", "Mine B"))
    post(desk, token_of(desk.get("/projects/tone/compare").text), "both_bad", rationale="both rude", flags=["unsafe"])
    factory.comparison(project, prompt="Another's?")
    factory.judge(project, factory.user())
    html = desk.get("/projects/tone/history").text
    assert (
        "Both bad" in html
        and "Mine?" in html
        and "Mine A" in html
        and "both rude" in html
        and "Unsafe to train on" in html
    )
    assert "Another's?" not in unescape(html)
    own, foreign = judgments(engine)
    assert f"/projects/tone/compare?edit={own.id}" in html
    assert "Mine?" in desk.get(f"/projects/tone/compare?edit={own.id}").text
    assert desk.get(f"/projects/tone/compare?edit={foreign.id}").status_code == 404


def test_a_judgment_is_edited_under_its_own_project_only(
    desk: TestClient, factory: Factory, project: Project, engine: Engine
) -> None:
    factory.comparison(project)
    post(desk, token_of(desk.get("/projects/tone/compare").text))
    factory.project(slug="other")
    assert desk.get(f"/projects/other/compare?edit={judgments(engine)[0].id}").status_code == 404


def test_a_long_history_has_pages(desk: TestClient, factory: Factory, project: Project, engine: Engine) -> None:
    factory.comparisons(project, 27)
    token = token_of(desk.get("/projects/tone/compare").text)
    for _ in range(27):
        reply = post(desk, token)
        token = token_of(reply.text) if "choose-left" in reply.text else ""
    with read_session(engine) as session:
        assert session.scalar(select(func.count()).select_from(Judgment)) == 27
    assert "Page 1 of 2 · 27 in all" in text_of(desk.get("/projects/tone/history").text)
    assert desk.get("/projects/tone/history?page=2").text.count('class="card"') == 2
    assert "This page is empty" in desk.get("/projects/tone/history?page=9").text


def test_an_empty_history_leads_to_the_first_pair(desk: TestClient, project: Project) -> None:
    assert "Judge the first pair" in desk.get("/projects/tone/history").text
