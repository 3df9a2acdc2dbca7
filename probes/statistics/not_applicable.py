"""A value for "this statistic does not apply here", told on the device, without waiting for it.

Whether a statistic applies may depend on values on the device (a layer whose inputs are all zero). Such a place is filled with
one reserved NaN pattern; the host drops it when it unpacks the copy. Every other NaN is a finding and is kept.
"""

import functools

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_PATTERN = 0x7FC0_F05E


@functools.lru_cache(maxsize=16)
def not_applicable(device: torch.device) -> Tensor:
    """Return the reserved float32 NaN, shape (), on ``device``. Select it with ``torch.where``: arithmetic may change the bits."""
    return torch.tensor([_PATTERN], dtype=torch.int32, device="cpu").view(torch.float32)[0].to(device)


def is_not_applicable(values: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Tell which float32 host values carry the reserved pattern; same shape."""
    same: npt.NDArray[np.bool_] = values.view(np.int32) == _PATTERN
    return same
