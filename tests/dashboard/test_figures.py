"""Every figure holds what plotly accepts, for no data, little data, much data and data that is no number."""

import base64
import json
import math
import re
from xml.etree import ElementTree

import numpy as np
import plotly.graph_objects as go
import pytest
from foreshock.dashboard.figures.alignment_distribution import alignment_distribution_figure
from foreshock.dashboard.figures.first_look import first_look
from foreshock.dashboard.figures.gradient import gradient_figure
from foreshock.dashboard.figures.layer_heatmap import CELLS, ODD, layer_heatmap_figure
from foreshock.dashboard.figures.layer_signal import layer_signal_figure
from foreshock.dashboard.figures.lines import ALERTS, EVENTS, FIRST_LINE, NONFINITE
from foreshock.dashboard.figures.loss import loss_figure
from foreshock.dashboard.figures.overhead import overhead_figure
from foreshock.dashboard.figures.risk import risk_figure
from foreshock.dashboard.figures.sparkline import HEIGHT, WIDTH, sparkline_points
from foreshock.dashboard.figures.style import SEVERITY_COLOURS, Figure
from foreshock.dashboard.grid import Points, fill, spacing
from foreshock.dashboard.names import related, short_names, shorten
from foreshock.dashboard.signals import CATALOGUE, Trouble, describe
from foreshock.storage.records import Event, SeriesKey, Severity
from foreshock.storage.results import SeriesData

NAN, INF = math.nan, math.inf


def series(values: list[float], segments: list[int] | None = None, steps: list[int] | None = None, **key: object) -> SeriesData:
    steps = steps if steps is not None else list(range(len(values)))
    return SeriesData(SeriesKey("loss", **key), segments or [0] * len(values), steps, values)


def accepted(figure: Figure) -> Figure:
    """Assert that plotly knows every property, that JSON can carry the figure, and that its axes have titles."""
    go.Figure(figure)
    json.dumps(figure, allow_nan=False)
    if figure["data"]:
        assert figure["layout"]["xaxis"]["title"]["text"]
        assert figure["layout"]["yaxis"]["title"]["text"]
    return figure


def words(figure: Figure) -> str:
    return " ".join(note["text"] for note in figure["layout"].get("annotations", ()))


CASES = {
    "one point": [2.5],
    "constant": [1.0] * 5,
    "not a number": [NAN, NAN, NAN],
    "infinite": [1.0, INF, -INF, 2.0],
    "zero and below": [0.0, -1.0, 3.0],
    "huge and tiny": [1e300, 1e-300, 1.0],
    "many": [math.sin(step / 50) + 2 for step in range(2000)],
}


@pytest.mark.parametrize("values", CASES.values(), ids=CASES.keys())
def test_line_figures_take_any_values(values: list[float]) -> None:
    data = series(values)
    for log in (False, True):
        accepted(loss_figure(data, log=log))
        accepted(gradient_figure(data, log=log))
    accepted(overhead_figure(data))
    accepted(risk_figure(data))
    for name in ("spectral_alignment.sign_diversity", "weight.spectral_norm", "weight.spectral_growth", "my.metric"):
        accepted(layer_signal_figure([data, series(values, head=3)], describe(name), "blocks.0"))


@pytest.mark.parametrize("data", [None, series([])], ids=["none", "empty"])
def test_no_data_says_what_is_missing(data: SeriesData | None) -> None:
    assert "monitor.step(loss)" in words(accepted(loss_figure(data)))
    assert "optimizer" in words(accepted(gradient_figure(data)))
    assert "sampled steps" in words(accepted(overhead_figure(data)))
    assert "No risk" in words(accepted(risk_figure(data)))
    assert "not measured for this layer" in words(accepted(layer_signal_figure([data] if data else [], describe("a.b"), "m")))
    assert "not been measured yet" in words(accepted(layer_heatmap_figure(None, [], describe("a.b"))))
    assert "linear layers" in words(accepted(alignment_distribution_figure(None)))


