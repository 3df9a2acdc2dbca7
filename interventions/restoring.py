"""Puts a saved state back into models and optimizers in place, on every rank from the first one's copy.

In place: tensors keep their memory, so that compiled graphs, buckets of DDP and whoever else holds on to them stay right. What has
no place to go to (a tensor that is not there now, a module's extra state) goes the usual way, through ``load_state_dict``.

In a distributed job the first rank has the state and the others have none, for its folder may be out of their reach. First goes the
skeleton, the state with a mark for each tensor; every rank finds the places, and all learn whether all have found them; then the
tensors, one broadcast each, over the default process group. So a rank where something does not fit changes nothing, on any rank.
Host memory: on ranks after the first one tensor at a time.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

State = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Slot:
    """Stands for a tensor in a skeleton."""

    number: int
    shape: tuple[int, ...]
    dtype: torch.dtype


def skeleton_of(state: Any, tensors: list[Tensor]) -> Any:
    """Return the state with slots for its tensors, which are appended to ``tensors``."""
    if isinstance(state, Tensor):
        tensors.append(state)
        return Slot(len(tensors) - 1, tuple(state.shape), state.dtype)
    if isinstance(state, Mapping):
        return {key: skeleton_of(value, tensors) for key, value in state.items()}
    if type(state) in (list, tuple):
        return type(state)(skeleton_of(value, tensors) for value in state)
    return state


def filled(skeleton: Any, tensors: Mapping[int, Tensor]) -> Any:
    """Return a skeleton with tensors in its slots."""
    if isinstance(skeleton, Slot):
        return tensors[skeleton.number]
    if isinstance(skeleton, dict):
        return {key: filled(value, tensors) for key, value in skeleton.items()}
    if type(skeleton) in (list, tuple):
        return type(skeleton)(filled(value, tensors) for value in skeleton)
    return skeleton


class Restoration:
    """Where each tensor of a state goes.

    Args:
        skeleton: of what ``checkpoint`` saves.
        models, optimizers: what it goes into.
        extra: what else has ``load_state_dict``, by the names it was saved under.
        groups: whether the optimizers' groups (learning rate, momentum, ...) go back too.

    Raises:
        ValueError: the state is of other models.
    """

    def __init__(
        self,
        skeleton: State,
        models: Mapping[str, nn.Module],
        optimizers: Sequence[Optimizer],
        extra: Mapping[str, Any],
        *,
        groups: bool,
    ) -> None:
        self._places: dict[int, Tensor] = {}
        self._kept: dict[int, Tensor] = {}
        self._loads: list[tuple[Callable[[Any], object], Any]] = []
        if set(skeleton["models"]) != set(models) or len(skeleton["optimizers"]) != len(optimizers):
            raise ValueError(f"the checkpoint is of models {sorted(skeleton['models'])}, the run has {sorted(models)}")
        for name, model in models.items():
            self._place_model(model, skeleton["models"][name])
        for optimizer, saved in zip(optimizers, skeleton["optimizers"], strict=True):
            self._place_optimizer(optimizer, saved, groups=groups)
        for name, thing in extra.items():
            self._loads.append((thing.load_state_dict, skeleton["extra"][name]))

    def place(self, number: int) -> Tensor | None:
        """Return the tensor that is to take the values of this slot; None where they are kept for ``load_state_dict``."""
        return self._places.get(number)

    def take(self, number: int, tensor: Tensor) -> None:
        """Take a slot's values."""
        place = self._places.get(number)
        if place is None:
            self._kept[number] = tensor
        else:
            place.copy_(tensor)

    def finish(self) -> None:
        """Load what has no place of its own; called once all tensors were taken."""
        tensors = {**self._kept, **self._places}
        for load, skeleton in self._loads:
            load(filled(skeleton, tensors))

    def _place_model(self, model: nn.Module, saved: State) -> None:
        own = model.state_dict()
        if own.keys() != saved.keys():
            raise ValueError(f"the checkpoint lacks, or has too many: {', '.join(sorted(own.keys() ^ saved.keys())[:5])}")
        held = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
        plain = True
        for name, slot in saved.items():
            value = own[name]
            if not isinstance(slot, Slot) or not isinstance(value, Tensor):
                plain = False
                continue
            if tuple(value.shape) != slot.shape:
                raise ValueError(f"{name} has shape {tuple(value.shape)}, in the checkpoint {slot.shape}")
            # A copy that a hook made for the state is no place: what is written there would be lost.
            if value.untyped_storage().data_ptr() in held:
                self._places[slot.number] = value
            else:
                plain = False
        if not plain:
            self._loads.append((model.load_state_dict, saved))

    def _place_optimizer(self, optimizer: Optimizer, saved: State, *, groups: bool) -> None:
        if not _keeps_plain_state(optimizer):
            self._loads.append((optimizer.load_state_dict, saved))
            return
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        numbers = [number for group in saved["param_groups"] for number in group["params"]]
        pairs = [(optimizer.state.get(p), saved["state"].get(number)) for p, number in zip(parameters, numbers, strict=True)]
        placed = [self._place_entries(now, was) for now, was in pairs]
        if not all(placed):  # something is to come back that is not there now
            self._loads.append((lambda state: _load_states(optimizer, state, groups=groups), saved))
            return
        gone = [p for p, (now, was) in zip(parameters, pairs, strict=True) if now is not None and was is None]
        values = [(now, was) for now, was in pairs if now is not None and was is not None]
        self._loads.append((lambda state: _settle_states(optimizer, gone, values), None))
        if groups:
            self._loads.append((lambda state: _load_groups(optimizer, state), saved["param_groups"]))

    def _place_entries(self, now: Any, was: Any) -> bool:
        """Find the places of one parameter's state; False where it must be loaded the usual way."""
        if was is None:
            return True
        if now is None or now.keys() != was.keys():
            return False
        found: dict[int, Tensor] = {}
        for key, slot in was.items():
            value = now[key]
            if isinstance(slot, Slot) != isinstance(value, Tensor) or isinstance(slot, (dict, list, tuple)):
                return False
            if isinstance(slot, Slot):
                if tuple(value.shape) != slot.shape or value.dtype != slot.dtype:
                    return False
                found[slot.number] = value
        self._places.update(found)
        return True


