"""The pages in a real browser, over a real store that a background process keeps writing to."""

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from foreshock.storage import open_store, trouble
from foreshock.storage.base import Store
from foreshock.storage.records import AlertState, Event, Notification, NotificationState, RunStatus, new_id
from playwright.sync_api import Browser, Page, expect

HOSTILE = "<script>alert('run')</script>\"'"
HOSTILE_LAYERS = ["<img src=x onerror=alert(1)>", "a&b<b>bold</b>"]
POINTS = """([graph, trace]) => {
    const plot = document.querySelector(`#${graph} .js-plotly-plot`);
    return plot && plot.data && plot.data[trace] ? plot.data[trace].x.length : 0;
}"""


@dataclass
class Site:
    """A served store."""

    base: str
    store: Store
    store_url: str
    failing: str
    healthy: str
    live: str


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, simulated: ModuleType, serve_store: Any) -> Iterator[Site]:
    url = f"sqlite:///{tmp_path_factory.mktemp('site') / 'runs.db'}"
    store = open_store(url)
    failing, healthy = simulated.write_failing_run(store), simulated.write_healthy_run(store)
    hostile = simulated.begin_run(store, HOSTILE, project="<b>project</b>")
    simulated.write_steps(store, hostile.id, simulated.Simulation(failing=False, modules=HOSTILE_LAYERS), 0, 60)
    hostile_alert = simulated.failing_alerts(hostile.id, module=HOSTILE_LAYERS[0])
    store.save_alerts(hostile_alert[:1])
    store.update_run(hostile.id, status=RunStatus.FINISHED)  # nobody writes to it, so it would soon be lost
    live = simulated.begin_run(store, "live-run")
    simulated.write_steps(store, live.id, simulated.Simulation(failing=True, seed=2), 0, 500)
    with serve_store(url) as (base, _):
        yield Site(base, store, url, failing.id, healthy.id, live.id)
    store.close()


