"""A report as one HTML file: style, scripts and figures inside it, names shown as text, and a policy that lets nothing else run.

The drawing library and the figures are inside it compressed, which halves the file; ``report.js`` unpacks them. Nothing is fetched.
"""

import base64
import hashlib
import json
import re
import zlib
from functools import cache
from importlib.resources import files
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from ...storage.records import Severity
from ..plotly_js import plotly_js
from .content import Report

_ICONS = {Severity.INFO.value: "●", Severity.WARNING.value: "▲", Severity.CRITICAL.value: "◆"}
_VERDICT_ICONS = {"empty": "…", "healthy": "✓", "info": "●", "warning": "▲", "critical": "◆", "lost": "?"}


def as_html(report: Report) -> str:
    """Return the page."""
    charts = report.charts()
    ids = {chart.name: f"chart-{place}" for place, chart in enumerate(charts)}
    figures = {ids[chart.name]: _browser_ready(chart.figure) for chart in charts}
    page: str = _template().render(
        report=report,
        ids=ids,
        icons=_ICONS,
        verdict_icon=_VERDICT_ICONS.get(report.verdict.level, "●"),
        policy=policy(),
        style=Markup(_style()),
        theme=Markup(_theme()),
        script=Markup(_script()),
        plotly=Markup(_plotly()[0]),
        charts=Markup(packed(json.dumps(figures, allow_nan=False, separators=(",", ":")))),
    )
    # A lone surrogate, half a letter that JSON may carry into a name, has no bytes.
    return page.encode("utf-8", "replace").decode()


@cache
def policy() -> str:
    """Return the policy that the page carries, and is served with: our own scripts by their hashes, and no network."""
    scripts = [_hash(text) for text in (_theme(), _script(), _plotly()[1])]
    return "; ".join(
        (
            "default-src 'none'",
            " ".join(("script-src", *scripts)),
            "style-src 'unsafe-inline'",  # plotly sets styles inline
            "img-src data: blob:",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )


def packed(text: str) -> str:
    """Return text compressed and as letters, none of which means anything to HTML."""
    return base64.b64encode(zlib.compress(text.encode("utf-8", "replace"), 9)).decode()


def _browser_ready(figure: dict[str, Any]) -> dict[str, Any]:
    """Return a figure without the width that a browser is to find by itself."""
    return {"data": figure["data"], "layout": {**figure["layout"], "autosize": True}}


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


@cache
def _plotly() -> tuple[str, str]:
    """Return the drawing library, (packed, as it is): 1.5 MB, 0.7 MB packed."""
    source = plotly_js()
    return packed(source), source


@cache
def _template() -> Any:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_own("page.html"))


def _theme() -> str:
    return _asset("theme.js")


def _script() -> str:
    return _own("report.js")


@cache
def _style() -> str:
    """Return the dashboard's sheet and the report's, pictures inside them."""
    sheet = re.sub(r'url\("([\w-]+\.svg)"\)', lambda found: f'url("{_picture(found[1])}")', _asset("foreshock.css"))
    return f"{sheet}\n{_own('report.css')}"


def _picture(name: str) -> str:
    return "data:image/svg+xml," + quote(_asset(name))


def _asset(name: str) -> str:
    return files(__package__.rpartition(".")[0]).joinpath("assets", name).read_text("utf-8")


def _own(name: str) -> str:
    return files(__package__).joinpath(name).read_text("utf-8")
