"""Every page, in dark and light and at the width of a phone: axe-core finds nothing, and the keyboard reaches everything.

A new page is a line in ``PAGES``.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest
from axe_playwright_python.base import AXE_SCRIPT
from foreshock.dashboard.router import _PAGES
from foreshock.storage import open_store
from foreshock.storage.records import RunStatus, derived_id
from playwright.sync_api import Page, expect

CHARTS = ".graph .scatterlayer .trace, .graph .heatmaplayer image"
"""What is there once a chart is drawn."""


def alert_of(run_id: str) -> str:
    """Return the id of the critical alert of a failing run."""
    return derived_id(run_id, "logit_growth", "blocks.1.attn.q", 0)


@dataclass(frozen=True)
class Site:
    """Two served stores, one of them empty, and runs in different states."""

    base: str
    empty: str
    failing: str
    healthy: str
    waiting: str
    alert: str


@dataclass(frozen=True)
class Look:
    """A page: its address on a site, and what is there when it is ready. ``keyboard``: whether to walk it with the Tab key, too."""

    address: Callable[[Site], str]
    ready: str
    keyboard: bool = True


REPLAYED = "#rules-replay:has(#rules-replay-said:has-text('Replayed')) #rules-replay-go:enabled"
"""A button that may be pressed once the replay, which begins by itself, has ended."""

COMPARED = ":has(#compare-loss .scatterlayer .trace) #compare-overlay .main-svg"
"""The chart of a signal to choose has nothing to draw yet, and its buttons all the same."""

PAGES = {
    "runs": Look(lambda site: f"{site.base}/", ":has(table.runs tbody tr) #filter-state"),
    "no runs": Look(lambda site: f"{site.empty}/", "#no-runs"),
    "failing run": Look(lambda site: f"{site.base}/run/{site.failing}", CHARTS),
    "healthy run": Look(lambda site: f"{site.base}/run/{site.healthy}", CHARTS, keyboard=False),
    "waiting run": Look(lambda site: f"{site.base}/run/{site.waiting}", "#verdict .level-empty", keyboard=False),
    "cause": Look(lambda site: f"{site.base}/cause/low-precision-attention", ".prose table"),
    "inbox": Look(lambda site: f"{site.base}/alerts?state=all", ".inbox-row"),
    "empty inbox": Look(lambda site: f"{site.empty}/alerts", "#inbox-empty", keyboard=False),
    "alert": Look(lambda site: f"{site.base}/alert/{alert_of(site.failing)}", CHARTS),
    "unknown alert": Look(lambda site: f"{site.base}/alert/none", ".message", keyboard=False),
    "unknown run": Look(lambda site: f"{site.base}/run/nobody", ".message"),
    "unknown page": Look(lambda site: f"{site.base}/nowhere", ".message", keyboard=False),
    "compare": Look(lambda site: f"{site.base}/compare?runs={site.failing},{site.healthy}", COMPARED),
    "rules": Look(lambda site: f"{site.base}/rules?run={site.failing}", REPLAYED),
    "rule": Look(lambda site: f"{site.base}/rules/loss_spike?run={site.failing}", "main form, main fieldset, main input"),
    "report": Look(lambda site: f"{site.base}/report/{site.failing}", CHARTS),
}
LOOKS = (("light", 1400), ("dark", 1400), ("dark", 390))

UNMENDED = ".dash-dropdown-focus-target:not([tabindex='-1'])"
"""A drop-down list of Dash before the page has mended it, one frame later."""

STANDARDS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
AXE = "([tags]) => axe.run(document, {runOnly: {type: 'tag', values: tags}, resultTypes: ['violations']})"

CONTROLS = """() => {
    const focusable = "a[href], button, input, select, textarea, summary, [tabindex]:not([tabindex^='-'])";
    const shown = (each) => each.checkVisibility() && !each.disabled && each.tabIndex >= 0 && !each.closest("[inert], [hidden]");
    const group = (each) => [...document.getElementsByName(each.name)];
    const entrance = (each) => each.checked || (!group(each).some((one) => one.checked) && group(each)[0] === each);
    const reached = (each) => shown(each) && (each.type !== "radio" || entrance(each));
    const named = (each) => each.outerHTML.replace(' data-walked="yes"', "").slice(0, 160).split(">")[0];
    return [...document.querySelectorAll(focusable)].filter(reached).map(named);
}"""
FOCUSED = """() => {
    const each = document.activeElement;
    if (!each || each === document.body || each.dataset.walked) return null;
    each.dataset.walked = "yes";
    document.getAnimations().forEach((fade) => fade.effect.getTiming().iterations === Infinity || fade.finish());
    const ring = (one) => {
        const style = getComputedStyle(one);
        const outlined = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 1;
        return outlined || style.boxShadow !== "none";
    };
    const box = each.getBoundingClientRect();
    const shown = (one) => !one || (parseFloat(getComputedStyle(one).opacity) > 0.5 && shown(one.parentElement));
    const label = ["radio", "checkbox"].includes(each.type) ? each.closest("label") : null;
    const seen = (shown(each) || (label && shown(label))) && (ring(each) || ring(label || each.parentElement));
    const inside = box.right > 0 && box.left < innerWidth && box.bottom > 0 && box.top < innerHeight;
    return {html: each.outerHTML.replace(' data-walked="yes"', "").slice(0, 160).split(">")[0], seen, inside};
}"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, simulated: ModuleType, serve_store: Any) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    urls = [f"sqlite:///{folder / name}" for name in ("runs.db", "empty.db")]
    store = open_store(urls[0])
    failing, healthy = simulated.write_failing_run(store), simulated.write_healthy_run(store, steps=300)
    waiting = simulated.begin_run(store, "waiting")
    store.update_run(waiting.id, status=RunStatus.FINISHED)
    (alert,) = [one.id for one in store.alerts(failing) if one.rule == "logit_growth"]
    store.close()
    open_store(urls[1]).close()
    with serve_store(urls[0]) as (base, _), serve_store(urls[1]) as (empty, _):
        yield Site(base, empty, failing.id, healthy.id, waiting.id, alert)


