"""Every panel of a run's page in a real browser, over a real run that measured everything."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import foreshock
import pytest
import torch
from foreshock.dashboard.pictures import LABELS, PICTURES, Panel, Scope
from foreshock.storage import open_store
from foreshock.zoo.models import GPT
from foreshock.zoo.text import windows
from playwright.sync_api import Page, expect

STEPS, EVERY = 40, 4
DRAWN = "#{} .scatterlayer .trace, #{} .heatmaplayer image, #{} .barlayer .trace"
NOT_HERE = {"loss-scale", "rank-loss"}
"""Pictures of what this run has not: a loss scale, and ranks."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> str:
    """URL of a store with a short run of a small GPT that measured all there is."""
    url = f"sqlite:///{tmp_path_factory.mktemp('trained') / 'runs.db'}"
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    model = GPT(width=32, heads=2, layers=2, context=32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    text = windows(64, 32)
    with foreshock.watch(model, optimizer, run="measured", store=url, probes="full", every=EVERY) as monitor:
        for step in range(STEPS):
            tokens = text[step % 8 :: 8]
            loss = torch.nn.functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            monitor.step(loss)
    torch.set_num_threads(threads)
    return url


@pytest.fixture(scope="module")
def base(trained: str, serve_store: Any) -> Iterator[str]:
    with serve_store(trained) as (address, _):
        yield address


def drawn(tab: Page, graph: str) -> None:
    """Wait until a graph has drawn its data."""
    tab.wait_for_selector(DRAWN.format(graph, graph, graph), state="attached")


def opened(tab: Page, panel: Panel) -> None:
    tab.get_by_role("tab", name=LABELS[panel]).click()
    expect(tab.locator(f"#panel-{panel.value}")).to_be_visible()


def test_every_panel_draws_all_its_pictures(tab: Page, base: str) -> None:
    tab.goto(f"{base}/run/measured?module=blocks.1.attention")
    expect(tab.locator("#outlook")).to_contain_text("Too early to compare with its own past, after 40 steps", timeout=60_000)
    for graph in ("distribution", "layer-signal", "spectrum", "spectrum-at"):
        drawn(tab, graph)
    expect(tab.locator("#layer-numbers tbody tr").filter(has_text="Max attention logit")).to_contain_text("head")
    for panel in Panel:
        opened(tab, panel)
        for picture in PICTURES:
            if picture.panel is panel and picture.name not in NOT_HERE and picture.scope is not Scope.RANKS:
                drawn(tab, picture.name)
    opened(tab, Panel.ROUNDING)
    drawn(tab, "delta-bias")
    expect(tab.locator("#delta-bias-of")).to_contain_text(re.compile(r"blocks\.1\.attention, head \d"))
    opened(tab, Panel.OPTIMIZER)
    drawn(tab, "gradient")
    assert tab.evaluate("document.querySelector('#gradient .js-plotly-plot').data.slice(3).map(line => line.name)") == [
        "before clipping", "after clipping",
    ]  # fmt: skip
    expect(tab.locator("#loss-scale")).to_contain_text("monitor.step(loss, loss_scale=")
    opened(tab, Panel.MONITOR)
    drawn(tab, "overhead")
    assert parse_qs(urlsplit(tab.url).query)["panel"] == ["monitor"]
    tab.set_viewport_size({"width": 390, "height": 800})
    opened(tab, Panel.ROUNDING)
    tab.wait_for_function("() => document.documentElement.scrollWidth <= document.documentElement.clientWidth")


def test_a_click_opens_the_layer_at_that_step_and_the_address_keeps_it(tab: Page, base: str) -> None:
    tab.goto(f"{base}/run/measured")
    drawn(tab, "heat-a")
    names = tab.evaluate("document.querySelector('#heat-a .js-plotly-plot').data[0].y")
    row = names.index("blocks.1.attention.q")
    area = tab.locator("#heat-a .nsewdrag").first
    area.scroll_into_view_if_needed()
    box = area.bounding_box()
    assert box is not None
    at = (box["x"] + box["width"] * 0.55, box["y"] + box["height"] * (row + 0.5) / len(names))
    tab.mouse.move(*at)
    tab.wait_for_selector("#heat-a .hoverlayer .hovertext")
    tab.mouse.click(*at)
    expect(tab.locator("#module")).to_contain_text("blocks.1.attention.q")
    expect(tab.locator("#step")).to_have_value(re.compile(r"^[12]\d$"))
    step = int(tab.locator("#step").input_value())
    expect(tab.locator("#spectrum-at-of")).to_have_text(f"blocks.1.attention.q, step {step // EVERY * EVERY}")
    expect(tab.locator("#heads-of")).to_have_text(f"blocks.1.attention, step {step}")
    expect(tab.locator("#layer-numbers")).to_contain_text(f"At step {step}")
    tab.locator("#heads").get_by_role("button", name="Entropy").click()
    expect(tab.locator("#heads th[aria-sort]")).to_contain_text("Entropy")
    before = tab.locator("#heads tbody th").all_inner_texts()
    tab.locator("#heads").get_by_role("button", name="Entropy").click()
    expect(tab.locator("#heads tbody th").first).to_have_text(before[-1])
    tab.locator("#heads").get_by_role("button", name="head 1").click()
    expect(tab.locator("#heads tr.chosen")).to_contain_text("head 1")
    tab.get_by_role("tab", name="Layer").focus()
    tab.keyboard.press("ArrowRight")
    expect(tab.get_by_role("tab", name="Rounding bias")).to_be_focused()
    expect(tab.get_by_role("tab", name="Rounding bias")).to_have_attribute("aria-selected", "true")
    expect(tab.locator("#delta-bias-of")).to_contain_text("head 1")
    tab.keyboard.press("End")
    expect(tab.get_by_role("tab", name="Monitor")).to_be_focused()
    tab.keyboard.press("Home")
    tab.keyboard.press("ArrowRight")
    tab.wait_for_function("() => location.search.includes('panel=rounding')")
    query = parse_qs(urlsplit(tab.url).query)
    assert (query["step"], query["head"], query["module"]) == ([str(step)], ["1"], ["blocks.1.attention.q"])
    tab.reload()
    expect(tab.locator("#delta-bias-of")).to_contain_text("blocks.1.attention, head 1")
    expect(tab.locator("#step")).to_have_value(str(step))
    tab.get_by_role("button", name=re.compile("^Show Key-shift coherence of all layers")).click()
    expect(tab.locator("#heat-b-title")).to_have_text("Key-shift coherence")


def test_a_light_preset_says_what_would_measure_the_rest(tab: Page, tmp_path: Path, simulated: Any, serve_store: Any) -> None:
    url = f"sqlite:///{tmp_path / 'runs.db'}"
    store = open_store(url)
    run = simulated.begin_run(store, "light")
    with serve_store(url) as (address, _):
        tab.goto(f"{address}/run/light?panel=rounding")
        expect(tab.locator("#delta-bias")).to_contain_text('probes="full"')
        simulated.write_steps(store, run.id, simulated.Simulation(failing=False), 0, 300)
        expect(tab.locator("#outlook")).to_contain_text("Nothing watched has moved far from its own past")
        drawn(tab, "excess")
        opened(tab, Panel.ATTENTION)
        expect(tab.locator("#sink")).to_contain_text("attention_rank")
        opened(tab, Panel.LAYER)
        expect(tab.locator("#spectrum")).to_contain_text("weight_tail")
        expect(tab.locator("#heads")).to_contain_text("No attention heads are measured")
        tab.goto("about:blank")
    store.close()
