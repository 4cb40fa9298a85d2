"""The comparison desk in a real browser, by keys, by mouse, by thumb, and when things go wrong."""

import re
from collections.abc import Callable

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect
from sqlalchemy import select, update

from app.db import get_engine, read_session, write_session
from app.models import Judgment, Project, Role, User, UserSession
from app.models.base import now
from app.services.collecting import guidelines
from tests.browser.keys import close_guidelines, gone, press_for_next, token
from tests.live import LiveServer

pytestmark = pytest.mark.browser
SignedIn = Callable[[Role], User]
LONG = "\n\n".join(
    f"Paragraph {number} of a long answer that goes on for a while and then some more." for number in range(60)
)


@pytest.fixture
def project(live_server: LiveServer) -> Project:
    return live_server.factory.project(slug="tone")


@pytest.fixture
def desk(live_server: LiveServer, page: Page, signed_in: SignedIn, project: Project) -> Callable[..., Page]:
    """Opens the desk as a new evaluator; `count` plain pairs wait there."""

    def open_desk(count: int = 3, role: Role = Role.EVALUATOR) -> Page:
        if count:
            live_server.factory.comparisons(project, count)
        signed_in(role)
        return to_desk(live_server, page)

    return open_desk


def to_desk(server: LiveServer, page: Page) -> Page:
    page.goto(f"{server.url}/projects/tone/compare")
    close_guidelines(page)
    return page


def judgments(server: LiveServer) -> list[Judgment]:
    with read_session(get_engine(server.settings)) as session:
        return list(session.scalars(select(Judgment).order_by(Judgment.id)))


def eventually(page: Page, condition: str) -> None:
    """Waits for a JavaScript condition, frame by frame: Playwright's own way needs eval, which the page forbids."""
    look = f"() => (() => {condition})() ? done() : frames-- ? requestAnimationFrame(look) : fail(new Error('never came true'))"
    page.evaluate(f"() => new Promise((done, fail) => {{ let frames = 600; const look = {look}; look(); }})")


def test_five_pairs_are_judged_by_keys_alone(live_server: LiveServer, desk: Callable[..., Page]) -> None:
    page = desk(6)
    sides = []
    for key in ("1", "ArrowRight", "0", "b", "s"):
        sides.append(page.locator(".answer-body").first.inner_text())
        press_for_next(page, key)
    expect(page.locator("#progress")).to_contain_text("today")
    stored = judgments(live_server)
    assert [judgment.choice.value for judgment in stored[2:]] == ["tie", "both_bad", "skip"]
    for judgment, left, picked in zip(stored, sides, ("left", "right"), strict=False):
        first_is_left = left.startswith("Answer one")
        assert (judgment.choice == "first") == (first_is_left == (picked == "left"))
    assert all(judgment.shown_at and judgment.shown_at <= judgment.submitted_at for judgment in stored)


def test_shift_with_a_number_says_far_better(live_server: LiveServer, desk: Callable[..., Page]) -> None:
    page = desk()
    press_for_next(page, "Shift+Digit1")
    press_for_next(page, "2")
    assert [judgment.strength for judgment in judgments(live_server)] == [3, None]


def test_keys_typed_into_the_note_judge_nothing_and_the_note_is_saved(
    live_server: LiveServer, desk: Callable[..., Page]
) -> None:
    page = desk()
    before = token(page)
    page.keyboard.press("n")
    expect(page.locator("#rationale")).to_be_focused()
    page.keyboard.type("1 0 b s u ? g")
    page.keyboard.press("Escape")
    expect(page.locator("#note")).to_be_hidden()
    assert token(page) == before and judgments(live_server) == []
    page.keyboard.press("f")
    page.get_by_label("Broken or cut off").check()
    page.keyboard.press("Escape")
    press_for_next(page, "2")
    (judgment,) = judgments(live_server)
    assert (judgment.rationale, judgment.flags) == ("1 0 b s u ? g", ["broken"])
    assert page.locator("#rationale").input_value() == "", "the next pair starts with an empty note"


