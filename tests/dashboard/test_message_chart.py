"""The chart in a message: what can be seen in the picture, whatever the values, and messages that go without one."""

import builtins
import io
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from foreshock.dashboard.figures.style import SERIES, SEVERITY_COLOURS
from foreshock.dashboard.messages import MessageExtras, chart
from foreshock.dashboard.messages.chart import HEIGHT, SCALE, WIDTH, ChartError, evidence_png
from foreshock.dashboard.messages.example import example_alert
from foreshock.dashboard.messages.scales import Axis, value_axis
from foreshock.storage.records import Alert, Evidence, SeriesKey, Severity
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageColor

ALERT = example_alert(0.0)


def picture(alert: Alert) -> Image.Image:
    return Image.open(io.BytesIO(evidence_png(alert)))


def of(values: list[float], signal: str = "loss", **more: Any) -> Alert:
    evidence = Evidence(SeriesKey(signal), tuple(range(len(values))), tuple(values), **more)
    return replace(ALERT, first_step=len(values) - 1, evidence=(evidence,))


def rows(drawn: Image.Image, colour: str, within: float = 30.0) -> dict[int, int]:
    """Row -> how many of its pixels have nearly this colour."""
    pixels = np.asarray(drawn.convert("RGB"), dtype=float)
    counts = (np.linalg.norm(pixels - ImageColor.getrgb(colour), axis=-1) < within).sum(axis=1)
    return {row: int(count) for row, count in enumerate(counts) if count}


def test_it_shows_the_series_its_threshold_and_the_first_step_in_the_alerts_colour() -> None:
    drawn = picture(ALERT)
    assert drawn.size == (WIDTH * SCALE, HEIGHT * SCALE)
    assert len(evidence_png(ALERT)) < 40_000
    series, marks = rows(drawn, SERIES), rows(drawn, SEVERITY_COLOURS[Severity.WARNING])
    assert max(series) - min(series) > 0.5 * drawn.height
    dashed = max(marks, key=lambda y: marks[y])
    assert marks[dashed] > 0.5 * drawn.width, "the threshold goes from side to side"
    assert min(series) < dashed < max(series), "and the series crosses it"
    assert max(marks) - min(marks) > 0.6 * drawn.height, "the first step goes from top to bottom"
    assert not rows(drawn, SEVERITY_COLOURS[Severity.CRITICAL])


def test_what_is_not_finite_is_a_gap_and_a_cross() -> None:
    whole, broken = of([3.0, 3.1, 3.0, 3.2, 3.1, 3.0]), of([3.0, 3.1, math.nan, math.inf, 3.1, 3.0])
    colour = SEVERITY_COLOURS[Severity.WARNING]
    assert sum(rows(picture(broken), SERIES).values()) < sum(rows(picture(whole), SERIES).values())
    assert sum(rows(picture(broken), colour).values()) > sum(rows(picture(whole), colour).values())


@settings(max_examples=12)
@given(
    st.lists(st.floats(width=32), min_size=1, max_size=12),
    st.sampled_from(["loss", "attention.max_logit", "weight.spectral_norm", "a.user's metric ₂"]),
    st.none() | st.floats(),
    st.none() | st.floats(),
)
def test_any_values_can_be_drawn(values: list[float], signal: str, threshold: float | None, baseline: float | None) -> None:
    assert picture(of(values, signal, threshold=threshold, baseline=baseline)).size == (WIDTH * SCALE, HEIGHT * SCALE)


@given(st.lists(st.floats(-1e30, 1e30), min_size=1, max_size=9), st.booleans())
def test_an_axis_holds_its_values_and_has_round_marks_within(values: list[float], log: bool) -> None:
    log = log and any(value > 1e-30 for value in values)
    values = [value for value in values if value > 1e-30] if log else values
    axis = value_axis(values, 300.0, 0.0, log=log)
    assert all(-0.01 <= axis.at(value) <= 300.01 for value in values)
    assert len(axis.marks()) <= 7
    assert all(axis.low <= mark * (1 + 1e-9) or mark <= axis.high * (1 + 1e-9) for mark in axis.marks())


def test_marks_are_round() -> None:
    assert Axis(0.0, 10.0, 0.0, 1.0).marks() == [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]
    assert Axis(0.8, 120.0, 0.0, 1.0, True).marks() == [1.0, 3.0, 10.0, 30.0, 100.0]
    assert Axis(1e-9, 1e9, 0.0, 1.0, True).marks() == [1e-9, 1e-5, 0.1, 1e3, 1e7]


def test_a_host_without_fonts_draws_with_pillows_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chart, "_FONTS", ("no-such-font.ttf",))
    chart._font.cache_clear()
    try:
        assert rows(picture(of([1.0, 2.0], "weight.spectral_norm")), SERIES)
    finally:
        chart._font.cache_clear()


def test_without_pillow_or_evidence_it_says_what_would_mend_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ChartError, match="no series to draw"):
        MessageExtras().chart(replace(ALERT, evidence=()))
    original = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name == "PIL":
            raise ImportError(name)
        return original(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ChartError, match=r"pip install 'foreshock\[images\]'"):
        MessageExtras().chart(ALERT)
