"""A real browser that looks at a run's page, with a clock inside of it: what is measured is when the pixels are there.

A moment counts as drawn in the second frame after plotly has finished: the first one hands the picture to the compositor.
"""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-renderer-backgrounding",
    "--disable-backgrounding-occluded-windows",
)
_SIZE = {"width": 1400, "height": 900}
_PATIENCE_MS = 120_000

_CLOCK = """() => {
    const clock = (window.benchClock = { words: null, seen: null, painted: null, steps: [], released: 0, drawn: {}, all: 0 });
    const now = () => performance.timeOrigin + performance.now();
    const twoFrames = (then) => requestAnimationFrame(() => requestAnimationFrame(then));
    addEventListener("mouseup", (event) => { clock.released = performance.timeOrigin + event.timeStamp; }, true);
    const look = (plot) => {
        const chart = plot.closest("[data-chart]").dataset.chart;
        const line = plot.data && plot.data[3];
        const last = line && line.x && line.x.length ? line.x[line.x.length - 1] : null;
        const revision = plot.layout.uirevision;
        twoFrames(() => {
            const at = now();
            clock.drawn[chart] = { revision, at };
            if (chart !== "loss" || last === null) return;
            clock.steps.push([last, at]);
            if (clock.painted === null) clock.painted = at - performance.timeOrigin;
        });
    };
    const heard = new WeakSet();
    const read = () => {
        if (!document.querySelector("#verdict h2")) return requestAnimationFrame(read);
        twoFrames(() => { clock.words = now() - performance.timeOrigin; });
    };
    requestAnimationFrame(read);
    const see = () => {
        const look = document.querySelector('[data-chart="loss"] .first-look');
        if (clock.painted !== null) return;
        if (!look || !look.complete || !look.naturalWidth) return requestAnimationFrame(see);
        twoFrames(() => { clock.seen = now() - performance.timeOrigin; });
    };
    requestAnimationFrame(see);
    const hear = () => {
        document.querySelectorAll(".js-plotly-plot").forEach((plot) => {
            if (heard.has(plot) || !plot.on) return;
            heard.add(plot);
            plot.on("plotly_afterplot", () => look(plot));
            look(plot);
        });
        requestAnimationFrame(hear);
    };
    requestAnimationFrame(hear);
}"""
_RECORDER = """() => {
    const told = (window.benchTold = []);
    const tell = MessagePort.prototype.postMessage;
    MessagePort.prototype.postMessage = function (message, ...rest) {
        if (message && message.type === "callback_request") told.push(JSON.stringify(message));
        return tell.call(this, message, ...rest);
    };
}"""
_ZOOMED = """([window_, charts]) => {
    const { drawn, released } = window.benchClock;
    const at = charts.map((chart) => drawn[chart] && drawn[chart].revision === window_ ? drawn[chart].at : null);
    return at.every((one) => one !== null && one >= released) ? [released, ...at] : null;
}"""
_REDRAW = """async (chart) => {
    const plot = document.querySelector(`[data-chart="${chart}"] .js-plotly-plot`);
    const frames = () => new Promise((then) => requestAnimationFrame(() => requestAnimationFrame(then)));
    await frames();
    const began = performance.now();
    await Plotly.react(plot, plot.data.map((trace) => ({ ...trace })), { ...plot.layout, datarevision: began });
    await frames();
    return performance.now() - began;
}"""


@contextmanager
def browsing(path: str | None = None) -> Iterator["Browser"]:
    """Start a headless browser.

    Args:
        path: of Chromium or Chrome; the first found of the usual names by default, else Playwright's own.

    Raises:
        ValueError: there is none, Playwright is not installed (with what mends it), or the page does not answer in time.
    """
    try:
        from playwright.sync_api import Error, TimeoutError, sync_playwright
    except ModuleNotFoundError:
        raise ValueError(
            "the page is measured in a real browser, driven by Playwright; mend it with: pip install playwright"
        ) from None
    found = path or next((there for name in BROWSERS if (there := shutil.which(name))), None)
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=found, args=list(_FLAGS))
        except Error as error:
            said = str(error).strip().splitlines()[0]
            raise ValueError(f"no browser starts ({said}); mend it with: playwright install chromium (or --browser PATH)") from None
        try:
            yield browser
        except TimeoutError as error:
            said = str(error).strip().splitlines()[0]
            raise ValueError(f"the page did not do within {_PATIENCE_MS / 1e3:.0f} s what was waited for: {said}") from None
        browser.close()


