"""The spectrum of the chosen layer's weight: over time, and at the chosen step."""

from ...storage.base import Store
from ...storage.records import Run
from ...storage.results import StepHistogram
from ..figures.spectrum import spectrum_at_figure, spectrum_figure
from ..figures.style import text
from ..live import Updates
from ..missing import not_measured
from ..names import related
from ..reading import MAX_HISTOGRAMS, histogram_grid
from ..signals import SPECTRUM
from .paced import PacedSection


class Spectrum(PacedSection):
    """Both pictures of one layer's spectrum.

    Args:
        step: The chosen step: the last sample up to it is shown, or the first after it; the newest where None.
    """

    def __init__(self, store: Store, run: Run, module: str, step: int | None) -> None:
        super().__init__(store, run)
        self._module, self._step = module, step

    def make(self) -> Updates:
        """Return both figures."""
        layers = list(dict.fromkeys(one.key.module for one in self.store.series(self.run.id, signal=SPECTRUM)))
        shown = next(iter(related(self._module, layers)), "")
        found = self.store.histograms(self.run.id, SPECTRUM, shown, limit=MAX_HISTOGRAMS) if shown else []
        found = [one for one in found if sum(one.histogram.counts)]
        if layers and not shown:
            said = f"Not measured for {text(self._module)}.<br>It is for {len(layers)} layers, such as {text(layers[0])}."
        else:
            said = not_measured(SPECTRUM)
        grid = histogram_grid(found)
        ends = (found[-1].histogram.low, found[-1].histogram.high) if found else (-3.0, 0.0)
        at = self._at(shown, found)
        first, chosen = (found[0].histogram, at.histogram) if at is not None else (None, None)
        where = f"{shown}, step {at.step:,}" if at is not None else ""
        return {
            "spectrum": {"figure": spectrum_figure(grid, *ends, why_empty=said)},
            "spectrum-of": {"children": shown},
            "spectrum-at": {"figure": spectrum_at_figure(first, chosen, why_empty=said)},
            "spectrum-at-of": {"children": where},
        }

    def _at(self, shown: str, found: list[StepHistogram]) -> StepHistogram | None:
        if not found or self._step is None:
            return found[-1] if found else None
        before = [one for one in found if one.step <= self._step]
        # What was left out of the picture over time may lie nearer to the step.
        start = before[-1].step if before else None
        near = self.store.histograms(self.run.id, SPECTRUM, shown, start=start, stop=self._step + 1) if before else []
        near = [one for one in near if sum(one.histogram.counts)]
        return near[-1] if near else found[0]
