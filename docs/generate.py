"""Write the generated tables between their markers in README.md: ``python docs/generate.py``; ``--check`` only compares.

A table stands between ``<!-- begin: NAME ... -->`` and ``<!-- end: NAME -->``. A new one is a function in TABLES.
"""

import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import typer
from foreshock.analyzer.rules import RuleSet
from foreshock.cli import app

README = Path(__file__).resolve().parents[1] / "README.md"
MARKERS = re.compile(r"(<!-- begin: (?P<name>\w+)[^>]*-->\n)(.*?)(<!-- end: (?P=name) -->)", re.DOTALL)


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table."""
    lines = [list(head), *(list(row) for row in rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def rules() -> str:
    """List the default rules."""
    rows = ((rule.title, f"`{rule.name}`", str(rule.severity), signals(rule.signals.values())) for rule in RuleSet.default().active)
    return table(("warns of", "rule", "severity", "looks at"), rows)


def signals(inputs: Iterable[tuple[str, ...]]) -> str:
    """Name each signal once."""
    return ", ".join(f"`{name}`" for name in dict.fromkeys(name for names in inputs for name in names))


def commands() -> str:
    """List the commands of the command line, nested ones in full."""
    rows = ((f"`{path}`", command.get_short_help_str(120)) for path, command in leaves("foreshock", typer.main.get_command(app)))
    return table(("command", "what it does"), rows)


def leaves(path: str, command: Any) -> Iterator[tuple[str, Any]]:
    """Yield the commands below a group, with their full names."""
    if not hasattr(command, "commands"):
        yield path, command
        return
    for name, inner in command.commands.items():
        yield from leaves(f"{path} {name}", inner)


TABLES: dict[str, Callable[[], str]] = {"rules": rules, "commands": commands}


def generated(text: str) -> str:
    """Return ``text`` with every table between markers made anew."""
    return MARKERS.sub(lambda found: found[1] + TABLES[found["name"]]() + found[4], text)


def main(arguments: list[str]) -> int:
    """Write or check; return 1 if README.md is out of date."""
    old = README.read_text("utf-8")
    new = generated(old)
    if arguments == ["--check"]:
        if old != new:
            print("README.md is out of date; run: make docs", file=sys.stderr)
        return int(old != new)
    README.write_text(new, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
