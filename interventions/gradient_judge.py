"""Whether a step's gradients may be used: judged on their own device, so that nobody waits for it.

Two sizes are judged alike, each by its own past: the norm of the gradients, and that of the update they will make (foretold.py).

Not finite: never. Wild: the logarithm of the norm lies more than ``threshold`` robust standard deviations above its own past,

    z = (ln |g| - median) / max(1.4826 * MAD, floor)        over the last ``window`` norms that were accepted

The past never learns from what it flags, and says nothing before it holds ``warmup`` norms. ``floor`` keeps a very even past from
calling small changes wild: at the defaults (window 128, threshold 8, floor 0.2) a norm below e^1.6 = 5 times the median passes
whatever its z. After ``limit`` wild steps in a row (those that are not finite neither count nor break the row) it gives way: the
wild steps after them pass until a fine one comes, and the past is learned anew, so that a lasting change of level costs ``limit``
steps and no more. A step that is *held* it never gives way to: the caller says which (an update many times larger than any before).

Memory: ``window`` float32 numbers. Cost: one norm over the gradients, and two medians of ``window`` numbers.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

# Verdicts, as they travel to the host.
FINE, NOT_FINITE, WILD, GIVEN_WAY, LARGE, HELD = 0, 1, 2, 3, 4, 5
# LARGE: the gradients are fine, the update that they would make is wild or not finite. HELD: wild, after ``limit`` of them.
SKIPPED = (NOT_FINITE, WILD, LARGE, HELD)
_MAD_TO_SIGMA = 1.4826


@torch.no_grad()
def norm_of(gradients: Sequence[Tensor], device: torch.device) -> Tensor:
    """Return the 2-norm over all gradients, 0-d float32 on ``device``."""
    values = [g.coalesce().values() if g.is_sparse else g for g in gradients]
    values = [torch.view_as_real(g) if g.is_complex() else g for g in values]
    # Half-precision norms overflow long before their elements do; double stays double, which the operator insists on.
    wide = [torch.float64 if g.dtype == torch.float64 else torch.float32 for g in values]
    norms = [torch.linalg.vector_norm(g, dtype=dtype).to(device, torch.float32) for g, dtype in zip(values, wide, strict=True)]
    total: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    return total


@torch.no_grad()
def both(of_gradients: Tensor, of_update: Tensor) -> Tensor:
    """Return the verdict on a step from those on its gradients and on the update that they would make; 0-d tensors."""
    large = (of_update == NOT_FINITE) | (of_update == WILD)
    passed = (of_gradients == FINE) | (of_gradients == GIVEN_WAY)
    kept = torch.where((of_gradients == FINE) | (of_update == HELD), of_update, of_gradients)
    return torch.where(passed & large, LARGE, torch.where(passed, kept, of_gradients))


class GradientJudge:
    """Judges one size of one optimizer's steps: the norm of their gradients, or of their updates.

    Args:
        device: of the judgement.
        window, warmup, threshold, floor, limit: see above.
    """

    def __init__(self, device: torch.device, *, window: int, warmup: int, threshold: float, floor: float, limit: int) -> None:
        self.device = device
        self._warmup, self._threshold, self._floor, self._limit = warmup, threshold, floor, limit
        self._past = torch.full((window,), math.nan, device=device)  # NaN where nothing is yet
        self._place = torch.zeros((), dtype=torch.long, device=device)
        self._known = torch.zeros((), dtype=torch.long, device=device)
        self._in_a_row = torch.zeros((), dtype=torch.long, device=device)
        self.largest = torch.zeros((), device=device)
        """The largest norm that was accepted, 0-d float32; 0 before the first."""

    @torch.no_grad()
    def judge(
        self, norm: Tensor, elsewhere: Tensor | None = None, left_out: Tensor | None = None, held: Tensor | None = None
    ) -> Tensor:
        """Return the verdict on a step, a 0-d tensor; costs no wait.

        Args:
            norm: 0-d float32.
            elsewhere: 0-d, not 0 where this step is skipped anyway (by a GradScaler): then nothing is learned of it.
            left_out: 0-d, true where another judge has this step left out: it counts in the row of wild ones and is not learned.
            held: 0-d, true where this step must not be given way to.
        """
        finite = torch.isfinite(norm)
        log_norm = norm.clamp_min(torch.finfo(torch.float32).tiny).log()
        median = torch.nanmedian(self._past)
        sigma = (_MAD_TO_SIGMA * torch.nanmedian((self._past - median).abs())).clamp_min(self._floor)
        wild = finite & (self._known >= self._warmup) & ((log_norm - median) / sigma > self._threshold)
        counts = torch.ones_like(finite) if elsewhere is None else elsewhere.to(self.device) == 0
        lasting = wild & (self._in_a_row >= self._limit)
        given_way = lasting if held is None else lasting & ~held
        verdict = torch.where(finite, torch.where(wild, torch.where(lasting, HELD, WILD), FINE), NOT_FINITE)
        verdict = torch.where(given_way, GIVEN_WAY, verdict)

        row = torch.where(wild, self._in_a_row + 1, torch.where(finite, 0, self._in_a_row))
        self._in_a_row = torch.where(counts, row, self._in_a_row)
        forget = counts & given_way
        self._past = torch.where(forget, math.nan, self._past)
        self._known = torch.where(forget, 0, self._known)
        learned = counts & finite & (norm > 0) & (~wild | given_way)
        if left_out is not None:
            learned = learned & ~left_out
        at = self._place % len(self._past)
        self._past.index_copy_(0, at[None], torch.where(learned, log_norm, self._past[at])[None])
        self._place = self._place + learned
        self._known = self._known + learned
        self.largest = torch.where(learned, torch.maximum(self.largest, norm), self.largest)
        return torch.where(counts, verdict, FINE)
