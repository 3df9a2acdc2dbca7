"""The report: one HTML file that needs nothing else, readable in dark and light, and the same as JSON."""

import html
import json
from collections.abc import Sequence
from dataclasses import asdict
from importlib.resources import files
from typing import Any

from plotly.offline import get_plotlyjs  # type: ignore[import-untyped]

from ...dashboard.figures.style import Figure
from . import figures
from .arms import Family
from .summary import ArmSummary, Claim

FAMILIES: dict[Family, tuple[str, str]] = {
    "flash": (
        "Output of attention coarse",
        "Rounded as a bfloat16 flash attention rounds, but with 3 mantissa bits of O instead of 7. Scores are float32: few ties.",
    ),
    "everywhere": (
        "Every intermediate coarse",
        "Inputs, scores, probabilities, output, delta and gradients all keep 3 mantissa bits: rows with ties are common.",
    ),
}
_DRAWN = (figures.loss, figures.spectral_norm, figures.max_logit, figures.delta_bias, figures.direction_similarity)


def as_json(report: dict[str, Any]) -> str:
    """Return the report as JSON: everything, runs with their losses and series too."""
    return json.dumps(report, indent=1, allow_nan=False, default=asdict)


def as_html(report: dict[str, Any]) -> str:
    """Return the report as a page.

    Args:
        report: as ``command.measure`` makes it.
    """
    arms: Sequence[ArmSummary] = report["arms"]
    parts = [
        "<h1>foreshock reproduce</h1>",
        f"<p class=note>{html.escape(report['about'])}</p>",
        "<h2>What was claimed, what was found</h2>",
        _claims(report["claims"]),
        "<h2>The biased rounding</h2>",
        "<h3>Crafted inputs</h3>",
        "<p>64 keys a row, two tied for the maximum and the others 12 to 14 nats below, V and dO of one sign, all in bfloat16; "
        "errors against float64. z counts every head, with its own V, as one draw.</p>",
        _rounding_table(report["crafted"]),
    ]
    for captured in report["captured"]:
        parts += [
            f"<h3>Captured in training: {html.escape(captured['module'])}, {captured['bits']} bits</h3>",
            f"<p>q, k, v and dO of step {captured['step']} of the failing run, seed {captured['seed']}; "
            f"{captured['ties']:.2%} of the rows have a tied maximum. z counts every head of every sequence as one draw.</p>",
            _rounding_table(captured["variants"]),
        ]
    parts += ["<h2>Training</h2>", f"<p>{html.escape(report['setting'])}</p>"]
    drawings: list[Figure] = []
    for family, (title, words) in FAMILIES.items():
        of_family = [arm for arm in arms if arm.family == family or arm.name == "float32"]
        if all(arm.family != family for arm in of_family):
            continue
        parts += [f"<h3>{title}</h3><p>{words}</p>", _arm_table(of_family)]
        for draw in _DRAWN:
            figure = draw(report["runs"], family)
            if figure["data"]:
                parts.append(
                    f"<p class=caption>{html.escape((draw.__doc__ or '').splitlines()[0])}</p><div id=f{len(drawings)}></div>"
                )
                drawings.append(figure)
    page = (files(__package__) / "page.html").read_text("utf-8")
    # "</" would end the script element early.
    drawn = json.dumps(drawings, allow_nan=False).replace("</", "<\\/")
    return page.replace("@BODY@", "\n".join(parts)).replace("@FIGURES@", drawn).replace("@PLOTLY@", get_plotlyjs())


def _claims(claims: Sequence[Claim]) -> str:
    rows = [
        [
            f"<b class={'yes' if each.held else 'no'}>{'yes' if each.held else 'no'}</b>",
            html.escape(each.claim),
            html.escape(each.found),
        ]
        for each in claims
    ]
    return _table(["held", "claim", "found"], rows, words=3)


def _rounding_table(records: Sequence[dict[str, Any]]) -> str:
    head = [
        "variant",
        "mean error of O, ulp",
        "z",
        "rms, ulp",
        "mean error of delta",
        "of |delta|",
        "z",
        "rows of the dominant sign",
    ]
    rows = [
        [
            html.escape(each["variant"]),
            f"{each['output_error_ulp']:+.4f}",
            f"{each['output_z']:+.1f}",
            f"{each['output_rms_ulp']:.3f}",
            f"{each['delta_error']:+.2e}",
            f"{each['delta_error_relative']:+.1e}",
            f"{each['delta_z']:+.1f}",
            f"{each['same_sign']:.1%}",
        ]
        for each in records
    ]
    return _table(head, rows)


def _arm_table(arms: Sequence[ArmSummary]) -> str:
    def listed(values: Sequence[float | int | None], form: str) -> str:
        return ", ".join("–" if value is None else format(value, form) for value in values)

    head = [
        "arm",
        "seeds that fail",
        "final loss by seed",
        "times float32's",
        "failure at step",
        "first warning, steps before",
        "runs with a warning",
    ]
    rows = [
        [
            html.escape(arm.title),
            f"{arm.failed} of {arm.seeds}",
            ", ".join("not finite" if value is None else f"{value:.2f}" for value in arm.finals),
            listed(arm.to_float32, ".1f"),
            listed(arm.failure_steps, "d"),
            listed(arm.leads, "d"),
            f"{arm.warned} of {arm.seeds}",
        ]
        for arm in arms
    ]
    return _table(head, rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], words: int = 1) -> str:
    """Return a table; the first ``words`` columns hold words, the others numbers."""
    top = "".join(f"<th{'' if place < words else ' class=number'}>{name}</th>" for place, name in enumerate(head))
    body = "".join(
        "<tr>" + "".join(f"<td{'' if place < words else ' class=number'}>{cell}</td>" for place, cell in enumerate(row)) + "</tr>"
        for row in rows
    )
    return f"<div class=wide><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"
