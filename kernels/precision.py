"""Where the reference attention rounds, and to what."""

from dataclasses import dataclass
from typing import Literal

from .options import BETA, LEAST_SHIFT_BITS, MOST_SHIFT_BITS, MOST_SHIFT_BITS_FLOAT16
from .rounding import BFLOAT16_MANTISSA_BITS, FLOAT32_MANTISSA_BITS, Rounding, Target

DeltaSource = Literal["stored", "float32", "random_sign"]
_SOURCES = ("stored", "float32", "random_sign")


@dataclass(frozen=True, slots=True)
class Precision:
    """What each rounding point keeps: explicit mantissa bits (23 is float32, 7 bfloat16, 3 that of float8 e4m3) or any ``Target``.

    A number keeps float32's range; a format's name (``"fp16"``, ``"e4m3"``) brings its overflow and subnormals, a ``Rounding`` the
    way to round. Points that round stochastically draw different bits.

    Attributes:
        inputs: q, k, v and dO as they enter the matrix products.
        scores: S and dP, the results of the first matrix products.
        probabilities: P as it enters P V and P^T dO.
        row_sum: l, the sum of P_bar over a row, after every tile of keys.
        output: O as it is stored and handed on.
        delta: delta itself.
        score_gradients: dS as it enters dQ and dK.
        gradients: dQ, dK and dV as they leave.
        delta_from: ``"stored"`` takes delta from the rounded O (what flash attention does, and what fails);
            ``"float32"`` from O before rounding (the cure); ``"random_sign"`` gives the stored O's error a random sign at
            equal size (the control that shows that the sign of the error kills, not its size).
        products: P V of one tile of keys, before it is added up.
        accumulator: the running P V, after every tile of keys.
        key_tile: keys in a tile, counted from the first, with the running maximum of flash attention; None: one tile of all keys.
        output_gradients: dO, if otherwise than ``inputs``.
        probability_gradients: dP, if otherwise than ``scores``.
        dynamic_maximum: where a row's maximum is attained more than once, shift it by other than a whole number of bits, so that no
            tied P is a power of two (arXiv 2510.04212, section 5).
        beta: the shifted maximum is ``beta m`` for m > 0, and 0 for m < 0, as far as the next two allow.
        least_shift_bits, most_shift_bits: bounds of the shift in bits; by default 0.15, and 63.15 or, where ``probabilities`` has a
            narrow range, 1.15. 0 and infinity give the published form, which underflows.
        sum_rounded: in such a row, l sums P as rounded; without it noise grows.

    Raises:
        ValueError: a target, a source of delta, a tile or a beta that does not exist.
    """

    inputs: Target = FLOAT32_MANTISSA_BITS
    scores: Target = FLOAT32_MANTISSA_BITS
    probabilities: Target = FLOAT32_MANTISSA_BITS
    row_sum: Target = FLOAT32_MANTISSA_BITS
    output: Target = FLOAT32_MANTISSA_BITS
    delta: Target = FLOAT32_MANTISSA_BITS
    score_gradients: Target = FLOAT32_MANTISSA_BITS
    gradients: Target = FLOAT32_MANTISSA_BITS
    delta_from: DeltaSource = "stored"
    products: Target = FLOAT32_MANTISSA_BITS
    accumulator: Target = FLOAT32_MANTISSA_BITS
    key_tile: int | None = None
    output_gradients: Target | None = None
    probability_gradients: Target | None = None
    dynamic_maximum: bool = False
    beta: float = BETA
    least_shift_bits: float = LEAST_SHIFT_BITS
    most_shift_bits: float | None = None
    sum_rounded: bool = True

    def __post_init__(self) -> None:
        for point in ROUNDING_POINTS:
            target = getattr(self, point)
            if target is not None and not isinstance(target, Rounding):
                Rounding(target)
        if self.delta_from not in _SOURCES:
            raise ValueError(f"delta_from is {self.delta_from!r}; it is one of {', '.join(_SOURCES)}")
        if self.key_tile is not None and self.key_tile < 1:
            raise ValueError(f"key_tile is {self.key_tile}; it counts keys and is at least 1, or None for one tile of all keys")
        if not self.beta > 1:
            raise ValueError(f"beta is {self.beta}; the shifted maximum is beta times the maximum and must exceed it: 2 to 8")

    @classmethod
    def everywhere(cls, bits: Target, delta_from: DeltaSource = "stored") -> "Precision":
        """Round to ``bits`` what is kept in memory: inputs, S, P, l, O, delta, dP, dS and gradients; products add up in float32."""
        b = bits
        return cls(b, b, b, b, b, b, b, b, delta_from)

    @classmethod
    def flash(cls, output: Target = BFLOAT16_MANTISSA_BITS, delta_from: DeltaSource = "stored") -> "Precision":
        """Round where a bfloat16 flash attention does (operands of matrix products, dS, gradients), and O to ``output``."""
        b = BFLOAT16_MANTISSA_BITS
        return cls(inputs=b, probabilities=b, output=output, score_gradients=b, gradients=b, delta_from=delta_from)

    @classmethod
    def failing(cls, to: Target = "bf16", *, key_tile: int | None = 64, delta_from: DeltaSource = "stored") -> "Precision":
        """Round as the algorithm that the paper analyses: as flash attention does, P V and the accumulator too."""
        return cls(
            inputs=to,
            probabilities=to,
            output=to,
            score_gradients=to,
            gradients=to,
            delta_from=delta_from,
            products=to,
            accumulator=to,
            key_tile=key_tile,
        )

    def target(self, point: str) -> Target:
        """Return what a rounding point rounds to."""
        found: Target | None = getattr(self, point)
        if found is not None:
            return found
        return self.inputs if point == "output_gradients" else self.scores

    @property
    def shift_bounds(self) -> tuple[float, float]:
        """The least and the most bits of a shift of the maximum."""
        if self.most_shift_bits is not None:
            return self.least_shift_bits, self.most_shift_bits
        kept = self.probabilities if isinstance(self.probabilities, Rounding) else Rounding(self.probabilities)
        narrow = kept.format.least_exponent > -100
        return self.least_shift_bits, MOST_SHIFT_BITS_FLOAT16 if narrow else MOST_SHIFT_BITS


ROUNDING_POINTS = (
    "inputs",
    "scores",
    "probabilities",
    "row_sum",
    "output",
    "delta",
    "score_gradients",
    "gradients",
    "products",
    "accumulator",
    "output_gradients",
    "probability_gradients",
)