def test_non_finite_values_are_marks_at_the_top_edge_and_gaps_in_the_line() -> None:
    figure = accepted(loss_figure(series([1.0, NAN, INF, -INF, 2.0])))
    marks = figure["data"][NONFINITE]
    assert marks["x"] == [1, 2, 3]
    assert marks["marker"]["symbol"] == ["x", "triangle-up", "triangle-down"]
    assert all(height > 0.9 for height in marks["y"])
    assert marks["yaxis"] == "y2"
    assert figure["layout"]["yaxis2"]["range"] == [0, 1]
    assert figure["data"][FIRST_LINE]["y"] == [1.0, None, None, None, 2.0]
    assert figure["data"][FIRST_LINE]["connectgaps"] is False


def test_segments_of_a_resumed_run_are_lines_of_their_own() -> None:
    figure = accepted(loss_figure(series([3.0, 2.0, 1.0, 2.5, 2.0], segments=[0, 0, 0, 1, 1], steps=[0, 1, 2, 1, 2])))
    first, second = figure["data"][FIRST_LINE:]
    assert (first["x"], second["x"]) == ([0, 1, 2], [1, 2])
    assert "restart" in second["name"]


def seen(figure: Figure) -> list[list[list[tuple[float, float]]]]:
    """The lines of a first look, each in its parts, as shares of the picture: from the left, and from below."""
    kind, _, body = first_look(figure).partition(",")
    assert kind == "data:image/svg+xml;base64"
    paths = [path.attrib["d"] for path in ElementTree.fromstring(base64.b64decode(body))]
    numbers = [[re.findall(r"-?\d+", part) for part in path.split("M")[1:]] for path in paths]
    return [
        [[(int(x) / 1000, 1 - int(y) / 1000) for x, y in zip(p[::2], p[1::2], strict=True)] for p in parts] for parts in numbers
    ]


