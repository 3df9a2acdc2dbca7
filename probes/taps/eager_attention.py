"""Shows the attention that Hugging Face models write out themselves (``attn_implementation="eager"``): no SDPA is called there.

Each of their modeling files has a function ``eager_attention_forward``, which its attention modules look up by that name whenever
they run. While a watched root runs its forward pass on a sampled step, the name stands for one of ours, which calls theirs. It is
found through the modules of the watched model, so that nothing is imported here.

Seen are the calls of this thread. Not seen are logits with a soft cap and learned sinks: what is recomputed would be another
softmax, and the shift invariance of the residual does not hold. Nor is GPT-2's ``reorder_and_upcast_attn``, a way of its own.
"""

import functools
import inspect
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

_NAME = "eager_attention_forward"
_MARK = "_shown_by_foreshock"
_FIRST = ("module", "query", "key", "value", "attention_mask")
# Arguments, or attributes of the module, by which a softmax is another one than that of scores and a mask.
_ANOTHER_SOFTMAX = ("softcap", "s_aux", "sinks")


@dataclass(frozen=True, slots=True)
class EagerCall:
    """A call of an eager attention function, which has returned.

    Attributes:
        module: the attention module, first of its arguments.
        arguments: all of them, by name.
        result: what it returned.
    """

    module: nn.Module
    arguments: Mapping[str, Any]
    result: Any

    @property
    def is_softmax_attention(self) -> bool:
        """Whether it is the softmax of scores and a mask, and nothing besides."""
        others = (value for name in _ANOTHER_SOFTMAX for value in (self.arguments.get(name), getattr(self.module, name, None)))
        return all(value is None for value in others)

    @property
    def inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        """q (B, H, T, D), k and v (B, G, S, D)."""
        return self.arguments["query"], self.arguments["key"], self.arguments["value"]

    @property
    def output_BTHD(self) -> Tensor:
        """The output, its heads after its tokens."""
        output: Tensor = self.result[0]
        return output

    @property
    def options(self) -> dict[str, Any]:
        """Mask and scale, as ``F.scaled_dot_product_attention`` names them."""
        mask, bias = self.arguments.get("attention_mask"), self.arguments.get("position_bias")
        if bias is not None:
            mask = bias.detach() if mask is None else bias.detach() + mask
        return {"attn_mask": mask, "scale": self.arguments.get("scaling")}


class Watcher(Protocol):
    """Is shown eager calls."""

    def wants(self, key: Tensor) -> bool:
        """Tell whether the call that is about to take these keys is to be shown."""

    def saw(self, call: EagerCall) -> None:
        """Take it. Must not raise."""


class _Watchers(threading.local):
    def __init__(self) -> None:
        self.now: list[Watcher] = []


_watchers = _Watchers()


class EagerAttention:
    """The eager attention functions of a model's modeling files.

    Args:
        modules: of the model.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        forwards = {inspect.unwrap(kind.forward) for kind in {type(module) for module in modules}}
        every = {id(names): names for names in (getattr(forward, "__globals__", {}) for forward in forwards)}
        self._files = [names for names in every.values() if _is_known(names.get(_NAME))]
        self._replaced: list[tuple[dict[str, Any], Any, Any]] = []

    def enter(self, watcher: Watcher) -> None:
        """Show calls to ``watcher`` from now on."""
        _watchers.now.append(watcher)
        for names in self._files:
            theirs = names[_NAME]
            if not hasattr(theirs, _MARK):  # another watched model's forward pass runs around this one
                ours = _shown(theirs)
                names[_NAME] = ours
                self._replaced.append((names, ours, theirs))

    def leave(self, watcher: Watcher) -> None:
        """Show nothing to ``watcher`` any more, and put back what was there."""
        if watcher in _watchers.now:
            _watchers.now.remove(watcher)
        while self._replaced:
            names, ours, theirs = self._replaced.pop()
            if names.get(_NAME) is ours:  # else somebody has put another one there meanwhile
                names[_NAME] = theirs


def _is_known(function: object) -> bool:
    if not callable(function):
        return False
    try:
        return tuple(inspect.signature(function).parameters)[: len(_FIRST)] == _FIRST
    except (TypeError, ValueError):
        return False


def _shown(function: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(function)

    @functools.wraps(function)
    def attend(module: nn.Module, query: Tensor, key: Tensor, *args: Any, **given: Any) -> Any:
        watchers = [] if torch.compiler.is_compiling() else [each for each in _watchers.now if each.wants(key)]
        if not watchers:
            return function(module, query, key, *args, **given)
        # A node of its own for the keys: its gradient is this call's alone, whatever else the keys are used for.
        key = key.view_as(key)
        result = function(module, query, key, *args, **given)
        bound = dict(signature.bind(module, query, key, *args, **given).arguments)  # which binds: it has just been called so
        for name, parameter in signature.parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:
                bound |= bound.pop(name, {})
        for each in watchers:
            each.saw(EagerCall(module, bound, result))
        return result

    setattr(attend, _MARK, True)
    return attend
