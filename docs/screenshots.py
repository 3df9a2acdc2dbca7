"""Make the pictures of README and docs from a real run: ``python docs/screenshots.py`` (needs Chromium and Playwright).

The demo's default scenario is trained into a temporary store, the real page is served over it, and headless Chromium looks at it.
"""

import shutil
import sys
import tempfile
from pathlib import Path

from foreshock.zoo.demo import train
from foreshock.zoo.page import LivePage
from foreshock.zoo.scenario import scenario
from playwright.sync_api import Page, sync_playwright

IMAGES = Path(__file__).resolve().parent / "images"
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# Milliseconds that charts are given to come to rest: the page is live, so nothing on it says "done".
SETTLE = 4000


def main() -> int:
    """Train, serve, take the pictures; return the exit status."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        print("no Chromium found; install it (Debian: apt-get install chromium)", file=sys.stderr)
        return 1
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        store = f"sqlite:///{Path(folder) / 'pictures.db'}"
        healthy = train(scenario("healthy"), store, seed=0, say=print)
        failing = train(scenario("low-precision-attention"), store, seed=0, say=print)
        print(f"healthy {healthy.outcome}, failing {failing.outcome}")
        with LivePage(store) as page, sync_playwright() as playwright:
            if not page.wait_until_serving():
                print("the page did not start", file=sys.stderr)
                return 1
            browser = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_FLAGS)
            for scheme in ("light", "dark"):
                context = browser.new_context(viewport={"width": 1400, "height": 1000}, color_scheme=scheme)
                tab = context.new_page()
                take(
                    tab,
                    f"{page.url}run/{failing.run}?signal=attention.max_logit",
                    IMAGES / f"run-{scheme}.png",
                    ".js-plotly-plot",
                    height=1560,
                )
                take(tab, page.url, IMAGES / f"runs-{scheme}.png", "table", height=420)
                context.close()
            browser.close()
    return 0


def take(tab: Page, url: str, file: Path, selector: str, *, height: int) -> None:
    """Open a page, wait until ``selector`` is there and has come to rest, and keep the picture."""
    tab.set_viewport_size({"width": 1400, "height": height})
    tab.goto(url)
    tab.wait_for_selector(selector)
    tab.wait_for_timeout(SETTLE)
    tab.screenshot(path=file)
    print(file)


if __name__ == "__main__":
    sys.exit(main())
