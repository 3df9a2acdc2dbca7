"""The pages of causes as HTML that cannot hold anything but text, lists, tables and links."""

from functools import cache

from markdown_it import MarkdownIt


def as_html(text: str) -> str:
    """Return Markdown as HTML; HTML in it stays text. Its headings go two levels down, beneath those of the report."""
    parser = _parser()
    tokens = parser.parse(text)
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(6, int(token.tag[1:]) + 2)}"
        if token.type == "table_open":  # may be wider than a phone: it scrolls by itself, with the keyboard too
            token.attrSet("tabindex", "0")
    return str(parser.renderer.render(tokens, parser.options, {}))


@cache
def _parser() -> MarkdownIt:
    return MarkdownIt("commonmark", {"html": False}).enable("table")