@pytest.mark.parametrize("values", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("log", [False, True])
def test_the_first_look_is_the_line_that_plotly_will_draw(values: list[float], log: bool) -> None:
    figure = loss_figure(series(values), log=log)
    known = [(step, value) for step, value in enumerate(values) if math.isfinite(value) and (value > 0 or not log)]
    if len(values) == 1 or not known:
        assert first_look(figure) == "", "nothing to draw a line through"
        return
    (line,) = seen(figure)
    points = [point for part in line for point in part]
    heights = [math.log10(value) if log else value for _, value in known]
    low, high = min(heights), max(heights)
    room = 0.056 * (high - low) or 1.0
    first, last = known[0][0], known[-1][0]
    for (step, _), height, (across, up) in zip(known, heights, points, strict=True):
        assert across == pytest.approx((step - first) / (last - first) if last > first else 0.5, abs=0.001)
        assert up == pytest.approx((height - low + room) / (high - low + 2 * room), abs=0.001)


def test_the_first_look_has_gaps_segments_and_the_window() -> None:
    (line,) = seen(loss_figure(series([3.0, NAN, 2.0, 1.0])))
    assert [len(part) for part in line] == [1, 2]
    assert len(seen(loss_figure(series([3.0, 2.0, 3.0, 2.0], segments=[0, 0, 1, 1])))) == 2
    figure = loss_figure(series([4.0, 3.0, 2.0, 1.0, 0.0]))
    figure["layout"]["xaxis"]["range"] = [1, 3]
    assert [round(across, 2) for across, _ in seen(figure)[0][0]] == [-0.5, 0.0, 0.5, 1.0, 1.5]
    assert first_look(loss_figure(None)) == ""


@pytest.mark.parametrize("values", [[1e300] * 4, [1e17] * 4, [1e308, -1e308, 1.0], [1e308] * 2])
def test_values_that_floats_cannot_tell_apart_have_no_first_look(values: list[float]) -> None:
    assert first_look(loss_figure(series(values))) == ""
    assert len(seen(loss_figure(series(values), log=True))) == 1


def test_what_lies_far_outside_of_the_window_is_not_drawn_far_outside() -> None:
    figure = loss_figure(series([1.0, 1e308, 2.0]))
    figure["layout"]["yaxis"]["range"] = [0.0, 1e-3]
    assert max(abs(up) for _, up in seen(figure)[0][0]) <= 1000


def test_alerts_and_events_are_marked_with_shape_colour_and_words(simulated) -> None:
    alerts = simulated.failing_alerts("run", module="<script>alert(1)</script>")
    events = [Event("e", "run", 0, 50, 0.0, "resume", "Resumed <b>here</b>.")]
    figure = accepted(loss_figure(series([1.0] * 900), alerts, events))
    marks = figure["data"][ALERTS]
    assert marks["x"] == [310, 560, 640], "what is severe is drawn over what is not"
    assert len(set(marks["marker"]["symbol"])) == 3
    assert marks["marker"]["color"][2] == SEVERITY_COLOURS[Severity.CRITICAL]
    assert len(figure["layout"]["shapes"]) == 3
    assert figure["data"][EVENTS]["x"] == [50]
    assert "<script>" not in json.dumps(figure)
    assert "&lt;b&gt;here" in figure["data"][EVENTS]["text"][0]


def test_interventions_are_told_from_other_events_by_line_shape_and_words() -> None:
    events = [
        Event("e", "run", 0, 50, 0.0, "resume", "Resumed."),
        Event("i", "run", 0, 70, 0.0, "intervention", "Stabilised attention is in <b>4</b> layers."),
    ]
    for figure in (
        accepted(loss_figure(series([1.0] * 90), [], events)),
        accepted(gradient_figure(series([1.0] * 90), [], events)),
    ):
        marks = figure["data"][EVENTS]
        assert marks["x"] == [50, 70]
        assert len(set(marks["marker"]["symbol"])) == len(set(marks["marker"]["color"])) == 2
        assert "&lt;b&gt;4" in marks["text"][1]
        (line,) = figure["layout"]["shapes"]
        assert (line["x0"], line["x1"], line["line"]["dash"]) == (70, 70, "solid")


def test_risk_keeps_its_axis_whatever_it_is() -> None:
    for values in ([1.0, 2.0], [99.0], [100.0, NAN]):
        figure = accepted(risk_figure(series(values)))
        assert figure["layout"]["yaxis"]["range"] == [0, 102]
        assert figure["data"][FIRST_LINE]["line"]["shape"] == "hv", "it holds until it is told anew"


def test_two_hundred_layers_by_five_thousand_samples_stay_small() -> None:
    generator = np.random.default_rng(0)
    steps = np.arange(0, 50_000, 10)
    rows = [Points(steps, generator.random(len(steps))) for _ in range(200)]
    start, width = spacing(steps)
    grid = fill(rows, start, width, trouble=Trouble.HIGH)
    modules = [f"model.layers.{index}.self_attention.query_projection" for index in range(200)]
    figure = accepted(layer_heatmap_figure(grid, modules, describe("update.ratio"), modules[3]))
    assert len(figure["data"][CELLS]["z"]) == 200
    assert len(figure["data"][CELLS]["z"][0]) <= 400
    assert len(figure["layout"]["yaxis"]["tickvals"]) <= 45
    assert figure["layout"]["height"] <= 900
    assert len(json.dumps(figure)) < 2_500_000


@pytest.mark.parametrize("name", CATALOGUE)
def test_heatmaps_of_every_signal_mark_cells_that_are_not_finite(name: str) -> None:
    grid = fill([Points([0, 10, 20], [0.5, NAN, 0.7]), Points([0, 20], [0.2, INF])], 0, 10, trouble=Trouble.HIGH)
    figure = accepted(layer_heatmap_figure(grid, ["a", "b"], CATALOGUE[name]))
    assert figure["data"][ODD]["y"] == ["a", "b"]
    assert figure["data"][ODD]["text"] == ["not a finite number", "+infinity"]
    assert figure["data"][CELLS]["reversescale"] is (CATALOGUE[name].trouble is Trouble.LOW)


def test_a_heatmap_of_one_sample_has_cells_with_a_width() -> None:
    grid = fill([Points([7], [0.5])], 7, 1, trouble=Trouble.LOW)
    heat = accepted(layer_heatmap_figure(grid, ["only"], describe("weight.spectral_norm")))["data"][CELLS]
    assert (heat["x0"], heat["dx"]) == (7, 1)


def test_harmless_differences_stay_dark() -> None:
    grid = fill([Points([0, 10], [1.00, 1.20])], 0, 10, trouble=Trouble.HIGH)
    heat = layer_heatmap_figure(grid, ["a"], describe("weight.spectral_norm"))["data"][CELLS]
    assert heat["zmax"] - heat["zmin"] >= 1  # a factor of ten


def test_names_are_shown_letter_by_letter() -> None:
    grid = fill([Points([0, 1], [1.0, 2.0])], 0, 1, trouble=Trouble.HIGH)
    name = "<script>alert('x')</script>"
    figure = accepted(layer_heatmap_figure(grid, [name], describe("<img src=x>")))
    assert figure["layout"]["meta"]["modules"] == [name]
    shown = json.dumps({"data": figure["data"], "yaxis": figure["layout"]["yaxis"]})
    assert "<script" not in shown
    assert "<img" not in shown


def test_the_distribution_counts_in_multiples_of_a_random_direction() -> None:
    grid = fill([Points([0, 10], [0.25, 0.75]), Points([0, 10], [0.75, 0.25])], 0, 10, trouble=Trouble.HIGH)
    figure = accepted(alignment_distribution_figure(grid, -6.0, 6.0))
    axis = figure["layout"]["yaxis"]
    assert axis["ticktext"][axis["tickvals"].index(0)] == "0"
    assert axis["tickvals"][axis["ticktext"].index("+10")] == pytest.approx(math.asinh(10))
    assert figure["data"][0]["y0"] == -3.0


@pytest.mark.parametrize("values", [(), (1.0,), (NAN, NAN), (1.0, 1.0), (3.0, NAN, 1.0, INF)])
def test_sparklines_are_points_within_their_picture(values: tuple[float, ...]) -> None:
    places = [[float(number) for number in point.split(",")] for point in sparkline_points(values).split()]
    assert len(places) >= 2
    assert all(0 <= across <= WIDTH and 0 <= down <= HEIGHT for across, down in places)


def test_long_names_keep_both_ends() -> None:
    assert shorten("short") == "short"
    long = shorten("transformer.encoder.layers.17.self_attention.out_proj", 24)
    assert len(long) == 24
    assert long.startswith("transf")
    assert long.endswith("out_proj")


def test_what_all_names_begin_with_goes_first() -> None:
    names = [f"model.layers.{index}.self_attention.query" for index in range(3)]
    assert short_names(names) == [f"{index}.self_attention.query" for index in range(3)]
    assert short_names(["a.b", "a.c"]) == ["a.b", "a.c"]
    assert short_names(["a" * 40]) == [shorten("a" * 40, 24)]


def test_a_layer_without_a_row_is_seen_by_its_parts_or_its_whole() -> None:
    modules = ["blocks.0.attention.q", "blocks.0.attention.k", "blocks.1.up", "blocks.1"]
    assert related("blocks.0.attention", modules) == modules[:2]
    assert related("blocks.1.up", modules) == ["blocks.1.up"]
    assert related("blocks.1.down", modules) == ["blocks.1"]
    assert related("head", modules) == []
    assert related("", modules) == []
