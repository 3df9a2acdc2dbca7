"""A hook of the documentation site: the pages of the causes join it, the schema of webhooks, and the examples.

The first two come with the package (`analyzer/causes/`, `dashboard/messages/`), because they are wanted without a network too.
"""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
CAUSES = ROOT / "analyzer" / "causes"
SCHEMA = ROOT / "dashboard" / "messages" / "webhook.schema.json"
EXAMPLES = ROOT / "examples"
_CAUSE = re.compile(r"\]\(\.\./analyzer/causes/([\w-]+\.md)\)")
_EXAMPLE = re.compile(r"\]\(\.\./examples/(\w+\.py)\)")
_NAMED = re.compile(r"(?<![\w/`(\[-])([a-z]+(?:-[a-z]+)+)(?![\w`\])-])")


def on_files(files: Files, config: Any) -> Files:
    """Add a page for each cause, the dashboard's mark, the schema, and the examples as they are."""
    files.append(File.generated(config, "images/mark.svg", abs_src_path=str(ROOT / "dashboard" / "assets" / "mark.svg")))
    files.append(File.generated(config, SCHEMA.name, abs_src_path=str(SCHEMA)))
    for source in sorted(EXAMPLES.glob("*.py")):
        files.append(File.generated(config, f"examples/{source.name}", abs_src_path=str(source)))
    for source in sorted(CAUSES.glob("*.md")):
        files.append(File.generated(config, f"causes/{source.name}", content=source.read_text("utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, config: Any, files: Files) -> str:
    """Let links stay inside the site: to causes' pages, and from a cause to those it names."""
    if page.file.src_uri.startswith("causes/"):
        known = {source.stem for source in CAUSES.glob("*.md")} - {Path(page.file.src_uri).stem}
        return _NAMED.sub(lambda found: f"[{found[1]}]({found[1]}.md)" if found[1] in known else found[1], markdown)
    markdown = markdown.replace(f"](../{SCHEMA.relative_to(ROOT).as_posix()})", f"]({SCHEMA.name})")
    markdown = _EXAMPLE.sub(lambda found: f"](examples/{found[1]})", markdown)
    return _CAUSE.sub(lambda found: f"](causes/{found[1]})", markdown)
