"""What a lens makes of charts: windows, scales and smoothing in the figures; live patches under it; and tables as CSV."""

import csv
import io
import math
from types import ModuleType
from typing import Any

import pytest
from foreshock.dashboard import factory
from foreshock.dashboard.lens import Lens, window_of
from foreshock.dashboard.paths import KEPT, View, view_of
from foreshock.dashboard.tables import cell, points_table
from foreshock.storage.base import Store
from foreshock.storage.records import Batch, Run, SeriesKey, StepRecord, new_id

NAN, INF = math.nan, math.inf
NONFINITE, LINE = 0, 3


def written(
    store: Store, simulated: ModuleType, values: list[float], signal: str = "loss", every: int = 1, module: str = ""
) -> Run:
    run = simulated.begin_run(store, "written")
    add(store, run, values, 0, signal, every, module)
    return store.run(run.id)


def add(store: Store, run: Run, values: list[float], first: int, signal: str = "loss", every: int = 1, module: str = "") -> None:
    key = (SeriesKey(signal, module),)
    records = tuple(StepRecord(every * (first + place), 0.0, key, [value]) for place, value in enumerate(values))
    for begin in range(0, len(records), 5000):
        store.write(Batch(new_id(), run.id, 0, records[begin : begin + 5000]))


def seen(section: Any, lens: Lens, graph: str = "loss") -> dict[str, Any]:
    section.lens = lens
    figure: dict[str, Any] = section.paint()[graph]["figure"]
    return figure


@pytest.mark.parametrize("written_so", ["", None, "5", "9-3", "7-7", "a-b", "1-2-3", "-5-3", "1e3-2e3", "0-" + "9" * 40])
def test_windows_that_make_no_sense_are_none(written_so: str | None) -> None:
    assert window_of(written_so) is None


def test_lenses_are_read_from_what_an_address_says() -> None:
    assert Lens.of("loss", "10-20", "100", "gradient:linear,loss:log") == Lens((10, 20), 100, True)
    assert Lens.of("gradient", "10-20", "x", "gradient:linear,loss:log") == Lens((10, 20), 0, False)
    assert Lens.of("risk", None, None, "risk:upside-down,,:") == Lens()
    assert Lens.of("risk", "<script>", "-4", None) == Lens()


def test_the_view_of_an_address_holds_every_part() -> None:
    address = "?" + "&".join(f"{part}=x{number}" for number, part in enumerate(KEPT))
    assert view_of(address) == View(*(f"x{number}" for number in range(len(KEPT))))
    assert view_of("?unknown=1") == View()


def test_a_window_shows_every_point_that_the_whole_run_leaves_out(store: Store, simulated: ModuleType) -> None:
    values = [2 + math.sin(step / 7) for step in range(20_000)]
    run = written(store, simulated, values)
    chart = factory.loss(store, run.id)
    whole = seen(chart, Lens())
    assert len(whole["data"][LINE]["x"]) < 3_000
    figure = seen(chart, Lens((5_000, 5_100)))
    line = figure["data"][LINE]
    assert line["x"] == list(range(4_999, 5_102)), "all points, and a neighbour on either side for the line to reach the edges"
    assert line["y"] == pytest.approx(values[4_999:5_102], rel=1e-4)
    assert line["mode"] == "lines+markers"
    assert figure["layout"]["xaxis"]["range"] == [5_000, 5_100]
    low, high = figure["layout"]["yaxis"]["range"]
    inside = values[5_000:5_101]
    assert 0 < min(inside) - low < 0.3
    assert 0 < high - max(inside) < 0.3
    assert figure["layout"]["uirevision"] != whole["layout"]["uirevision"]
    wide = seen(chart, Lens((5_000, 15_000)))
    assert 1_000 < len(wide["data"][LINE]["x"]) < 3_000
    assert wide["data"][LINE]["mode"] == "lines"


