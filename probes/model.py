"""What is watched: one model or several, with readable module names, and the linear layers in them."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from .layouts import Part, parts, role
from .taps.compiled import has_staying_hook

if TYPE_CHECKING:
    from .distributed.company import Meeting

Compiled = Literal["taps", "eager", "weights"]
"""How compiled parts are looked into: through taps in their graphs, on sampled steps that run without compiling, or not at all."""


@dataclass(frozen=True, slots=True)
class LinearLayer:
    """A linear map ``y = x W^T`` inside the model: a whole layer, or the q, k or v rows of a fused projection.

    A two-dimensional convolution is one too: its tokens are the patches it looks at, in and out its channels times the kernel's
    places and its output channels.

    Attributes:
        name: module path, with ``.q``, ``.k`` or ``.v`` for a part of a fused projection.
        module: the module whose input is the layer's input.
        transposed: the module stores (in, out), as GPT-2's Conv1D does.
        part: which of q, k and v, if only one.
        first, size: of a part, its first output and how many they are.
        heads: of a part of a projection that lies (q, k, v) head by head, how many heads; 0 elsewhere.
        parameter: name of the module's parameter that W is stored in.
    """

    name: str
    module: nn.Module
    transposed: bool
    part: Part
    first: int = 0
    size: int = 0
    heads: int = 0
    parameter: str = "weight"

    @property
    def role(self) -> Part:
        """Which of q, k and v it makes, by its place in a fused projection or by its name; '' for none."""
        return self.part or role(self.name.rpartition(".")[2])

    @property
    def parent(self) -> str:
        """Name of the module that its own module is a part of."""
        path = self.name.removesuffix(f".{self.part}") if self.part else self.name
        return path.rpartition(".")[0]

    def weight(self) -> Tensor:
        """Return W as (out, in): a view of the live parameter, detached, nothing copied.

        Only the parts of a projection that lies head by head have no such view: these are copied, see ``view``.
        """
        w = self.view()
        return w.flatten(0, 1) if w.dim() == 3 else w

    def view(self) -> Tensor:
        """Return W as (out, in), or as (heads, out / heads, in) where it lies head by head; never a copy."""
        return self.view_of(self.stored())

    def stored(self) -> Tensor:
        """Return the parameter that W is, or is a part of."""
        stored = getattr(self.module, self.parameter)
        assert isinstance(stored, Tensor)
        return stored

    def view_of(self, same: Tensor) -> Tensor:
        """Return of a tensor of the parameter's shape, its gradient say, what ``view`` returns of the parameter."""
        w = same.detach()
        if w.dim() == 4:
            # As it lies in memory: (out, height, width, in) under channels_last.
            return w.permute(0, 2, 3, 1).flatten(1) if is_channels_last(self.stored()) else w.flatten(1)
        if self.transposed:
            w = w.t()
        if self.heads:
            by_head: Tensor = w.unflatten(0, (self.heads, 3, -1))
            return by_head[:, "qkv".index(self.part)]
        return w[self.first : self.first + self.size] if self.part else w

    def own(self, outputs: Tensor) -> Tensor:
        """Return the layer's columns of its module's outputs (n, all), or of anything that lies as they do."""
        if self.heads:
            by_head: Tensor = outputs.unflatten(1, (self.heads, 3, -1))
            return by_head[:, :, "qkv".index(self.part)].flatten(1)
        return outputs[:, self.first : self.first + self.size] if self.part else outputs


def is_channels_last(weight: Tensor) -> bool:
    """Tell whether a convolution's weight (out, in, height, width) lies with its input channels last."""
    return not weight.is_contiguous() and weight.is_contiguous(memory_format=torch.channels_last)


