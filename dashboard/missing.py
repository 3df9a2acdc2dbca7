"""Why there is nothing to draw, and what would change that, in words."""

from collections.abc import Mapping, Sequence

from .pictures import Picture, Scope
from .signals import CATALOGUE, PRESETS

_BY_ITSELF = {
    "learning_rate": "<br>It is read from the optimizer that <b>watch()</b> is given.",
    "rank.loss": "<br>A job of one process has no ranks to compare.",
}


def why_empty(picture: Picture, layers: Sequence[str], chosen: str) -> str:
    """Return why a picture is empty, as plotly's markup.

    Args:
        layers: Those of which the run has the signal; names are escaped by the caller.
        chosen: The chosen layer, escaped.
    """
    if picture.scope is Scope.LAYER and layers and chosen:
        count = f"{len(layers)} other {'layer' if len(layers) == 1 else 'layers'}"
        return f"Not measured for {chosen}.<br>It is for {count}, such as {layers[0]}."
    if picture.logs:
        return f"Not logged. It appears here with<br><b>{picture.logs}</b>"
    signal = picture.signals[0]
    return f"Not measured. {_BY_ITSELF[signal]}" if signal in _BY_ITSELF else not_measured(signal)


def not_measured(signal: str, presets: Mapping[str, str] = PRESETS) -> str:
    """Return that a signal is not measured, and which preset would; where none does, that it would appear by itself."""
    info = CATALOGUE.get(signal)
    preset = info.preset if info is not None else presets.get(PROBE_OF.get(signal, ""), "")
    if not preset:
        return "Not measured. It appears by itself where it applies."
    probe = info.probe if info is not None else PROBE_OF[signal]
    if preset == "light":
        return f"Not measured. Every preset measures it<br>where it applies (probe <b>{probe}</b>)."
    return f'Not measured. <b>probes="{preset}"</b> measures it<br>where it applies (probe <b>{probe}</b>).'


PROBE_OF = {"spectral_alignment.histogram": "spectral", "weight.spectrum": "weight_tail"}
"""Probes of signals that are distributions and so not in the catalogue."""
