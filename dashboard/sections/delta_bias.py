"""The rounding-bias picture: delta's bias of one head with its band."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from ...storage.base import Store
from ...storage.records import Run, Series, SeriesKey
from ...storage.results import SeriesData
from ..banding import band
from ..figures.adjust import in_window
from ..figures.delta_bias import delta_bias_figure
from ..figures.style import text
from ..missing import why_empty
from ..names import related
from ..pictures import Panel, Picture
from ..tables import points_table
from ..updates import Updates
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
        heads, layers = self._heads()
        if not heads:
            said = why_empty(PICTURE, [text(layer) for layer in layers], text(self._module))
            return {"delta-bias": {"figure": delta_bias_figure(None, why_empty=said)}, "delta-bias-of": {"children": ""}}
        chosen = self._chosen(heads)
        pair = self._last_samples([chosen, *self._scores(chosen)])
        found = band(*pair) if len(pair) == 2 else None
        head = f"head {chosen.key.head}" if chosen.key.head >= 0 else chosen.key.module
        why = "" if chosen.key.head == self._head or len(heads) == 1 else ", whose errors have added up to most"
        until = f", last {_MOST_SAMPLES:,} samples" if pair and pair[0].decimated else ""
        verdict = "" if found is None else "; the newest band leaves out 0" if found.excludes_zero else "; the newest band holds 0"
        figure = delta_bias_figure(found, head, why_empty="No standard error is known for this head.")
        return {
            "delta-bias": {"figure": in_window(figure, self.lens.window, measured=True)},
            "delta-bias-of": {"children": f"{chosen.key.module}, {head}{why}{until}{verdict}"},
        }

    def table(self) -> Iterator[str]:
        """Yield the samples that are drawn with their z-scores, all of them, as CSV."""
        heads, _ = self._heads()
        chosen = [self._chosen(heads)] if heads else []
        both = [one for each in chosen for one in (each, *self._scores(each))]
        return points_table(self.store, self.run, both, self.lens.window)

    def _heads(self) -> tuple[list[Series], list[str]]:
        """Return the series of the heads of the layer that is shown, and all layers that have them."""
        everywhere = self.store.series(self.run.id, signal=BIAS)
        layers = list(dict.fromkeys(one.key.module for one in everywhere))
        shown = next(iter(related(self._module, layers)), None)
        return [one for one in everywhere if one.key.module == shown], layers

    def _chosen(self, heads: Sequence[Series]) -> Series:
        return next((one for one in heads if one.key.head == self._head), None) or self._worst(heads)

    def _scores(self, bias: Series) -> list[Series]:
        scores = self.store.series(self.run.id, signal=SCORE, module=bias.key.module)
        return [one for one in scores if (one.key.head, one.key.rank) == (bias.key.head, bias.key.rank)]

    def _worst(self, heads: Sequence[Series]) -> Series:
        keys = {SeriesKey(SUM, one.key.module, one.key.head, one.key.rank): one for one in heads}
        sums = self.store.newest([self.run.id], list(keys)).get(self.run.id, {})
        known = [key for key in keys if sums.get(key) == sums.get(key) and key in sums]
        return keys[max(known, key=lambda key: abs(sums[key]))] if known else heads[0]

    def _last_samples(self, series: Sequence[Series]) -> list[SeriesData]:
        """Return every point of some series in the window; of long ones the last ones, all of them, marked as decimated.

        Series that are decimated each for itself keep points at different steps, and could not be paired.
        """
        found = self.store.read(series, start=self.lens.start, stop=self.lens.stop, max_points=_MOST_SAMPLES)
        if not any(data.decimated for data in found):
            return found
        steps = sorted({int(step) for data in found for step in data.steps})
        close = min(after - before for before, after in pairwise(steps))
        recent = self.store.read(series, start=steps[-1] - close * _MOST_SAMPLES, stop=self.lens.stop)
        return [SeriesData(data.key, data.segments, data.steps, data.values, decimated=True) for data in recent]
