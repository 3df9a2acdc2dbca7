"""The chart in a message: the series around an alert's first step, drawn by Pillow, so that it needs neither page nor browser.

What trouble this picture lets you recognise: on a phone, at a glance, whether the alert is worth getting up for.
"""

import io
import math
from functools import cache
from typing import TYPE_CHECKING, Any

from ...analyzer.wording import number, place, step_number
from ...storage.records import Alert, Evidence
from ..figures import gradient, loss
from ..figures.evidence import near
from ..figures.style import MUTED, SERIES, SEVERITY_COLOURS
from ..signals import Scale, describe
from .scales import Axis, value_axis

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont

WIDTH, HEIGHT = 480, 300
"""Of the chart as it is looked at; a phone is 360 to 430 wide."""
SCALE = 2
"""Pixels of the PNG for each of these, on either side."""
_FINER = 2  # lines are drawn larger than they are kept, and made smooth by that: Pillow draws them with steps
_UNIT = SCALE * _FINER
_EDGE, _RIGHT, _TOP, _BOTTOM = 12, 16, 52, 38
_INK, _QUIET, _GRID, _PAPER = "#1e293b", "#64748b", "#e2e8f0", "#ffffff"
_TEXT, _SMALL = 14, 12
_RUNS_AWAY = 100.0
"""Times its smallest value from which a series is drawn on a logarithmic axis."""
_RUN_WIDE = {
    "loss": loss.TITLE,
    "rank.loss": f"{loss.TITLE} of one rank",
    "gradient.norm": f"{gradient.TITLE} (L2, before clipping)",
    "gradient.norm_clipped": f"{gradient.TITLE} (L2, after clipping)",
}
"""Titles of what is measured of the run as a whole."""
_FONTS = ("DejaVuSans.ttf", "Arial.ttf", "arial.ttf", "LiberationSans-Regular.ttf", "NotoSans-Regular.ttf", "Helvetica.ttc")
_SPELLED = str.maketrans(
    {"σ": "sigma", "κ": "kappa", "δ": "delta", "Δ": "Delta", "₁": "1", "₂": "2", "−": "-", "·": " ", "≥": ">=", "×": "x"}
)
"""Pillow's own font, where a host has none of these, knows no such letters."""


class ChartError(Exception):
    """There is no chart; the message says why, and what would mend it."""


def evidence_png(alert: Alert) -> bytes:
    """Draw the evidence that decided an alert; return a PNG of 960 by 600 pixels, about 20 kB, in some 0.1 s.

    Raises:
        ChartError: Pillow is not installed, or the alert has no evidence (one of a run that is lost has none).
    """
    evidence = next((piece for piece in alert.evidence if piece.steps), None)
    if evidence is None:
        raise ChartError("this alert has no series to draw")
    try:
        from PIL import Image, ImageDraw
    except ImportError:
        raise ChartError("charts need Pillow: pip install 'foreshock[images]'") from None
    image = Image.new("RGB", (WIDTH * _UNIT, HEIGHT * _UNIT), _PAPER)
    _Sheet(ImageDraw.Draw(image), alert, evidence).draw()
    kept = io.BytesIO()
    smooth = image.resize((WIDTH * SCALE, HEIGHT * SCALE), Image.Resampling.LANCZOS)
    smooth.quantize(128, dither=Image.Dither.NONE).save(kept, "PNG", optimize=True)
    return kept.getvalue()


