"""A run as one file: opened from disk in a browser without network, and served; names shown as text, size bounded."""

import json
import re
import time
import zlib
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.request import urlopen

import foreshock
import pytest
import torch
from foreshock.dashboard.report.making import Made, make
from foreshock.dashboard.report.texts import cut
from foreshock.dashboard.report.wanted import NothingToReportError, ReportError, Wanted, chosen_signals, wanted_of
from foreshock.dashboard.report.writing import usual_name, write
from foreshock.storage import open_store
from foreshock.storage.base import Store
from foreshock.storage.records import Batch, Event, Run, RunStatus, SeriesKey, StepRecord, new_id
from playwright.sync_api import Browser, Page, expect
from torch import nn

HOSTILE = "</script><script>document.title='broken out'</script><!-- <b> \u2028 \ud800"
LAYER = "<img src=x onerror=alert(1)>"


def watched(url: str) -> None:
    """Train a tiny model, watched, until its loss is not finite; everything that has a name has a hostile one."""
    torch.manual_seed(0)
    model = nn.ModuleDict({LAYER: nn.Linear(8, 16), "head": nn.Linear(16, 1)})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    rules = {"loss_spike": {"cooldown": 7}}
    with foreshock.watch(model, optimizer, run=HOSTILE, store=url, every=4, rules=rules, tags=[HOSTILE]) as monitor:
        for step in range(80):
            loss = model["head"](torch.tanh(model[LAYER](torch.randn(32, 8)))).square().mean()
            loss.backward()
            optimizer.param_groups[0]["lr"] = 0.01 if step < 60 else 1e6
            optimizer.step()
            optimizer.zero_grad()
            monitor.step(loss)


@dataclass
class Filed:
    """A report on disk."""

    store: Store
    run: Run
    made: Made
    path: Path


@pytest.fixture(scope="module")
def filed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Filed]:
    folder = tmp_path_factory.mktemp("filed")
    url = f"sqlite:///{folder / 'runs.db'}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FORESHOCK_HOME", str(folder / "home"))
        patch.chdir(folder)
        watched(url)
    store = open_store(url)
    run = store.runs()[0]
    store.add_event(Event(new_id(), run.id, 0, 40, time.time(), HOSTILE, HOSTILE))
    made = make(store, run)
    path = folder / "report.html"
    write(made.page, path)
    yield Filed(store, run, made, path)
    store.close()


@pytest.fixture
def offline(browser: Browser) -> Iterator[Page]:
    """A tab without network. What it complains about, and whatever it asks for, fails the test."""
    context = browser.new_context(viewport={"width": 1200, "height": 900}, color_scheme="light", offline=True)
    page = context.new_page()
    page.set_default_timeout(40_000)
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: complaints.append(f"dialog: {dialog.message}"))
    page.on("request", lambda asked: None if asked.url.startswith(("file:", "data:", "blob:")) else complaints.append(asked.url))
    yield page
    context.close()
    assert complaints == []


def ready(page: Page) -> None:
    """Wait until the charts can be drawn."""
    page.wait_for_function("() => document.documentElement.dataset.charts")
    assert page.evaluate("document.documentElement.dataset.charts") == "ready", page.locator("#no-charts").inner_text()


def all_drawn(page: Page) -> int:
    """Scroll to every chart and wait until it is drawn; return how many there are."""
    charts = page.locator(".graph")
    for place in range(charts.count()):
        charts.nth(place).scroll_into_view_if_needed()
        charts.nth(place).locator(".main-svg").first.wait_for(state="attached")
    return charts.count()


def charts_of(page: str) -> Any:
    """Return the figures inside a page."""
    found = re.search(r'id="packed-charts">([^<]*)<', page)
    assert found is not None
    return json.loads(zlib.decompress(b64decode(found[1])))


