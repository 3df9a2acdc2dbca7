"""The pictures, tables and bands of the panels under the heatmaps: what they draw, in which order, and live."""

import math
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from foreshock.dashboard import factory
from foreshock.dashboard.banding import NORMAL_95, SAMPLES, band
from foreshock.dashboard.figures.delta_bias import delta_bias_figure
from foreshock.dashboard.figures.lines import FIRST_LINE, NONFINITE
from foreshock.dashboard.figures.signal_lines import Line, signal_lines_figure
from foreshock.dashboard.figures.spectrum import spectrum_at_figure, spectrum_figure
from foreshock.dashboard.paths import view_of
from foreshock.dashboard.pictures import PICTURES, Panel
from foreshock.dashboard.reading import histogram_grid
from foreshock.dashboard.sections.heads import in_order
from foreshock.dashboard.sections.numbers import change
from foreshock.dashboard.sections.paced import PacedSection
from foreshock.dashboard.signals import describe
from foreshock.storage.base import Store
from foreshock.storage.records import Batch, Histogram, SeriesKey, StepRecord, new_id
from foreshock.storage.results import SeriesData, StepHistogram

NAN, INF = math.nan, math.inf
LAYER = "blocks.1.attn"


def picture(name: str) -> Any:
    return next(one for one in PICTURES if one.name == name)


def data(values: list[float], signal: str = "attention.max_logit", head: int = -1, segments: list[int] | None = None) -> SeriesData:
    steps = [10 * number for number in range(len(values))]
    return SeriesData(SeriesKey(signal, LAYER, head), segments or [0] * len(values), steps, values)


# -- bands -------------------------------------------------------------------------------------------------------------


def twin_of_band(values: list[float], scores: list[float]) -> list[tuple[float, float]]:
    """Mean and its standard error over the last 16 known samples of each step, added up one by one."""
    found = []
    for end in range(1, len(values) + 1):
        window = list(zip(values, scores, strict=True))[max(0, end - SAMPLES) : end]
        known = [(x, abs(x / z)) for x, z in window if math.isfinite(x) and math.isfinite(z) and z != 0 and x != 0]
        n = len(known)
        found.append((sum(x for x, _ in known) / n, math.sqrt(sum(e**2 for _, e in known)) / n) if n else (NAN, NAN))
    return found


def test_a_band_is_that_of_its_slow_twin() -> None:
    random = np.random.default_rng(0)
    values, scores = (1e-7 * random.standard_normal(60)).tolist(), (3 * random.standard_normal(60)).tolist()
    values[7], scores[20], values[30], scores[30] = NAN, 0.0, 0.0, 0.0
    found = band(data(values), data(scores))
    assert found is not None
    for place, (mean, error) in enumerate(twin_of_band(values, scores)):
        assert found.mean[place] == pytest.approx(mean, rel=1e-9, nan_ok=True)
        assert found.high[place] - found.mean[place] == pytest.approx(NORMAL_95 * error, rel=1e-6, nan_ok=True)
        assert found.mean[place] - found.low[place] == pytest.approx(NORMAL_95 * error, rel=1e-6, nan_ok=True)


def test_a_bands_mean_covers_zero_as_often_as_it_says() -> None:
    random = np.random.default_rng(1)
    outside = 0
    for _ in range(400):
        error = np.exp(random.standard_normal(SAMPLES))
        values = error * random.standard_normal(SAMPLES)
        found = band(data(values.tolist()), data((values / error).tolist()))
        outside += found is not None and found.excludes_zero
    assert 0.02 < outside / 400 < 0.09, "95 % of bands of unbiased samples hold 0"


