"""What each signal means to a reader of the page: its title, unit, which direction is trouble, and how its colours are scaled."""

from dataclasses import dataclass
from enum import StrEnum


class Scale(StrEnum):
    """How values are mapped to colours: evenly, by their logarithm, or evenly over the fixed range 0 to 1."""

    LINEAR = "linear"
    LOG = "log"
    UNIT = "unit"


@dataclass(frozen=True, slots=True)
class SignalInfo:
    """One signal in words.

    Args:
        unit: Unit or reading of the value, for axis titles.
        recognise: The trouble that a picture of this signal lets the reader recognise, one plain sentence.
        high_is_trouble: Whether large values are the worrying ones; else small ones are.
        span: Smallest range of values that the colours stand for (of powers of ten on a logarithmic scale), so that harmless
            differences stay dark.
    """

    name: str
    title: str
    unit: str
    recognise: str
    high_is_trouble: bool = True
    scale: Scale = Scale.LINEAR
    span: float = 1.0

    @property
    def axis_title(self) -> str:
        """Return title and unit as one axis title."""
        return f"{self.title} ({self.unit})" if self.unit else self.title


_CATALOGUE = (
    SignalInfo(
        "spectral_alignment.sign_diversity",
        "Sign diversity",
        "0 = one-signed, 1 = balanced",
        "A layer that turns bright has lost its balance: its tokens all lean the same way, and errors that used to cancel "
        "begin to add up. Bright from the very start is usually harmless.",
        high_is_trouble=False,
        scale=Scale.UNIT,
    ),
    SignalInfo(
        "weight.spectral_norm",
        "Spectral norm σ₁",
        "largest singular value",
        "A layer whose colour keeps brightening is growing along a single direction: the usual road to a loss explosion.",
        scale=Scale.LOG,
    ),
    SignalInfo(
        "weight.spectral_growth",
        "σ₁ growth",
        "relative, per step",
        "Bright cells are moments at which a weight matrix grew fastest; a layer that stays bright is running away.",
        span=0.003,
    ),
    SignalInfo(
        "attention.max_logit",
        "Max attention logit",
        "largest |q·k|·scale",
        "Attention that becomes ever more extreme shows up here hundreds of steps before the loss turns.",
        scale=Scale.LOG,
    ),
    SignalInfo(
        "attention.entropy_mean",
        "Attention entropy",
        "nat",
        "A layer that turns bright attends to almost nothing but one token: attention has collapsed.",
        high_is_trouble=False,
    ),
    SignalInfo(
        "rounding.key_shift_excess",
        "Key-shift residual",
        "× what random rounding leaves",
        "Well above 1, the attention gradient carries a rounding error that does not average out.",
        scale=Scale.LOG,
    ),
    SignalInfo(
        "rounding.key_shift_residual",
        "Key-shift residual, raw",
        "share of |dK|",
        "The part of the key gradient that exact arithmetic would make zero: pure rounding error.",
        scale=Scale.LOG,
    ),
    SignalInfo(
        "attention.common_logit_shift",
        "Common logit shift",
        "logits",
        "A drift of all logits together: what a one-signed rounding error drives up.",
        scale=Scale.LOG,
    ),
    SignalInfo(
        "spectral_alignment.mean_abs",
        "Mean |alignment|",
        "cosine",
        "Inputs that line up with the layer's main direction; bright layers pass on little else.",
        scale=Scale.UNIT,
    ),
    SignalInfo(
        "spectral_alignment.mean",
        "Mean alignment",
        "cosine",
        "How far the layer's tokens lean to one side of its main direction.",
    ),
    SignalInfo(
        "spectral_alignment.gap",
        "Spectral gap",
        "σ₁ / σ₂",
        "Close to 1 the main direction is ill-defined and sign diversity means little; as it rises, one direction takes over.",
        scale=Scale.LOG,
    ),
    SignalInfo(
        "gradient.module_norm",
        "Gradient norm of the layer",
        "L2 norm",
        "The layer that brightens first is where an exploding gradient starts.",
        scale=Scale.LOG,
    ),
    SignalInfo(
        "update.ratio",
        "Update / weight",
        "ratio of norms",
        "Bright layers move too far in one step.",
        scale=Scale.LOG,
    ),
    SignalInfo(
        "activation.rms", "Activation RMS", "", "Activations that swell from layer to layer or step to step.", scale=Scale.LOG
    ),
    SignalInfo("activation.max", "Largest activation", "", "A few activations that outgrow all others.", scale=Scale.LOG),
    SignalInfo(
        "rounding.key_shift_coherence",
        "Key-shift coherence",
        "1 = always the same way, 0.35 = random",
        "Close to 1, the rounding errors of the last samples all point the same way and add up; at 0.35 they cancel.",
        scale=Scale.UNIT,
    ),
    SignalInfo(
        "rounding.delta_bias_sum",
        "Delta's bias, summed",
        "sum over samples",
        "A value that keeps moving one way is an error with one sign: too small to see in any single step, it adds up.",
        span=1e-6,
    ),
    SignalInfo(
        "rounding.query_gradient_error",
        "Error of W_q's gradient",
        "share of its norm",
        "The part of the query weights' gradient that is rounding error; near 1 the layer learns nothing else.",
        scale=Scale.UNIT,
    ),
    SignalInfo(
        "attention.sink_mass",
        "Mass on the first key",
        "share",
        "Heads that look at the first token and nothing else; some do in healthy models, all of them in a collapsing one.",
        scale=Scale.UNIT,
    ),
    SignalInfo(
        "attention.effective_rank",
        "Effective rank of attention",
        "of 32 rows",
        "Heads that turn bright attend to the same keys from every row: what tells tokens apart is being lost.",
        high_is_trouble=False,
    ),
    SignalInfo(
        "attention.output_effective_rank",
        "Effective rank of the heads' output",
        "of 32 rows",
        "A head that turns bright gives every token nearly the same answer.",
        high_is_trouble=False,
    ),
    SignalInfo(
        "attention.token_similarity_out",
        "Similarity of tokens after attention",
        "mean cosine",
        "Close to 1, attention has made all tokens alike.",
        scale=Scale.UNIT,
    ),
    SignalInfo(
        "attention.qk_spectral_norm",
        "σ₁ of W_q W_kᵀ",
        "largest singular value",
        "Heads whose weights can make ever larger logits out of the same inputs.",
        scale=Scale.LOG,
    ),
    SignalInfo(
        "adam.second_moment_lag",
        "Lag of Adam's second moment",
        "1 = follows the gradients",
        "Bright layers have gradients that grew faster than Adam's average of them: their updates are too large, "
        "and a spike may follow.",
        scale=Scale.LOG,
    ),
    SignalInfo("weight.norm", "Weight norm", "Frobenius norm", "Weights that grow without end.", scale=Scale.LOG),
    SignalInfo(
        "weight.stable_rank",
        "Stable rank of the weight",
        "directions",
        "A layer that turns bright is falling back on a few directions.",
        high_is_trouble=False,
        scale=Scale.LOG,
    ),
    SignalInfo(
        "weight.alpha",
        "Exponent of the weight's spectrum",
        "about 2 to 4 is usual",
        "A layer that turns bright has a few singular values far above the others.",
        high_is_trouble=False,
    ),
    SignalInfo(
        "update.stable_rank",
        "Stable rank of the update",
        "directions, 16 = no structure",
        "Bright layers are pushed along a few directions only, as when errors of one sign add up.",
        high_is_trouble=False,
        scale=Scale.LOG,
    ),
    SignalInfo(
        "numerics.stale_update_fraction",
        "Updates rounded away",
        "share of the weights",
        "Bright layers no longer learn: their updates are smaller than the precision of their weights.",
        scale=Scale.UNIT,
    ),
    SignalInfo(
        "numerics.underflow_fraction",
        "Gradient underflow",
        "share of the entries",
        "Bright layers lose gradients that are too small for the number format.",
        scale=Scale.UNIT,
    ),
    SignalInfo(
        "numerics.gradient_to_quantization_noise",
        "Gradient over rounding noise",
        "ratio of norms",
        "In layers that turn bright the gradient drowns in its own rounding; below about 1.7 training has no effect.",
        high_is_trouble=False,
        scale=Scale.LOG,
    ),
    SignalInfo(
        "numerics.fp16_range_used",
        "Range of float16 used",
        "share of 65504",
        "Bright layers have gradients that will soon overflow.",
        scale=Scale.LOG,
    ),
    SignalInfo(
        "activation.kurtosis",
        "Kurtosis of activations",
        "3 = normal numbers",
        "A layer that brightens keeps its energy in ever fewer values, which low precision cannot hold beside the rest.",
        scale=Scale.LOG,
    ),
    SignalInfo(
        "activation.outlier_channels",
        "Outlier channels",
        "channels above 6 × the median",
        "Channels that outgrow all others of their layer: they decide how coarsely low precision rounds the rest.",
    ),
    SignalInfo(
        "activation.dead_fraction",
        "Dead units",
        "share that no token reaches",
        "Units of an activation that are zero for every token learn nothing any more; a bright layer has lost most of its width.",
        scale=Scale.UNIT,
    ),
    SignalInfo(
        "spectral_alignment.output_sign_diversity",
        "Sign diversity of output gradients",
        "0 = one-signed, 1 = balanced",
        "Where this and the inputs' sign diversity turn bright together, every token pushes the layer's norm the same way.",
        high_is_trouble=False,
        scale=Scale.UNIT,
    ),
    SignalInfo(
        "spectral_alignment.output_mean",
        "Mean alignment of output gradients",
        "cosine",
        "How far the gradients at the layer's output lean to one side of its main direction.",
    ),
    SignalInfo(
        "router.load_entropy",
        "Router load entropy",
        "nat; ln(experts) = even",
        "A router that turns bright sends nearly all tokens to a few experts; the others stop learning.",
        high_is_trouble=False,
    ),
    SignalInfo(
        "router.max_load",
        "Busiest expert",
        "share of all choices",
        "The share of the busiest expert: near 1 the mixture has collapsed to a single network.",
        scale=Scale.UNIT,
    ),
    SignalInfo(
        "nonfinite.count",
        "Values not finite",
        "rows of a tensor",
        "The first module of a step whose values were not finite, and whether forward, backward or in the update.",
        scale=Scale.LOG,
    ),
)

CATALOGUE: dict[str, SignalInfo] = {info.name: info for info in _CATALOGUE}
"""Signals with words of their own, in the order in which the page offers them."""

HISTOGRAM = "spectral_alignment.histogram"
FIRST_SIGNAL = "spectral_alignment.sign_diversity"
SECOND_SIGNAL = "weight.spectral_norm"


def describe(name: str) -> SignalInfo:
    """Return the words for a signal; one without an entry is described by its own name."""
    if name in CATALOGUE:
        return CATALOGUE[name]
    title = name.replace(".", " · ").replace("_", " ")
    return SignalInfo(name, title, "", "A change of colour shows which layer changes, and when.")


def offered(present: set[str]) -> list[str]:
    """Return the given signals in the order in which the page offers them: those of the catalogue first, then by name."""
    return [name for name in CATALOGUE if name in present] + sorted(present - CATALOGUE.keys())