def test_a_key_right_after_a_note_is_closed_is_not_taken_for_typing(desk: Callable[..., Page]) -> None:
    """A closed note keeps the focus until the browser draws its next frame; a key in between belongs to the desk."""
    page = desk()
    page.keyboard.press("n")
    expect(page.locator("#rationale")).to_be_focused()
    page.evaluate("""() => {
        document.getElementById("note").hidePopover();
        document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key: "f", bubbles: true, cancelable: true }));
    }""")
    expect(page.get_by_label("Broken or cut off")).to_be_visible()


def test_a_double_click_and_a_key_held_down_make_one_judgment_each(
    live_server: LiveServer, desk: Callable[..., Page]
) -> None:
    page = desk(4)
    before = token(page)
    page.locator("#choose-left").dblclick()
    gone(page, before)
    assert len(judgments(live_server)) == 1
    before = token(page)
    page.keyboard.down("2")
    for _ in range(5):
        page.keyboard.down("2")  # what a held key sends again and again
    page.keyboard.up("2")
    gone(page, before)
    assert len(judgments(live_server)) == 2


def test_the_chosen_answer_lights_up_while_the_choice_is_on_its_way(
    live_server: LiveServer, desk: Callable[..., Page]
) -> None:
    page = desk()
    before = token(page)
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url) if request.method == "POST" else None)
    with live_server.standing_still("serve"):
        page.keyboard.press("2")
        expect(page.locator(".answer[data-side=right]")).to_have_class(re.compile("chosen"))
        page.keyboard.press("1")
        page.locator("#choose-tie").click()
    gone(page, before)
    expect(page.locator(".answer.chosen")).to_have_count(0)
    assert len(sent) == 1, "a second choice was sent before the first was answered"
    assert len(judgments(live_server)) == 1


def test_undo_brings_the_pair_back_on_the_same_sides(live_server: LiveServer, desk: Callable[..., Page]) -> None:
    page = desk()
    answers = page.locator(".answer-body").all_inner_texts()
    press_for_next(page, "1")
    press_for_next(page, "u")
    assert page.locator(".answer-body").all_inner_texts() == answers
    expect(page.get_by_text("You are changing a judgment")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_text("You are changing a judgment")).to_have_count(0)
    assert [judgment.superseded for judgment in judgments(live_server)] == [False]
    press_for_next(page, "u")
    press_for_next(page, "2")
    assert [judgment.superseded for judgment in judgments(live_server)] == [True, False]


def test_a_choice_made_offline_is_kept_and_sent_when_the_network_is_back(
    live_server: LiveServer, desk: Callable[..., Page], context: BrowserContext
) -> None:
    page = desk()
    before = token(page)
    context.set_offline(True)
    page.evaluate(
        "async () => { for (;;) try { await fetch('/healthz', { cache: 'no-store' }); } catch { return; } }"
    )  # until it has come into force
    page.keyboard.press("1")
    expect(page.locator("#connection")).to_contain_text("Your choice “1 better” is kept here")
    page.keyboard.press("2")
    assert token(page) == before and judgments(live_server) == []
    context.set_offline(False)
    gone(page, before)
    expect(page.locator("#connection")).to_be_hidden()
    assert len(judgments(live_server)) == 1


def test_a_choice_outlives_the_server_and_the_page(live_server: LiveServer, desk: Callable[..., Page]) -> None:
    page = desk()
    left = page.locator(".answer-body").first.inner_text()
    live_server.stop("serve")
    page.keyboard.press("Shift+Digit1")
    expect(page.locator("#connection")).to_contain_text("can't be reached")
    page.goto("about:blank")
    live_server.start("serve")
    to_desk(live_server, page)
    expect(page.locator("#progress b")).to_have_text("1")
    (judgment,) = judgments(live_server)
    assert judgment.strength == 3
    assert (judgment.choice == "first") == left.startswith("Answer one")