def test_a_bias_of_one_sign_leaves_zero_and_a_restart_begins_anew() -> None:
    values, scores = [1e-6] * 20 + [-1e-6] * 20, [1.0] * 20 + [-1.0] * 20
    found = band(data(values, segments=[0] * 20 + [1] * 20), data(scores, segments=[0] * 20 + [1] * 20))
    assert found is not None
    assert found.excludes_zero
    assert found.mean[20] == -1e-6, "no mean reaches over a restart"
    alone = band(data([1e-6]), data([1.0]))
    assert alone is not None
    assert not alone.excludes_zero
    assert band(data([1.0]), replace(data([1.0]), steps=[3])) is None
    figure = accepted(delta_bias_figure(found, "head 0"))
    assert [trace["name"] for trace in figure["data"][3:]] == [
        "one sample", *["lower end", "its 95 % band", "mean of the last 16"] * 2
    ]  # fmt: skip
    assert accepted(delta_bias_figure(None, why_empty="Not measured."))["layout"]["annotations"][0]["text"] == "Not measured."


# -- figures -------------------------------------------------------------------------------------------------------------


def accepted(figure: dict[str, Any]) -> dict[str, Any]:
    """The figure, if plotly takes it."""
    go.Figure(figure)
    return figure


@pytest.mark.parametrize("which", PICTURES, ids=lambda one: one.name)
def test_every_picture_says_what_is_missing_and_draws_what_is_there(which: Any) -> None:
    empty = accepted(signal_lines_figure(which, [], why_empty="Not measured."))
    assert empty["data"] == []
    odd = [0.5, NAN, 0.7, INF]
    lines = [Line(data(odd, signal), f"line {number}") for number, signal in enumerate(which.signals)]
    figure = accepted(signal_lines_figure(which, lines))
    assert len(figure["data"]) == FIRST_LINE + len(which.signals)
    assert figure["data"][NONFINITE]["x"] == [10, 30] * len(which.signals)
    assert figure["layout"]["yaxis"]["title"]["text"]
    assert len(figure["layout"]["shapes"]) == len(which.lines)


def test_the_chosen_head_stands_out_and_few_lines_are_named() -> None:
    lines = [Line(data([1.0, 2.0], head=head), f"head {head}", head == 1) for head in range(3)]
    figure = signal_lines_figure(picture("logits"), lines)
    widths = [trace["line"]["width"] for trace in figure["data"][FIRST_LINE:]]
    assert widths.index(max(widths)) == 1
    assert not figure["layout"]["showlegend"]
    named = signal_lines_figure(picture("logits"), [replace(line, chosen=False) for line in lines])
    assert named["layout"]["showlegend"]
    assert len({trace["line"]["color"] for trace in named["data"][FIRST_LINE:]}) == 3
    many = [Line(data([1.0, 2.0], head=head), f"head {head}") for head in range(16)]
    assert not signal_lines_figure(picture("logits"), many)["layout"]["showlegend"]
    hostile = signal_lines_figure(picture("logits"), [Line(data([1.0]), "<b>x</b>"), Line(data([1.0]), "y")])
    assert "<b>x" not in str([trace["name"] for trace in hostile["data"][FIRST_LINE:]])


def test_a_share_above_one_is_in_sight() -> None:
    figure = signal_lines_figure(picture("query-error"), [Line(data([0.5, 3.0], "rounding.query_gradient_error"), "a")])
    assert "range" not in figure["layout"]["yaxis"]


def spectra(*counts: tuple[int, ...]) -> list[StepHistogram]:
    key = SeriesKey("weight.spectrum", LAYER)
    return [StepHistogram(0, 10 * step, Histogram(key, -3.0, 0.0, each)) for step, each in enumerate(counts)]


def test_a_spectrum_over_time_and_at_one_step() -> None:
    found = spectra((0, 2, 1), (2, 0, 1))
    figure = accepted(spectrum_figure(histogram_grid(found)))
    heat = figure["data"][0]
    assert heat["text"] == [[0.0, 66.7], [66.7, 0.0], [33.3, 33.3]]
    assert heat["y0"] == -2.5
    at = accepted(spectrum_at_figure(found[0].histogram, found[1].histogram))
    assert at["data"][0]["y"] == pytest.approx([200 / 3, 0.0, 100 / 3], rel=1e-4)
    assert at["data"][1]["name"] == "first sample"
    assert len(spectrum_at_figure(found[0].histogram, found[0].histogram)["data"]) == 1
    assert accepted(spectrum_figure(None, why_empty="Not measured."))["data"] == []
    assert accepted(spectrum_at_figure(None, None, why_empty="Not measured."))["data"] == []


