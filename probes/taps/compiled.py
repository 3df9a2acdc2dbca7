"""Sees into compiled models: hooks that a compiler met stay, and hand over layer inputs from inside its graph.

Hooks that come and go have ``torch.compile`` compile anew each time. So a hook holds nothing of a sampled step; what it calls then
is looked up. Once a compiler met it, it stays in its module until the monitor closes. In front of a matrix product it leaves one
call of the operator ``foreshock::tap`` in the graph, which passes the layer's input on while somebody waits for it. Matrix products
read their input from memory anyway, so no fusion is lost, and the graph's other numbers keep their bits.

Trouble it reveals: none itself; it lets spectral alignment be seen in compiled training.

Cost: four to five microseconds of the host per layer and forward pass, also on steps that are not sampled. Gradients at outputs are
not seen: an operator that alters nothing would have to copy them, and an autograd function that returns a view breaks models that
work in place on it. What is replayed as a CUDA graph runs no Python and is not seen either.
"""

import contextlib
import itertools
import logging
import threading
import weakref
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from typing_extensions import override

log = logging.getLogger("foreshock")

_library = torch.library.Library("foreshock", "FRAGMENT")
# The sink is only said to be written: it keeps compilers from dropping, merging or moving the call.
# Which hook it is for is told by the address of a tensor: a number would be a constant of the graph, and alike blocks of a model
# could not share one.
_library.define("tap(Tensor x, Tensor(a!) sink, Tensor which) -> ()", tags=(torch.Tag.flexible_layout,))

# What is called for a hook, by its address or its identity: only during a sampled step.
_calls: dict[int, Callable[..., None]] = {}
# Numbers of the taps that have hooks a compiler met.
_traced: set[int] = set()
_numbers = itertools.count(1)
_sinks: dict[torch.device, Tensor] = {}
_staying: "weakref.WeakKeyDictionary[nn.Module, list[RemovableHandle]]" = weakref.WeakKeyDictionary()
_told_of_capture = False


def _tap(x: Tensor, sink: Tensor, which: Tensor) -> None:
    call = _calls.get(which.data_ptr())
    if call is None:
        return
    if x.is_cuda and torch.cuda.is_current_stream_capturing():
        _tell_of_capture()
    else:
        call(x)


_library.impl("tap", _tap, "CompositeExplicitAutograd")
_library.impl("tap", lambda x, sink, which: None, "Meta")
torch.library.register_vmap("foreshock::tap", lambda info, dims, x, sink, which: (None, None), lib=_library)


def _tell_of_capture() -> None:
    global _told_of_capture
    if not _told_of_capture:
        _told_of_capture = True
        log.warning(
            "this compiled model is recorded as CUDA graphs, whose replay shows no layer inputs: weights, loss and norms are "
            'watched. watch(compiled="eager") sees all, on sampled steps that run without compiling'
        )


def _note_traced(tap: int) -> None:
    _traced.add(tap)


# Runs when a compiler traces the call, not when what it made of it runs.
torch._dynamo.assume_constant_result(_note_traced)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _run(call: Callable[..., None], *given: Any) -> None:
    call(*given)


class Hook:
    """A hook on a module that changes neither what the module is given nor what it gives.

    Args:
        tap: number of the tap it belongs to.
    """

    def __init__(self, tap: int) -> None:
        self.tap = tap

    @property
    def key(self) -> int:
        """What its call is looked up under."""
        return id(self)

    def __call__(self, module: nn.Module, *given: Any) -> None:
        """Call what is looked up, if anything; inside a graph, leave nothing."""
        if torch.compiler.is_compiling():
            _note_traced(self.tap)
        else:
            call = _calls.get(self.key)
            if call is not None:
                _run(call, module, *given)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copied or pickled with its model, become something that does nothing and needs none of us to be loaded."""
        return getattr, (contextlib.nullcontext(), "__exit__")


class InputHook(Hook):
    """A forward pre-hook that hands over a module's first input where gradients are on."""

    def __init__(self, tap: int) -> None:
        super().__init__(tap)
        self.which: Tensor | None = None

    def tap_at(self, device: torch.device | None) -> None:
        """Set where a matrix product's input is to be had from inside a graph; None: inside a graph, nothing is left."""
        if (None if self.which is None else self.which.device) != device:
            self.which = None if device is None else _address(device)

    @property
    @override
    def key(self) -> int:
        return id(self) if self.which is None else self.which.data_ptr()

    def __call__(self, module: nn.Module, *given: Any) -> None:
        """Call what is looked up, now or, inside a graph, each time that this runs."""
        # Read nothing here that a compiler does not watch already: ``module.training`` would have it compile once more.
        if not torch.is_grad_enabled():
            return
        args, kwargs = given
        x = args[0] if args else next(iter(kwargs.values()), None)
        if torch.compiler.is_compiling():
            _note_traced(self.tap)
            # Subclasses (sharded tensors, say) would each need a rule of their own for the operator.
            if self.which is not None and type(x) is Tensor and x.device in _sinks and not _is_exporting():
                torch.ops.foreshock.tap(_as_multiplied(x.detach()), _sinks[x.device], self.which)
        elif isinstance(x, Tensor):
            call = _calls.get(self.key)
            if call is not None:
                _run(call, x)


