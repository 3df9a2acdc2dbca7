"""The heads of the chosen layer's attention side by side, worst first."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from dash import html
from dash.development.base_component import Component

from ...storage.base import Store
from ...storage.records import Run
from ..layer_values import courses
from ..names import related
from ..pages.attributes import aria, data
from ..pages.parts import number
from ..signals import describe
from ..updates import Updates
from .paced import PacedSection

COLUMNS: Mapping[str, str] = {
    "attention.max_logit": "Max logit",
    "attention.entropy_mean": "Entropy",
    "attention.sink_mass": "First key",
    "attention.effective_rank": "Eff. rank",
    "attention.output_effective_rank": "Output rank",
    "attention.qk_spectral_norm": "σ₁ W_q W_kᵀ",
    "rounding.key_shift_excess": "Key shift",
    "rounding.key_shift_coherence": "Coherence",
    "rounding.delta_bias_z": "Delta z",
    "rounding.direction_similarity": "Direction",
    "rounding.tie_fraction": "Ties",
}
"""Signal -> heading of its column; the first one measured decides which head is the worst."""

Sort = tuple[str, bool]
"""Column, and whether the largest stands first."""


class Heads(PacedSection):
    """The table of heads.

    Args:
        step: The last samples up to it are shown; the newest where None.
        sort: As the reader chose; worst first where None.
        head: The chosen head, which is marked.
    """

    def __init__(self, store: Store, run: Run, module: str, step: int | None, sort: Sort | None, head: int | None) -> None:
        super().__init__(store, run)
        self._module, self._step, self._sort, self._head = module, step, sort, head

    def make(self) -> Updates:
        """Return the table, and of which layer it is."""
        everywhere = [one for one in self.store.series(self.run.id) if one.key.head >= 0 and one.key.signal in COLUMNS]
        shown = related(self._module, list(dict.fromkeys(one.key.module for one in everywhere)))[:1]
        mine = [one for one in everywhere if one.key.module in shown]
        values: dict[int, dict[str, float]] = {}
        for course in courses(self.store, mine, self._step):
            value = course.newest if self._step is None else course.chosen
            if value is not None:
                values.setdefault(course.key.head, {})[course.key.signal] = value.value
        if not values:
            words = "This layer has no attention heads that are measured." if everywhere else "No attention heads are measured."
            return {"heads": {"children": html.P(words, className="quiet")}, "heads-of": {"children": ""}}
        at = f", step {self._step:,}" if self._step is not None else ""
        return {
            "heads": {"children": heads_table(values, self._sort, self._head)},
            "heads-of": {"children": f"{shown[0]}{at}"},
        }


def heads_table(values: Mapping[int, Mapping[str, float]], sort: Sort | None, chosen: int | None) -> Component:
    """Return the heads as a table.

    Args:
        values: Head -> signal -> value.
    """
    measured = [name for name in COLUMNS if any(name in of_head for of_head in values.values())]
    ordered, column, descending = in_order(values, measured, sort)
    headings = [_heading("", "Head", column, descending), *(_heading(name, COLUMNS[name], column, descending) for name in measured)]
    rows = [_row(head, values[head], measured, head == chosen) for head in ordered]
    return html.Table([html.Thead(html.Tr(headings)), html.Tbody(rows)], className="numbers heads")


def in_order(values: Mapping[int, Mapping[str, float]], measured: Sequence[str], sort: Sort | None) -> tuple[list[int], str, bool]:
    """Return heads in order, the column they are ordered by (``''``: their number), and whether the largest stands first.

    What is not finite stands before all else, what is not measured after.
    """
    by, descending = sort if sort is not None and (sort[0] in measured or not sort[0]) else (measured[0], True)
    if sort is None or by != sort[0]:
        order = describe(by).trouble.order
        descending = order(2.0) > order(1.0)

    def key(head: int) -> tuple[int, float, int]:
        value = float(head) if not by else values[head].get(by)
        if value is None:
            return 2, 0.0, head
        return (0, 0.0, head) if not math.isfinite(value) else (1, -value if descending else value, head)

    return sorted(values, key=key), by, descending


def _heading(name: str, words: str, column: str, descending: bool) -> Component:
    here = name == column
    arrow = html.Span(("▼" if descending else "▲") if here else "", className="arrow", **aria(hidden="true"))
    button = html.Button(
        [words, arrow], type="button", className="sort", **data(sort=name, descending=str(not descending if here else True))
    )
    order: dict[str, Any] = aria(sort="descending" if descending else "ascending") if here else {}
    title = describe(name).axis_title if name else "Number of the head"
    return html.Th(button, scope="col", title=title, **order)


def _row(head: int, of_head: Mapping[str, float], measured: Sequence[str], chosen: bool) -> Component:
    pick = html.Button(
        f"head {head}", type="button", className="head-pick", **data(head=str(head)), **aria(pressed=str(chosen).lower())
    )
    cells = [html.Td(number(of_head.get(name)), **data(label=COLUMNS[name])) for name in measured]
    return html.Tr([html.Th(pick, scope="row"), *cells], className="chosen" if chosen else "")