def test_a_watched_run_opens_from_disk_without_network(offline: Page, filed: Filed) -> None:
    offline.goto(filed.path.as_uri())
    ready(offline)
    expect(offline.get_by_role("heading", level=1)).to_have_text(re.compile(re.escape("</script><script>document.title=")))
    expect(offline.locator(".verdict")).to_contain_text("Critical")
    expect(offline.locator(".outlook")).to_contain_text("The loss has not been finite since step")
    assert all_drawn(offline) == len(filed.made.report.charts()) >= 8
    assert offline.locator(".graph .scatterlayer .trace").count() >= 5
    assert offline.locator(".graph .heatmaplayer image").count() >= 2
    first = offline.locator("article.alert").first
    expect(first).to_contain_text("critical")
    expect(first).to_contain_text("What to do:")
    expect(offline.locator("article.alert ol.causes").first).to_contain_text(re.compile(r"\d+%"))
    expect(offline.locator("#events ~ section").first).to_contain_text("document.title='broken out'")
    about = offline.locator("main")
    for words in (f"foreshock {foreshock.__version__}", filed.store.url, "Linear", "torch", "cooldown = 7"):
        expect(about).to_contain_text(words)
    assert offline.title().startswith("Critical · </script>"), "the name broke out of its place"
    assert offline.evaluate("document.querySelectorAll('img, b, iframe').length") == 0, "a name became an element"


def test_dark_light_phone_and_paper(offline: Page, filed: Filed) -> None:
    offline.emulate_media(color_scheme="dark")
    offline.goto(filed.path.as_uri())
    ready(offline)
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = offline.evaluate(ground)
    offline.get_by_role("button", name="Light").click()
    assert offline.evaluate(ground) != dark
    offline.get_by_role("button", name="Dark").click()
    assert offline.evaluate(ground) == dark
    offline.set_viewport_size({"width": 390, "height": 800})
    all_drawn(offline)
    overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert offline.evaluate(overflow) <= 0
    paper = offline.pdf(format="A4")
    assert paper.startswith(b"%PDF")
    offline.emulate_media(media="print")
    offline.wait_for_function("() => document.documentElement.dataset.theme === 'light'")
    assert offline.evaluate("[...document.querySelectorAll('details')].every((each) => each.open)")
    assert offline.evaluate("[...document.querySelectorAll('.graph')].every((each) => each._fullLayout.width === 660)")
    offline.emulate_media(media="screen")
    offline.wait_for_function("() => document.documentElement.dataset.theme === 'dark'")
    assert offline.evaluate(overflow) <= 0


def test_a_file_that_was_cut_off_says_so(offline: Page, filed: Filed, tmp_path: Path) -> None:
    page = filed.made.page
    broken = tmp_path / "cut.html"
    broken.write_text(re.sub(r'(id="packed-charts">[^<]{2000})[^<]*', r"\1", page))
    offline.goto(broken.as_uri())
    expect(offline.locator("#no-charts")).to_contain_text("may have been cut off")
    expect(offline.locator(".verdict")).to_contain_text("Critical")


def test_the_dashboard_serves_it_under_its_own_policy(tab: Page, filed: Filed, serve_store: Any) -> None:
    with serve_store(filed.store.url) as (base, _):
        with urlopen(f"{base}/report/{filed.run.id}", timeout=60) as answer:
            policies = answer.headers.get_all("content-security-policy")
            assert len(policies) == 1
            assert "sha256-" in policies[0]
            assert "'self'" not in policies[0]
            assert answer.headers["x-content-type-options"] == "nosniff"
        tab.goto(f"{base}/report/{filed.run.id}?steps=0:50&signals=weight.*")
        ready(tab)
        expect(tab.locator("#layers ~ .row .card").first).to_contain_text("Spectral norm")
        expect(tab.locator("main")).to_contain_text("to before 50")
        all_drawn(tab)
        for path, says in ((f"{filed.run.id}?steps=9:1", "is empty"), (f"{filed.run.id}?signals=nosuch", "There are: ")):
            answered = tab.request.get(f"{base}/report/{path}")
            assert (answered.status, says in answered.text()) == (422, True)
        unknown = tab.request.get(f"{base}/report/%3Cscript%3E")
        assert unknown.status == 404
        assert unknown.headers["content-type"].startswith("text/plain")
        tab.goto(f"{base}/run/{filed.run.id}")
        with tab.expect_download() as saving:
            tab.get_by_role("link", name="Report", exact=True).click()
        assert saving.value.suggested_filename == usual_name(filed.run)
        assert b'content="foreshock report"' in Path(saving.value.path()).read_bytes()
        tab.goto("about:blank")  # before its server ends


