"""The rounding-bias picture: delta's bias of one head with its band."""

import itertools
from collections.abc import Sequence

from ...storage.base import Store
from ...storage.records import Run, Series, SeriesKey
from ...storage.results import SeriesData
from ..banding import band
from ..figures.delta_bias import delta_bias_figure
from ..figures.style import text
from ..live import Updates
from ..missing import why_empty
from ..names import related
from ..pictures import Panel, Picture
from .paced import PacedSection

BIAS, SCORE, SUM = "rounding.delta_bias", "rounding.delta_bias_z", "rounding.delta_bias_sum"
PICTURE = Picture("delta-bias", Panel.ROUNDING, "", "", (BIAS,))
_MOST_SAMPLES = 3000
"""Samples that are drawn one by one; of a longer series the last ones."""


class DeltaBias(PacedSection):
    """Bias and band of the chosen head, or of the one whose errors have added up to most."""

    def __init__(self, store: Store, run: Run, module: str, head: int | None) -> None:
        super().__init__(store, run)
        self._module, self._head = module, head

    def make(self) -> Updates:
        """Return the figure, and which head of which layer it shows."""
        everywhere = self.store.series(self.run.id, signal=BIAS)
        layers = list(dict.fromkeys(one.key.module for one in everywhere))
        shown = next(iter(related(self._module, layers)), None)
        heads = [one for one in everywhere if one.key.module == shown]
        if not heads:
            said = why_empty(PICTURE, [text(layer) for layer in layers], text(self._module))
            return {"delta-bias": {"figure": delta_bias_figure(None, why_empty=said)}, "delta-bias-of": {"children": ""}}
        mine = next((one for one in heads if one.key.head == self._head), None)
        chosen = mine or self._worst(heads)
        pair = _last_samples(self.store, [chosen, *self._scores(chosen)])
        found = band(*pair) if len(pair) == 2 else None
        head = f"head {chosen.key.head}" if chosen.key.head >= 0 else chosen.key.module
        why = "" if mine is not None or len(heads) == 1 else ", whose errors have added up to most"
        until = f", last {_MOST_SAMPLES:,} samples" if pair and pair[0].decimated else ""
        verdict = "" if found is None else "; the newest band leaves out 0" if found.excludes_zero else "; the newest band holds 0"
        return {
            "delta-bias": {"figure": delta_bias_figure(found, head, why_empty="No standard error is known for this head.")},
            "delta-bias-of": {"children": f"{chosen.key.module}, {head}{why}{until}{verdict}"},
        }

    def _scores(self, bias: Series) -> list[Series]:
        scores = self.store.series(self.run.id, signal=SCORE, module=bias.key.module)
        return [one for one in scores if (one.key.head, one.key.rank) == (bias.key.head, bias.key.rank)]

    def _worst(self, heads: Sequence[Series]) -> Series:
        keys = {SeriesKey(SUM, one.key.module, one.key.head, one.key.rank): one for one in heads}
        sums = self.store.newest([self.run.id], list(keys)).get(self.run.id, {})
        known = [key for key in keys if sums.get(key) == sums.get(key) and key in sums]
        return keys[max(known, key=lambda key: abs(sums[key]))] if known else heads[0]


def _last_samples(store: Store, series: Sequence[Series]) -> list[SeriesData]:
    """Return every point of some series; of long ones the last ones, all of them, marked as decimated.

    Series that are decimated each for itself keep points at different steps, and could not be paired.
    """
    found = store.read(series, max_points=_MOST_SAMPLES)
    if not any(data.decimated for data in found):
        return found
    steps = sorted({int(step) for data in found for step in data.steps})
    close = min(after - before for before, after in itertools.pairwise(steps))
    recent = store.read(series, start=steps[-1] - close * _MOST_SAMPLES)
    return [SeriesData(data.key, data.segments, data.steps, data.values, decimated=True) for data in recent]
