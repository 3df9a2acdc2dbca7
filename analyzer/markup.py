"""Markdown, in which messages are written: text made safe to stand in it, and a message as plain text."""

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from markdown_it.token import Token

_SPECIAL = re.compile(r"[\\`*<\[\]]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|~(?=~)|(?<=~)~|&(?=#?[A-Za-z0-9]{1,32};)")
_ESCAPED = re.compile(r"\\([\\`*<\[\]_~&#>+=.)-])")
_BEGINS_SOMETHING = re.compile(r"^(?:[-=]+(?=\s*$)|[-+](?=\s)|#{1,6}(?=\s|$)|>|\d{1,9}[.)](?=\s|$)|\+$)")


def escape(text: str) -> str:
    r"""Return text so that Markdown shows it letter by letter: ``a*b`` as ``a\*b``. ``attn_norm`` needs no help."""
    return "\n".join(_BEGINS_SOMETHING.sub(_guarded, _SPECIAL.sub(r"\\\g<0>", line)) for line in text.split("\n"))


def unescape(markdown: str) -> str:
    """Return Markdown without what ``escape`` put in, for services that would show it: a name may then read as emphasis."""
    return _ESCAPED.sub(r"\1", markdown)


def _guarded(found: re.Match[str]) -> str:
    return f"{found[0][:-1]}\\{found[0][-1]}"


def plain(markdown: str) -> str:
    """Return a message as text: items of lists keep their marks, a link is followed by its address, emphasis goes."""
    from markdown_it import MarkdownIt

    said, mark, gap = "", "", "\n\n"
    items: list[int | None] = []  # of each list that is open the number of its last item; None where they have no numbers
    for token in MarkdownIt("commonmark").parse(markdown):
        match token.type:
            case "bullet_list_open":
                items.append(None)
            case "ordered_list_open":
                items.append(int(token.attrs.get("start", 1)) - 1)
            case "bullet_list_close" | "ordered_list_close":
                items.pop()
            case "list_item_open":
                number = items[-1]
                items[-1] = None if number is None else number + 1
                mark = "  " * (len(items) - 1) + ("- " if number is None else f"{number + 1}. ")
            case "paragraph_open":
                gap = "\n" if token.hidden else "\n\n"
            case "inline" | "fence" | "code_block" | "html_block" | "hr":
                text = _inline(token.children or ()) if token.type == "inline" else token.content.rstrip() or "---"
                said += f"{gap if said else ''}{mark}{text}"
                mark, gap = "", "\n\n"
    return said


def _inline(tokens: "Iterable[Token]") -> str:
    said, begun = "", [(0, "")]
    for token in tokens:
        match token.type:
            case "softbreak" | "hardbreak":
                said += "\n"
            case "link_open":
                begun.append((len(said), str(token.attrs.get("href", ""))))
            case "link_close":
                start, address = begun.pop()
                said += f": {address}" if said[start:] != address else ""
            case _:
                said += token.content
    return said
