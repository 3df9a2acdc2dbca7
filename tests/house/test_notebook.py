"""The notebook of the documents runs from an empty folder, and what it shows is kept in it."""

import json
import os
import runpy
from pathlib import Path
from typing import Any

import pytest

PLOTLY = "application/vnd.plotly.v1+json"


@pytest.fixture(scope="module")
def tool(root: Path) -> dict[str, Any]:
    return runpy.run_path(str(root / "docs" / "notebook.py"))


def shown(cells: list[dict[str, Any]]) -> list[set[str]]:
    """Return which kinds of output each cell has; a figure's picture is made when the notebook is kept."""
    kinds = [
        {kind for output in cell["outputs"] for kind in output.get("data", {output["output_type"]: ""})}
        for cell in cells
        if cell["cell_type"] == "code"
    ]
    return [kind - {"image/png"} for kind in kinds]


def test_the_notebook_runs_and_shows_what_is_kept(
    tool: dict[str, Any], root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "jupyter"))
    kept = json.loads((root / "docs" / "notebook.ipynb").read_text("utf-8"))["cells"]
    fresh = tool["executed"](tmp_path).cells
    assert shown(fresh) == shown(kept)
    figures = [output["data"][PLOTLY] for cell in fresh for output in cell.get("outputs", []) if PLOTLY in output.get("data", {})]
    assert len(figures) >= 5
    titles = [figure["layout"]["title"]["text"] for figure in figures]
    assert titles[0] == "Loss"
    before, after = (figure for figure, title in zip(figures, titles, strict=True) if title == "Loss")
    assert not before["data"][1]["x"], "no alert while it trains well"
    assert after["data"][1]["x"], "the loss is drawn with its alerts"
    text = "".join(output.get("text", "") for cell in fresh for output in cell.get("outputs", []))
    assert "Did you mean 'weight.spectral_norm'" in text
    assert os.listdir(tmp_path)


def test_pictures_are_kept_for_who_cannot_draw_figures(root: Path) -> None:
    cells = json.loads((root / "docs" / "notebook.ipynb").read_text("utf-8"))["cells"]
    data = [output["data"] for cell in cells for output in cell.get("outputs", []) if PLOTLY in output.get("data", {})]
    assert data
    assert all("image/png" in one for one in data)
