"""Running statistics of batch norm: the forward pass moves them before anybody knows that the batch is bad.

So a copy is kept of what they were after the last step that counted, and put back after one that is skipped.
Memory: two numbers and a counter a channel. Cost: one copy of these a step.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase


class RunningStatistics:
    """The running statistics of some models.

    Args:
        models: looked through for batch and instance norms that keep them.
    """

    def __init__(self, models: Iterable[nn.Module]) -> None:
        norms = [module for model in models for module in model.modules() if isinstance(module, _NormBase)]
        buffers = [buffer for norm in norms for buffer in norm.buffers(recurse=False)]
        self._buffers = list({id(buffer): buffer for buffer in buffers}.values())
        self._kept = [buffer.clone() for buffer in self._buffers]

    @torch.no_grad()
    def settle(self, skipped: Sequence[bool | Tensor]) -> None:
        """A step has ended: put back what was, if it was skipped, or else keep what is now. Waits for no device.

        Args:
            skipped: of each optimizer; a tensor, not 0 for yes, where only the device knows.
        """
        if not self._buffers:
            return
        if any(flag is True for flag in skipped):
            for buffer, kept in zip(self._buffers, self._kept, strict=True):
                buffer.copy_(kept)
            return
        unknown = [flag.reshape(()) != 0 for flag in skipped if isinstance(flag, Tensor)]
        if unknown:
            for buffer, kept in zip(self._buffers, self._kept, strict=True):
                skip = torch.stack([flag.to(buffer.device) for flag in unknown]).any()
                buffer.copy_(torch.where(skip, kept, buffer))
        for buffer, kept in zip(self._buffers, self._kept, strict=True):
            kept.copy_(buffer)