# -- tables --------------------------------------------------------------------------------------------------------------


def test_heads_stand_worst_first_and_in_any_order() -> None:
    logit, entropy = "attention.max_logit", "attention.entropy_mean"
    values = {0: {logit: 3.0, entropy: 0.1}, 1: {logit: 90.0, entropy: 2.0}, 2: {logit: NAN}, 3: {entropy: 1.0}}
    assert in_order(values, [logit, entropy], None) == ([2, 1, 0, 3], logit, True)
    assert in_order(values, [entropy], None) == ([0, 3, 1, 2], entropy, False), "low entropy is the trouble"
    assert in_order(values, [logit, entropy], (entropy, True)) == ([1, 3, 0, 2], entropy, True)
    assert in_order(values, [logit, entropy], ("", False)) == ([0, 1, 2, 3], "", False)
    assert in_order(values, [logit], ("no.such", True))[1] == logit


@pytest.mark.parametrize(
    ("signal", "first", "newest", "said"),
    [
        ("attention.max_logit", 10.0, 52.0, ("× 5.2", True)),
        ("attention.max_logit", 52.0, 10.0, ("× 0.192", False)),
        ("weight.stable_rank", 8.0, 2.0, ("× 0.25", True)),
        ("spectral_alignment.sign_diversity", 0.9, 0.1, ("−0.8", True)),
        ("spectral_alignment.sign_diversity", 0.1, 0.9, ("+0.8", False)),
        ("attention.entropy_mean", 2.0, 0.5, ("−1.5", True)),
        ("rounding.delta_bias", 1e-7, -3e-7, ("−4e-07", False)),
        ("weight.spectral_norm", 2.0, 2.0, ("same", False)),
        ("weight.spectral_norm", 2.0, NAN, ("not finite any more", True)),
        ("weight.spectral_norm", NAN, 2.0, ("–", False)),
    ],
)
def test_changes_in_words(signal: str, first: float, newest: float, said: tuple[str, bool]) -> None:
    assert change(describe(signal), first, newest) == said


# -- live ----------------------------------------------------------------------------------------------------------------


def heads_of(step: int, count: int = 3) -> StepRecord:
    signals = ("attention.max_logit", "rounding.delta_bias", "rounding.delta_bias_z", "rounding.delta_bias_sum")
    keys = tuple(SeriesKey(signal, LAYER, head) for signal in signals for head in range(count))
    values = [float((index + 1) * (step + 1)) for index in range(len(keys))]
    spectrum = Histogram(SeriesKey("weight.spectrum", f"{LAYER}.q"), -3.0, 0.0, (step, 3, 1))
    return StepRecord(step, 0.0, (SeriesKey("learning_rate"), *keys), [1e-3, *values], (spectrum,))


@pytest.fixture
def run_id(store: Store, simulated: ModuleType) -> str:
    run = simulated.begin_run(store, "heads")
    store.write(Batch(new_id(), run.id, 0, tuple(heads_of(step) for step in range(0, 100, 10))))
    return str(run.id)