def test_a_busy_server_is_asked_again(live_server: LiveServer, page: Page, desk: Callable[..., Page]) -> None:
    posted: list[Route] = []

    def answer(route: Route) -> None:
        if route.request.method != "POST":
            route.continue_()
            return
        posted.append(route)
        if len(posted) == 1:
            route.fulfill(status=503, headers={"Retry-After": "1"}, body="busy")

    page.route("**/compare", answer)  # before the page opens: Chromium may let requests of an open page pass
    desk()
    before = token(page)
    page.keyboard.press("1")
    expect(page.locator("#connection")).to_contain_text("busy (503)")  # it stays until the second answer, which waits
    while len(posted) < 2:
        page.wait_for_timeout(50)
    posted[1].continue_()
    gone(page, before)
    expect(page.locator("#connection")).to_be_hidden()
    assert len(judgments(live_server)) == 1


def test_after_the_session_ended_one_signs_in_again_and_the_choice_is_there(
    live_server: LiveServer, page: Page, project: Project
) -> None:
    live_server.factory.comparisons(project, 2)
    user = live_server.factory.user(password="correct horse battery staple")
    page.goto(live_server.link(user))
    to_desk(live_server, page)
    with write_session(get_engine(live_server.settings)) as session:
        session.execute(update(UserSession).values(revoked_at=now()))
    page.keyboard.press("1")
    page.wait_for_url("**/sign-in?next=/projects/tone/compare")
    assert judgments(live_server) == []
    page.get_by_label("User name").fill(user.username)
    page.get_by_label("Password").fill("correct horse battery staple")
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/projects/tone/compare")
    expect(page.locator("#progress b")).to_have_text("1")
    assert len(judgments(live_server)) == 1


def test_a_screen_reader_hears_what_was_saved_and_starts_at_the_new_question(desk: Callable[..., Page]) -> None:
    page = desk()
    press_for_next(page, "1")
    expect(page.locator("#voice")).to_have_text("Answer 1 is better, saved. Next pair. 1 today.")
    expect(page.locator("#conversation")).to_be_focused()
    page.locator("#choose-right").focus()
    before = token(page)
    page.keyboard.press("Enter")
    gone(page, before)
    expect(page.locator("#conversation")).to_be_focused()


def test_help_and_guidelines_open_and_close_by_keys(
    live_server: LiveServer, page: Page, signed_in: SignedIn, project: Project
) -> None:
    live_server.factory.comparisons(project, 3)
    user = signed_in(Role.EVALUATOR)  # with one project this leads to its desk
    expect(page.locator("#guidelines")).to_be_visible()  # the first time
    press_for_next(page, "1")
    expect(page.locator("#guidelines")).to_be_visible()  # it stays while judging
    page.keyboard.press("g")
    expect(page.locator("#guidelines")).to_be_hidden()
    page.reload()
    expect(page.locator("#desk")).to_be_visible()
    expect(page.locator("#guidelines")).to_be_hidden()
    page.keyboard.press("?")
    expect(page.locator("#help")).to_be_visible()
    page.keyboard.press("1")
    page.keyboard.press("Escape")
    expect(page.locator("#help")).to_be_hidden()
    assert len(judgments(live_server)) == 1, "a key judged behind the open help"
    with write_session(get_engine(live_server.settings)) as session:
        guidelines.write(session, project=session.merge(project), text="New rules.", by=session.merge(user))
    page.keyboard.press("2")
    expect(page.locator("#guidelines")).to_contain_text("New rules.")


def test_the_answers_scroll_together_and_the_buttons_never_move(
    live_server: LiveServer, desk: Callable[..., Page], project: Project
) -> None:
    live_server.factory.comparison(project, answers=(LONG, LONG + LONG), priority=5)
    page = desk(2)
    place = page.locator("#choose-left").bounding_box()
    page.locator(".answer-body").first.hover()
    page.mouse.wheel(0, 100_000)
    eventually(
        page,
        "[...document.querySelectorAll('.answer-body')].every(b => b.scrollTop > 0 && b.scrollTop + b.clientHeight >= b.scrollHeight - 2)",
    )
    press_for_next(page, "1")
    assert page.locator("#choose-left").bounding_box() == place
    assert page.evaluate("document.querySelector('.answer-body').scrollTop") == 0