def found_by_axe(page: Page) -> list[str]:
    """Return what axe-core finds wrong, a line each."""
    page.evaluate(AXE_SCRIPT)
    violations = page.evaluate(AXE, [STANDARDS])["violations"]
    return [
        f"{found['impact']} {found['id']}: {node['html'][:150]} {node['failureSummary']}"
        for found in violations
        for node in found["nodes"]
    ]


def at_rest(page: Page, look: Look) -> None:
    """Wait until a page is ready and nothing on it fades any more: half-faded text has no contrast."""
    page.locator(look.ready).first.wait_for(state="attached")
    expect(page.locator(UNMENDED)).to_have_count(0)
    page.wait_for_function("() => document.getAnimations().every((each) => each.effect.getTiming().iterations === Infinity)")


def test_every_page_is_looked_at() -> None:
    addresses = [look.address(Site("", "", "failing", "healthy", "waiting", "alert")) for look in PAGES.values()]
    assert {address.split("/")[1].partition("?")[0] for address in addresses} >= set(_PAGES), (
        "a page of the router has no line in PAGES"
    )


@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_nothing(tab: Page, site: Site, name: str) -> None:
    look = PAGES[name]
    tab.goto(look.address(site))
    for scheme, width in LOOKS:
        tab.emulate_media(color_scheme=scheme)
        tab.set_viewport_size({"width": width, "height": 900})
        tab.wait_for_function(f"() => document.documentElement.dataset.theme === '{scheme}'")
        at_rest(tab, look)
        assert found_by_axe(tab) == [], f"{name}, {scheme}, {width} pixels wide"
    # Charts are drawn anew for a phone a moment after its width is known; a page that stays too wide fails here.
    tab.wait_for_function("() => document.documentElement.scrollWidth <= document.documentElement.clientWidth", timeout=10_000)
    tab.goto("about:blank")


def walk(tab: Page, look: Look, site: Site) -> tuple[list[str], list[dict[str, Any]]]:
    """Open a page and press Tab to its end: (what may be reached, what was)."""
    tab.goto(look.address(site))
    at_rest(tab, look)
    charts = tab.locator(".graph:visible")
    for place in range(charts.count()):  # a report draws what comes into view, and each chart has buttons
        charts.nth(place).scroll_into_view_if_needed()
        charts.nth(place).locator(".main-svg").first.wait_for(state="attached")
    tab.evaluate("scrollTo(0, 0)")
    walked: list[dict[str, Any]] = []
    for _ in range(2 * len(tab.evaluate(CONTROLS)) + 5):
        tab.keyboard.press("Tab")
        focused = tab.evaluate(FOCUSED)
        if focused is None and walked:
            break
        if focused is not None:
            walked.append(focused)
    expect(tab.locator(UNMENDED)).to_have_count(0)  # a drop-down list is drawn anew as the focus leaves it
    return tab.evaluate(CONTROLS), walked


@pytest.mark.parametrize("name", [name for name, look in PAGES.items() if look.keyboard])
def test_the_keyboard_reaches_everything(tab: Page, site: Site, name: str) -> None:
    look = PAGES[name]
    for _ in range(3):  # a page that was still being made while it was walked is walked again
        controls, walked = walk(tab, look, site)
        if [one["html"] for one in walked] == controls:
            break
    assert [one["html"] for one in walked if not one["seen"]] == [], "focus that nobody sees"
    assert [one["html"] for one in walked if not one["inside"]] == [], "focus outside of the window"
    assert [one["html"] for one in walked] == controls, "the order of the keyboard is that of the page"
    tab.goto("about:blank")
