"""Comparing runs: one axis for all, differences, figures that stay apart for every eye, and the page while a run goes on."""

import itertools
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import numpy as np
import plotly.graph_objects as go
import pytest
from foreshock.dashboard import comparing, factory, paths
from foreshock.dashboard.figures.comparison import COLOURS, Drawn, overlay_figure, style_of
from foreshock.dashboard.pages.frame import frame
from foreshock.dashboard.router import page_at
from foreshock.dashboard.signals import describe
from foreshock.storage import open_store
from foreshock.storage.base import Store
from foreshock.storage.records import Batch, Run, RunStatus, SeriesKey, StepRecord, new_id
from playwright.sync_api import Page, expect

NAN = math.nan
LOGIT, LAYER = "attention.max_logit", "blocks.1.attn.q"


def course(x: list[float], values: list[float], began: tuple[int, ...] = ()) -> comparing.Course:
    marks = np.zeros(len(x), np.bool_)
    marks[list(began)] = True
    return comparing.Course(np.array(x, float), np.array(values, float), marks)


def steps(keys: tuple[SeriesKey, ...], values: list[list[float]], *, first: int = 0, at: float = 0.0, pace: float = 1.0) -> Any:
    return tuple(StepRecord(first + i, at + pace * i if at else 0.0, keys, row) for i, row in enumerate(values))


def add(store: Store, name: str, losses: list[float], *, at: float = 1000.0, pace: float = 1.0, **fields: Any) -> Run:
    run = Run(new_id(), name, "p", RunStatus.FINISHED, at, at, at + pace * len(losses), **fields)
    store.create_run(run)
    store.open_segment(run.id, 0, at)
    store.write(Batch(new_id(), run.id, 0, steps((SeriesKey("loss"),), [[loss] for loss in losses], at=at, pace=pace)))
    return store.run(run.id)


def figure_of(section: Any) -> dict[str, Any]:
    (properties,) = section.paint().values()
    figure: dict[str, Any] = properties["figure"]
    go.Figure(figure)
    json.dumps(figure, allow_nan=False)
    return figure


def test_a_resumed_run_is_broken_where_it_went_on_and_marks_what_is_no_number() -> None:
    drawn = [
        Drawn(0, "<b>a</b>", course([0, 1, 2, 1, 2, 3], [3, 2, NAN, 2, math.inf, 1], began=(3,))),
        Drawn(1, "b", comparing.NOTHING),
        Drawn(2, "c", course([0, 5], [1, 2])),
    ]
    figure = overlay_figure(drawn, "loss")
    go.Figure(figure)
    json.dumps(figure, allow_nan=False)
    marks, first, nothing, last, letters = figure["data"]
    assert first["x"] == [0, 1, 2, None, 1, 2, 3]
    assert first["y"] == [3, 2, None, None, 2, None, 1]
    assert (marks["x"], marks["marker"]["symbol"]) == ([2, 2], ["x", "triangle-up"])
    assert "&lt;b&gt;a" in first["name"] + marks["text"][0]
    assert letters["text"] == ["A", "C"]
    assert (nothing["x"], last["x"]) == ([], [0, 5])
    assert overlay_figure([], "loss")["data"] == []
    assert "times" in str(overlay_figure(drawn[1:2], "loss", over="time"))
    logarithmic = overlay_figure(drawn, "loss", log=True, over="share")
    assert logarithmic["layout"]["yaxis"]["type"] == "log"
    assert "%" in logarithmic["layout"]["xaxis"]["title"]["text"]


def test_twelve_runs_look_different_to_every_eye() -> None:
    """Colour vision deficiencies after Machado, Oliveira and Fernandes (2009), severity 1."""
    assert len({style_of(place) for place in range(comparing.MOST_RUNS)}) == comparing.MOST_RUNS == len(comparing.LETTERS)
    eyes = (
        np.eye(3),
        np.array([[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]]),
        np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]]),
        np.array([[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]]),
    )

    def linear(colour: str) -> Any:
        share = np.array([int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)])
        return np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)

    def lab(light: Any) -> Any:
        xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ np.clip(light, 0, 1)
        x, y, z = (np.cbrt(part) if part > 0.008856 else 7.787 * part + 16 / 116 for part in xyz / [0.9505, 1, 1.089])
        return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])

    def contrast(one: str, other: str) -> float:
        low, high = sorted(float(linear(colour) @ [0.2126, 0.7152, 0.0722]) for colour in (one, other))
        return (high + 0.05) / (low + 0.05)

    for one, other in itertools.combinations(COLOURS, 2):
        for eye in eyes:
            assert np.linalg.norm(lab(eye @ linear(one)) - lab(eye @ linear(other))) > 20, (one, other)
    for colour in COLOURS:
        assert min(contrast(colour, card) for card in ("#ffffff", "#151d28")) >= 3.0, colour