def test_arrow_down_scrolls_the_answers_without_a_click(
    live_server: LiveServer, desk: Callable[..., Page], project: Project
) -> None:
    live_server.factory.comparison(project, answers=(LONG, LONG + LONG), priority=5)
    page = desk(0)
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Space")
    eventually(page, "[...document.querySelectorAll('.answer-body')].every(body => body.scrollTop > 100)")
    assert judgments(live_server) == []


def test_arrows_inside_a_code_block_move_the_code_and_judge_nothing(
    live_server: LiveServer, desk: Callable[..., Page], project: Project
) -> None:
    live_server.factory.comparison(project, answers=("```python\n" + "x = 1; " * 100 + "\n```", "no"), priority=5)
    page = desk(0)
    page.locator("pre").focus()
    page.keyboard.press("ArrowRight")
    eventually(page, "document.querySelector('pre').scrollLeft > 0")
    assert judgments(live_server) == []


def test_the_page_says_when_the_time_for_a_pair_ran_out(desk: Callable[..., Page], page: Page) -> None:
    page.clock.install()
    desk()
    hint = page.get_by_text("Your time for this pair ran out")
    expect(hint).to_be_hidden()
    page.clock.fast_forward("16:00")
    expect(hint).to_be_visible()


def test_a_hostile_answer_runs_nothing_and_calls_nobody(
    live_server: LiveServer, page: Page, signed_in: SignedIn, project: Project
) -> None:
    hostile = (
        "<script>document.title='owned'</script><img src=https://evil.example/a onerror=\"document.title='owned'\">"
        "<style>body{display:none}</style>\n\n![pixel](https://evil.example/pixel.png)\n\n[x](javascript:document.title='owned')\n\n"
        "<div hx-get=/people hx-trigger=load></div>"
    )
    live_server.factory.comparison(project, prompt=hostile, answers=(hostile, "fine"))
    calls: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda request: calls.append(request.url))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    signed_in(Role.EVALUATOR)
    to_desk(live_server, page)
    expect(page.locator(".answer").first).to_be_visible()
    assert page.title() == "Compare · Tone · Prefloop"
    assert all(url.startswith(live_server.url) for url in calls)
    assert not any("/people" in url for url in calls)
    assert complaints == []


def test_on_a_phone_two_cards_and_a_bar_that_sticks(
    live_server: LiveServer, browser: Browser, project: Project
) -> None:
    live_server.factory.comparison(project, answers=(LONG, LONG + LONG), priority=5)
    live_server.factory.comparisons(project, 2)
    context = browser.new_context(viewport={"width": 380, "height": 720}, has_touch=True, is_mobile=True)
    page = context.new_page()
    page.goto(live_server.link(live_server.factory.user()))
    page.goto(f"{live_server.url}/projects/tone/compare")
    assert page.evaluate("document.documentElement.scrollWidth") == 380
    first, second = (box.bounding_box() for box in page.locator(".answer").all())
    assert first and second and second["y"] >= first["y"] + first["height"]
    for button in page.locator(".choice").all():
        box = button.bounding_box()
        assert (
            box
            and box["y"] + box["height"] <= 720
            and box["height"] >= 44
            and box["x"] >= 0
            and box["x"] + box["width"] <= 380
        )
    before = token(page)
    page.locator("#choose-right").tap()
    gone(page, before)
    eventually(page, "scrollY === 0")
    page.locator("[data-key=n]").tap()
    expect(page.locator("#rationale")).to_be_visible()
    context.close()