def test_a_window_between_two_samples_shows_the_line_between_them(store: Store, simulated: ModuleType) -> None:
    run = written(store, simulated, [1.0, 2.0, 3.0], every=100)
    chart = factory.loss(store, run.id)
    assert seen(chart, Lens((120, 160)))["data"][LINE]["x"] == [100, 200]
    beyond = seen(chart, Lens((300, 400)))
    assert "Nothing was measured from step 300 to 400" in beyond["layout"]["annotations"][0]["text"]
    assert beyond["layout"]["xaxis"]["range"] == [300, 400]
    assert beyond["layout"]["xaxis"]["title"]["text"] == "training step", "the cursor and the zoom know it for a chart over steps"


def test_what_is_written_beyond_the_window_leaves_it_alone(store: Store, simulated: ModuleType) -> None:
    run = written(store, simulated, [1.0] * 300)
    past, present = factory.loss(store, run.id), factory.loss(store, run.id)
    seen(past, Lens((100, 200)))
    seen(present, Lens((250, 400)))
    add(store, run, [1.0, 5.0, -3.0], 300)
    assert past.advance() == {}
    operations = present.advance()["loss"]["figure"].to_plotly_json()["operations"]
    appended = {tuple(one["location"]): one["params"]["value"] for one in operations}
    assert appended["data", LINE, "x"] == [300, 301, 302]
    low, high = appended["layout", "yaxis", "range"]
    assert low < -3 < 5 < high, "its axis makes room"
    add(store, run, [1.0] * 200, 303)
    appended = {
        tuple(one["location"]): one["params"]["value"] for one in present.advance()["loss"]["figure"].to_plotly_json()["operations"]
    }
    assert max(appended["data", LINE, "x"]) == 400, "and ends where the window does"


@pytest.mark.parametrize("log", [False, True])
def test_values_of_a_log_axis_that_are_not_positive_are_marked(store: Store, simulated: ModuleType, log: bool) -> None:
    run = written(store, simulated, [4.0, 0.0, NAN, -2.5, 1.0])
    chart = factory.loss(store, run.id)
    figure = seen(chart, Lens(log=log))
    marks = figure["data"][NONFINITE]
    assert figure["layout"]["yaxis"].get("type") == ("log" if log else None)
    assert figure["layout"]["meta"]["scale"] == ("log" if log else "linear")
    assert marks["x"] == ([2, 1, 3] if log else [2])
    if log:
        assert "-2.5" in marks["text"][2]
        assert "no place on a log axis" in figure["layout"]["annotations"][0]["text"]
        add(store, run, [-1.0], 5)
        patch = chart.advance()["loss"]["figure"].to_plotly_json()["operations"]
        assert {"location": ["data", NONFINITE, "x"], "operation": "Extend", "params": {"value": [5]}} in patch


def test_a_chart_that_is_logarithmic_by_itself_can_be_linear(store: Store, simulated: ModuleType) -> None:
    run = written(store, simulated, [1.0, 10.0, 100.0], signal="gradient.norm")
    chart = factory.gradient(store, run.id)
    assert seen(chart, Lens(), "gradient")["layout"]["yaxis"]["type"] == "log"
    linear = seen(chart, Lens(log=False), "gradient")["layout"]
    assert "type" not in linear["yaxis"]
    assert linear["yaxis"]["title"]["text"] == "L2 norm"
    assert "meta" not in seen(factory.risk(store, run.id), Lens(log=True), "risk")["layout"], "a risk has one scale"


def test_smoothed_lines_lie_before_faint_ones_and_grow_with_them(store: Store, simulated: ModuleType) -> None:
    values = [math.sin(step) for step in range(300)]
    run = written(store, simulated, values[:200])
    live, screen = factory.loss(store, run.id), {}
    screen = seen(live, Lens(smoothing=20))
    raw, smooth = screen["data"][LINE:]
    assert raw["opacity"] < 0.5
    assert raw["y"] == pytest.approx(values[:200], rel=1e-4)
    assert smooth["x"] == raw["x"]
    assert max(map(abs, smooth["y"][50:])) < 0.2
    add(store, run, values[200:210], 200)
    for one in live.advance()["loss"]["figure"].to_plotly_json()["operations"]:
        if one["operation"] == "Extend":
            kind, trace, column = one["location"]
            screen[kind][trace][column].extend(one["params"]["value"])
    fresh = seen(factory.loss(store, run.id), Lens(smoothing=20))["data"][LINE + 1]
    assert screen["data"][LINE + 1]["x"] == fresh["x"]
    assert screen["data"][LINE + 1]["y"] == pytest.approx(fresh["y"], rel=1e-4)


