"""Run docs/notebook.ipynb and keep what it shows: ``python docs/notebook.py`` (needs nbclient, ipykernel, Chromium, Playwright).

Figures are kept twice: as plotly's own data, which Jupyter draws, and as a picture, which everything else can show.
"""

import base64
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from playwright.sync_api import Page, sync_playwright
from plotly.offline import get_plotlyjs

NOTEBOOK = Path(__file__).with_suffix(".ipynb")
PLOTLY, PICTURE = "application/vnd.plotly.v1+json", "image/png"
WIDTH = 760


def executed(folder: Path) -> Any:
    """Return the notebook as it looks after its cells were run in ``folder``.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell raised.
    """
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = NotebookClient(notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(folder)}})
    # Else plotly puts its whole script of several MB beside every figure.
    kernel = {"PLOTLY_RENDERER": "plotly_mimetype", "FORESHOCK_HOME": str(folder), "IPYTHONDIR": str(folder)}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FORESHOCK_")}
    return client.execute(env=kept | kernel)


def outputs(notebook: Any, kind: str) -> Iterator[Any]:
    """Yield what cells show of a kind."""
    for cell in notebook.cells:
        yield from (output.data for output in cell.get("outputs", ()) if kind in output.get("data", {}))


def picture(page: Page, figure: Any) -> str:
    """Return a figure as a PNG, in base64."""
    page.evaluate("figure => Plotly.newPlot('figure', figure.data, figure.layout, {staticPlot: true})", figure)
    return base64.b64encode(page.locator("#figure").screenshot()).decode()


def main() -> None:
    """Write the notebook with what it shows."""
    with tempfile.TemporaryDirectory() as folder:
        notebook = executed(Path(folder))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": 800}, device_scale_factor=1.25)
        page.set_content(f'<body style="margin:0;background:white"><div id="figure"></div><script>{get_plotlyjs()}</script></body>')
        for data in outputs(notebook, PLOTLY):
            data[PICTURE] = picture(page, data[PLOTLY])
        browser.close()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times of day, which would differ at every run
    nbformat.write(notebook, NOTEBOOK)


if __name__ == "__main__":
    main()