def test_differences_are_exact_step_by_step_and_leave_out_what_is_no_number() -> None:
    baseline = course([0, 1, 2, 3, 4], [5, 4, NAN, 2, 1])
    other = course([1, 2, 3, 4, 5, 6], [4.5, 9, 2, NAN, 0, 0])
    same, found, nothing = comparing.differences([baseline, other, comparing.NOTHING], 0)
    assert same.values.tolist() == [0, 0, 0, 0]
    assert (found.x.tolist(), found.values.tolist()) == ([1, 3], [0.5, 0])
    assert len(nothing) == 0
    assert all(len(one) == 0 for one in comparing.differences([baseline, comparing.NOTHING], 1))
    long = [course(list(range(10_000)), [float(value)] * 10_000) for value in (2, 5)]
    wide = comparing.differences(long, 0)[1]
    assert len(wide) == comparing.STRETCHES + 1
    assert set(wide.values.tolist()) == {3.0}


def test_runs_are_laid_over_steps_time_and_share(store: Store) -> None:
    slow, quick = add(store, "slow", [4, 3, 2, 1], pace=100.0), add(store, "quick", [4, 2], at=9000.0, pace=0.5)
    timeless = add(store, "timeless", [1, 2, 3], at=0.0)
    store.open_segment(slow.id, 2, 5000.0)
    store.write(Batch(new_id(), slow.id, 1, steps((SeriesKey("loss"),), [[2.5], [1.5]], first=2, at=5000.0, pace=10.0)))
    ids = [slow.id, quick.id, timeless.id]

    def x(over: str) -> list[list[float | None]]:
        return [trace["x"] for trace in figure_of(factory.compare_loss(store, ids, over, "linear"))["data"][1:-1]]

    assert x("step") == [[0, 1, 2, 3, None, 2, 3], [0, 1], [0, 1, 2]]
    hours = [0, 100, 200, 300, None, 4000, 4010]
    assert x("time")[0] == pytest.approx([None if one is None else one / 60 for one in hours])
    assert x("time")[1:] == [pytest.approx([0, 0.5 / 60]), []], "without times there is nothing to draw"
    assert x("share")[1] == [0, 100]
    figure = figure_of(factory.compare_difference(store, ids, "step", quick.id))
    assert figure["data"][1]["y"] == [0.0, 1.0]
    assert figure["data"][2]["x"] == [], "the baseline itself is no line"
    assert "baseline" in str(figure_of(factory.compare_difference(store, ids, "step", None))["layout"]["annotations"])


def test_a_layers_heads_are_one_line_that_shows_the_worst(store: Store) -> None:
    run = add(store, "heads", [1.0] * 4)
    keys = tuple(SeriesKey(LOGIT, LAYER, head) for head in range(3))
    store.write(Batch(new_id(), run.id, 0, steps(keys, [[1, 5, 2], [9, 1, 1], [1, NAN, 1], [2, 3, 8]])))
    data = comparing.read_signal(store, run.id, describe(LOGIT), LAYER, 1000)
    assert data is not None
    assert [value if value == value else None for value in data.values] == [5, 9, None, 8]
    assert comparing.read_signal(store, run.id, describe("nothing"), LAYER, 100) is None
    drawn = figure_of(factory.compare_overlay(store, [run.id], LOGIT, LAYER, "step", "linear"))
    assert drawn["data"][0]["x"] == [2]
    choices = factory.compare_choices(store, [run.id], LOGIT, None).paint()
    assert choices["compare-module"]["value"] == LAYER
    assert [one["value"] for one in choices["compare-signal"]["options"]] == [LOGIT]


def test_only_what_differs_of_the_configuration_is_told(store: Store) -> None:
    one = add(store, "one", [1.0], meta={"lr": 0.1, "host": "a", "pid": 1, "optimizer": {"name": "AdamW", "betas": [0.9, 0.95]}})
    two = add(store, "two", [1.0], meta={"lr": 0.1, "host": "<b>", "pid": 2, "optimizer": {"name": "AdamW"}}, tags=("x",))
    rows = comparing.configuration([one, two])
    assert rows == {"tags": ["", "x"], "host": ["a", "<b>"], "optimizer.betas": ["[0.9, 0.95]", None]}
    assert comparing.configuration([one]) == {}