# Called from where a compiler has given up, by torch's own modules say, a hook is not to be compiled by itself, only as part of
# something: then it could be compiled anew for every shape.
for _hook in (Hook, InputHook):
    torch._dynamo.eval_frame.skip_code(_hook.__call__.__code__)

_is_exporting = getattr(torch.compiler, "is_exporting", lambda: False)


def _as_multiplied(x: Tensor) -> Tensor:
    """Return what the matrix product reads. Under autocast that is a copy; the input itself need not exist in memory."""
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if x.dtype == torch.float32 and torch.is_autocast_enabled(kind) else x


def _address(device: torch.device) -> Tensor:
    """Return a tensor of which only the address matters; see to it that there is a sink beside it."""
    with torch.inference_mode(False):
        address, sink = (torch.empty(1, dtype=torch.float32, device=device) for _ in range(2))
    if device not in _sinks:
        _sinks[device] = sink
        if device.type == "cuda":  # a graph that writes to anything else is not recorded as a CUDA graph
            torch._dynamo.mark_static_address(sink)
    return address


class Hooks:
    """The hooks of one tap: on its modules during a sampled step, and until the monitor closes where a compiler met them."""

    def __init__(self) -> None:
        # Hooks are made once: a sampled step only places them.
        self._made: dict[tuple[nn.Module, str], Hook] = {}
        self._placed: dict[tuple[nn.Module, str], RemovableHandle] = {}
        self._stay: set[tuple[nn.Module, str]] = set()
        self._number = next(_numbers)

    def on_input(self, module: nn.Module, call: Callable[[Tensor], None], device: torch.device | None, stays: bool = False) -> None:
        """Have ``call(first input)`` called; ``stays``: the module lies inside a compiled part, the hook is not to go again."""
        key = module, "input"
        hook = self._made.setdefault(key, InputHook(self._number))
        assert isinstance(hook, InputHook)
        hook.tap_at(device)
        if stays:
            self._stay.add(key)
        self._place(key, call, partial(module.register_forward_pre_hook, with_kwargs=True))

    def before(self, module: nn.Module, call: Callable[..., None]) -> None:
        """Have ``call(module, args)`` called before the module's forward pass, unless it is compiled."""
        self._place((module, "before"), call, module.register_forward_pre_hook)

    def after(self, module: nn.Module, call: Callable[..., None], *, always: bool = False) -> None:
        """Have ``call(module, args, output)`` called after it; ``always``: also when it raised."""
        self._place((module, "after"), call, partial(module.register_forward_hook, always_call=always))

    def remove(self) -> None:
        """Nothing is called any more, and the hooks are gone but for those that stay."""
        for key, handle in list(self._placed.items()):
            _calls.pop(self._made[key].key, None)
            if self._number not in _traced and key not in self._stay:
                handle.remove()
                del self._placed[key]
            elif handle not in (handles := _staying.setdefault(key[0], [])):
                handles.append(handle)

    def _place(self, key: tuple[nn.Module, str], call: Callable[..., None], register: Callable[[Hook], RemovableHandle]) -> None:
        hook = self._made.setdefault(key, Hook(self._number))
        if key not in self._placed:
            self._placed[key] = register(hook)
        _calls[hook.key] = call


def has_staying_hook(module: nn.Module) -> bool:
    """Tell whether a compiler met a hook of ours in this module."""
    return module in _staying


def release(modules: Iterable[nn.Module]) -> None:
    """Remove the hooks that stayed; what was compiled with them is compiled anew if it is called again."""
    for module in modules:
        for handle in _staying.pop(module, ()):
            handle.remove()


_lock = threading.Lock()
_eager: "set[EagerStep]" = set()
_stance: Any = None


class EagerStep:
    """While begun, nothing that ``torch.compile`` made runs, in the whole process: Python itself does, hooks and all."""

    def begin(self) -> None:
        """Begin. Raises RuntimeError inside a compiled region."""
        global _stance
        with _lock:
            if not _eager:
                _stance = torch.compiler.set_stance("force_eager")
            _eager.add(self)

    def end(self) -> None:
        """End; when the last one ends, what was before holds again, unless somebody has set something else. May be called twice."""
        global _stance
        with _lock:
            if self not in _eager:
                return
            if len(_eager) == 1:
                if torch._dynamo.eval_frame._stance is _stance.stance:
                    _stance.__exit__(None, None, None)
                _stance = None
            _eager.discard(self)


def anything_compiled() -> bool:
    """Tell whether this process holds anything compiled by now."""
    return bool(torch._dynamo.convert_frame.input_codes.seen)
