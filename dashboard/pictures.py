"""The charts in the panels under the heatmaps: which signals each draws, of what, and which trouble it shows."""

from dataclasses import dataclass
from enum import StrEnum


class Panel(StrEnum):
    """A panel of a run's page, as the address names it, in the order of their tabs."""

    LAYER = "layer"
    ROUNDING = "rounding"
    ATTENTION = "attention"
    OPTIMIZER = "optimizer"
    MONITOR = "monitor"


LABELS = {
    Panel.LAYER: "Layer",
    Panel.ROUNDING: "Rounding bias",
    Panel.ATTENTION: "Low-rank attention",
    Panel.OPTIMIZER: "Optimizer and numerics",
    Panel.MONITOR: "Monitor",
}


LATER = (Panel.ROUNDING, Panel.ATTENTION, Panel.OPTIMIZER)
"""Panels whose contents come when they are first opened: every chart costs the browser a little, drawn or not."""


class Scope(StrEnum):
    """What a picture is about: the whole run, each rank of it, the chosen layer, or every layer that has the signal."""

    RUN = "run"
    RANKS = "ranks"
    LAYER = "layer"
    LAYERS = "layers"


@dataclass(frozen=True, slots=True)
class Picture:
    """One chart.

    Args:
        name: Id of the graph.
        title: Heading of its card.
        recognise: The trouble it lets the reader recognise, one plain sentence.
        signals: What it draws, on one axis, described by the first.
        unit: Title of the axis; that of the first signal where empty.
        lines: Levels to compare with: (value, what it is).
        logs: What to log so that it appears, of a signal that no probe measures.
    """

    name: str
    panel: Panel
    title: str
    recognise: str
    signals: tuple[str, ...]
    scope: Scope = Scope.LAYER
    unit: str = ""
    lines: tuple[tuple[float, str], ...] = ()
    logs: str = ""

    @property
    def in_all_layers(self) -> str:
        """Return the signal by which a heatmap shows the same in all layers; empty for what is not of a layer."""
        return self.signals[0] if self.scope is Scope.LAYER else ""


_R, _A, _O = Panel.ROUNDING, Panel.ATTENTION, Panel.OPTIMIZER