@pytest.fixture
def training(site: Site) -> Iterator[subprocess.Popen[str]]:
    """A process that keeps writing to the live run."""
    start = site.store.run(site.live).last_step + 1
    command = [sys.executable, "-P", str(Path(__file__).parent / "simulated_runs.py"), site.store_url, site.live, str(start), "0.5"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    yield process
    process.terminate()
    process.communicate(timeout=20)


def points(tab: Page, graph: str, trace: int = 3) -> int:
    """Number of points a chart draws now."""
    number: int = tab.evaluate(POINTS, [graph, trace])
    return number


def drawn(tab: Page, graph: str) -> None:
    """Wait until a graph has drawn its data."""
    tab.wait_for_selector(f"#{graph} .scatterlayer .trace, #{graph} .heatmaplayer image", state="attached")


def click_row(tab: Page, graph: str, row: int, rows: int) -> None:
    """Click in the middle of a heatmap's row."""
    drawn(tab, graph)
    area = tab.locator(f"#{graph} .nsewdrag").first
    area.scroll_into_view_if_needed()
    box = area.bounding_box()
    assert box is not None
    tab.mouse.move(box["x"] + box["width"] * 0.4, box["y"] + box["height"] * (row + 0.5) / rows)
    tab.wait_for_selector(f"#{graph} .hoverlayer .hovertext")
    tab.mouse.click(box["x"] + box["width"] * 0.4, box["y"] + box["height"] * (row + 0.5) / rows)


def no_sideways_scrolling(tab: Page) -> bool:
    tab.wait_for_function("() => document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    return True


def test_the_list_of_runs(tab: Page, site: Site) -> None:
    tab.goto(site.base)
    rows = tab.locator("table.runs tbody tr")
    expect(rows).to_have_count(4)
    failing = rows.filter(has_text="gpt2-bf16")
    expect(failing).to_contain_text("crashed")
    expect(failing.locator(".badge.severity-critical")).to_have_text(re.compile("1"))
    expect(failing.locator("svg.spark")).to_have_attribute("aria-label", re.compile("Loss over time"))
    expect(failing).to_contain_text("%")
    expect(rows.filter(has_text="gpt2-fp32")).to_contain_text("finished")
    expect(rows.filter(has_text=HOSTILE)).to_contain_text("<b>project</b>")
    tab.get_by_role("link", name="Run", exact=True).click()
    expect(tab.locator("th[aria-sort=ascending]")).to_have_text(re.compile("Run"))
    expect(rows.first).to_contain_text("script")
    assert "sort=name" in tab.url
    tab.get_by_role("link", name="gpt2-fp32").click()
    expect(tab.get_by_role("heading", level=1)).to_have_text("gpt2-fp32")
    expect(tab.locator("#verdict")).to_contain_text("Healthy")
    expect(tab.locator("#alerts")).to_contain_text("No alerts")
    expect(tab).to_have_title(re.compile("Healthy · gpt2-fp32"))


def test_a_failing_run_in_words_and_pictures(tab: Page, site: Site) -> None:
    tab.goto(f"{site.base}/run/{site.failing}")
    verdict = tab.locator("#verdict")
    expect(verdict).to_contain_text("Critical")
    expect(verdict).to_contain_text("Max attention logit of blocks.1.attn.q")
    expect(verdict).to_contain_text("since step 640")
    expect(verdict).to_contain_text("float32 output")
    for graph in ("loss", "heat-a", "heat-b", "distribution", "layer-signal"):
        drawn(tab, graph)
    for panel, graph in (("Optimizer and numerics", "gradient"), ("Monitor", "overhead")):
        tab.get_by_role("tab", name=panel).click()
        drawn(tab, graph)
    assert points(tab, "loss", 0) == 3, "the three NaN are marked"
    assert points(tab, "loss", 1) == 3, "the three alerts are marked"
    assert tab.evaluate("document.querySelector('#loss .js-plotly-plot').data.length") == 5, "two segments are two lines"
    expect(tab.locator("#events")).to_contain_text("Resumed from the checkpoint")
    expect(tab.locator("#heat-a-title")).to_have_text("Sign diversity")
    expect(tab.locator("#layer-facts")).to_contain_text("Max attention logit")
    first = tab.locator("article.alert").first
    first.get_by_text("Why, and what to do").click()
    expect(first).to_contain_text("82 %")
    expect(first).to_contain_text("The key-shift residual is 12 times")
    tab.get_by_role("button", name=re.compile("^Logarithmic axis: Chart of the loss")).click()
    tab.wait_for_function("() => document.querySelector('#loss .js-plotly-plot').layout.yaxis.type === 'log'")
    assert no_sideways_scrolling(tab)


def test_clicking_a_layer_opens_it_and_the_address_keeps_it(tab: Page, site: Site) -> None:
    tab.goto(f"{site.base}/run/{site.failing}?module=blocks.0.attn.v")
    chosen = tab.locator("#module")
    expect(chosen).to_contain_text("blocks.0.attn.v")
    click_row(tab, "heat-a", 7, 12)
    expect(chosen).to_contain_text("blocks.1.attn.k")
    tab.wait_for_function("() => location.search.includes('blocks.1.attn.k')")
    tab.locator("#signal").click()
    tab.get_by_role("option", name="σ₁ growth").or_(tab.get_by_text("σ₁ growth", exact=True).first).first.click()
    expect(tab.locator("#heat-a-title")).to_have_text("σ₁ growth")
    assert parse_qs(urlsplit(tab.url).query)["signal"] == ["weight.spectral_growth"]
    tab.reload()
    expect(tab.locator("#heat-a-title")).to_have_text("σ₁ growth")
    expect(chosen).to_contain_text("blocks.1.attn.k")
    drawn(tab, "layer-signal")


def test_a_run_grows_before_the_readers_eyes(
    tab: Page, site: Site, training: subprocess.Popen[str], until: Callable[..., Any]
) -> None:
    tab.goto(f"{site.base}/run/live-run")
    drawn(tab, "loss")
    drawn(tab, "heat-a")
    expect(tab.locator("#state")).to_have_text("live")
    tab.evaluate("window.loadedOnce = true")
    before = points(tab, "loss")
    columns = "() => document.querySelector('#heat-a .js-plotly-plot').data[0].z[0].length"
    wide = tab.evaluate(columns)
    until(lambda: points(tab, "loss") >= before + 20)
    until(lambda: tab.evaluate(columns) > wide)
    expect(tab.locator("#alerts")).to_contain_text("No alerts")

    hide = """value => {
        Object.defineProperty(document, 'visibilityState', {value, configurable: true});
        document.dispatchEvent(new Event('visibilitychange'));
    }"""
    tab.evaluate(hide, "hidden")
    asleep = until(lambda: _unchanged(tab, site, until))
    tab.evaluate(hide, "visible")
    until(lambda: points(tab, "loss") >= asleep + 30)
    steps = tab.evaluate("document.querySelector('#loss .js-plotly-plot').data[3].x")
    assert steps == list(range(len(steps))), "what was written while the tab was hidden is there too"

    training.terminate()
    expect(tab.locator("#state")).to_have_text(re.compile("finished"))
    assert tab.evaluate("window.loadedOnce"), "all without loading the page again"


def _unchanged(tab: Page, site: Site, until: Callable[..., Any]) -> int:
    """Number of points drawn if that does not change while the run goes on for 30 steps, else 0."""
    count, step = points(tab, "loss"), site.store.run(site.live).last_step
    until(lambda: site.store.run(site.live).last_step >= step + 30)
    return count if points(tab, "loss") == count else 0


def test_decisions_about_alerts(tab: Page, site: Site, simulated: ModuleType, until: Callable[..., Any]) -> None:
    run = simulated.begin_run(site.store, "decided")
    simulated.write_steps(site.store, run.id, simulated.Simulation(failing=True), 0, 20)
    site.store.update_run(run.id, status=RunStatus.FINISHED)  # nobody writes to it, so it would soon be lost
    alerts = simulated.failing_alerts(run.id)[:1]
    site.store.save_alerts(alerts)
    tab.goto(f"{site.base}/run/{run.id}")
    card = tab.locator("article.alert")
    card.get_by_role("button", name=re.compile("^Acknowledge")).click()
    expect(card).to_contain_text("acknowledged")
    expect(card.get_by_role("button", name=re.compile("^Acknowledge"))).to_have_count(0)
    assert site.store.alerts(run)[0].state is AlertState.ACKNOWLEDGED
    card.get_by_role("button", name=re.compile("^Resolve")).click()
    dialog = tab.get_by_role("dialog")
    expect(dialog).to_contain_text("cannot be opened again")
    dialog.get_by_role("button", name="Resolve 1 alert").click()
    expect(card).to_contain_text("resolved")
    expect(tab.locator("#verdict")).to_contain_text("Healthy")
    until(lambda: site.store.alerts(run)[0].state is AlertState.RESOLVED)


def test_an_alert_is_silenced_and_heard_again_by_keyboard(
    tab: Page, site: Site, simulated: ModuleType, until: Callable[..., Any]
) -> None:
    run = simulated.begin_run(site.store, "loud")
    simulated.write_steps(site.store, run.id, simulated.Simulation(failing=True), 0, 20)
    site.store.update_run(run.id, status=RunStatus.FINISHED)
    site.store.save_alerts(simulated.failing_alerts(run.id)[:1])
    tab.goto(f"{site.base}/run/{run.id}")
    card = tab.locator("article.alert")
    hours = card.get_by_role("button", name=re.compile("^Silence, 8 hours"))

    def reached() -> bool:
        """Walk to it; from the beginning where the card was still being made."""
        if not hours.is_visible():
            card.get_by_text("Silence", exact=True).press("Enter")
        card.get_by_text("Silence", exact=True).focus()
        for _ in range(2):
            tab.keyboard.press("Tab")
        return hours.is_visible() and bool(hours.evaluate("button => button === document.activeElement"))

    until(reached)
    tab.keyboard.press("Enter")
    expect(card).to_contain_text("Silenced until")
    assert [alert.state for alert in site.store.alerts(run)] == [AlertState.SILENCED]
    card.get_by_role("button", name=re.compile("^Undo silence")).press("Enter")
    expect(card.get_by_text("Silence", exact=True)).to_be_visible()
    until(lambda: site.store.alerts(run)[0].state is AlertState.FIRING)
    assert site.store.silences(active_at=time.time()) == []


def test_a_message_that_was_given_up_is_sent_again(tab: Page, site: Site, simulated: ModuleType) -> None:
    (alert, *_) = simulated.failing_alerts(site.healthy)
    title, dead = "foreshock: warning in gpt2-fp32", NotificationState.FAILED
    entry = Notification(new_id(), alert.id, "nonsense://x", title, "It fell.", dead, 1, 0.0, "410 <b>gone</b>")
    site.store.save_alerts([replace(alert, state=AlertState.RESOLVED)], [entry])
    tab.goto(f"{site.base}/run/{site.healthy}")
    tab.get_by_role("tab", name="Monitor has something to say").click()
    letters = tab.locator("#monitor-facts .letters")
    expect(letters).to_contain_text("warning in gpt2-fp32 to nonsense://..., after 1 try: 410 <b>gone</b>")
    letters.get_by_role("button", name="Retry: warning in gpt2-fp32").click()
    expect(letters).to_have_count(0)
    assert site.store.notifications(states=[NotificationState.FAILED]) == []


def test_risk_and_interventions_are_in_the_page(tab: Page, site: Site, simulated: ModuleType) -> None:
    tab.goto(f"{site.base}/?sort=risk&order=desc")
    expect(tab.locator("th[aria-sort=descending]")).to_have_text(re.compile("Risk"))
    expect(tab.locator("table.runs tbody tr").filter(has_text="gpt2-bf16").locator(".col-risk")).to_have_text("98")
    told = [text for text in tab.locator("table.runs tbody .col-risk").all_inner_texts() if text.strip().isdigit()]
    assert len(told) > 1
    assert told == sorted(told, key=int, reverse=True)
    words = "Stabilised attention is in <b>2</b> layers."
    site.store.add_event(Event(new_id(), site.failing, 1, 1300, time.time(), "intervention", words))
    tab.goto(f"{site.base}/run/{site.failing}")
    drawn(tab, "risk")
    expect(tab.locator("#verdict")).to_contain_text("98of 100")
    expect(tab.locator("#risk-words")).to_contain_text("Risk 98")
    expect(tab.locator("#events")).to_contain_text(words)
    lines = "document.querySelector('#loss .js-plotly-plot').layout.shapes.map(shape => [shape.x0, shape.line.dash])"
    assert [1300, "solid"] in tab.evaluate(lines)
    area = tab.locator("#loss .nsewdrag").first
    area.hover()
    cursors = tab.locator(".step-cursor:visible")
    expect(cursors.first).to_be_visible()
    shown = cursors.evaluate_all("all => all.map(one => one.dataset.step)")
    assert len(shown) >= 4, "the step under the pointer is marked in every chart"
    assert len(set(shown)) == 1


def test_a_causes_page_is_laid_out(tab: Page, site: Site) -> None:
    tab.goto(f"{site.base}/cause/low-precision-attention")
    page = tab.locator("#cause-page")
    expect(page.get_by_role("heading", level=1)).to_have_text("Low-precision rounding bias in attention")
    expect(page.get_by_role("heading", level=2)).to_have_count(5)
    expect(page.locator("code").first).to_have_text("rounding.key_shift_excess")
    assert page.locator("li").count() >= 5
    expect(page.locator("table tbody tr")).to_have_count(4)
    said = page.inner_text()
    assert not re.search(r"##|\*\*|\| ---|`", said)
    expect(page.get_by_role("link", name="arXiv 2510.04212")).to_have_attribute("href", "https://arxiv.org/abs/2510.04212")
    assert no_sideways_scrolling(tab)
    tab.set_viewport_size({"width": 390, "height": 800})
    assert no_sideways_scrolling(tab)
    page.get_by_role("link", name=re.compile("logit", re.IGNORECASE)).click()
    expect(tab.get_by_role("heading", level=1)).to_contain_text(re.compile("logit", re.IGNORECASE))
    tab.get_by_role("link", name="All runs").first.click()
    expect(tab.locator("table.runs")).to_be_visible()


def test_names_are_text_everywhere(tab: Page, site: Site) -> None:
    tab.goto(f"{site.base}/run/{quote(HOSTILE, safe='')}")
    expect(tab.get_by_role("heading", level=1)).to_have_text(HOSTILE)
    expect(tab.locator("#verdict")).to_contain_text(HOSTILE_LAYERS[0])
    expect(tab.locator("#module")).to_contain_text(HOSTILE_LAYERS[0])
    click_row(tab, "heat-a", 1, 2)
    expect(tab.locator("#module")).to_contain_text(HOSTILE_LAYERS[1])
    expect(tab.locator("#heat-a .ytick text").last).to_have_text(HOSTILE_LAYERS[1])
    assert tab.locator("img[src=x], #page script, #page b").count() == 0


def test_troubles_beside_the_store_are_told(tab: Page, site: Site) -> None:
    tab.goto(f"{site.base}/run/{site.healthy}")
    expect(tab.locator("#verdict")).to_contain_text("Healthy")
    expect(tab.locator("#monitor-facts .troubles")).to_have_count(0)
    message = "The store could not be written: disk full. 40 samples wait <b>on disk</b>."
    trouble.record(trouble.Trouble(time.time(), "gpt2-fp32", site.healthy, site.store_url, "spooled", message))
    # No news of the store tells of it: it is seen when the page next says its words about time.
    expect(tab.locator("#monitor-facts .troubles")).to_contain_text(message, timeout=60_000)
    tab.get_by_role("link", name="All runs").first.click()
    expect(tab.locator("#overview-troubles")).to_contain_text("gpt2-fp32: The store could not be written")


def test_themes_and_narrow_screens(tab: Page, site: Site) -> None:
    colour = "() => getComputedStyle(document.body).backgroundColor"
    tab.goto(site.base)
    expect(tab.get_by_role("button", name="Auto")).to_have_attribute("aria-pressed", "true")
    light = tab.evaluate(colour)
    tab.get_by_role("button", name="Dark").click()
    assert tab.evaluate(colour) != light
    tab.set_viewport_size({"width": 390, "height": 800})
    tab.goto(f"{site.base}/run/{site.failing}")
    drawn(tab, "heat-a")
    expect(tab.get_by_role("button", name="Dark")).to_have_attribute("aria-pressed", "true")
    assert tab.evaluate(colour) != light
    assert no_sideways_scrolling(tab)
    tab.get_by_role("button", name="Auto").click()
    assert tab.evaluate(colour) == light
    tab.emulate_media(color_scheme="dark")
    tab.wait_for_function("() => document.documentElement.dataset.theme === 'dark'")
    tab.get_by_role("link", name="All runs").first.click()
    expect(tab.locator("table.runs")).to_be_visible()
    assert no_sideways_scrolling(tab)


@pytest.mark.parametrize(("path", "says"), [("/run/no-such-run", "no such run"), ("/nowhere", "no such page")])
def test_addresses_that_lead_nowhere(path: str, says: str, tab: Page, site: Site) -> None:
    tab.goto(site.base + path)
    expect(tab.get_by_role("heading", level=1)).to_contain_text(says)
    tab.get_by_role("link", name="See all runs").click()
    expect(tab.locator("table.runs")).to_be_visible()


def test_an_empty_store_says_how_to_begin_and_notices_the_first_run(
    tab: Page, tmp_path: Path, simulated: ModuleType, serve_store: Any
) -> None:
    url = f"sqlite:///{tmp_path / 'empty.db'}"
    store = open_store(url)
    with serve_store(url) as (base, _):
        tab.goto(base)
        expect(tab.locator("#no-runs")).to_contain_text("foreshock.watch(model, optimizer")
        expect(tab.locator("#no-runs")).to_contain_text("foreshock demo")
        run = simulated.begin_run(store, "first-run")
        tab.get_by_role("link", name="first-run").click()
        expect(tab.locator("#verdict")).to_contain_text("Nothing recorded yet")
        expect(tab.locator("#loss")).to_contain_text("No loss yet")
        simulated.write_steps(store, run.id, simulated.Simulation(failing=False), 0, 30)
        drawn(tab, "heat-a")
        expect(tab.locator("#module")).to_contain_text("blocks.0.attn.q")
        expect(tab.locator("#verdict")).to_contain_text("Healthy")
        tab.goto("about:blank")  # a page outliving its server would complain, and rightly
    store.close()


def test_a_page_comes_back_with_its_server(
    browser: Browser, tmp_path: Path, simulated: ModuleType, serve_store: Any, until: Callable[..., Any]
) -> None:
    """Not with the ``tab`` fixture: a browser rightly complains of a server that is gone."""
    url = f"sqlite:///{tmp_path / 'runs.db'}"
    store = open_store(url)
    run = simulated.begin_run(store, "survivor")
    simulation = simulated.Simulation(failing=False)
    simulated.write_steps(store, run.id, simulation, 0, 50)
    tab = browser.new_page()
    with serve_store(url) as (base, _):
        tab.goto(f"{base}/run/{run.id}")
        drawn(tab, "loss")
    simulated.write_steps(store, run.id, simulation, 50, 90)
    with serve_store(url, port=int(base.rsplit(":", 1)[1])):
        until(lambda: points(tab, "loss") == 90, timeout=30)
        tab.close()
    store.close()


def test_a_page_that_stood_still_asks_anew(
    tab: Page, site: Site, training: subprocess.Popen[str], serve_store: Any, until: Callable[..., Any]
) -> None:
    """The server takes a tab that does not answer for closed; a tab that only slept must not stay as it was."""
    with serve_store(site.store_url, patience=0.3) as (base, _):
        tab.goto(f"{base}/run/live-run")
        drawn(tab, "loss")
        tab.evaluate("window.loadedOnce = true")
        tab.evaluate("() => { const end = Date.now() + 5000; while (Date.now() < end); }")
        asleep = until(lambda: _unchanged(tab, site, until))
        tab.evaluate("() => { const now = Date.now; Date.now = () => now() + 60000; }")  # it noticed how long that was
        until(lambda: points(tab, "loss") >= asleep + 30)
        assert tab.evaluate("window.loadedOnce")
        tab.goto("about:blank")
