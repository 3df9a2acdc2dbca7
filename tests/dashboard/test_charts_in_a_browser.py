"""Zoom, scales, smoothing, links, export and shortcuts, as a reader uses them: in a real browser, while a run is being written."""

import csv
import io
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from foreshock.dashboard.pages.keys import GO
from foreshock.storage import open_store
from foreshock.storage.base import Store
from foreshock.storage.records import RunStatus, SeriesKey
from playwright.sync_api import Browser, Page, Route, expect

CHARTS = ["distribution", "heat-a", "heat-b", "layer-signal", "loss", "risk", "sigma"]
WITH_OPTIMIZER = ["gradient", "heat-a", "heat-b", "loss", "risk"]
RANGES = """() => Object.fromEntries(window.foreshock.plots().map((plot) =>
    [window.foreshock.nameOf(plot), plot._fullLayout.xaxis.range.map(Math.round)]))"""
PLOT = "document.querySelector('#loss .js-plotly-plot')"


@dataclass
class Site:
    """A served store with a run that has ended and one that goes on."""

    base: str
    store: Store
    url: str
    ended: str
    live: str


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, simulated: ModuleType, serve_store: Any) -> Iterator[Site]:
    url = f"sqlite:///{tmp_path_factory.mktemp('charts') / 'runs.db'}"
    store = open_store(url)
    ended = simulated.begin_run(store, "=ended & <b>done</b>")
    simulated.write_steps(store, ended.id, simulated.Simulation(failing=True), 0, 3_000, size=1_000)
    store.update_run(ended.id, status=RunStatus.FINISHED)
    live = simulated.begin_run(store, "live-run")
    simulated.write_steps(store, live.id, simulated.Simulation(failing=True, seed=2), 0, 400)
    with serve_store(url) as (base, _):
        yield Site(base, store, url, ended.id, live.id)
    store.close()


