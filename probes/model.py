"""What is watched: one model or several, with readable module names, and the linear layers in them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

Part = Literal["", "q", "k", "v"]

# Projections whose rows are q, k and v one after the other. GPT-NeoX's `query_key_value` interleaves them head by head and
# is left whole: cutting it in thirds would name the wrong rows.
_FUSED_QKV_NAMES = frozenset({"c_attn", "qkv", "qkv_proj", "to_qkv", "wqkv", "in_proj"})


@dataclass(frozen=True, slots=True)
class LinearLayer:
    """A linear map ``y = x W^T`` inside the model: a whole layer, or the q, k or v rows of a fused projection.

    Attributes:
        name: module path, with ``.q``, ``.k`` or ``.v`` for a part of a fused projection.
        module: the module whose input is the layer's input.
        transposed: the module stores (in, out), as GPT-2's Conv1D does.
        part: which third of the output rows, if only one.
    """

    name: str
    module: nn.Module
    transposed: bool
    part: Part

    def weight(self) -> Tensor:
        """Return W as (out, in): a view of the live parameter, detached, nothing copied."""
        stored = self.module.weight
        assert isinstance(stored, Tensor)
        w = stored.detach()
        if self.transposed:
            w = w.t()
        if self.part:
            third = w.shape[0] // 3
            start = "qkv".index(self.part) * third
            w = w[start : start + third]
        return w


class WatchedModel:
    """One or several root modules under one naming.

    Args:
        model: a module, or a mapping of names to modules (then names get ``<key>.`` in front). A ``ModuleDict`` counts as a
            mapping; its own forward is never called.

    Raises:
        TypeError: something else was given.
    """

    def __init__(self, model: nn.Module | Mapping[str, nn.Module]) -> None:
        several = model.items() if isinstance(model, (nn.ModuleDict, Mapping)) else None
        parts: dict[str, object] = {"": model} if several is None else {f"{name}.": part for name, part in several}
        self.roots: dict[str, nn.Module] = {}
        for prefix, part in parts.items():
            if not isinstance(part, nn.Module):
                where = f" under {prefix[:-1]!r}" if prefix else ""
                raise TypeError(
                    f"watch() takes a torch.nn.Module, or a dict of names to modules; got {type(part).__name__}{where}. "
                    "Pass the model itself: watch(model, optimizer)."
                )
            self.roots[prefix] = part
        if not self.roots:
            raise TypeError("watch() was given an empty dict of models; pass at least one torch.nn.Module.")

    def named_modules(self) -> Iterator[tuple[str, nn.Module]]:
        """Yield each distinct module once with its readable name ('' is a sole root)."""
        seen: set[nn.Module] = set()
        for prefix, root in self.roots.items():
            for name, module in root.named_modules():
                if module not in seen:
                    seen.add(module)
                    yield _readable(prefix + name).rstrip("."), module

    def parameters(self) -> Iterator[nn.Parameter]:
        """Yield each distinct trainable parameter once."""
        seen: set[int] = set()
        for root in self.roots.values():
            for parameter in root.parameters():
                if parameter.requires_grad and id(parameter) not in seen:
                    seen.add(id(parameter))
                    yield parameter

    def linear_layers(self) -> list[LinearLayer]:
        """Return every ``nn.Linear`` and Conv1D, fused q-k-v projections split in three, tied weights once."""
        layers: list[LinearLayer] = []
        seen: set[int] = set()
        for name, module in self.named_modules():
            kind = _linear_kind(module)
            if kind is None:
                continue
            weight = module.weight
            if not isinstance(weight, Tensor) or id(weight) in seen or isinstance(weight, nn.UninitializedParameter):
                continue
            seen.add(id(weight))
            transposed = kind == "conv1d"
            out, into = (weight.shape[1], weight.shape[0]) if transposed else (weight.shape[0], weight.shape[1])
            parts: tuple[Part, ...] = ("q", "k", "v") if _is_fused_qkv(name, out, into) else ("",)
            layers.extend(LinearLayer(f"{name}.{part}" if part else name, module, transposed, part) for part in parts)
        return layers


def _linear_kind(module: nn.Module) -> Literal["linear", "conv1d"] | None:
    if isinstance(module, nn.Linear):
        return "linear"
    # GPT-2's Conv1D lives in transformers, which need not be installed: known by its class name and its (in, out) weight.
    weight = getattr(module, "weight", None)
    if type(module).__name__ == "Conv1D" and isinstance(weight, Tensor) and weight.dim() == 2 and hasattr(module, "nf"):
        return "conv1d"
    return None


def _is_fused_qkv(name: str, out: int, into: int) -> bool:
    return name.rpartition(".")[2].lower() in _FUSED_QKV_NAMES and out == 3 * into


def _readable(name: str) -> str:
    """Drop the wrapper segments that torch.compile, DDP, FSDP and checkpoint wrappers put into names."""
    hidden = {"_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
    segments = name.split(".")
    # `module` is only a wrapper's segment when it leads; deeper down it may be the user's own name.
    while segments and segments[0] in hidden:
        segments.pop(0)
    return ".".join(s for s in segments if s not in hidden - {"module"})


def device_of(tensors: Iterator[nn.Parameter]) -> torch.device:
    """Return the device of the first tensor, the CPU when there is none."""
    return next((t.device for t in tensors), torch.device("cpu"))
