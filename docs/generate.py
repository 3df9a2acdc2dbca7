"""Write what is generated between its markers in the documents: ``python docs/generate.py``; ``--check`` only compares.

It stands between ``<!-- begin: NAME ... -->`` and ``<!-- end: NAME -->``. A new part is a function in PARTS.
"""

import inspect
import json
import re
import runpy
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import typer
from foreshock.analyzer.rules import RuleSet
from foreshock.cli import app
from foreshock.probes.base import Probe
from foreshock.probes.registry import PRESETS, known_probes

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = (
    ROOT / "README.md",
    ROOT / "docs" / "probes.md",
    ROOT / "docs" / "signals.md",
    ROOT / "docs" / "zoo.md",
    ROOT / "docs" / "causes.md",
    ROOT / "docs" / "risk.md",
    ROOT / "docs" / "importing.md",
    ROOT / "docs" / "notifications.md",
)
SECTIONS = ("Trouble it reveals", "Formula", "Cost", "Source")
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


def probes() -> str:
    """List the probes, the cheapest preset that has each, and its signals."""
    rows = (
        (f"[`{name}`](docs/probes.md#{name})", preset_of(probe).partition(":")[0], lead_of(probe))
        for name, probe in known_probes().items()
    )
    return table(("probe", "preset", "what it measures"), rows)


def probe_pages() -> str:
    """Document every probe from the docstring of its module."""
    return "\n".join(page(name, probe) for name, probe in known_probes().items())


def signal_pages() -> str:
    """Document every signal."""
    pages = runpy.run_path(str(ROOT / "docs" / "signals.py"))["pages"]
    return "\n".join(pages(documentation, preset_of))


def page(name: str, probe: type[Probe]) -> str:
    """Return one probe's part of the document."""
    text = [f"## `{name}`\n", f"{documentation(probe)[0]}\n", f"Preset: {preset_of(probe)}.\n"]
    for paragraph in documentation(probe)[1:]:
        label, colon, rest = paragraph.partition(": ")
        text.append(f"**{label}:** {rest}\n" if colon and label in SECTIONS else f"{paragraph}\n")
    text.append(f"**Signals:** {', '.join(f'`{signal}`' for signal in probe.signals)}\n")
    return "\n".join(text)


def documentation(probe: type[Probe]) -> list[str]:
    """Return the paragraphs of a probe's module docstring, each in one line but those that are indented.

    Raises:
        ValueError: it lacks one of SECTIONS; every probe says these of itself.
    """
    module = inspect.getmodule(probe)
    raw = (inspect.getdoc(module) or "").split("\n\n")
    paragraphs = [each if each.startswith("    ") else " ".join(each.split()) for each in raw]
    missing = [section for section in SECTIONS if not any(each.startswith(f"{section}: ") for each in paragraphs)]
    if missing:
        raise ValueError(f"the docstring of {probe.__module__} has no paragraph '{missing[0]}: ...'")
    # Double backticks are reStructuredText's; Markdown takes single ones.
    return [each.replace("``", "`") for each in paragraphs]


def lead_of(probe: type[Probe]) -> str:
    """Return the first line of a probe's documentation."""
    return documentation(probe)[0].rstrip(".")


def preset_of(probe: type[Probe]) -> str:
    """Return the presets that hold a probe, from the smallest on. The one without a preset is the distributed job's own."""
    smallest = next((preset for preset in PRESETS if preset in probe.presets), "")
    if not smallest:
        return "none: it runs in every distributed job"
    return smallest if smallest == PRESETS[-1] else f"{smallest} and larger"


def causes() -> str:
    """List the causes that alerts name, each with its page and the rules and facts that speak for it most."""
    from foreshock.analyzer.diagnosis import patterns

    def signs(weights: Mapping[str, float]) -> str:
        strongest = sorted((name for name, weight in weights.items() if weight > 0), key=lambda name: -weights[name])
        return ", ".join(f"`{name}`" for name in strongest[:4])

    rows = (
        (
            f"[{each.title}](../analyzer/causes/{each.doc}.md)",
            f"`{each.name}`",
            signs(each.signs),
            ", ".join(f"`{name}`" for name in each.interventions),
        )
        for each in patterns()
    )
    return table(("cause", "id", "speaks for it most", "what foreshock can do, if asked to"), rows)


def zoo() -> str:
    """List the zoo's scenarios by split and family, with what was measured of them."""
    from foreshock.zoo.document import document

    return document(table)


def imported_names() -> str:
    """List the names that imports take for signals."""
    from foreshock.storage.transfer.imports.names import USUAL

    return table(
        ("signal", "what it is called elsewhere"),
        ((f"`{ours}`", ", ".join(f"`{name}`" for name in names)) for ours, names in USUAL.items()),
    )


def risk() -> str:
    """Tell of the fitted risk what was measured, and its weights."""
    from foreshock.zoo.risk_page import document

    return document(table)


def webhook_schema() -> str:
    """Describe the body of webhooks, as JSON Schema."""
    from foreshock.dashboard.messages.payload import webhook_schema

    return json.dumps(webhook_schema(), indent=2) + "\n"


def prometheus() -> str:
    """Show the files for Prometheus as they are shipped."""
    folder = ROOT / "dashboard" / "prometheus"
    return "\n".join(
        f"`{name}`:\n\n```yaml\n{(folder / name).read_text('utf-8')}```\n" for name in ("scrape.yml", "alertmanager.yml")
    )


def message_fields() -> str:
    """List what templates of messages may name."""
    from foreshock.analyzer.messages import FIELDS

    return table(("field", "what it holds"), ((f"`{name}`", words) for name, words in FIELDS.items()))


def message_template() -> str:
    """Show the template of messages that is built in."""
    from foreshock.analyzer.messages import BODY, TITLE

    return f"```toml\n[message]\ntitle = '''{TITLE}'''\nbody = '''\n{BODY}'''\n```\n"


PARTS: dict[str, Callable[[], str]] = {
    "rules": rules,
    "commands": commands,
    "probes": probes,
    "probe_pages": probe_pages,
    "signal_pages": signal_pages,
    "zoo": zoo,
    "causes": causes,
    "risk": risk,
    "imported_names": imported_names,
    "prometheus": prometheus,
    "message_fields": message_fields,
    "message_template": message_template,
}
WHOLE: dict[Path, Callable[[], str]] = {ROOT / "dashboard" / "messages" / "webhook.schema.json": webhook_schema}
"""Files that are generated as a whole."""


def generated(text: str) -> str:
    """Return ``text`` with every part between markers made anew."""
    return MARKERS.sub(lambda found: found[1] + PARTS[found["name"]]() + found[4], text)


def main(arguments: list[str]) -> int:
    """Write or check; return 1 if a document is out of date."""
    stale = 0
    wanted = {document: generated(document.read_text("utf-8")) for document in DOCUMENTS if document.exists()}
    wanted |= {file: make() for file, make in WHOLE.items() if file.parent.exists()}
    for document, new in wanted.items():
        old = document.read_text("utf-8") if document.exists() else ""
        if arguments == ["--check"]:
            if old != new:
                stale = 1
                print(f"{document.name} is out of date; run: make docs", file=sys.stderr)
        else:
            document.write_text(new, "utf-8")
    return stale


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
