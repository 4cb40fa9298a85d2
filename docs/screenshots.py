"""Takes the README's screenshots from a running demo: `python docs/screenshots.py SIGN_IN_LINK RUN CHECKPOINT`.

Start the demo (`make run`), train once on it, then run this with a fresh link (`prefloop user link admin`).
"""

import shutil
import sys
from urllib.parse import urlsplit

from playwright.sync_api import sync_playwright

from app.paths import ROOT

IMAGES = ROOT / "docs" / "images"


def main(link: str, run: str, checkpoint: str) -> None:
    """Writes docs/images/*.png, 1280 by 800 pixels each."""
    parts = urlsplit(link)
    base = f"{parts.scheme}://{parts.netloc}"
    pages = {
        "compare": "/projects/support-tone/compare",
        "data": "/projects/support-tone/data",
        "run": f"/jobs/{run}",
        "checkpoint": f"/checkpoints/{checkpoint}",
    }
    IMAGES.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.goto(link)
        for name, path in pages.items():
            page.goto(base + path)
            close = page.get_by_role("button", name="Close the guidelines")
            if close.is_visible():
                close.click()
            page.wait_for_timeout(600)
            page.screenshot(path=IMAGES / f"{name}.png")
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:4])