def test_smoothing_keeps_to_the_unit_that_is_drawn(store: Store, simulated: ModuleType) -> None:
    run = written(store, simulated, [0.01] * 50, signal="monitor.overhead")
    live = factory.overhead(store, run.id)
    assert seen(live, Lens(smoothing=10), "overhead")["data"][LINE + 1]["y"] == pytest.approx([1.0] * 50)
    add(store, run, [0.01], 50, signal="monitor.overhead")
    patch = live.advance()["overhead"]["figure"].to_plotly_json()["operations"]
    assert next(one for one in patch if one["location"] == ["data", LINE + 1, "y"])["params"]["value"] == pytest.approx([1.0])


def test_a_heatmap_of_a_window_holds_what_was_measured_before_it(store: Store, simulated: ModuleType) -> None:
    signal = "spectral_alignment.sign_diversity"
    run = written(store, simulated, [0.1, 0.2, 0.3, 0.4], signal, every=50, module="blocks.0")
    heat = factory.heat_a(store, run.id, signal, "")
    figure = seen(heat, Lens((60, 160)), "heat-a")
    trace = figure["data"][0]
    centres = [trace["x0"] + place * trace["dx"] for place in range(len(trace["z"][0]))]
    shown = dict(zip(centres, trace["z"][0], strict=True))
    assert figure["layout"]["xaxis"]["range"] == [60, 160]
    assert min(centres) <= 60 + trace["dx"]
    assert shown[min(centres)] == 0.2, "the first cell holds the last value before the window"
    assert list(shown.values())[-1] == 0.4
    nothing = seen(heat, Lens((900, 950)), "heat-a")["layout"]
    assert "Nothing was measured from step 900 to 950" in nothing["annotations"][0]["text"]


HOSTILE = '=HYPERLINK("http://x")'


def test_tables_hold_every_point_of_the_window_and_no_formula(store: Store, simulated: ModuleType) -> None:
    run = simulated.begin_run(store, "tabled")
    key = (SeriesKey(HOSTILE, '@layer,\n"x"', 3),)
    values = [1.5, NAN, INF, -INF, -0.25, 0.1 + 0.2]
    store.write(Batch(new_id(), run.id, 0, tuple(StepRecord(step, 0.0, key, [value]) for step, value in enumerate(values))))
    segment = store.open_segment(run.id, 4, 1.0)
    store.write(Batch(new_id(), run.id, segment, (StepRecord(4, 0.0, key, [7.0]),)))
    rows = list(csv.DictReader(io.StringIO("".join(points_table(store, store.run(run.id), store.series(run.id), None)))))
    assert [row["step"] for row in rows] == ["0", "1", "2", "3", "4", "5", "4"]
    assert [row["value"] for row in rows] == ["1.5", "nan", "inf", "-inf", "-0.25", "0.30000000000000004", "7.0"]
    assert [row["kind"] for row in rows[:4]] == ["finite", "nan", "positive_infinity", "negative_infinity"]
    assert [row["segment"] for row in rows] == ["0"] * 6 + ["1"]
    assert {(row["signal"], row["module"], row["head"]) for row in rows} == {("'" + HOSTILE, '\'@layer,\n"x"', "3")}
    window = list(csv.DictReader(io.StringIO("".join(points_table(store, store.run(run.id), store.series(run.id), (2, 4))))))
    assert [row["step"] for row in window] == ["2", "3", "4", "4"]
    assert [cell(name) for name in ("=1", "+1", "-1", "@x", "\tx", "loss", "")] == ["'=1", "'+1", "'-1", "'@x", "'\tx", "loss", ""]