def test_without_javascript_pairs_are_judged_and_undone_by_plain_forms(
    live_server: LiveServer, browser: Browser, project: Project
) -> None:
    live_server.factory.comparisons(project, 3)
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(live_server.link(live_server.factory.user()))
    page.goto(f"{live_server.url}/projects/tone/compare")
    before = token(page)
    page.get_by_role("button", name="1 better").click()
    gone(page, before)
    page.get_by_role("button", name="Undo").click()
    expect(page.get_by_text("You are changing a judgment")).to_be_visible()
    page.get_by_role("button", name="2 better").click()
    expect(page.get_by_text("You are changing a judgment")).to_have_count(0)
    assert [judgment.superseded for judgment in judgments(live_server)] == [True, False]
    context.close()


def test_when_nothing_waits_the_page_says_what_next(live_server: LiveServer, desk: Callable[..., Page]) -> None:
    page = desk(1)
    press_for_next(page, "1")
    expect(page.get_by_role("heading", name="Nothing waits for you")).to_be_visible()
    page.get_by_role("link", name="My judgments").first.click()
    page.get_by_role("link", name="Change").click()
    expect(page.get_by_text("You are changing a judgment")).to_be_visible()
    press_for_next(page, "0")
    assert [judgment.choice.value for judgment in judgments(live_server) if not judgment.superseded] == ["tie"]


def test_the_colours_switch_at_once_and_stay(live_server: LiveServer, desk: Callable[..., Page]) -> None:
    page = desk()
    background = "getComputedStyle(document.querySelector('.answer')).backgroundColor"
    light = page.evaluate(background)
    page.locator(".account summary").click()
    with page.expect_response("**/theme"):
        page.get_by_role("button", name="Dark").click()
    dark = page.evaluate(background)
    assert dark != light
    page.reload()
    assert page.evaluate(background) == dark


def serious(page: Page) -> list[str]:
    violations = Axe().run(page).response["violations"]
    return [
        f"{item['id']} ({item['impact']}): {[node['target'] for node in item['nodes']]}"
        for item in violations
        if item["impact"] in ("serious", "critical")
    ]


@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.long)])
def test_axe_finds_nothing_serious(
    live_server: LiveServer, page: Page, signed_in: SignedIn, project: Project, scheme: str
) -> None:
    signed_in(Role.ADMIN)
    factory = live_server.factory
    rich = "# Title\n\n```python\n# comment\ndef f(x: int) -> str:\n    return 'a' + \"b\" * 3\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n> quote\n\n[x](https://d.example) ![y](https://d.example/y.png) `code`"
    factory.comparison(project, answers=(rich, LONG + LONG), prompt=LONG, priority=9)
    factory.comparisons(project, 2)
    factory.project(slug="bare")
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    page.goto(f"{live_server.url}/projects/tone/compare")
    assert serious(page) == [], "with the guidelines open"
    page.keyboard.press("g")
    page.keyboard.press("?")
    assert serious(page) == [], "with the help open"
    page.keyboard.press("Escape")
    page.keyboard.press("n")
    assert serious(page) == [], "with the note open"
    page.keyboard.press("Escape")
    press_for_next(page, "1")
    press_for_next(page, "u")
    assert serious(page) == [], "while changing a judgment"
    for path in (
        "/",
        "/projects/new",
        "/projects/tone/settings",
        "/projects/tone/guidelines",
        "/projects/tone/history",
        "/projects/bare/compare",
    ):
        page.goto(live_server.url + path)
        assert serious(page) == [], path
    page.locator(".account summary").click()
    page.locator(".switcher summary").click()
    assert serious(page) == [], "with a menu open"


def test_a_strength_picked_by_mistake_goes_away_by_a_second_click(
    live_server: LiveServer, desk: Callable[..., Page]
) -> None:
    page = desk(1)
    label = page.locator("label[for=strength-3]")
    label.click()
    expect(page.locator("#strength-3")).to_be_checked()
    label.click()
    expect(page.locator("#strength-3")).not_to_be_checked()
    press_for_next(page, "1")
    assert judgments(live_server)[0].strength is None