PICTURES = (
    Picture(
        "sigma",
        Panel.LAYER,
        "σ₁ and its lead",
        "Both rising together: one direction of the weight outgrows all others. σ₁ alone rising: the whole layer grows.",
        ("weight.spectral_norm", "spectral_alignment.gap"),
        unit="σ₁, and σ₁ / σ₂",
    ),
    Picture(
        "coherence",
        _R,
        "Coherence of the errors",
        "Close to 1, the errors of the last samples all point the same way and add up; at 0.35 they cancel.",
        ("rounding.key_shift_coherence",),
        unit="coherence, 0 to 1",
        lines=((0.35, "random errors"),),
    ),
    Picture(
        "direction",
        _R,
        "Similarity of the error's direction",
        "Close to 1, every sample pushes W_q along the same matrix; together with a bias of one sign that is how σ₁ is driven up.",
        ("rounding.direction_similarity",),
    ),
    Picture(
        "ties",
        _R,
        "Rows with a tied maximum",
        "A rise lets you see the cause before its effect: tied rows have several probabilities of exactly 1, which round one way.",
        ("rounding.tie_fraction",),
    ),
    Picture(
        "excess",
        _R,
        "Key-shift residual",
        "Far above 1, the attention gradient carries more rounding error than random rounding leaves.",
        ("rounding.key_shift_excess",),
        unit="× random rounding",
        lines=((1.0, "random rounding"),),
    ),
    Picture(
        "same-sign",
        _R,
        "Rows that err the same way",
        "At 0.5 rows err up as often as down; near 1 nearly all have one sign.",
        ("rounding.delta_same_sign",),
        unit="share of rows",
        lines=((0.5, "random signs"),),
    ),
    Picture(
        "bias-sum",
        _R,
        "Delta's bias, summed up",
        "A line that keeps going one way is an error of one sign; one that wanders about 0 is chance.",
        ("rounding.delta_bias_sum",),
        lines=((0.0, "0"),),
    ),
    Picture(
        "query-error",
        _R,
        "Error in W_q's gradient",
        "Near 1, what the query weights learn is rounding error and little else.",
        ("rounding.query_gradient_error",),
    ),
    Picture(
        "output-bias",
        _R,
        "Bias of the output, in standard errors",
        "Beyond 2 on the same side time and again, attention's output itself is rounded one way: where delta's bias comes from.",
        ("rounding.output_bias_z",),
        unit="standard errors",
        lines=((2.0, "chance ends"), (-2.0, "chance ends")),
    ),
    Picture(
        "logits",
        _A,
        "Largest logit",
        "Heads whose logits grow without bound make softmax one-hot long before the loss turns.",
        ("attention.max_logit",),
    ),
    Picture(
        "entropy",
        _A,
        "Entropy of attention",
        "Heads that sink to 0 attend to a single key from every row and pass on almost no gradient.",
        ("attention.entropy_mean",),
    ),
    Picture(
        "effective-rank",
        _A,
        "Effective rank of attention",
        "Heads that sink towards 1 attend to the same keys from every row: what tells tokens apart is being lost.",
        ("attention.effective_rank",),
    ),
    Picture(
        "stable-rank",
        _A,
        "Stable rank of attention",
        "Close to 1, one pattern holds all of the head's energy; it sinks earlier than the effective rank.",
        ("attention.stable_rank",),
    ),
    Picture(
        "output-rank",
        _A,
        "Effective rank of the heads' output",
        "A head close to 1 gives every token the same answer.",
        ("attention.output_effective_rank",),
    ),
    Picture(
        "sink",
        _A,
        "Mass on the first key",
        "All heads near 1 look at the first token and nothing else; a few that do are usual.",
        ("attention.sink_mass",),
    ),
    Picture(
        "tokens",
        _A,
        "Similarity of tokens",
        "After well above before: attention makes tokens alike; close to 1 the layers behind it see one token many times.",
        ("attention.token_similarity_out", "attention.token_similarity_in"),
        unit="mean cosine",
    ),
    Picture(
        "qk-norm",
        _A,
        "σ₁ of W_q W_kᵀ",
        "A rise says that logits may grow without the inputs growing: the weights themselves have learnt it.",
        ("attention.qk_spectral_norm",),
    ),
    Picture(
        "learning-rate",
        _O,
        "Learning rate",
        "Lets you see whether a jump or a warm-up that was too short stands before the trouble.",
        ("learning_rate",),
        Scope.RUN,
        "learning rate",
    ),
    Picture(
        "layer-gradient",
        _O,
        "Gradient norm of the layer",
        "Lets you see whether an exploding or vanishing gradient is this layer's or has come to it.",
        ("gradient.module_norm",),
    ),
    Picture(
        "update-ratio",
        _O,
        "Update over weight",
        "About 1e-3 is usual; far above it the layer moves too far in one step, far below it stands still.",
        ("update.ratio",),
    ),
    Picture(
        "lag",
        _O,
        "Lag of Adam's second moment",
        "Above 1 gradients have outgrown Adam's average of them: updates are too large by about that factor, and spikes follow.",
        ("adam.second_moment_lag",),
        unit="gradient / expected",
        lines=((1.0, "follows"),),
    ),
    Picture(
        "moments",
        _O,
        "Adam's moments",
        "A first moment that rises beside a steady second one: gradients that agree from step to step and add up.",
        ("adam.first_moment_norm", "adam.second_moment_norm"),
        unit="L2 norm",
    ),
    Picture(
        "stale",
        _O,
        "Updates rounded away",
        "Near 1 the layer no longer learns: its updates are smaller than the precision of its weights.",
        ("numerics.stale_update_fraction",),
    ),
    Picture(
        "flow",
        _O,
        "Gradients lost to the number format",
        "Underflow near 1 loses small gradients; any overflow at all makes them infinite.",
        ("numerics.underflow_fraction", "numerics.overflow_fraction"),
        unit="share of the entries",
    ),
    Picture(
        "noise",
        _O,
        "Gradient over its rounding noise",
        "Below about 1.7 the gradient drowns in its own rounding and training has no effect.",
        ("numerics.gradient_to_quantization_noise",),
        lines=((3.0**0.5, "no effect below"),),
    ),
    Picture(
        "range",
        _O,
        "Range of float16 in use",
        "Close to 1, the next larger gradient overflows.",
        ("numerics.fp16_range_used",),
        lines=((1.0, "overflow"),),
    ),
    Picture(
        "weight-bias",
        _O,
        "Rounding bias of the weights",
        "Beyond 2 on the same side time and again, the weights are rounded one way, which adds up from step to step.",
        ("numerics.rounding_bias_z",),
        unit="standard errors",
        lines=((2.0, "chance ends"), (-2.0, "chance ends")),
    ),
    Picture(
        "log-z",
        _O,
        "Log Z of the output",
        "Far from 0 the logits have drifted as a whole, which cross-entropy does not feel and low precision does.",
        ("output.log_z",),
        Scope.LAYERS,
    ),
    Picture(
        "loss-scale",
        _O,
        "Loss scale",
        "A scale that keeps halving: every step overflows and is skipped, and nothing is learned.",
        ("loss_scale",),
        Scope.RUN,
        "factor",
        logs="monitor.step(loss, loss_scale=…)",
    ),
    Picture(
        "rank-loss",
        _O,
        "Loss of each rank",
        "A line that leaves the others: that rank sees other data, or its weights have drifted.",
        ("rank.loss",),
        Scope.RANKS,
        "loss",
    ),
)
"""In the order in which they stand in their panels."""


def pictures(panel: Panel) -> list[Picture]:
    """Return a panel's pictures."""
    return [picture for picture in PICTURES if picture.panel is panel]
