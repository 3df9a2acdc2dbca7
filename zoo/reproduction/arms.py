"""The arms of the experiment: one training run in several precisions, alike in seed, data and everything else."""

from dataclasses import dataclass, replace
from typing import Any, Literal

from ...kernels.reference import Precision

OUTPUT_BITS = 3
Family = Literal["flash", "everywhere"]
Role = Literal["failing", "control", "ingredient", "cure"]


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to compute attention in the zoo's low-precision scenario.

    Attributes:
        name: in files and JSON.
        title: in figures and tables.
        family: ``"flash"`` rounds as bfloat16 flash attention does, and O to 3 bits: scores stay float32, so exact ties are rare.
            ``"everywhere"`` keeps 3 bits of every intermediate, scores too: rows with ties are common.
        role: what the arm is there for.
        precision: where attention rounds.
    """

    name: str
    title: str
    family: Family
    role: Role
    precision: Precision


_FLASH = Precision.flash(output=OUTPUT_BITS)
_EVERYWHERE = Precision.everywhere(OUTPUT_BITS)


def _family(family: Family, base: Precision) -> tuple[Arm, ...]:
    """Return the failing arm of a family, each ingredient of the cure alone, and both."""
    title = {"flash": "low precision", "everywhere": "every intermediate coarse"}[family]
    prefix = {"flash": "", "everywhere": "everywhere_"}[family]
    delta, maximum = {"delta_from": "float32"}, {"dynamic_maximum": True}
    return (
        Arm(f"{prefix}low_precision", title, family, "failing", base),
        Arm(
            f"{prefix}random_sign",
            f"{title}, delta's error of random sign",
            family,
            "control",
            _with(base, delta_from="random_sign"),
        ),
        Arm(f"{prefix}dynamic_maximum", f"{title}, dynamic maximum alone", family, "ingredient", _with(base, **maximum)),
        Arm(f"{prefix}float32_delta", f"{title}, float32 delta alone", family, "ingredient", _with(base, **delta)),
        Arm(f"{prefix}stabilised", f"{title}, both: stabilised", family, "cure", _with(base, **delta, **maximum)),
    )


def _with(base: Precision, **changes: Any) -> Precision:
    return replace(base, **changes)


ARMS = (
    Arm("float32", "float32", "flash", "control", Precision()),
    *_family("flash", _FLASH),
    *_family("everywhere", _EVERYWHERE),
)
QUICK = ("low_precision", "random_sign", "stabilised")


def arm(name: str) -> Arm:
    """Return the arm of that name."""
    return next(each for each in ARMS if each.name == name)
