"""The keyboard shortcuts as a help sheet. ``assets/keys.js`` acts on them."""

import json
from collections.abc import Sequence

from dash import html

from .attributes import aria, data

GO = {"Runs": "r", "Alerts": "a", "Rules": "l"}
"""Place of the header -> the key that follows g."""

_ANYWHERE = (
    ("?", "This sheet"),
    ("t", "Next colour theme: auto, light, dark"),
    ("/", "Search runs"),
)
_CHARTS = (
    ("z", "All steps again"),
    ("+", "Zoom in around the step cursor"),
    ("-", "Zoom out"),
    ("←", "Step cursor to the left"),
    ("→", "Step cursor to the right"),
    ("Shift ←", "Earlier steps"),
    ("Shift →", "Later steps"),
    ("l", "Logarithmic or linear axis of the chart under the pointer, else of the loss"),
    ("s", "Next smoothing"),
    ("c", "Copy the link to this view"),
)
_LAYERS = (
    ("j", "Next layer"),
    ("k", "Previous layer"),
    ("]", "Next signal of the first heatmap"),
    ("[", "Previous signal of the first heatmap"),
    ("}", "Next signal of the second heatmap"),
    ("{", "Previous signal of the second heatmap"),
)
_MOUSE = (
    ("drag", "Zoom all charts to those steps"),
    ("Shift drag", "Move along the steps"),
    ("double-click", "All steps again"),
)


def keys_button() -> html.Button:
    """Return the button that opens the sheet."""
    return html.Button(
        "?",
        id="keys-button",
        type="button",
        className="keys-button",
        title="Keyboard shortcuts (?)",
        **aria(label="Keyboard shortcuts"),
    )


def keys_sheet(places: Sequence[str]) -> html.Dialog:
    """Return the sheet, closed.

    Args:
        places: Labels of what the header leads to.
    """
    go = tuple((f"g {GO[place]}", f"Go to {place.lower()}") for place in places if place in GO)
    groups = (("Anywhere", _ANYWHERE + go), ("Charts over steps", _CHARTS), ("Layers", _LAYERS), ("Pointer", _MOUSE))
    # As data, which the script draws when the sheet is first wanted: every component costs the browser with every live update.
    return html.Dialog(id="keys", className="keys", **aria(labelledby="keys-title"), **data(groups=json.dumps(groups)))
