"""The spectrum of the chosen layer's weight: over time, and at the chosen step."""

from collections.abc import Iterator

from ...storage.base import Store
from ...storage.records import Run
from ...storage.results import StepHistogram
from ..figures.adjust import in_window
from ..figures.spectrum import spectrum_at_figure, spectrum_figure
from ..figures.style import text
from ..missing import not_measured
from ..names import related
from ..reading import MAX_HISTOGRAMS, histogram_grid
from ..signals import SPECTRUM
from ..tables import histograms_table
from ..updates import Updates
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
        shown, layers = self._measured()
        between = {"start": self.lens.start, "stop": self.lens.stop}
        found = self._read(shown, **between, limit=MAX_HISTOGRAMS)
        if layers and not shown:
            said = f"Not measured for {text(self._module)}.<br>It is for {len(layers)} layers, such as {text(layers[0])}."
        else:
            said = not_measured(SPECTRUM)
        ends = (found[-1].histogram.low, found[-1].histogram.high) if found else (-3.0, 0.0)
        over_time = spectrum_figure(histogram_grid(found), *ends, why_empty=said)
        first, at = next(iter(self._read(shown, limit=2)), None), self._at(shown)
        chosen = at.histogram if at is not None else None
        where = f"{shown}, step {at.step:,}" if at is not None else ""
        return {
            "spectrum": {"figure": in_window(over_time, self.lens.window, measured=first is not None)},
            "spectrum-of": {"children": shown},
            "spectrum-at": {"figure": spectrum_at_figure(first.histogram if first else None, chosen, why_empty=said)},
            "spectrum-at-of": {"children": where},
        }

    def table(self) -> Iterator[str]:
        """Yield the histograms that are drawn, all of them, as CSV."""
        return histograms_table(self.store, self.run, SPECTRUM, self._measured()[0], self.lens.window)

    def _measured(self) -> tuple[str, list[str]]:
        """Return the layer that is drawn, empty where there is none, and all layers that have a spectrum."""
        layers = list(dict.fromkeys(one.key.module for one in self.store.series(self.run.id, signal=SPECTRUM)))
        return next(iter(related(self._module, layers)), ""), layers

    def _read(self, shown: str, **place: int | None) -> list[StepHistogram]:
        found = self.store.histograms(self.run.id, SPECTRUM, shown, **place) if shown else []
        return [one for one in found if sum(one.histogram.counts)]

    def _at(self, shown: str) -> StepHistogram | None:
        """Return the last sample up to the chosen step, or the first after it; the newest where no step is chosen."""
        if self._step is None:
            return next(reversed(self._read(shown, limit=2)), None)
        coarse = self._read(shown, stop=self._step + 1, limit=MAX_HISTOGRAMS)
        if not coarse:
            return next(iter(self._read(shown, start=self._step, limit=2)), None)
        return coarse[-1]
