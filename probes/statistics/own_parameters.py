"""Which module a parameter belongs to, and what the parameters of each module add up to."""

import functools
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from ..model import WatchedModel


class OwnParameters:
    """The trainable parameters of a model and the module each is an own parameter of; a shared one belongs to the first."""

    def __init__(self, model: WatchedModel) -> None:
        self._modules = [(name, module) for name, module in model.named_modules() if module._parameters]
        self._names: dict[int, str] = {}

    def owners(self) -> dict[nn.Parameter, str]:
        """Return the parameters that are trainable now, with the names of their modules."""
        owners: dict[nn.Parameter, str] = {}
        for name, module in self._modules:
            for parameter in module._parameters.values():
                if parameter is not None and parameter.requires_grad:
                    owners.setdefault(parameter, name)
        self._names = {id(parameter): name for parameter, name in owners.items()}
        return owners

    def names_of(self, parameters: Iterable[nn.Parameter]) -> list[str]:
        """Return the names of the modules of parameters that were among ``owners`` when it was last asked."""
        return [self._names[id(parameter)] for parameter in parameters]


class ModuleSums:
    """Adds up over the parameters of each module what was measured of every parameter."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._values: list[Tensor] = []

    def add(self, names: list[str], values: Tensor) -> None:
        """Take ``values`` (statistics, parameters) of parameters that belong to the modules ``names``."""
        self._names.extend(names)
        self._values.append(values)

    def take(self) -> Iterator[tuple[tuple[str, ...], Tensor]]:
        """Yield, if anything was added, the modules and their sums (statistics, modules), and begin anew."""
        if self._values:
            device = self._values[0].device
            values = torch.cat([each.to(device, non_blocking=True) for each in self._values], 1)
            modules, places = _places(tuple(self._names), device)
            # One more column of zeros for modules with fewer parameters than others: gathering is deterministic, index_add is not.
            padded = torch.cat([values, values.new_zeros(len(values), 1)], 1)
            yield modules, padded[:, places].sum(2)
        self.clear()

    def clear(self) -> None:
        """Forget what was added."""
        self._names, self._values = [], []


@functools.lru_cache(maxsize=64)
def _places(names: tuple[str, ...], device: torch.device) -> tuple[tuple[str, ...], Tensor]:
    """Return the distinct names, and for each the places it stands at, filled up with ``len(names)`` to (modules, most)."""
    places: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        places.setdefault(name, []).append(place)
    most = max(map(len, places.values()))
    rows = [found + [len(names)] * (most - len(found)) for found in places.values()]
    return tuple(places), torch.tensor(rows, dtype=torch.int64, device="cpu").to(device)