def test_a_comparison_finds_its_runs_and_says_which_are_missing(store: Store) -> None:
    runs = [add(store, f"r{number}", [1.0]) for number in range(14)]
    named = paths.Comparison(runs=("r0", runs[0].id, "gone", *(run.id for run in runs[1:])))
    found = comparing.compared(store, named)
    assert [run.name for run in found.runs] == [f"r{number}" for number in range(12)]
    assert found.missing == ("gone",)
    assert found.beyond == (runs[12].id, runs[13].id)


@pytest.mark.parametrize(
    "view",
    [
        paths.Comparison(),
        paths.Comparison(("a,b", "c&d=e", "é"), "loss.x", "blocks.0<b>", "time", True, "a,b"),
        paths.Comparison(("one",), axis="share"),
    ],
)
def test_a_permalink_holds_the_whole_comparison(view: paths.Comparison) -> None:
    assert paths.comparison_of("?" + paths.compare_path(view).partition("?")[2]) == view


def test_only_the_traces_of_the_run_that_was_written_to_are_sent(store: Store) -> None:
    one, two = add(store, "one", [3, 2, 1]), add(store, "two", [3, 3, 3])
    chart = factory.compare_loss(store, [one.id, two.id], "step", "linear")
    chart.paint()
    assert chart.advance() == {}
    store.write(Batch(new_id(), two.id, 0, steps((SeriesKey("loss"),), [[NAN], [7]], first=3)))
    (patch,) = [properties["figure"] for properties in chart.advance().values()]
    changed = {tuple(operation["location"]) for operation in patch.to_plotly_json()["operations"]}
    assert {("data", 0), ("data", 2)} <= changed
    assert ("data", 1) not in changed
    store.delete_run(two.id)
    (patch,) = [properties["figure"] for properties in chart.advance().values()]
    assert chart.advance() == {}
    table = factory.compare_table(store, [one.id, two.id], two.id).paint()
    assert two.id in str(table["compare-gone"])


@dataclass
class Site:
    """A served store of runs to compare."""

    base: str
    store: Store
    runs: list[str]
    live: str


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, simulated: ModuleType, serve_store: Any) -> Iterator[Site]:
    url = f"sqlite:///{tmp_path_factory.mktemp('compared') / 'runs.db'}"
    store = open_store(url)
    failing, healthy = simulated.write_failing_run(store), simulated.write_healthy_run(store, steps=400)
    hostile = add(store, "<script>alert(1)</script>", [3.0, NAN, 2.0], meta={"<b>lr</b>": "x" * 5000, "host": '"&'})
    more = [add(store, f"extra-{number}", [2.0, 1.0]).id for number in range(11)]
    live = simulated.begin_run(store, "growing")
    simulated.write_steps(store, live.id, simulated.Simulation(failing=False), 0, 40)
    with serve_store(url) as (base, _):
        yield Site(base, store, [failing.id, healthy.id, hostile.id, *more], live.id)
    store.close()


def drawn(tab: Page, graph: str, trace: int) -> list[Any]:
    """What a trace of a chart shows: its y values."""
    values: list[Any] = tab.evaluate(
        """([graph, trace]) => {
            const plot = document.querySelector(`#${graph} .js-plotly-plot`);
            return plot && plot.data && plot.data[trace] ? [...plot.data[trace].y] : [];
        }""",
        [graph, trace],
    )
    return values


