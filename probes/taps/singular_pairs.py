"""Follows the leading singular pairs of a model's weights from sample to sample, once for all probes that ask for them."""

from collections.abc import Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ..model import LinearLayer, WatchedModel
from ..statistics.precision import without_autocast
from ..statistics.subspace import LeadingPairs, leading_pairs, starting_basis

# Passes over the weight at the first samples, from a random start and while weights move fastest, and from then on.
ITERATIONS_COLD = (16, *[4] * 9)
ITERATIONS_WARM = 3


class SingularPairs:
    """The pairs of some layers, as they were at the last sample. Memory: 2 * in floats a layer, and out more within a sample."""

    def __init__(self) -> None:
        self._bases: dict[str, Tensor] = {}
        self._samples: dict[str, int] = {}
        self._step: int | None = None
        self._measured: dict[tuple[str, ...], LeadingPairs] = {}

    @staticmethod
    def of(model: WatchedModel) -> "SingularPairs":
        """Return the one that serves all probes of a model."""
        found = _PAIRS.get(model)
        if found is None:
            found = _PAIRS[model] = SingularPairs()
        return found

    @torch.no_grad()
    def measure(self, step: int, layers: Sequence[LinearLayer]) -> LeadingPairs:
        """Return the pairs of whole weights on one device as they are before this step; measured when first asked for."""
        self._begin(step)
        names = tuple(layer.name for layer in layers)
        if names not in self._measured:
            weights = [layer.view() for layer in layers]
            bases = [self.basis(*each) for each in zip(layers, weights, strict=True)]
            with without_autocast(weights[0].device):
                pairs = leading_pairs(weights, bases, self.iterations(names))
            self.keep(names, pairs)
            self._measured[names] = pairs
        return self._measured[names]

    def share(self, step: int, names: Sequence[str], pairs: LeadingPairs) -> None:
        """Take the pairs of sharded layers, which ranks have measured together before this step."""
        self._begin(step)
        self.keep(names, pairs)
        self._measured[tuple(names)] = pairs

    def largest(self, step: int) -> dict[str, Tensor]:
        """Return sigma_1, of shape (), of each layer measured before this step; NaN where ranks could not measure together."""
        if step != self._step:
            return {}
        return {
            name: sigma if pairs.valid is None else torch.where(pairs.valid, sigma, torch.nan)
            for names, pairs in self._measured.items()
            for name, sigma in zip(names, pairs.sigma[:, 0].unbind(), strict=True)
        }

    def _begin(self, step: int) -> None:
        if step != self._step:
            self.release()
            self._step = step

    def iterations(self, names: Sequence[str]) -> int:
        """Return how many passes these layers need: the more, the fewer samples there were of any of them."""
        samples = min(self._samples.get(name, 0) for name in names)
        return ITERATIONS_COLD[samples] if samples < len(ITERATIONS_COLD) else ITERATIONS_WARM

    def basis(self, layer: LinearLayer, weight: Tensor) -> Tensor:
        """Return where to start from: the pair of the last sample, or a random one that depends on the layer's name only."""
        before = self._bases.get(layer.name)
        if before is None or before.device != weight.device or before.shape[1] != weight.shape[-1]:
            return starting_basis(layer.name, weight.shape[-1], weight.device)
        return before

    def keep(self, names: Sequence[str], pairs: LeadingPairs) -> None:
        """Start from these the next time."""
        self._bases |= dict(zip(names, pairs.bases, strict=True))
        self._samples |= {name: self._samples.get(name, 0) + 1 for name in names}

    def samples_of(self, name: str) -> int:
        """Return how many samples there were of a layer."""
        return self._samples.get(name, 0)

    def release(self) -> None:
        """Let go of what was measured, but for where to start from."""
        self._step = None
        self._measured.clear()

    def forget(self) -> None:
        """Begin anew."""
        self.release()
        self._bases.clear()
        self._samples.clear()


# Like the taps of attention: goes with its model.
_PAIRS: WeakKeyDictionary[WatchedModel, SingularPairs] = WeakKeyDictionary()
