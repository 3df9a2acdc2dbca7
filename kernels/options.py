"""What attention is asked to compute (``Options``) and how carefully (``Variant``): shared by every body, on CPU and GPU."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Options:
    """The function that is computed, whatever computes it.

    Attributes:
        scale: factor on the scores, resolved (SDPA's default is ``D ** -0.5``).
        is_causal: query i sees keys j <= i, both counted from their first: SDPA's convention, also where T and S differ.
        window: a query sees the ``window`` keys that end with its own position (and, unless causal, as many that begin with it):
            ``|i - j| < window``. None: all of them.
        softcap: c > 0 replaces every scaled score s by ``c tanh(s / c)``. None: none.

    Raises:
        ValueError: a window or a cap that is not positive.
    """

    scale: float
    is_causal: bool = False
    window: int | None = None
    softcap: float | None = None

    def __post_init__(self) -> None:
        if self.window is not None and self.window < 1:
            raise ValueError(f"window is {self.window}; it counts the keys a query sees and is at least 1, or None for all of them")
        if self.softcap is not None and not self.softcap > 0:
            raise ValueError(f"softcap is {self.softcap}; it is a positive bound on the scores, or None for no bound")


@dataclass(frozen=True, slots=True)
class Variant:
    """How it is computed: the standard algorithm, the one that fails, the one that is mended, and each ingredient alone.

    Attributes:
        dynamic_maximum: in a row whose maximum m is attained more than once, subtract ``beta m`` (m > 0, clamped) or 0 (m < 0) in
            place of m, and sum the row over the rounded P (arXiv 2510.04212, section 5).
        float32_delta: take ``delta = rowsum(dO * O)`` from O before it was rounded to the output's type.
        low_precision_accumulator: keep the running ``P V`` in the input's type: the failing algorithm.
    """

    dynamic_maximum: bool = False
    float32_delta: bool = False
    low_precision_accumulator: bool = False


STANDARD = Variant()
FAILING = Variant(low_precision_accumulator=True)
STABILISED = Variant(dynamic_maximum=True, float32_delta=True)

# The dynamic maximum, in every body. A tied P that is a power of two is what biases, so the shift must never be a whole number of
# bits: not by the clamp, and not by being (near) zero, as beta m is where m is. The fraction is 0.15 because P = 2^-0.15 fills a
# bfloat16's significand (231 / 256): of ten fractions it left least, under 0.005 ulp of 0.06 to 0.2 with 2 to 5 ties.
BETA = 2.0
TIE_TOLERANCE = 1e-3  # nats below the maximum that still count as attaining it
LEAST_SHIFT_BITS = 0.15
MOST_SHIFT_BITS = 63.15  # P keeps 62 binades above float32's and bfloat16's smallest
MOST_SHIFT_BITS_FLOAT16 = 1.15  # float16 has 14 binades in all below 1
