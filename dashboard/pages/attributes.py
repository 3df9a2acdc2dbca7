"""HTML attributes whose names are no Python names."""

from typing import Any


def aria(**values: str) -> dict[str, Any]:
    """Return ``aria-*`` attributes: ``aria(hidden="true")`` gives ``{"aria-hidden": "true"}``."""
    return {f"aria-{name}": value for name, value in values.items()}


def data(**values: str) -> dict[str, Any]:
    """Return ``data-*`` attributes; underscores become hyphens."""
    return {f"data-{name.replace('_', '-')}": value for name, value in values.items()}
