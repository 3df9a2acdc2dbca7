"""The risk in numbers: what docs/risk.md says of the fitted model, from ``analyzer/risk.toml`` alone."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from math import exp
from typing import Any

from ..analyzer.risk import RiskModel
from ..analyzer.rules import RuleSet

_HEAD = ("said", "came of it", "95 % interval", "moments", "runs", "scenarios")
Table = Callable[[Iterable[str], Iterable[Iterable[str]]], str]


def document(table: Table) -> str:
    """Return what was fitted and how well it holds as Markdown.

    Args:
        table: writes a table, from its head and its rows.
    """
    model = RiskModel.load()
    if not model.measured:
        return "The model is provisional: its numbers were set by hand, and nothing is measured of it yet.\n"
    told = model.measured
    return "\n".join(
        [
            _runs(told),
            "The shipped model on the runs that it was set on, which is what a reading means:\n",
            table(_HEAD, map(_bin, told["reliability_seen"])),
            "Out of family, which is how far that carries to runs of a kind that it has not seen:\n",
            table(_HEAD, map(_bin, told["reliability"])),
            _scores(told),
            table(("family", "runs", "failed", "said before a failure", "said else"), map(_family, told["by_family"])),
            _weights(model),
            table(("open", "multiplies the odds by"), _rows(model)),
        ]
    )


def _runs(told: Mapping[str, Any]) -> str:
    seeds = ", ".join(map(str, told["seeds"]))
    return (
        f"Fitted on {told['runs']} runs of {told['scenarios']} scenarios in {told['families']} families (split `train`, "
        f"seeds {seeds}); {told['failed_share']:.0%} of the runs fail. Of the {told['moments']:,} moments before a failure or "
        f"the end, each run's together counting as one run, {told['soon_share']:.0%} were followed by a failure soon.\n"
    )


def _bin(line: Mapping[str, Any]) -> tuple[str, ...]:
    interval = f"{line['came_low']:.0f} to {line['came_high']:.0f} %"
    counts = (f"{line[name]:,}" for name in ("moments", "runs", "scenarios"))
    return f"{line['said']:.0f}", f"{line['came']:.0f} %", interval, *counts


def _scores(told: Mapping[str, Any]) -> str:
    skill = 1.0 - told["brier"] / told["brier_base"]
    return (
        f"Brier score {told['brier']:.3f}, against {told['brier_base']:.3f} for always saying the share of the other families "
        f"(skill {skill:.0%}); log loss {told['log_loss']:.3f} nat against {told['log_loss_base']:.3f}; expected calibration error "
        f"{told['calibration_error']:.3f} (ten bins). {told['met']} runs met the rule of failure at some step, and "
        f"{told['met_lasting']} of these did not come back.\n"
    )


def _family(line: Mapping[str, Any]) -> tuple[str, ...]:
    said = (f"{line[name]:.0f}" if name in line else "-" for name in ("said_before", "said_else"))
    return f"`{line['family']}`", str(line["runs"]), str(line["failed"]), *said


def _weights(model: RiskModel) -> str:
    told = model.measured
    stale = "" if told["rules"] == _digest() else " **The rules have changed since: fit it again.**"
    return (
        f"With nothing alarmed the risk is {model.reading(model.base):.0f}; where the loss meets the rule of failure it is at "
        f"least {100 * model.failing:.0f}. {told['seen']} rules were alarmed in these runs and have a weight of their own; the "
        f"others, yours among them, count by their severity. Rules about the monitor itself count nothing.{stale}\n"
    )


def _rows(model: RiskModel) -> Iterator[tuple[str, str]]:
    """Yield the severities, then the rules whose weight is another than their severity's, the heaviest first."""
    for severity in model.each:
        yield f"any alert of severity {severity} or above", _factor(model.first[severity])
    for severity, weight in model.each.items():
        yield f"besides, each rule of severity {severity}", _factor(weight)
    active = {rule.name: rule.severity for rule in RuleSet.default().active}
    own = {name: weight for name, weight in model.weights.items() if name in active}
    for name, weight in sorted(own.items(), key=lambda item: (-item[1], item[0])):
        if abs(weight - model.each[active[name]]) > 0.02:
            yield f"but `{name}`", _factor(weight)


def _factor(weight: float) -> str:
    return f"{exp(weight):.2g}"


def _digest() -> str:
    from .calibration import rules_digest

    return rules_digest(RuleSet.default())
