"""From device tensors to host numbers with one asynchronous copy, read by the writer thread when it has arrived."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...storage.records import Histogram, SeriesKey, StepRecord
from ..base import Block
from .gradient_norm import Norm, joined
from .parts import Finish, Found, Part, part_of, read


class HostCopy:
    """A float32 vector on its way to the host. On a GPU: pinned memory, a non-blocking copy and an event; never a sync.

    Args:
        parts: tensors of any shape and real dtype on one device; they are flattened and joined.
    """

    __slots__ = ("_event", "_host")

    def __init__(self, parts: Sequence[Tensor]) -> None:
        flat = [part.detach().reshape(-1).float() for part in parts]
        # Joined even when single: the host vector must be ours, whatever becomes of the tensor given.
        joined = torch.cat(flat) if len(flat) > 1 else flat[0].clone()
        self._event: torch.cuda.Event | None = None
        if joined.device.type == "cuda":
            self._host = torch.empty(joined.shape, dtype=torch.float32, device="cpu", pin_memory=True)
            # An event is recorded on the current device's stream, which must be the one that copies.
            with torch.cuda.device(joined.device):
                self._host.copy_(joined, non_blocking=True)
                self._event = torch.cuda.Event()
                self._event.record()
        else:
            self._host = joined.cpu()

    def ready(self) -> bool:
        """Tell whether the copy has arrived, without waiting."""
        return self._event is None or self._event.query()

    def numpy(self) -> "np.ndarray[tuple[int], np.dtype[np.float32]]":
        """Return the values; call only when ``ready``."""
        return self._host.numpy()


@dataclass(frozen=True, slots=True)
class PackedBlocks:
    """Everything of a sampled step in one copy, block after block; counts are exact up to 2^24.

    Attributes:
        parts: what lies in the copy.
        finishers: for each part what finishes its sums on the host, None where there is nothing to finish.
    """

    parts: tuple[Part, ...]
    finishers: tuple[Finish | None, ...]
    copy: HostCopy


def pack(blocks: Sequence[Block]) -> PackedBlocks | None:
    """Join the blocks into one copy; None when there are none. Blocks of another device than the first's are moved to it."""
    if not blocks:
        return None
    parts, tensors, finishers = zip(*map(part_of, blocks), strict=True)
    return PackedBlocks(parts, finishers, HostCopy([each.to(tensors[0].device, non_blocking=True) for each in tensors]))


@dataclass(frozen=True, slots=True)
class PendingStep:
    """A step on its way to the writer thread, which makes the record once the device values have arrived.

    Attributes:
        host_keys, host_values: known on the host already.
        away_keys, away: per-step values on a device (loss, norms).
        packed: what the probes measured, on a sampled step.
    """

    step: int
    time: float
    host_keys: tuple[SeriesKey, ...]
    host_values: tuple[float, ...]
    away_keys: tuple[SeriesKey, ...]
    away: HostCopy | None
    packed: PackedBlocks | None

    def ready(self) -> bool:
        """Tell whether every copy has arrived, without waiting."""
        return (self.away is None or self.away.ready()) and (self.packed is None or self.packed.copy.ready())

    def resolve(self, found: Found | None = None) -> StepRecord:
        """Build the record. Values that do not apply are left out; every other NaN is kept.

        Args:
            found: what the probes of all ranks measured, to be taken instead of this rank's.
        """
        if self.away is None and self.packed is None and found is None:
            return StepRecord(self.step, self.time, self.host_keys, self.host_values)
        keys, values = list(self.host_keys + self.away_keys), list(self.host_values)
        if self.away is not None:
            values.extend(self.away.numpy().tolist())
        histograms: tuple[Histogram, ...] = ()
        if found is None and self.packed is not None:
            found = read(self.packed.parts, self.packed.finishers, self.packed.copy.numpy())
        if found is not None:
            keys.extend(found.keys)
            values.extend(found.values)
            histograms = found.histograms
        return StepRecord(self.step, self.time, one_copy(tuple(keys)), values, histograms)


class PlainStep(tuple[int, float, float | None, list[Norm], float | None]):
    """A step that was not sampled: (step, time, loss, norms, learning rate), its numbers on the host already.

    A bare tuple, because of all ways to keep five values it is the one that runs no Python; they are named on the writer thread.
    """

    __slots__ = ()

    def ready(self) -> bool:
        """Return True."""
        return True

    def resolve(self) -> StepRecord:
        """Build the record."""
        step, time, loss, norms, learning_rate = self
        both = joined(norms)
        named = {
            "loss": loss,
            "gradient.norm": both and both[0],
            "gradient.norm_clipped": both and both[1],
            "learning_rate": learning_rate,
        }
        present = {name: float(value) for name, value in named.items() if value is not None}
        return StepRecord(step, time, keys_of(tuple(present)), tuple(present.values()))


@functools.lru_cache(maxsize=256)
def keys_of(names: tuple[str, ...]) -> tuple[SeriesKey, ...]:
    """Return the keys of whole-run signals; the same names give the same tuple."""
    return tuple(SeriesKey(name) for name in names)


@functools.lru_cache(maxsize=64)
def one_copy(keys: tuple[SeriesKey, ...]) -> tuple[SeriesKey, ...]:
    """Return the first tuple equal to ``keys``: records that share a tuple are resolved by the store once."""
    return keys
