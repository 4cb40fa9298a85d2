"""The comparison desk as the tests drive it: its guidelines closed, a key pressed, the next pair there."""

from playwright.sync_api import Page, expect


def close_guidelines(page: Page) -> None:
    """They open by themselves the first time."""
    close = page.get_by_role("button", name="Close the guidelines")
    if close.is_visible():
        close.click()


def token(page: Page) -> str:
    """Of the pair that is shown."""
    return page.locator("input[name=token]").input_value()


def gone(page: Page, before: str) -> None:
    """Waits until the pair of that token has left, and the page takes keys for what came after it."""
    expect(page.locator(f"input[name=token][value='{before}']")).to_have_count(0)
    expect(page.locator("#desk.htmx-added")).to_have_count(0)


def press_for_next(page: Page, key: str) -> None:
    """Presses a key and waits until another pair (or none) is there."""
    before = token(page)
    page.keyboard.press(key)
    gone(page, before)