class Tab:
    """A tab with a context of its own: nothing cached, nothing shared with other tabs.

    Args:
        address: of a run's page.
    """

    def __init__(self, browser: "Browser", address: str) -> None:
        self._context = browser.new_context(viewport=_SIZE)  # type: ignore[arg-type]
        self._page: Page = self._context.new_page()
        self._page.set_default_timeout(_PATIENCE_MS)
        self._page.add_init_script(f"({_CLOCK})(); ({_RECORDER})();")
        self._address = address

    def paint(self) -> tuple[float, float, float]:
        """Load the page; return milliseconds to the words of the verdict, to the first look at the loss, and to its chart.

        They count from the beginning of the navigation.
        """
        self._page.goto(self._address, wait_until="commit")
        painted: float = self._page.wait_for_function("() => window.benchClock && window.benchClock.painted").json_value()
        words, seen = self._page.evaluate("() => [window.benchClock.words, window.benchClock.seen]")
        return words, painted if seen is None else min(seen, painted), painted

    def settle(self) -> list[str]:
        """Wait until no more charts over steps are drawn; return their names."""
        self._page.wait_for_function("() => window.foreshock && window.foreshock.plots().length >= 3")
        names: list[str] = []
        while names != (now := self._page.evaluate("() => window.foreshock.plots().map(window.foreshock.nameOf)")):
            names = now
            self._page.wait_for_timeout(2000)
        return names

    def zoom(self, left: float, right: float, charts: list[str]) -> tuple[float, float]:
        """Drag over a part of the loss chart, 0 to 1, and reset; return milliseconds from letting go to its picture, and to all.

        Args:
            charts: that are waited for in the end.
        """
        area = self._page.locator("#loss .nsewdrag").first.bounding_box()
        assert area is not None
        height = area["y"] + area["height"] / 2
        self._page.mouse.move(area["x"] + left * area["width"], height)
        self._page.mouse.down()
        self._page.mouse.move(area["x"] + right * area["width"], height, steps=4)
        self._page.mouse.up()
        wanted = self._page.wait_for_function("() => window.foreshock.get('window', 'data')").json_value()
        released, first = self._page.wait_for_function(_ZOOMED, arg=[wanted, ["loss"]]).json_value()
        _, *every = self._page.wait_for_function(_ZOOMED, arg=[wanted, charts]).json_value()
        answer = first - released, max(every) - released
        self._page.evaluate("() => window.foreshock.show('')")
        self._page.wait_for_function(
            "charts => charts.every((chart) => window.benchClock.drawn[chart].revision === 'kept')", arg=charts
        )
        self._page.wait_for_timeout(300)
        return answer

    def redraw(self) -> float:
        """Return milliseconds in which plotly draws the loss chart anew from what it has: what no answer can undercut."""
        taken: float = self._page.evaluate(_REDRAW, "loss")
        return taken

    def latencies(self, called: dict[int, float]) -> list[float]:
        """Return milliseconds from each step's ``monitor.step`` to its pixels, for the steps that this tab has drawn.

        Args:
            called: step -> time of the call, seconds since the epoch.
        """
        drawn: list[tuple[int, float]] = self._page.evaluate("() => window.benchClock.steps")
        found, place = [], 0
        for step in sorted(called):
            while place < len(drawn) and drawn[place][0] < step:
                place += 1
            if place == len(drawn):
                break
            if drawn[place][1] >= 1e3 * called[step]:
                found.append(drawn[place][1] - 1e3 * called[step])
        return found

    def told(self) -> list[dict[str, Any]]:
        """Return what the tab has asked the server for over its socket."""
        return [json.loads(message) for message in self._page.evaluate("() => window.benchTold")]

    def forget(self) -> None:
        """Begin to note drawn steps anew."""
        self._page.evaluate("() => { window.benchClock.steps = []; }")

    def close(self) -> None:
        """Close it."""
        self._context.close()


def until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait for a condition. Raises ValueError when it does not come."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise ValueError(f"{what}: not within {seconds:.0f} s")
        time.sleep(0.05)
