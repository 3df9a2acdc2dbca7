"""Run docs/notebook.ipynb and keep what it shows: ``python docs/notebook.py`` (needs nbclient, ipykernel, Chromium, Playwright).

Figures are kept twice: as plotly's own data, which Jupyter draws, and as a picture, which everything else can show.
"""

import base64
import os
import shutil
import tempfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from PIL import Image
from playwright.sync_api import Page, sync_playwright
from plotly.offline import get_plotlyjs

NOTEBOOK = Path(__file__).with_suffix(".ipynb")
PLOTLY, PICTURE = "application/vnd.plotly.v1+json", "image/png"
WIDTH = 760
KERNEL = {
    "PLOTLY_RENDERER": "plotly_mimetype",  # else plotly puts its script of several MB beside every figure
    "OMP_NUM_THREADS": "1",  # what a model this small is fastest with, on a busy machine by far
}


def executed(folder: Path) -> Any:
    """Return the notebook as it looks after its cells were run in ``folder``.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell raised.
    """
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = NotebookClient(notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(folder)}})
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FORESHOCK_")}
    return client.execute(env=kept | KERNEL | {"FORESHOCK_HOME": str(folder), "IPYTHONDIR": str(folder)})


def outputs(notebook: Any, kind: str) -> Iterator[Any]:
    """Yield what cells show of a kind."""
    for cell in notebook.cells:
        yield from (output.data for output in cell.get("outputs", ()) if kind in output.get("data", {}))


def picture(page: Page, figure: Any) -> str:
    """Return a figure as a PNG, in base64."""
    size = {"format": "png", "width": WIDTH, "height": figure["layout"]["height"], "scale": 1.25}
    shown = figure | {"layout": figure["layout"] | {"paper_bgcolor": "white"}}
    address: str = page.evaluate("([figure, size]) => Plotly.toImage(figure, size)", [shown, size])
    raw = BytesIO(base64.b64decode(address.partition(",")[2]))
    small = BytesIO()
    Image.open(raw).convert("RGB").quantize(64).save(small, "png", optimize=True)
    return base64.b64encode(small.getvalue()).decode()


def main() -> None:
    """Write the notebook with what it shows."""
    with tempfile.TemporaryDirectory() as folder:
        notebook = executed(Path(folder))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page()
        page.set_content(f"<script>{get_plotlyjs()}</script>")
        for data in outputs(notebook, PLOTLY):
            data[PICTURE] = picture(page, data[PLOTLY])
        browser.close()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times of day, which would differ at every run
    nbformat.write(notebook, NOTEBOOK)


if __name__ == "__main__":
    main()