def test_the_panels_follow_the_layer_the_head_and_the_step(store: Store, run_id: str) -> None:
    attention = factory.attention_panel(store, run_id, f"{LAYER}.q", "1").paint()
    lines = attention["logits"]["figure"]["data"][FIRST_LINE:]
    assert [line["name"] for line in lines] == ["head 0", "head 1", "head 2"]
    assert attention["logits-of"] == {"children": LAYER}
    assert 'probes="full"' in attention["sink"]["figure"]["layout"]["annotations"][0]["text"]
    elsewhere = factory.attention_panel(store, run_id, "head", None).paint()["logits"]["figure"]
    assert f"such as {LAYER}" in elsewhere["layout"]["annotations"][0]["text"]
    assert (
        factory.optimizer_panel(store, run_id, LAYER, None).paint()["learning-rate"]["figure"]["data"][FIRST_LINE]["y"]
        == [1e-3] * 10
    )
    bias = factory.delta_bias(store, run_id, LAYER, None).paint()
    assert "head 2, whose errors have added up to most" in bias["delta-bias-of"]["children"]
    assert "head 1;" in factory.delta_bias(store, run_id, LAYER, "1").paint()["delta-bias-of"]["children"]
    spectrum = factory.spectrum(store, run_id, LAYER, "45").paint()
    assert spectrum["spectrum-at-of"]["children"] == f"{LAYER}.q, step 40"
    assert factory.spectrum(store, run_id, LAYER, "").paint()["spectrum-at-of"]["children"].endswith("step 90")
    table = factory.layer_panel(store, run_id, LAYER, "1", "45", None).paint()
    assert "At step 45" in str(table["layer-numbers"]["children"])
    assert table["heads-of"]["children"] == f"{LAYER}, step 45"
    assert [row.children[0].children.children for row in table["heads"]["children"].children[1].children] == [
        "head 2",
        "head 1",
        "head 0",
    ]
    assert [row.className for row in table["heads"]["children"].children[1].children] == ["", "chosen", ""]


def test_a_panel_grows_by_patches(store: Store, run_id: str) -> None:
    panel = factory.attention_panel(store, run_id, LAYER, None)
    panel.paint()
    assert panel.advance() == {}
    store.write(Batch(new_id(), run_id, 0, (heads_of(100),)))
    changed = panel.advance()
    assert all(changed[name]["figure"]["data"] == [] for name in changed if not name.endswith("-of") and name != "logits")
    appended = [one for one in changed["logits"]["figure"].to_plotly_json()["operations"] if one["operation"] == "Extend"]
    assert [one["params"]["value"] for one in appended if one["location"][-1] == "x"] == [[100]] * 3


def test_a_paced_section_rests_and_then_pays_what_it_owes(store: Store, run_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("foreshock.dashboard.sections.paced.time.monotonic", lambda: now[0])

    class Slow(PacedSection):
        def make(self) -> dict[str, dict[str, Any]]:
            now[0] += 2.0
            return {"a": {"children": "made"}}

    section = Slow(store, store.run(run_id))
    assert section.paint() == {"a": {"children": "made"}}
    store.write(Batch(new_id(), run_id, 0, (heads_of(100),)))
    now[0] += 39.0
    assert section.advance() == {}, "two seconds of work are followed by forty of rest"
    now[0] += 2.0
    assert section.tick() == {"a": {"children": "made"}}
    assert section.tick() == {}


def test_what_twenty_tabs_show_alike_is_made_once(store: Store, run_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    now, made = [100.0], list[str]()
    monkeypatch.setattr("foreshock.dashboard.sections.paced.time.monotonic", lambda: now[0])

    class Slow(PacedSection):
        layer = "one"

        def alike(self) -> str:
            return self.layer

        def make(self) -> dict[str, dict[str, Any]]:
            now[0] += 2.0
            made.append(self.layer)
            return {"a": {"children": f"{self.layer} {len(made)}"}}

    tabs = [Slow(store, store.run(run_id)) for _ in range(20)]
    assert {tab.paint()["a"]["children"] for tab in tabs} == {"one 1"}
    other = Slow(store, store.run(run_id))
    other.layer = "two"
    assert other.paint() == {"a": {"children": "two 2"}}
    store.write(Batch(new_id(), run_id, 0, (heads_of(100),)))
    assert all(tab.advance() == {} for tab in tabs)
    late = Slow(store, store.run(run_id))
    assert late.paint() == {"a": {"children": "one 1"}}, "while it rests, what was made last serves newcomers too"
    now[0] += 41.0
    assert {tab.tick()["a"]["children"] for tab in [*tabs, late]} == {"one 3"}
    assert made == ["one", "two", "one"]


def test_the_view_holds_panel_head_and_step() -> None:
    view = view_of("?panel=rounding&head=3&step=1200")
    assert (view.panel, view.head, view.step) == ("rounding", "3", "1200")
    assert view_of("").panel == Panel.LAYER