@pytest.fixture
def training(site: Site) -> Iterator[None]:
    """A process that keeps writing to the live run."""
    start = site.store.run(site.live).last_step + 1
    command = [sys.executable, "-P", str(Path(__file__).parent / "simulated_runs.py"), site.url, site.live, str(start), "0.3"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    yield
    process.terminate()
    process.communicate(timeout=20)


def opened(tab: Page, address: str, charts: list[str] = CHARTS) -> None:
    """Open a run's page and wait until all of its charts are drawn and ready for the pointer."""
    tab.goto(address)
    tab.wait_for_function("wanted => window.foreshock && window.foreshock.plots().length === wanted", arg=len(charts))
    tab.wait_for_function("() => window.foreshock.plots().every((plot) => plot.foreshockHeard)")


def drag(tab: Page, graph: str, left: float, right: float) -> None:
    """Drag over a part of a chart, 0 to 1."""
    area = tab.locator(f"#{graph} .nsewdrag").first
    area.scroll_into_view_if_needed()
    box = area.bounding_box()
    assert box is not None
    height = box["y"] + box["height"] / 2
    tab.mouse.move(box["x"] + left * box["width"], height)
    tab.mouse.down()
    tab.mouse.move(box["x"] + right * box["width"], height, steps=5)
    tab.mouse.up()


def window_of(tab: Page) -> list[int]:
    """The window that the address tells, once every chart shows it."""
    tab.wait_for_function("() => new URLSearchParams(location.search).has('window')")
    window = [int(end) for end in parse_qs(urlsplit(tab.url).query)["window"][0].split("-")]
    all_show(tab, window)
    return window


def all_show(tab: Page, window: list[int]) -> None:
    same = f"([wanted, count]) => {{ const found = Object.values(({RANGES})()); return found.length >= count && "
    tab.wait_for_function(same + "found.every((range) => String(range) === String(wanted)); }", arg=[window, len(WITH_OPTIMIZER)])


def roughness(values: list[float | None]) -> float:
    """How far a line goes up and down in all."""
    return sum(abs(b - a) for a, b in pairwise(values) if a is not None and b is not None)


def steps(tab: Page, trace: int = 3) -> list[int]:
    drawn: list[int] = tab.evaluate(f"{PLOT}.data[{trace}].x")
    return drawn


def edges(tab: Page, what: str) -> list[float]:
    """Left, top, right and bottom of something within the loss chart's frame."""
    return tab.evaluate(
        """(what) => {
            const [frame, inner] = ["", what].map((part) =>
                document.querySelector(`[data-chart=loss] .graph-frame ${part}`).getBoundingClientRect());
            return [inner.left - frame.left, inner.top - frame.top, inner.right - frame.left, inner.bottom - frame.top];
        }""",
        what,
    )


@pytest.mark.parametrize(("width", "query"), [(1400, ""), (1400, "?window=500-900"), (390, "")])
def test_the_line_of_the_loss_is_seen_before_plotly_has_come(tab: Page, site: Site, width: int, query: str) -> None:
    withheld: list[Route] = []
    tab.route("**/*plotly*", lambda route: withheld.append(route))
    tab.set_viewport_size({"width": width, "height": 900})
    tab.goto(f"{site.base}/run/{site.ended}{query}", wait_until="commit")
    look = tab.locator("[data-chart=loss] .first-look")
    expect(look).to_be_visible()
    tab.wait_for_function("() => document.querySelector('.first-look').naturalWidth > 0")
    before = edges(tab, ".first-look")
    for request in withheld:
        request.continue_()
    tab.locator("#loss .scatterlayer .trace").first.wait_for(state="attached")
    expect(look).to_be_hidden()
    after = edges(tab, ".nsewdrag")
    assert all(abs(one - other) < 24 for one, other in zip(before, after, strict=True)), (before, after)


def test_a_drag_in_any_chart_zooms_all_and_the_server_refines_them(tab: Page, site: Site) -> None:
    opened(tab, f"{site.base}/run/{site.ended}")
    assert sorted(tab.evaluate(RANGES)) == CHARTS
    assert len(steps(tab)) < 3_000, "decimated"
    drag(tab, "loss", 0.4, 0.5)
    first, last = window_of(tab)
    assert 1_100 < first < 1_300 < 1_400 < last < 1_600
    tab.wait_for_function(f"first => {PLOT}.data[3].x[0] === first - 1", arg=first)
    assert steps(tab) == list(range(first - 1, last + 2)), "every step"
    expect(tab.locator("#window-words")).to_have_text(f"{first:,} to {last:,}")
    low, high = tab.evaluate(f"{PLOT}._fullLayout.yaxis.range")
    values = [value for value in tab.evaluate(f"{PLOT}.data[3].y") if value is not None]
    assert low < min(values) < max(values) < high
    assert high - low < 1.5 * (max(values) - min(values)), "the axis fits the window"
    drag(tab, "heat-b", 0.25, 0.75)
    tab.wait_for_function("before => !location.search.includes(before)", arg=f"window={first}-{last}")
    inner = window_of(tab)
    assert first < inner[0] < inner[1] < last
    tab.go_back()
    all_show(tab, [first, last])
    tab.go_forward()
    all_show(tab, inner)
    tab.locator("#layer-signal .nsewdrag").first.dblclick()
    tab.wait_for_function(f"() => {PLOT}.data[3].x[0] === 0")
    assert "window" not in tab.url
    expect(tab.locator("#window-words")).to_have_text("all")
    expect(tab.locator("#window-reset")).to_be_hidden()


def test_a_reader_of_the_past_is_left_alone_and_loses_nothing(
    tab: Page, site: Site, training: None, until: Callable[..., Any]
) -> None:
    opened(tab, f"{site.base}/run/{site.live}?window=100-200")
    all_show(tab, [100, 200])
    now = site.store.run(site.live).last_step
    until(lambda: site.store.run(site.live).last_step >= now + 40)
    assert tab.evaluate(RANGES)["loss"] == [100, 200]
    assert max(steps(tab)) == 201
    expect(tab.locator("#verdict")).to_contain_text(re.compile("[4-9][0-9]0|[0-9],[0-9]{3}"))
    tab.get_by_role("button", name="Live / whole run").click()
    until(lambda: max(steps(tab)) >= now + 40)
    assert steps(tab) == list(range(len(steps(tab)))), "no gap is left"
    # A window that reaches beyond what is there fills before one's eyes.
    tab.evaluate("last => window.foreshock.zoom(last - 100, last + 100000)", steps(tab)[-1])
    window = window_of(tab)
    before = max(steps(tab))
    until(lambda: max(steps(tab)) >= before + 20)
    assert tab.evaluate(RANGES)["loss"] == window


def test_a_link_holds_the_whole_view(tab: Page, site: Site, browser: Browser) -> None:
    tab.context.grant_permissions(["clipboard-read", "clipboard-write"])
    opened(tab, f"{site.base}/run/{site.ended}?module=blocks.0.attn.v&panel=optimizer", WITH_OPTIMIZER)
    drag(tab, "loss", 0.3, 0.6)
    window = window_of(tab)
    tab.locator("#smoothing").get_by_text("100", exact=True).click()
    tab.get_by_role("button", name=re.compile("^Logarithmic axis: Chart of the loss")).click()
    tab.get_by_role("button", name=re.compile("^Logarithmic axis: Chart of the gradient")).click()
    tab.wait_for_function("() => document.querySelector('#gradient .js-plotly-plot').layout.meta.scale === 'linear'")
    tab.get_by_role("button", name="Copy link").click()
    expect(tab.locator("#copied")).to_have_text("Copied.")
    link = tab.evaluate("navigator.clipboard.readText()")
    other = browser.new_page()
    opened(other, link, WITH_OPTIMIZER)
    all_show(other, window)
    assert other.evaluate(f"[{PLOT}.layout.yaxis.type, {PLOT}.data.length, {PLOT}.data[3].opacity]") == ["log", 5, 0.3]
    expect(other.locator("#module")).to_contain_text("blocks.0.attn.v")
    expect(other.locator("#smoothing input[value='100']")).to_be_checked()
    for page in (tab, other):
        scales = page.locator("[data-tool=scale][aria-pressed=true]:visible")
        assert "Logarithmic axis: Chart of the loss over training steps" in scales.evaluate_all(
            "all => all.map((one) => one.getAttribute('aria-label'))"
        )
    x, raw, smooth = other.evaluate(f"[{PLOT}.data[3].x, {PLOT}.data[3].y, {PLOT}.data[4].y]")
    assert len(x) > 500
    assert roughness(smooth) < roughness(raw) / 5
    other.close()


def test_every_chart_can_be_taken_along(tab: Page, site: Site) -> None:
    opened(tab, f"{site.base}/run/{site.ended}?window=1300-1500&signal=weight.spectral_norm&smoothing=10")
    all_show(tab, [1300, 1500])
    assert tab.locator(".modebar").count() == 0

    def take(chart: str, kind: str) -> tuple[str, bytes]:
        menu = tab.locator(f"[data-chart='{chart}'] details.export")
        menu.locator("summary").focus()
        tab.keyboard.press("Enter")
        with tab.expect_download() as download:
            menu.get_by_role("button", name=re.compile(f"^{kind}")).press("Enter")
        expect(menu).not_to_have_attribute("open", re.compile(""))
        return download.value.suggested_filename, Path(download.value.path()).read_bytes()

    name, picture = take("loss", "PNG")
    assert name == "_ended_b_done_b_-loss.png"
    assert picture.startswith(b"\x89PNG\r\n")
    assert int.from_bytes(picture[16:20]) > 1_400, "twice as fine as on the screen"
    name, drawing = take("heat-a", "SVG")
    assert name.endswith("-heat-a.svg")
    words = drawing.decode()
    assert words.startswith("<svg")
    assert "training step" in words
    assert "<b>" not in words
    name, table = take("loss", "CSV")
    assert name.endswith("-loss.csv")
    rows = list(csv.DictReader(io.StringIO(table.decode())))
    (series,) = site.store.series(site.ended, signal="loss")
    data = site.store.read([series], start=1300, stop=1501)[0]
    assert [int(row["step"]) for row in rows] == list(data.steps) == list(range(1300, 1501))
    assert [row["value"] for row in rows] == [repr(float(value)) for value in data.values]
    assert [row["step"] for row in rows if row["kind"] == "nan"] == ["1390", "1391", "1405"]
    _, table = take("heat-a", "CSV")
    rows = list(csv.DictReader(io.StringIO(table.decode())))
    assert len(rows) == 12 * 21
    assert {row["signal"] for row in rows} == {"weight.spectral_norm"}
    assert {SeriesKey("weight.spectral_norm", row["module"]) for row in rows} == {
        series.key for series in site.store.series(site.ended, signal="weight.spectral_norm")
    }
    _, table = take("distribution", "CSV")
    assert sum(int(row["count"]) for row in csv.DictReader(io.StringIO(table.decode()))) > 1_000
    wrong = tab.request.get(f"{site.base}/table/{site.ended}/nothing.csv")
    assert (wrong.status, "no chart over steps" in wrong.text()) == (404, True)
    assert tab.request.get(f"{site.base}/table/no-such-run/loss.csv").status == 404


def test_everything_is_done_by_keys_and_the_sheet_lists_them(tab: Page, site: Site, until: Callable[..., Any]) -> None:
    opened(tab, f"{site.base}/run/{site.ended}")
    tab.keyboard.press("?")
    sheet = tab.get_by_role("dialog", name="Keyboard shortcuts")
    expect(sheet).to_be_visible()
    listed = set(sheet.locator("dt").evaluate_all("all => all.map((one) => one.dataset.keys)"))
    known = set(tab.evaluate("window.foreshock.shortcuts"))
    mouse = {"drag", "Shift drag", "double-click"}
    assert known - listed <= {f"g {key}" for key in GO.values()}, "places that the header does not have"
    assert listed - mouse <= known
    tab.keyboard.press("j")
    tab.keyboard.press("Escape")
    expect(sheet).to_be_hidden()
    tab.get_by_role("button", name="Keyboard shortcuts").click()
    expect(sheet).to_be_visible()
    sheet.get_by_role("button", name="Close").click()
    expect(sheet).to_be_hidden()

    chosen = tab.evaluate("window.foreshock.get('module', 'value')")
    tab.keyboard.press("j")
    until(lambda: tab.evaluate("window.foreshock.get('module', 'value')") != chosen)
    tab.keyboard.press("k")
    until(lambda: tab.evaluate("window.foreshock.get('module', 'value')") == chosen)
    tab.keyboard.press("]")
    expect(tab.locator("#heat-a-title")).not_to_have_text("Sign diversity")
    tab.keyboard.press("[")
    expect(tab.locator("#heat-a-title")).to_have_text("Sign diversity")

    tab.keyboard.press("+")
    first, last = window_of(tab)
    assert 700 < first < 800 < 2_200 < last < 2_300
    tab.keyboard.press("ArrowRight")
    cursors = tab.locator(".step-cursor:visible")
    expect(cursors.first).to_be_visible()
    expect(tab.locator("#step-words")).to_contain_text(re.compile(r"Step 1,\d{3}, loss \d"))
    assert re.search(r"\d", tab.locator("[data-chart=loss] .step-cursor").get_attribute("data-value") or "")
    tab.keyboard.press("Shift+ArrowRight")
    tab.wait_for_function("before => !location.search.includes(before)", arg=f"window={first}-{last}")
    assert window_of(tab)[0] == pytest.approx((first + last) / 2, abs=1)
    tab.keyboard.press("l")
    tab.wait_for_function(f"() => {PLOT}.layout.yaxis.type === 'log'")
    tab.keyboard.press("s")
    tab.wait_for_function(f"() => {PLOT}.data.length === 5")
    tab.keyboard.press("z")
    tab.wait_for_function(f"() => {PLOT}.data[3].x[0] === 0")
    assert sorted(parse_qs(urlsplit(tab.url).query).keys() & {"window", "smoothing", "scales"}) == ["scales", "smoothing"]
    theme = tab.evaluate("document.documentElement.dataset.themeChoice")
    tab.keyboard.press("t")
    assert tab.evaluate("document.documentElement.dataset.themeChoice") != theme

    # Not while somebody types, nor with a modifier.
    tab.evaluate("document.body.append(Object.assign(document.createElement('input'), {id: 'typing'}))")
    tab.locator("#typing").focus()
    before = tab.url
    tab.keyboard.type("?jzl+t")
    assert tab.locator("#typing").input_value() == "?jzl+t"
    expect(sheet).to_be_hidden()
    tab.locator("#typing").blur()
    tab.keyboard.press("Control+j")
    assert tab.url == before
    tab.keyboard.press("g")
    tab.keyboard.press("r")
    expect(tab.locator("table.runs")).to_be_visible()
    tab.keyboard.press("l")
    tab.keyboard.press("+")
    expect(tab.locator("table.runs")).to_be_visible()


def test_the_charts_on_a_narrow_screen(tab: Page, site: Site) -> None:
    tab.set_viewport_size({"width": 390, "height": 800})
    opened(tab, f"{site.base}/run/{site.ended}?window=1000-1400&scales=loss:log")
    all_show(tab, [1000, 1400])
    tab.wait_for_function("() => document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    tab.locator("[data-chart=loss] details.export summary").click()
    tab.wait_for_function("() => document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    tab.keyboard.press("Escape")
    tab.get_by_role("button", name="Keyboard shortcuts").click()
    tab.wait_for_function("() => document.documentElement.scrollWidth <= document.documentElement.clientWidth")