def test_the_page_compares_while_a_run_goes_on(tab: Page, site: Site, simulated: ModuleType, until: Callable[..., Any]) -> None:
    failing, _, hostile, *_ = site.runs
    tab.goto(f"{site.base}/compare?runs={failing},{site.live},{quote('<script>alert(1)</script>')}")
    expect(tab.get_by_role("heading", level=1)).to_have_text("Compare 3 runs")
    rows = tab.locator("#compare-table tbody tr")
    expect(rows.nth(0)).to_contain_text("step 310")
    expect(rows.nth(2)).to_contain_text("<script>alert(1)</script>")
    expect(tab.locator("#compare-settings")).to_contain_text("<b>lr</b>")
    expect(tab.locator("#compare-settings td[title]").first).to_contain_text("…")
    until(lambda: len(drawn(tab, "compare-loss", 2)) == 40)
    resumed = tab.evaluate("document.querySelector('#compare-loss .js-plotly-plot').data[1].x")
    assert resumed.count(None) == 1, "what came after the resume is a line of its own"
    assert len(drawn(tab, "compare-loss", 0)) == 4, "three NaN of one run, one of another"
    simulated.write_steps(site.store, site.live, simulated.Simulation(failing=False), 40, 70)
    until(lambda: len(drawn(tab, "compare-loss", 2)) == 70)
    expect(rows.nth(1)).to_contain_text("69")

    expect(tab.locator("#compare-difference")).to_be_hidden()
    tab.locator("#compare-base").click()
    tab.get_by_text("A · gpt2-bf16").first.click()
    expect(tab.locator("#compare-difference")).to_be_visible()
    until(lambda: len(drawn(tab, "compare-difference", 2)) > 10)
    tab.locator("#compare-signal").click()
    tab.get_by_text("Max attention logit", exact=True).first.click()
    until(lambda: len(drawn(tab, "compare-overlay", 1)) > 100)
    tab.locator("#compare-axis").get_by_text("share of run").click()
    tab.locator("#compare-scale").get_by_text("log", exact=True).click()
    tab.wait_for_function("() => document.querySelector('#compare-loss .js-plotly-plot').layout.yaxis.type === 'log'")
    query = parse_qs(urlsplit(tab.url).query)
    assert (query["x"], query["y"], query["base"]) == (["share"], ["log"], [failing])
    assert (query["signal"], query["module"]) == ([LOGIT], ["blocks.0.attn.q"])

    site.store.delete_run(hostile)
    expect(tab.locator("#compare-gone")).to_contain_text(hostile[:20])
    expect(rows).to_have_count(2)
    tab.reload()
    expect(tab.locator("#compare-page")).to_contain_text(hostile[:20])
    expect(tab.locator("#compare-base")).to_contain_text("gpt2-bf16")
    until(lambda: len(drawn(tab, "compare-overlay", 1)) > 100)
    tab.get_by_role("link", name="Leave gpt2-bf16 out").click()
    expect(tab.get_by_role("heading", level=1)).to_have_text("Compare with another run")
    query = parse_qs(urlsplit(tab.url).query)
    assert query["runs"] == [site.live]
    assert "base" not in query
    assert query["x"] == ["share"]


def test_twelve_runs_at_most_and_a_way_out_of_none(tab: Page, site: Site) -> None:
    ids = [site.runs[0], site.runs[1], *site.runs[3:]]
    tab.goto(f"{site.base}/compare?runs={','.join(ids)},{site.live}")
    expect(tab.locator("#compare-beyond")).to_contain_text("2 runs are left out")
    expect(tab.locator("#compare-table tbody tr")).to_have_count(12)
    tab.set_viewport_size({"width": 390, "height": 800})
    tab.wait_for_function("() => document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    tab.get_by_role("link", name="Leave extra-0 out").click()
    expect(tab.locator("#compare-beyond")).to_contain_text("1 run is left out")
    tab.goto(f"{site.base}/compare?runs=nobody")
    expect(tab.locator("#compare-nothing")).to_contain_text("nobody")
    tab.get_by_role("link", name="See all runs").click()
    expect(tab.locator("table.runs tbody tr").first).to_be_visible()


def test_times_of_a_run_that_goes_on(store: Store) -> None:
    """A chart over time reads the times of what is new as well."""
    now = time.time()
    run = add(store, "timed", [3, 2], at=now, pace=2.0)
    chart = factory.compare_loss(store, [run.id], "time", "linear")
    assert figure_of(chart)["data"][1]["x"] == pytest.approx([0, 2])
    store.write(Batch(new_id(), run.id, 0, steps((SeriesKey("loss"),), [[1.0]], first=2, at=now + 7)))
    (patch,) = [properties["figure"] for properties in chart.advance().values()]
    (trace,) = [one["params"]["value"] for one in patch.to_plotly_json()["operations"] if one["location"] == ["data", 1]]
    assert trace["x"] == pytest.approx([0, 2, 7])


def test_what_is_sent_stands_on_the_page(store: Store) -> None:
    one, two = add(store, "one", [3, 2]), add(store, "two", [1, 2])
    ids = [one.id, two.id]
    page = page_at(store, "/compare", f"?runs={one.id},two&signal=loss&base={two.id}")
    there = {part.id for whole in (frame(), page) for part in whole._traverse() if getattr(part, "id", None)}
    sections = (
        factory.compare_table(store, ids, two.id),
        factory.compare_choices(store, ids, "loss", None),
        factory.compare_loss(store, ids, "step", "log"),
        factory.compare_difference(store, ids, "share", two.id),
        factory.compare_overlay(store, ids, "loss", None, "step", "linear"),
    )
    for section in sections:
        sent = section.paint().keys()
        store.write(Batch(new_id(), one.id, 0, steps((SeriesKey("loss"),), [[1.0]], first=store.run(one.id).last_step + 1)))
        assert sent | section.advance().keys() | section.tick().keys() <= there
