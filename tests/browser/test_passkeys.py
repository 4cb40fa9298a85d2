"""Passkeys with Chromium's own virtual device, which holds keys and asks nobody."""

from dataclasses import dataclass

import pytest
from playwright.sync_api import BrowserContext, CDPSession, Page, expect

from tests.live import LiveServer

pytestmark = pytest.mark.browser

PASSWORD = "correct horse battery"


@dataclass
class Device:
    """A device built into the machine, which checks its owner by a finger or face."""

    cdp: CDPSession
    number: str

    def knows_its_owner(self, knows: bool) -> None:
        self.cdp.send("WebAuthn.setUserVerified", {"authenticatorId": self.number, "isUserVerified": knows})


@pytest.fixture
def device(context: BrowserContext, page: Page) -> Device:
    cdp = context.new_cdp_session(page)
    cdp.send("WebAuthn.enable")
    options = {
        "protocol": "ctap2",
        "transport": "internal",
        "hasResidentKey": True,
        "hasUserVerification": True,
        "isUserVerified": True,
        "automaticPresenceSimulation": True,
    }
    made = cdp.send("WebAuthn.addVirtualAuthenticator", {"options": options})
    return Device(cdp, made["authenticatorId"])


def test_a_passkey_is_added_and_signs_in_alone_and_after_a_password(
    live_server: LiveServer, page: Page, device: Device
) -> None:
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    here = live_server.url.replace("127.0.0.1", "localhost")  # browsers keep no passkeys for a number
    ada = live_server.factory.user(username="ada", password=PASSWORD)

    page.goto(live_server.link(ada).replace("127.0.0.1", "localhost"))
    page.goto(f"{here}/account")
    page.get_by_label("Name", exact=True).first.fill("this laptop")
    page.get_by_role("button", name="Add a passkey").click()
    expect(page.get_by_role("heading", name="Recovery codes")).to_be_visible()
    page.get_by_role("link", name="Done").click()
    expect(page.get_by_role("table", name="Passkeys")).to_contain_text("this laptop")

    page.get_by_label("Name", exact=True).first.fill("again")
    page.get_by_role("button", name="Add a passkey").click()
    expect(page.get_by_role("alert")).to_have_text("This device holds a passkey of yours already.")

    page.context.clear_cookies()
    page.goto(f"{here}/sign-in?next=/account")
    device.knows_its_owner(False)
    page.get_by_role("button", name="Sign in with a passkey").click()
    expect(page.get_by_role("alert")).to_contain_text("Try again.")
    device.knows_its_owner(True)
    page.get_by_role("button", name="Sign in with a passkey").click()
    expect(page).to_have_url(f"{here}/account")

    page.context.clear_cookies()
    page.goto(f"{here}/sign-in?next=/account")
    page.get_by_label("User name").fill("ada")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in", exact=True).click()
    page.get_by_role("button", name="Use a passkey").click()
    expect(page).to_have_url(f"{here}/account")
    expect(page.get_by_role("table", name="Passkeys")).to_contain_text("just now")

    page.goto(f"{live_server.url}/sign-in")
    expect(page.get_by_role("link", name=here)).to_be_visible()
    expect(page.get_by_role("button", name="Sign in with a passkey")).to_be_hidden()
    assert [text for text in said if "Content Security Policy" in text] == []