@pytest.fixture(scope="module")
def long_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Store, Run]]:
    """A run of 40,000 steps whose 900 layers, with long names, were measured 80 times."""
    store = open_store(f"sqlite:///{tmp_path_factory.mktemp('long') / 'runs.db'}")
    run = Run(new_id(), "long", created_at=1.0, heartbeat_at=1.0, status=RunStatus.FINISHED)
    store.create_run(run)
    segment = store.open_segment(run.id, 0, 1.0)
    every = (SeriesKey("loss"), SeriesKey("gradient.norm"))
    layers = tuple(SeriesKey("weight.spectral_norm", f"layers.{number}.{'x' * 300}") for number in range(900))
    for first in range(0, 40_000, 10_000):
        records = [
            StepRecord(step, 1.0, every, (1 / (1 + step), float("nan") if step % 997 == 0 else 0.5))
            for step in range(first, first + 10_000)
        ]
        store.write(Batch(new_id(), run.id, segment, tuple(records)))
    sampled = [StepRecord(step, 1.0, layers, [1.0 + (step + place) % 7 for place in range(900)]) for step in range(0, 40_000, 500)]
    store.write(Batch(new_id(), run.id, segment, tuple(sampled)))
    store.add_event(Event(new_id(), run.id, 0, 5, 1.0, "note", "w" * 1_000_000))
    yield store, store.run(run.id)
    store.close()


def test_a_long_run_gives_no_large_file(long_run: tuple[Store, Run]) -> None:
    made = make(*long_run)
    figures = charts_of(made.page)
    assert len(figures) == len(made.report.charts())
    lines = [trace for figure in figures.values() for trace in figure["data"] if trace["type"] == "scatter"]
    assert max(len(trace["x"]) for trace in lines) <= 2500
    heat = next(trace for figure in figures.values() for trace in figure["data"] if trace["type"] == "heatmap")
    assert len(heat["y"]) == len(set(heat["y"])) == 600
    assert sum(map(len, heat["z"])) <= 60_000
    assert "600 of 900 layers" in made.report.heatmaps[0].note
    assert len(made.page) < 3_000_000
    assert "letters more" in made.page


def test_a_part_of_a_run(long_run: tuple[Store, Run]) -> None:
    store, run = long_run
    made = make(store, run, wanted_of("1000:3000"))
    (loss, *_) = charts_of(made.page).values()
    steps = [step for trace in loss["data"] for step in trace["x"]]
    assert (min(steps), max(steps)) == (1000, 2999)
    heat = made.report.heatmaps[0].chart.figure["data"][0]
    assert heat["x0"] - heat["dx"] / 2 < 3000
    assert heat["x0"] + heat["dx"] * len(heat["z"][0]) < 4000
    assert not made.report.events, "the event of step 5 lies outside"
    with pytest.raises(ReportError, match="it has 0 to 39999"):
        make(store, run, wanted_of("50000:"))


def test_what_can_be_asked_for() -> None:
    assert wanted_of("1_000:2000", ["a,b", " c "]) == Wanted(1000, 2000, ("a", "b", "c"))
    assert (wanted_of(":5"), wanted_of("5:"), wanted_of(None)) == (Wanted(None, 5), Wanted(5, None), Wanted())
    for wrong in ("5", "5:5", "9:1", "a:b", "-1:4", "1:2:3"):
        with pytest.raises(ReportError, match=re.escape(wrong)):
            wanted_of(wrong)
    assert chosen_signals(["weight.*", "loss_x"], {"weight.norm", "weight.spectral_norm", "loss_x"}) == [
        "weight.spectral_norm",
        "weight.norm",
        "loss_x",
    ]
    with pytest.raises(ReportError, match="There are: a, b"):
        chosen_signals(["c"], {"a", "b"})
    with pytest.raises(ReportError, match="20 signals match"):
        chosen_signals(["*"], {f"s{number}" for number in range(20)})
    assert cut("x" * 3000).endswith("(1,000 letters more)")


def test_nothing_recorded_is_said(store: Store, simulated: ModuleType) -> None:
    run = simulated.begin_run(store, "empty")
    with pytest.raises(NothingToReportError, match="empty"):
        make(store, run)


def test_names_of_files_are_taken_everywhere() -> None:
    run = Run("0123456789abcdef", "../..\\a:b<c>|d*?\n\0.e" + "x" * 300)
    assert re.fullmatch(r"foreshock-a-b-c-d-\.exx[x]*-01234567\.html", usual_name(run))
    assert usual_name(replace(run, name="…")) == "foreshock-01234567.html"
