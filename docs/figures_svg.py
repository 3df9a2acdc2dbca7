"""What the scripts that draw the documents' figures share: plotly to SVG by Chromium, and tables put into a page."""

import re
import shutil
from pathlib import Path
from urllib.parse import unquote

import plotly.graph_objects as go
from playwright.sync_api import sync_playwright

DOCS = Path(__file__).resolve().parent


def write_svg(drawn: go.Figure, name: str) -> None:
    """Let Chromium turn a figure into ``images/name.svg``, in the size of its layout."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("no Chromium found; install it (Debian: apt-get install chromium)")
    size = f"width: {drawn.layout.width}, height: {drawn.layout.height}"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        tab = browser.new_page()
        tab.set_content(drawn.to_html(include_plotlyjs=True, div_id="drawn"))
        address = tab.evaluate(f"Plotly.toImage('drawn', {{format: 'svg', {size}}})")
        browser.close()
    (DOCS / "images" / f"{name}.svg").write_text(unquote(address.partition(",")[2]), "utf-8")


def put(page: str, tables: dict[str, str]) -> None:
    """Put tables between the marks ``<!-- begin: name -->`` and ``<!-- end: name -->`` of a page."""
    file = DOCS / page
    text = file.read_text("utf-8")
    for name, table in tables.items():
        marked = re.compile(rf"(<!-- begin: {name} -->\n).*?(<!-- end: {name} -->)", re.DOTALL)
        if not marked.search(text):
            raise SystemExit(f"{page} has no marks for {name!r}")
        text = marked.sub(lambda found, table=table: found[1] + table + found[2], text)  # type: ignore[misc]
    file.write_text(text, "utf-8")


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines) + "\n"
