"""A hook of the documentation site: the pages of the causes join it, the schema of webhooks, and the notebook with its pictures.

Causes and schema come with the package (`analyzer/causes/`, `dashboard/messages/`), because they are wanted without a network too.
"""

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
CAUSES = ROOT / "analyzer" / "causes"
SCHEMA = ROOT / "dashboard" / "messages" / "webhook.schema.json"
NOTEBOOK = ROOT / "docs" / "notebook.ipynb"
_MOVED = {"notebook.ipynb": "notebook.md", "../examples/": "examples/"}
"""Where links of the documents lead in the repository, and on the site."""
_CAUSE = re.compile(r"\]\(\.\./analyzer/causes/([\w-]+\.md)\)")
_NAMED = re.compile(r"(?<![\w/`(\[-])([a-z]+(?:-[a-z]+)+)(?![\w`\])-])")


def on_files(files: Files, config: Any) -> Files:
    """Add a page for each cause, the notebook with its pictures, the examples, the dashboard's mark, and the schema."""
    files.append(File.generated(config, "images/mark.svg", abs_src_path=str(ROOT / "dashboard" / "assets" / "mark.svg")))
    files.append(File.generated(config, SCHEMA.name, abs_src_path=str(SCHEMA)))
    for source in sorted(CAUSES.glob("*.md")):
        files.append(File.generated(config, f"causes/{source.name}", content=source.read_text("utf-8")))
    for source in sorted((ROOT / "examples").glob("*.py")):
        files.append(File.generated(config, f"examples/{source.name}", content=source.read_text("utf-8")))
    pictures: list[bytes] = []
    files.append(File.generated(config, "notebook.md", content="\n\n".join(notebook_parts(pictures))))
    for number, picture in enumerate(pictures):
        files.append(File.generated(config, f"images/notebook-{number}.png", content=picture))
    return files


def notebook_parts(pictures: list[bytes]) -> Iterator[str]:
    """Yield the notebook's cells and what they showed as Markdown; pictures are appended to ``pictures``."""
    for cell in json.loads(NOTEBOOK.read_text("utf-8"))["cells"]:
        source = "".join(cell["source"])
        yield source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```"
        for output in cell.get("outputs", ()):
            shown = output.get("data", {})
            if "image/png" in shown:
                yield f"![What this cell draws](images/notebook-{len(pictures)}.png)"
                pictures.append(base64.b64decode(shown["image/png"]))
            elif "text/html" in shown:
                # One block for Markdown: an empty line would end it. The looks are the site's.
                yield re.sub(
                    r"<style.*?</style>|\n\s*| border=\"1\" class=\"dataframe\"", "", "".join(shown["text/html"]), flags=re.DOTALL
                )
            elif text := "".join(output.get("text") or shown.get("text/plain", "")).rstrip():
                yield f"```text\n{text}\n```"


def on_page_markdown(markdown: str, page: Page, config: Any, files: Files) -> str:
    """Let links stay inside the site: to causes' pages, and from a cause to those it names."""
    if page.file.src_uri.startswith("causes/"):
        known = {source.stem for source in CAUSES.glob("*.md")} - {Path(page.file.src_uri).stem}
        return _NAMED.sub(lambda found: f"[{found[1]}]({found[1]}.md)" if found[1] in known else found[1], markdown)
    markdown = markdown.replace(f"](../{SCHEMA.relative_to(ROOT).as_posix()})", f"]({SCHEMA.name})")
    for there, here in _MOVED.items():
        markdown = markdown.replace(f"]({there}", f"]({here}")
    return _CAUSE.sub(lambda found: f"](causes/{found[1]})", markdown)
