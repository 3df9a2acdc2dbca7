"""The style sheets of all pages are loaded together: a class of one page must not mean something else on another."""

import re
from collections import defaultdict
from pathlib import Path

SHEETS = Path(__file__).parents[2] / "dashboard" / "assets"


def test_no_class_is_styled_by_the_sheets_of_two_pages() -> None:
    styled = defaultdict(set)
    for sheet in SHEETS.glob("page-*.css"):
        for selectors in re.findall(r"^([^{}@/]+)\{", sheet.read_text("utf-8"), re.MULTILINE):
            for selector in selectors.split(","):
                if found := re.fullmatch(r"\.([\w-]+)", selector.strip()):
                    styled[found[1]].add(sheet.name)
    assert len(styled) > 50
    assert {name: sheets for name, sheets in styled.items() if len(sheets) > 1} == {}
