"""The page of a cause: what it is, how it looks, how to be sure, what to do."""

import re

from dash import dcc, html

from ..paths import cause_path, runs_path

_PAPER = re.compile(r"\barXiv (\d{4}\.\d{4,5})")


def cause_page(doc: str, text: str, others: dict[str, str]) -> html.Main:
    """Return the page of a cause.

    Args:
        doc: Its name.
        text: What it says, as Markdown. HTML in it stays text.
        others: Names and titles of all causes; where the text names one, it becomes a link.
    """
    back = html.Nav(dcc.Link("← All runs", href=runs_path()), className="breadcrumb")
    article = dcc.Markdown(linked(doc, text, others), className="prose", link_target="_self")
    return html.Main([back, html.Article(article, className="card")], id="cause-page", className="page narrow")


def linked(doc: str, text: str, others: dict[str, str]) -> str:
    """Return the text with links where it names another cause or a paper."""
    named = [name for name in others if name != doc and "-" in name]  # a name of one word is a word of the text as well
    if named:
        pattern = re.compile(rf"(?<![\w/`(-])({'|'.join(map(re.escape, sorted(named, key=len, reverse=True)))})(?![\w`-])")
        text = pattern.sub(lambda found: f"[{others[found[1]]}]({cause_path(found[1])})", text)
    return _PAPER.sub(lambda found: f"[{found[0]}](https://arxiv.org/abs/{found[1]})", text)
