"""The dynamic maximum: shift the softmax of rows whose maximum is attained more than once (arXiv 2510.04212, section 5).

Where two keys tie for the maximum m, P = exp(S - m) is exactly 1 for both, their sum P V lies on or just beside the midpoint of two
representable numbers, and a same-signed tail tips every rounding the same way. With another shift the tied P is no power of two,
and the midpoints are gone; softmax itself does not feel the shift.
"""

import math

import torch
from torch import Tensor

from .options import BETA, TIE_TOLERANCE


def tie_shift(
    s_BHTS: Tensor, m_BHT1: Tensor, bounds: tuple[float, float], beta: float = BETA, tolerance: float = TIE_TOLERANCE
) -> Tensor:
    """Return what to subtract beyond the maximum, (B, H, T, 1) in nats: 0 in rows without a tie.

    Args:
        s_BHTS: scores, minus infinity where masked.
        m_BHT1: their rows' maximum; minus infinity in a row that sees no key, which has no tie.
        bounds: least and most bits of a shift, neither a whole number: a shift by whole bits leaves a power of two.
        beta: m > 0 becomes ``beta m``; m < 0 becomes 0.
        tolerance: nats below the maximum that still attain it.
    """
    tied = ((m_BHT1 - s_BHTS) <= tolerance).sum(-1, keepdim=True) > 1
    least, most = (bits * math.log(2) for bits in bounds)
    wanted = torch.where(m_BHT1 > 0, (beta - 1) * m_BHT1, -m_BHT1).clamp(least, most)
    return torch.where(tied & m_BHT1.isfinite(), wanted, 0.0)