class WatchedModel:
    """One or several root modules under one naming.

    Args:
        model: a module, or a mapping of names to modules (then names get ``<key>.`` in front). A ``ModuleDict`` counts as a
            mapping; its own forward is never called.
        compiled: how parts inside ``torch.compile`` are looked into.

    Raises:
        TypeError: something else was given.
    """

    def __init__(self, model: nn.Module | Mapping[str, nn.Module], compiled: Compiled = "taps") -> None:
        self.compiled = compiled
        self.runs_eagerly = False
        """Whether compiled parts run without compiling now, as ``compiled="eager"`` has it on sampled steps."""
        self._being_armed = False
        self._armed_among: set[nn.Module] | None = None
        several = model.items() if isinstance(model, (nn.ModuleDict, Mapping)) else None
        given: dict[str, object] = {"": model} if several is None else {f"{name}.": part for name, part in several}
        self.meeting: Meeting | None = None
        """In a distributed job, where ranks meet before a collective of ours."""
        self.roots: dict[str, nn.Module] = {}
        for prefix, part in given.items():
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
        return bool(self.compiled_modules())

    @contextlib.contextmanager
    def being_armed(self) -> Iterator[None]:
        """While probes are armed, look only once which modules are compiled: every probe asks."""
        self._being_armed = True
        try:
            yield
        finally:
            self._being_armed, self._armed_among = False, None

    def compiled_modules(self) -> set[nn.Module]:
        """Return the modules that run inside ``torch.compile`` now: hooks on them must neither come nor go."""
        if self.runs_eagerly:
            return set()
        if not self._being_armed:
            return self._look_for_compiled_modules()
        if self._armed_among is None:
            self._armed_among = self._look_for_compiled_modules()
        return self._armed_among

    def _look_for_compiled_modules(self) -> set[nn.Module]:
        every = [module for root in self.roots.values() for module in root.modules()]
        inside: set[nn.Module] = set()
        for module in every:
            if module not in inside and (hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None):
                inside.update(module.modules())
        # Met by a compiler outside of these: the model is called in a compiled function of the user's.
        return set(every) if any(module not in inside and has_staying_hook(module) for module in every) else inside

    def device_to_tap(self, module: nn.Module) -> torch.device | None:
        """Return where the input of a matrix product is to be had from inside a compiled graph, None if it is not to be."""
        if self.compiled != "taps" or not isinstance(weight := getattr(module, "weight", None), Tensor):
            return None
        return weight.device if _linear_kind(module) is not None else None

    def linear_layers(self) -> list[LinearLayer]:
        """Return every ``nn.Linear``, Conv1D and ``nn.Conv2d``, fused q-k-v projections split in three, tied weights once.

        Left out: weights that are no floating-point matrix (quantised ones); convolutions in groups, whose weight is several
        small maps and not one; and parametrised weights: reading these computes them anew, and ``spectral_norm`` takes a step
        of its own power iteration every time.
        """
        layers: list[LinearLayer] = []
        seen: set[int] = set()
        modules = dict(self.named_modules())
        for name, module in self.named_modules():
            kind = _linear_kind(module)
            if kind is None:
                continue
            weight = module.weight
            if not _is_map(weight, 4 if kind == "conv2d" else 2) or id(weight) in seen:
                continue
            seen.add(id(weight))
            if kind == "conv2d":
                layers.append(LinearLayer(name, module, False, ""))
                continue
            transposed = kind == "conv1d"
            out, into = (weight.shape[1], weight.shape[0]) if transposed else (weight.shape[0], weight.shape[1])
            parent, _, own = name.rpartition(".")
            for part, first, size, heads in parts(own, modules.get(parent), out, into):
                layers.append(LinearLayer(f"{name}.{part}" if part else name, module, transposed, part, first, size, heads))
        return layers

    def weight_matrices(self) -> list[LinearLayer]:
        """Return the linear layers, the matrices of recurrent cells (``rnn.weight_hh_l0``) and the tables of embeddings.

        For probes that read weights and nothing else. What is left out of ``linear_layers`` is left out here too, and so are
        embeddings with sparse gradients; a table that is a layer's weight too is that layer.
        """
        layers = self.linear_layers()
        seen = {id(layer.stored()) for layer in layers}
        for name, module in self.named_modules():
            if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
                matrices = [each for each, _ in module.named_parameters(recurse=False) if each.startswith("weight_")]
                found = [LinearLayer(f"{name}.{each}".lstrip("."), module, False, "", parameter=each) for each in matrices]
            elif isinstance(module, nn.Embedding) and not module.sparse and not is_parametrized(module, "weight"):
                found = [LinearLayer(name, module, False, "")]
            else:
                continue
            for layer in found:
                weight = getattr(module, layer.parameter)
                if _is_map(weight, 2) and id(weight) not in seen:
                    seen.add(id(weight))
                    layers.append(layer)
        return layers


def _linear_kind(module: nn.Module) -> Literal["linear", "conv1d", "conv2d"] | None:
    if is_parametrized(module, "weight"):
        return None
    if isinstance(module, nn.Linear):
        return "linear"
    if isinstance(module, nn.Conv2d):
        return "conv2d" if module.groups == 1 else None
    # GPT-2's Conv1D lives in transformers, which need not be installed: known by its class name and its (in, out) weight.
    weight = getattr(module, "weight", None)
    if type(module).__name__ == "Conv1D" and isinstance(weight, Tensor) and weight.dim() == 2 and hasattr(module, "nf"):
        return "conv1d"
    return None


def _is_map(weight: object, dimensions: int) -> TypeGuard[Tensor]:
    if not isinstance(weight, Tensor) or isinstance(weight, nn.UninitializedParameter):
        return False
    return weight.dim() == dimensions and weight.is_floating_point() and weight.numel() > 0


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
