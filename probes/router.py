"""How evenly the routers of a mixture of experts spread their tokens.

Trouble it reveals: a router that sends ever more tokens to ever fewer experts. The others stop learning, the busy ones overflow
their capacity and drop tokens, and the loss stalls or diverges.

Formula: with ``p_e`` the share of choices that fall on expert e, over at most 4,096 tokens that choose k experts each,
``load_entropy = -sum_e p_e ln p_e`` in nat (ln of the number of experts is an even load, 0 is one expert for all) and
``max_load = max_e p_e``.

What counts as a router: a module, or a linear layer in it, that is called ``router`` or ``gate`` and gives out one number for each
expert. How many experts there are is told by a list of modules beside it or by an attribute such as ``num_experts``; where neither
is there, as beside the ``gate`` of a gated feed-forward layer, nothing is a router. Where it gives out the numbers of the experts
chosen, these are counted; else the k largest of what it gives out, k from an attribute such as ``top_k``, or 1.

Cost: a top-k over a copy of 4,096 tokens' router outputs, per router.

Source: Switch Transformers (arXiv 2101.03961).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from ..storage.records import SeriesKey
from .base import Block, Probe, Sums
from .layouts import number_of
from .model import WatchedModel
from .statistics.not_applicable import not_applicable
from .statistics.tokens import scattered_rows
from .taps.modules import OutputTap, tensors_in

TOKENS = 4096
_NAMES = frozenset({"router", "gate", "gating", "gate_network"})
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "num_routed_experts", "n_experts", "moe_num_experts")
_CHOICES = ("top_k", "topk", "num_experts_per_tok", "num_experts_per_token", "num_selected_experts", "moe_top_k", "k")


@dataclass(frozen=True, slots=True)
class Router:
    """One router: the series' name, how many experts it chooses from, and how many a token gets."""

    name: str
    experts: int
    choices: int


class RouterProbe(Probe):
    """Entropy of the load over the experts, and the share of the busiest one, for every router."""

    name = "router"
    presets = frozenset({"light", "default", "full"})
    signals = ("router.load_entropy", "router.max_load")

    def __init__(self) -> None:
        super().__init__()
        self._model: WatchedModel | None = None
        self._routers: dict[nn.Module, Router] = {}
        self._tap = OutputTap()
        self._loads: dict[Router, Tensor] = {}

    @override
    def attach(self, model: WatchedModel) -> None:
        self._model, self._routers = model, routers_in(model)

    @override
    def arm(self, step: int) -> None:
        if self._model is not None:
            self._tap.place_on_any(self._routers.keys() - self._model.compiled_modules(), self._on_output, self.guard)

    @override
    @torch.no_grad()
    def collect(self, step: int) -> Iterator[Block]:
        by_size: dict[int, list[Router]] = {}
        for router in self._loads:
            by_size.setdefault(router.experts, []).append(router)
        for routers in by_size.values():
            keys = tuple(SeriesKey(f"router.{name}", router.name) for name in ("load_entropy", "max_load") for router in routers)
            yield Sums(keys, torch.stack([self._loads[router] for router in routers]), _finished)

    @override
    def disarm(self) -> None:
        self._tap.remove()
        self._loads.clear()

    @torch.no_grad()
    def _on_output(self, module: nn.Module, output: Any) -> None:
        router = self._routers[module]
        chosen = _chosen(router, tensors_in(output))
        if chosen is not None:
            numbers, spoiled = chosen
            experts = torch.arange(router.experts, device=numbers.device)
            # Compared, not scattered: deterministic on every device, and no wait.
            self._loads[router] = (numbers[..., None] == experts).sum((0, 1), dtype=torch.float32) + spoiled


def _chosen(router: Router, outputs: list[Tensor]) -> tuple[Tensor, Tensor] | None:
    """Return the experts' numbers chosen by some tokens, (n, k), and 0, or NaN where the router's outputs are not finite."""
    for told in outputs:
        whole = not (told.is_floating_point() or told.is_complex() or told.dtype == torch.bool)
        if whole and told.dim() > 1 and told.shape[-1] == router.choices:
            return _some(told), torch.zeros((), dtype=torch.float32, device=told.device)
    for scores in outputs:
        if scores.is_floating_point() and scores.dim() > 0 and scores.shape[-1] == router.experts and scores.numel() > 0:
            some = _some(scores)
            return some.topk(router.choices, dim=1).indices, some.float().sum() * 0.0
    return None


def _some(x: Tensor) -> Tensor:
    x = x.detach().reshape(-1, x.shape[-1])
    rows = scattered_rows(x.shape[0], TOKENS, x.device)
    return x if rows is None else x.index_select(0, rows)


def _finished(loads: Tensor) -> Tensor:
    """Return entropy and largest share of every router from its loads (routers, experts)."""
    total = loads.sum(1)
    shares = loads / total[:, None]
    values = torch.stack([torch.special.entr(shares).sum(1), shares.amax(1)]).float()
    return torch.where(total == 0, not_applicable(values.device), values).flatten()


def routers_in(model: WatchedModel) -> dict[nn.Module, Router]:
    """Return the model's routers."""
    modules = dict(model.named_modules())
    found: dict[nn.Module, Router] = {}
    for name, module in modules.items():
        parent, _, own = name.rpartition(".")
        above, _, parents_own = parent.rpartition(".")
        if own.lower() in _NAMES:
            holders = [module, modules.get(parent)]
        elif isinstance(module, nn.Linear) and parents_own.lower() in _NAMES:
            # Switch Transformers: router.classifier
            holders, name = [module, modules.get(parent), modules.get(above)], parent
        else:
            continue
        experts = next((number for holder in holders if (number := _experts_beside(holder))), 0)
        weight = getattr(module, "weight", None)
        if experts < 2 or not isinstance(weight, Tensor) or weight.dim() != 2 or weight.shape[0] != experts:
            continue
        choices = next((number for holder in holders if (number := number_of(holder, _CHOICES))), 1)
        found[module] = Router(name, experts, min(choices, experts))
    return found


def _experts_beside(holder: nn.Module | None) -> int:
    """Return how many experts a module has: as a list of modules, or told by an attribute of its own or of its experts."""
    if holder is None:
        return 0
    lists: Mapping[str, nn.Module] = {name.lower(): child for name, child in holder.named_children()}
    for name, child in lists.items():
        if "expert" in name and "shared" not in name:
            number = len(child) if isinstance(child, (nn.ModuleList, nn.ModuleDict)) else number_of(child, _EXPERTS)
            if number:
                return number
    return number_of(holder, _EXPERTS)
