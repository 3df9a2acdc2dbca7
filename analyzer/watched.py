"""The signals whose course is told in the head of a run: what each is called, which way is worrying, and what change matters."""

import math
from dataclasses import dataclass

_MOST = math.log(1000.0)
"""A thousandfold and more count alike: an entropy of 1e-3 and one of 1e-9 are as bad."""

SIGMA = "weight.spectral_norm"


@dataclass(frozen=True, slots=True)
class Watched:
    """One signal.

    Args:
        words: What it is called inside a sentence.
        up: Whether a rise is the worrying way.
        matters: The change from the usual value that counts as one: a factor where the signal ``grows``, else a difference.
        grows: Whether it is positive and moves by factors, so that its growth per 100 steps means something.
    """

    signal: str
    words: str
    up: bool
    matters: float
    grows: bool = True

    def size(self, usual: float, now: float) -> float:
        """Return how many times what matters lies between two values, in the worrying way; 0 where that cannot be told."""
        sign = 1.0 if self.up else -1.0
        if not self.grows:
            return sign * (now - usual) / self.matters
        if usual <= 0.0 or now <= 0.0:
            return 0.0
        return max(-_MOST, min(sign * math.log(now / usual), _MOST)) / math.log(self.matters)


WATCHED = (
    Watched("spectral_alignment.sign_diversity", "sign diversity", False, 0.3, grows=False),
    Watched(SIGMA, "σ₁", True, 1.5),
    Watched("attention.max_logit", "the largest attention logit", True, 4.0),
    Watched("attention.entropy_mean", "attention entropy", False, 3.0),
    Watched("attention.common_logit_shift", "the common shift of the logits", True, 8.0),
    Watched("rounding.key_shift_excess", "the key-shift residual", True, 5.0),
    Watched("gradient.norm", "the gradient norm", True, 5.0),
    Watched("gradient.module_norm", "the gradient norm", True, 8.0),
    Watched("update.ratio", "the update's share of the weight", True, 5.0),
    Watched("adam.second_moment_lag", "the lag of Adam's second moment", True, 3.0),
    Watched("activation.rms", "the size of activations", True, 4.0),
    Watched("activation.dead_fraction", "the share of dead units", True, 0.3, grows=False),
    Watched("numerics.stale_update_fraction", "the share of updates rounded away", True, 0.3, grows=False),
    Watched("numerics.fp16_range_used", "the share of float16's range in use", True, 8.0),
    Watched("weight.stable_rank", "the stable rank of the weight", False, 1.5),
    Watched("attention.effective_rank", "the effective rank of attention", False, 2.0),
    Watched("router.load_entropy", "the entropy of the router's load", False, 0.5, grows=False),
)
"""In the order in which they are told where several have moved as far."""
