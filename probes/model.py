"""What is watched: one model or several, with readable module names, and the linear layers in them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, TypeGuard

from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

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
            wrappers = _wrappers_around(root)
            for name, module in root.named_modules():
                if module not in seen:
                    seen.add(module)
                    yield (prefix + _readable(name, wrappers)).rstrip("."), module

    def parameters(self) -> Iterator[nn.Parameter]:
        """Yield each distinct trainable parameter once."""
        seen: set[int] = set()
        for root in self.roots.values():
            for parameter in root.parameters():
                if parameter.requires_grad and id(parameter) not in seen:
                    seen.add(id(parameter))
                    yield parameter

    def is_compiled(self) -> bool:
        """Tell whether any part runs inside ``torch.compile`` now; hooks and modes there would become part of its graph."""
        return any(
            hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None
            for root in self.roots.values()
            for module in root.modules()
        )

    def linear_layers(self) -> list[LinearLayer]:
        """Return every ``nn.Linear`` and Conv1D, fused q-k-v projections split in three, tied weights once.

        Left out: weights that are no floating-point matrix (quantised ones), and parametrised ones: reading these computes
        them anew, and ``spectral_norm`` takes a step of its own power iteration every time.
        """
        layers: list[LinearLayer] = []
        seen: set[int] = set()
        for name, module in self.named_modules():
            kind = _linear_kind(module)
            if kind is None:
                continue
            weight = module.weight
            if not _is_matrix(weight) or id(weight) in seen:
                continue
            seen.add(id(weight))
            transposed = kind == "conv1d"
            out, into = (weight.shape[1], weight.shape[0]) if transposed else (weight.shape[0], weight.shape[1])
            parts: tuple[Part, ...] = ("q", "k", "v") if _is_fused_qkv(name, out, into) else ("",)
            layers.extend(LinearLayer(f"{name}.{part}" if part else name, module, transposed, part) for part in parts)
        return layers


def _linear_kind(module: nn.Module) -> Literal["linear", "conv1d"] | None:
    if is_parametrized(module, "weight"):
        return None
    if isinstance(module, nn.Linear):
        return "linear"
    # GPT-2's Conv1D lives in transformers, which need not be installed: known by its class name and its (in, out) weight.
    weight = getattr(module, "weight", None)
    if type(module).__name__ == "Conv1D" and isinstance(weight, Tensor) and weight.dim() == 2 and hasattr(module, "nf"):
        return "conv1d"
    return None


def _is_matrix(weight: object) -> TypeGuard[Tensor]:
    if not isinstance(weight, Tensor) or isinstance(weight, nn.UninitializedParameter):
        return False
    return weight.dim() == 2 and weight.is_floating_point() and weight.numel() > 0


def _is_fused_qkv(name: str, out: int, into: int) -> bool:
    return name.rpartition(".")[2].lower() in _FUSED_QKV_NAMES and out == 3 * into


# What torch.compile, FSDP and checkpoint wrappers put into names; DDP's `module` may also be a name of the user's own.
_WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})


def _wrappers_around(root: nn.Module) -> int:
    """Count the wrappers one inside the other that the whole model stands in: each has one child, under a wrapper's name."""
    depth = 0
    while len(children := dict(root.named_children())) == 1 and (name := next(iter(children))) in _WRAPPERS | {"module"}:
        root = children[name]
        depth += 1
    return depth


def _readable(name: str, wrappers: int) -> str:
    """Drop the segments of wrappers: the first ``wrappers``, and deeper down those that are no names of a user's."""
    return ".".join(segment for segment in name.split(".")[wrappers:] if segment not in _WRAPPERS)
