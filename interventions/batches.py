"""What a step was trained on, as the user tells it: ``monitor.step(loss, batch=...)``. ``capture`` keeps it of the last steps."""

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

MOST_NUMBERS = 4096
"""Numbers kept of a batch, the first ones."""
MOST_LETTERS = 256
"""Letters kept of a text."""


@dataclass(frozen=True, slots=True)
class BatchNote:
    """What was said of one step's batch.

    Attributes:
        kept: a text, a number, or the first numbers as a list or a tensor on any device.
        count: how many numbers there were; 1 for a text.
    """

    kept: str | int | list[int] | Tensor
    count: int

    def plain(self) -> dict[str, Any]:
        """Return it as JSON takes it; waits for a tensor's device."""
        return {"batch": self.kept.tolist() if isinstance(self.kept, Tensor) else self.kept, "count": self.count}


def noted(batch: object) -> BatchNote:
    """Take a bounded copy of indices of samples (a list, a vector of whole numbers), a number, or a text such as a hash.

    Nothing is waited for.

    Raises:
        TypeError: it is none of these. A matrix, or floats, would be the data itself, which is not to be kept.
    """
    if isinstance(batch, str):
        return BatchNote(batch[:MOST_LETTERS], 1)
    if isinstance(batch, int):
        return BatchNote(batch, 1)
    if not isinstance(batch, Tensor) and hasattr(batch, "__array__"):
        batch = torch.as_tensor(batch)
    if isinstance(batch, Tensor):
        if batch.dim() > 1 or batch.is_floating_point() or batch.is_complex():
            raise TypeError(_refusal(f"a tensor of {batch.dtype} with {batch.dim()} dimensions"))
        return BatchNote(batch.detach().reshape(-1)[:MOST_NUMBERS].clone(), batch.numel())
    if isinstance(batch, Sequence) and not any(isinstance(each, Tensor) for each in batch[:MOST_NUMBERS]):
        try:
            return BatchNote([operator.index(each) for each in batch[:MOST_NUMBERS]], len(batch))
        except TypeError:
            raise TypeError(_refusal(f"a {type(batch).__name__} of other things")) from None
    raise TypeError(_refusal(f"a {type(batch).__name__}"))


def _refusal(given: str) -> str:
    return f"batch= takes indices of samples (a list or vector of whole numbers), a number, or a text such as a hash; got {given}"