class _Sheet:
    """One chart being drawn. Places are in units of ``WIDTH`` and ``HEIGHT``."""

    def __init__(self, pen: "ImageDraw", alert: Alert, evidence: Evidence) -> None:
        self._pen, self._alert, self._evidence = pen, alert, evidence
        self._info = describe(evidence.key.signal)
        self._colour = SEVERITY_COLOURS[alert.severity]
        finite = [value for value in evidence.values if math.isfinite(value)]
        log = _is_log(finite, self._info.scale)
        levels = [("usual", evidence.baseline, MUTED), ("threshold", evidence.threshold, self._colour)]
        known = [(name, value, colour) for name, value, colour in levels if value is not None and math.isfinite(value)]
        self._levels = [each for each in known if near(each[1], finite, log=log)]
        self._beyond = [each for each in known if each not in self._levels]
        self._finite = bool(finite)
        shown = [value for value in (*finite, *(value for _, value, _ in self._levels)) if value > 0 or not log]
        self._y = value_axis(shown or [0.0, 1.0], HEIGHT - _BOTTOM, _TOP, log=log)
        steps = [*evidence.steps, *([alert.first_step] if alert.first_step >= evidence.steps[0] else [])]
        low, high = min(steps), max(steps)
        room = max(high - low, 1) * 0.04
        widest = max((self._width(number(mark), _SMALL) for mark in self._y.marks()), default=0.0)
        self._left = _EDGE + 6 + widest if finite else _EDGE
        self._x = Axis(low - (0.5 if low == high else 0.0), high + room, self._left, WIDTH - _RIGHT)
        self._courses, self._lost = self._places()

    def draw(self) -> None:
        """Draw everything, what matters most last."""
        self._grid()
        self._heading()
        for _, value, colour in self._levels:
            self._dashes(self._y.at(value), colour)
        self._first_step()
        for course in self._courses:
            self._course(course)
        self._not_finite()
        self._name_levels()

    def _heading(self) -> None:
        key = self._evidence.key
        title = self._info.axis_title if self._info.unit else _RUN_WIDE.get(key.signal, self._info.title)
        self._text(_EDGE, 8, title, _INK, _TEXT)
        named = key.module if any(letter.isalpha() for letter in key.module) or not key.module else f"module {key.module}"
        where = f"{place(named, key.head)}{f' on rank {key.rank}' if key.rank >= 0 else ''}"
        beyond = "".join(f", {name} {number(value)} (beyond this chart)" for name, value, _ in self._beyond)
        self._text(_EDGE, 28, f"{where}{beyond}", _QUIET, _SMALL)

    def _grid(self) -> None:
        bottom, right = HEIGHT - _BOTTOM, WIDTH - _RIGHT
        for value in self._y.marks() if self._finite else ():
            y = self._y.at(value)
            self._stroke([(self._left, y), (right, y)], _GRID, 1)
            self._text(self._left - 6, y, number(value), _QUIET, _SMALL, "rm")
        marks = [value for value in self._x.marks(5) if value == int(value) and value >= self._evidence.steps[0]]
        for value in marks:
            self._text(self._x.at(value), bottom + 4, step_number(int(value)), _QUIET, _SMALL, "ma")
        self._stroke([(self._left, bottom), (right, bottom)], MUTED, 1)
        self._text((self._left + right) / 2, HEIGHT - 3, "training step", _QUIET, _SMALL, "md")

    def _dashes(self, y: float, colour: str) -> None:
        x = self._left
        while x < WIDTH - _RIGHT:
            self._stroke([(x, y), (min(x + 7, WIDTH - _RIGHT), y)], colour, 1.6)
            x += 11

    def _name_levels(self) -> None:
        """Write what each level is, where the series and the other words are furthest from it; the upper one above its line."""
        points = [point for course in self._courses for point in course]
        taken: list[tuple[float, float, float]] = []  # (left, right, middle) of what is written
        heights = [self._y.at(value) for _, value, _ in self._levels]
        close = len(heights) > 1 and abs(heights[0] - heights[1]) < 30
        for (name, value, colour), y in zip(self._levels, heights, strict=True):
            words = f"{name} {number(value)}"
            width = self._width(words, _SMALL)
            first, last = self._left + 6, self._x.at(self._alert.first_step) - width - 8
            sides = ((-10.0,) if y == min(heights) else (10.0, -10.0)) if close else (-10.0, 10.0)
            spots = [
                (first + max(0.0, last - first) * share, y + down)
                for down in sides
                for share in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
                if _TOP < y + down < HEIGHT - _BOTTOM - 4
            ]

            def room(spot: tuple[float, float], width: float = width) -> float:
                left, right = spot[0] - 6, spot[0] + width + 6
                clear = min((abs(spot[1] - at) for across, at in points if left <= across <= right), default=float(HEIGHT))
                written = min(
                    (abs(spot[1] - at) for begin, end, at in taken if begin < right and left < end), default=float(HEIGHT)
                )
                return min(clear, 12.0) if written > 14 else -1.0

            x, middle = max(spots, key=room, default=(first, y))  # the first of those that are far enough
            taken.append((x, x + width, middle))
            self._text(x, middle, words, colour, _SMALL, "lm", backed=room((x, middle)) < 8)

    def _first_step(self) -> None:
        first = self._alert.first_step
        if not self._evidence.steps[0] <= first:
            return
        x, bottom = self._x.at(first), HEIGHT - _BOTTOM
        self._stroke([(x, _TOP - 2), (x, bottom)], self._colour, 1.4)
        foot = [(x - 5, bottom + 1), (x + 5, bottom + 1), (x, bottom - 8)]
        self._pen.polygon([(_px(across), _px(down)) for across, down in foot], fill=self._colour)
        left = x > (self._left + WIDTH) / 2
        place_x, anchor = (x - 5, "ra") if left else (x + 5, "la")
        self._text(place_x, _TOP - 3, f"step {step_number(first)}", self._colour, _SMALL, anchor, backed=True)

    def _places(self) -> tuple[list[list[tuple[float, float]]], list[tuple[float, str]]]:
        """Return where the series goes, in parts between what is not finite, and where that stands (x, name)."""
        courses: list[list[tuple[float, float]]] = [[]]
        lost: list[tuple[float, str]] = []
        for step, value in zip(self._evidence.steps, self._evidence.values, strict=True):
            x = self._x.at(step)
            if math.isfinite(value) and (value > 0 or not self._y.log):
                courses[-1].append((x, self._y.at(value)))
                continue
            courses.append([])
            if not math.isfinite(value):
                lost.append((x, number(value)))
        return [course for course in courses if course], lost

    def _course(self, course: list[tuple[float, float]]) -> None:
        self._stroke(course, SERIES, 2)
        x, y = course[-1]
        self._pen.ellipse([_px(x - 3), _px(y - 3), _px(x + 3), _px(y + 3)], fill=SERIES, outline=_PAPER, width=_px(1))

    def _not_finite(self) -> None:
        """Mark what is not finite with crosses at the upper edge, and name it."""
        y = _TOP + 22
        for x, _ in self._lost:
            self._stroke([(x - 4, y - 4), (x + 4, y + 4)], self._colour, 2.2)
            self._stroke([(x - 4, y + 4), (x + 4, y - 4)], self._colour, 2.2)
        if self._lost:
            x, names = self._lost[0][0], " and ".join(sorted({name for _, name in self._lost}))
            left = x > (self._left + WIDTH) / 2
            self._text(x - 9 if left else x + 9, y, names, self._colour, _SMALL, "rm" if left else "lm", backed=True)

    def _stroke(self, points: list[tuple[float, float]], colour: str, width: float) -> None:
        if len(points) > 1:
            self._pen.line([(_px(x), _px(y)) for x, y in points], fill=colour, width=_px(width), joint="curve")

    def _width(self, text: str, size: int) -> float:
        font, named = _font(size * _UNIT)
        return float(self._pen.textlength(text if named else text.translate(_SPELLED), font)) / _UNIT

    def _text(self, x: float, y: float, text: str, colour: str, size: int, anchor: str = "la", backed: bool = False) -> None:
        """Write a line: cut where it is too long; with a rim of paper where it lies over others."""
        font, named = _font(size * _UNIT)
        text = text if named else text.translate(_SPELLED)
        room = _px(WIDTH - 8 - (x if anchor[0] == "l" else 0))
        while len(text) > 1 and self._pen.textlength(text, font) > room:
            text = f"{text[:-2].rstrip()}…" if named else f"{text[:-4].rstrip()}..."
        halo = _px(2) if backed else 0
        self._pen.text((_px(x), _px(y)), text, fill=colour, font=font, anchor=anchor, stroke_width=halo, stroke_fill=_PAPER)


def _is_log(finite: list[float], scale: Scale) -> bool:
    """Return whether an axis is logarithmic: for signals that have such a scale, and where a series runs away."""
    if scale is Scale.LOG:
        return any(value > 0 for value in finite)
    return bool(finite) and min(finite) > 0 and max(finite) > _RUNS_AWAY * min(finite)


def _px(length: float) -> int:
    return round(length * _UNIT)


@cache
def _font(size: int) -> "tuple[FreeTypeFont | Any, bool]":
    """Return a font, and whether it knows Greek letters and signs: one of the host's, else Pillow's own."""
    from PIL import ImageFont

    for name in _FONTS:
        try:
            return ImageFont.truetype(name, size), True
        except OSError:
            continue
    return ImageFont.load_default(size), False