def _keeps_plain_state(optimizer: Optimizer) -> bool:
    """Tell whether its state is what ``Optimizer`` itself saves and loads."""
    own = type(optimizer).state_dict is Optimizer.state_dict and type(optimizer).load_state_dict is Optimizer.load_state_dict
    hooks = ("_optimizer_state_dict_post_hooks", "_optimizer_load_state_dict_pre_hooks")
    return own and not any(getattr(optimizer, name, None) for name in hooks)


def _settle_states(optimizer: Optimizer, gone: Sequence[Tensor], values: Sequence[tuple[dict[str, Any], State]]) -> None:
    """Set what is no tensor, and forget the state of parameters that had none yet."""
    for p in gone:
        optimizer.state.pop(p)
    for now, was in values:
        now.update({key: value for key, value in was.items() if not isinstance(value, Slot)})


def _load_states(optimizer: Optimizer, state: Any, *, groups: bool) -> None:
    """Load the usual way, and leave the groups as they are where they are not to go back."""
    now = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    if not groups:
        for group, values in zip(optimizer.param_groups, now, strict=True):
            group.update(values)


def _load_groups(optimizer: Optimizer, saved: Sequence[State]) -> None:
    for group, values in zip(optimizer.param_groups, saved, strict=True):
        for key, value in values.items():
            if key == "params":
                continue
            if isinstance(value, Tensor) and isinstance(group.get(key), Tensor):
                group[key].copy_(value)
            else:
                group[key] = value


@torch.no_grad()
def restore(
    state: State | None,
    models: Mapping[str, nn.Module],
    optimizers: Sequence[Optimizer],
    extra: Mapping[str, Any],
    *,
    groups: bool,
    ranks: bool,
) -> None:
    """Put a state back.

    Args:
        state: what ``checkpoint`` saved; None on ranks after the first.
        models, optimizers, extra, groups: as for ``Restoration``.
        ranks: every rank of the default process group does so now.

    Raises:
        ValueError: the state does not fit; nothing was changed.
        RuntimeError: it does not fit on another rank; nothing was changed.
    """
    tensors: list[Tensor] = []
    skeleton = None if state is None else skeleton_of(state, tensors)
    if ranks:
        _restore_together(skeleton, tensors, lambda found: Restoration(found, models, optimizers, extra, groups=groups))
        return
    assert skeleton is not None
    restoration = Restoration(skeleton, models, optimizers, extra, groups=groups)
    for number, tensor in enumerate(tensors):
        restoration.take(number, tensor)
    restoration.finish()


def _restore_together(skeleton: Any, tensors: list[Tensor], plan: Callable[[Any], Restoration]) -> None:
    dist = torch.distributed
    by_device = dist.get_backend() == "nccl"
    home = torch.device("cuda", torch.cuda.current_device()) if by_device else torch.device("cpu")
    sent = [skeleton, [(tuple(t.shape), t.dtype) for t in tensors]]
    dist.broadcast_object_list(sent, src=0, device=home)
    failed: Exception | None = None
    try:
        restoration = plan(sent[0])
    except Exception as error:  # noqa: BLE001 - raised below: the others wait for this rank's word
        failed = error
    fits = torch.tensor([failed is None], dtype=torch.int32, device=home)
    dist.all_reduce(fits, op=dist.ReduceOp.MIN)
    if failed is not None:
        raise failed
    if not bool(fits.item()):
        raise RuntimeError("the checkpoint does not fit on another rank: nothing was changed")
    for number, (shape, dtype) in enumerate(sent[1]):
        buffer = tensors[number].to(home).contiguous() if tensors else torch.empty(shape, dtype=dtype, device=home)
        if buffer.numel():
            dist.broadcast(buffer.view(-1).view(torch.uint8), src=0)  # as bytes: not every backend knows every type
        restoration.take(number, buffer)
    restoration.finish()
