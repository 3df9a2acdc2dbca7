"""The chosen layer in numbers: every signal at first, at the chosen step, and now."""

import math
from collections.abc import Sequence
from typing import Any

from dash import html
from dash.development.base_component import Component

from ...storage.base import Store
from ...storage.records import Run
from ..layer_values import Course, Value, courses
from ..pages.attributes import data
from ..pages.parts import number
from ..signals import DISTRIBUTIONS, Scale, SignalInfo, Trouble, describe, offered
from ..updates import Updates
from .paced import PacedSection

_FACTOR, _SHARE = 2.0, 0.25
"""A change towards trouble by this factor, of shares by this much, is marked."""


class LayerNumbers(PacedSection):
    """A table of the chosen layer's signals; of several heads the most worrying one at each moment."""

    def __init__(self, store: Store, run: Run, module: str, step: int | None) -> None:
        super().__init__(store, run)
        self._module, self._step = module, step

    def alike(self) -> tuple[str, int | None]:
        """Return the layer and the step."""
        return self._module, self._step

    def make(self) -> Updates:
        """Return the table."""
        series = [one for one in self.store.series(self.run.id, module=self._module) if one.key.signal not in DISTRIBUTIONS]
        found: dict[str, list[Course]] = {}
        for course in courses(self.store, series, self._step) if self._module else ():
            found.setdefault(course.key.signal, []).append(course)
        if not found:
            return {"layer-numbers": {"children": html.P("Nothing was measured of this layer yet.", className="quiet")}}
        rows = [_row(describe(name), found[name], self._step is not None) for name in offered(set(found))]
        return {"layer-numbers": {"children": _table(rows, found, self._step)}}


def _table(rows: list[Component], found: dict[str, list[Course]], step: int | None) -> Component:
    every = [course for those in found.values() for course in those]
    first, newest = min(course.first.step for course in every), max(course.newest.step for course in every)
    heads = ["Signal", f"First (step {first:,})"]
    heads += [f"At step {step:,}"] if step is not None else []
    heads += [f"Newest (step {newest:,})", "Change"]
    header = html.Thead(html.Tr([html.Th(words, scope="col") for words in heads]))
    return html.Table([header, html.Tbody(rows)], className="numbers")


def _row(info: SignalInfo, those: Sequence[Course], with_step: bool) -> Component:
    first, first_head = _worst(info, [(course.first, course.key.head) for course in those])
    newest, head = _worst(info, [(course.newest, course.key.head) for course in those])
    cells: list[Any] = [html.Th([html.Span(info.title), html.Span(info.unit, className="unit")], scope="row")]
    cells.append(_cell("First", first, first_head if len(those) > 1 else -1))
    if with_step:
        at = [(course.chosen, course.key.head) for course in those if course.chosen is not None]
        cells.append(_cell("At step", *_worst(info, at)) if at else html.Td("–", **data(label="At step")))
    cells.append(_cell("Newest", newest, head if len(those) > 1 else -1))
    words, worse = change(info, first.value, newest.value)
    towards: dict[str, Any] = {"className": "worse", "title": "towards trouble"} if worse else {}
    cells.append(html.Td(f"▲ {words}" if worse else words, **towards, **data(label="Change")))
    return html.Tr(cells)


def _worst(info: SignalInfo, those: Sequence[tuple[Value, int]]) -> tuple[Value, int]:
    odd = [one for one in those if not math.isfinite(one[0].value)]
    return odd[0] if odd else max(those, key=lambda one: info.trouble.order(one[0].value))


def _cell(label: str, value: Value, head: int) -> Component:
    of = f" (head {head})" if head >= 0 else ""
    return html.Td(f"{number(value.value)}{of}", title=f"step {value.step:,}", **data(label=label))


def change(info: SignalInfo, first: float, newest: float) -> tuple[str, bool]:
    """Return a change in words, and whether it is a large one towards trouble."""
    if not (math.isfinite(first) and math.isfinite(newest)):
        return ("not finite any more", True) if math.isfinite(first) else ("–", False)
    towards = info.trouble.order(newest) > info.trouble.order(first)
    if info.scale is Scale.LOG and first > 0 and newest > 0:
        ratio = newest / first
        words = "same" if abs(ratio - 1) < 0.005 else f"× {number(float(f'{ratio:.3g}'))}"
        return words, towards and max(ratio, 1 / ratio) >= _FACTOR
    moved = newest - first
    words = "same" if abs(moved) < 0.0005 * max(abs(first), abs(newest), 1e-300) else f"{'+' if moved > 0 else '−'}{abs(moved):.3g}"
    if info.scale is Scale.UNIT:
        return words, towards and abs(moved) >= _SHARE
    several = min(first, newest) > 0 and max(first, newest) / min(first, newest) >= _FACTOR
    return words, towards and several and info.trouble is not Trouble.AWAY
