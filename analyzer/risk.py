"""Risk: how likely a run is to fail soon, as a number from 0 to 100 with a stated meaning.

Of the moments in the zoo's training runs that are scored near 80, about 80 % were followed by a failure before the run was twice
as long. The number comes from what is alarmed now and what was lately: a logistic regression over the rules, with no weight below
0, so that more alarm never lowers it. ``foreshock zoo calibrate`` fits it and writes ``risk.toml``; docs/risk.md
shows how well it holds.
"""

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from ..storage.records import Severity

FILE = "risk.toml"
VERSION = 1
SIGNAL = "risk"
"""Name of the run's series of this number; no rule is fed from it."""

HORIZON_SHARE = 1.0
HORIZON_LEAST = 100
"""A failure is soon where it comes before the run is twice as long; in a run's first steps, within 100."""

HIGHEST = 99.0
"""The highest reading of a run that may yet be well; 100 says that the loss has not been finite for long."""


class RiskError(ValueError):
    """The file of the fitted model is missing, or not one."""


@dataclass(frozen=True, slots=True)
class RiskModel:
    """A fitted model: log odds that add up.

    Attributes:
        base: log odds of a run in which nothing is or was alarmed.
        first: by severity, what is added where any alert of at least this severity is open.
        each: by severity, what every rule adds besides that has no weight of its own.
        weights: by rule, what an open alert of it adds besides. All of these are 0 or more.
        failing: chance that a run which meets the rule of failure now does not come back from it.
        memory_share, memory_least: an alert that is over counts half after this share of the run's steps at its end, and at
            least so many steps.
        ignored: rules that say nothing of the run, such as those about the monitor itself.
        calibrated: False where nothing was fitted yet and the numbers were set by hand.
        measured: how well it holds, as docs/risk.md shows it.
    """

    base: float
    first: Mapping[Severity, float]
    each: Mapping[Severity, float]
    weights: Mapping[str, float]
    failing: float
    memory_share: float
    memory_least: float
    ignored: frozenset[str] = frozenset()
    calibrated: bool = True
    measured: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        added = [*self.weights.items(), *self.first.items(), *self.each.items()]
        wrong = sorted({str(name) for name, weight in added if not 0.0 <= weight < math.inf})
        if wrong:
            raise RiskError(f"weights must be 0 or more, so that more alarm never lowers the risk; not so: {', '.join(wrong)}")
        if not (math.isfinite(self.base) and 0.0 <= self.failing <= 1.0 and self.memory_share >= 0.0 and self.memory_least > 0.0):
            raise RiskError("base must be finite, failing 0 to 1, the memory's share 0 or more and its least steps above 0")

    def odds(self, evidence: Mapping[str, float], severities: Mapping[str, Severity]) -> float:
        """Return the log odds.

        Args:
            evidence: how much each rule counts, 1 where an alert of it is open.
            severities: of these rules.
        """
        odds, most = self.base, dict.fromkeys(Severity, 0.0)
        for rule, share in sorted(evidence.items()):  # in order, so that the sum is the same to the last bit
            if rule not in self.ignored:
                severity = severities[rule]
                most[severity] = max(most[severity], share)
                odds += share * self.weights.get(rule, self.each[severity])
        reached = 0.0
        for severity in reversed(Severity):
            reached = max(reached, most[severity])
            odds += self.first[severity] * reached
        return odds

    def half_life(self, step: int) -> float:
        """Return the steps in which an alert that ended at ``step`` comes to count half."""
        return max(self.memory_least, self.memory_share * step)

    def reading(self, odds: float) -> float:
        """Return log odds as a number from 0 to ``HIGHEST``."""
        return min(HIGHEST, 100.0 / (1.0 + math.exp(-odds))) if odds > -700.0 else 0.0

    @classmethod
    def load(cls, source: Path | Traversable | None = None) -> "RiskModel":
        """Read a model from a file that ``foreshock zoo calibrate`` wrote; the package's own when None.

        Raises:
            RiskError: it is not there, or not such a file.
        """
        place = files(__package__).joinpath(FILE) if source is None else source
        remedy = "install foreshock anew, or make one: foreshock zoo calibrate --recordings FOLDER --out FILE"
        try:
            found = tomllib.loads(place.read_text("utf-8"))
            if found.get("version") != VERSION:
                raise RiskError(f"{place} has version {found.get('version')!r}; this foreshock reads version {VERSION}; {remedy}")
            return cls(
                base=float(found["base"]),
                first={severity: float(found["first"][severity]) for severity in Severity},
                each={severity: float(found["each"][severity]) for severity in Severity},
                weights={name: float(weight) for name, weight in found["weights"].items()},
                failing=float(found["failing"]),
                memory_share=float(found["memory"]["share"]),
                memory_least=float(found["memory"]["least"]),
                ignored=frozenset(found["ignored"]),
                calibrated=bool(found["calibrated"]),
                measured=found.get("measured", {}),
            )
        except RiskError:
            raise
        except OSError as error:
            raise RiskError(f"the model of the risk cannot be read: {error}; {remedy}") from error
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise RiskError(f"{place} is not a model of the risk ({type(error).__name__}: {error}); {remedy}") from error


@cache
def default_model() -> RiskModel:
    """Return the package's own model, read once a process.

    Raises:
        RiskError: see ``RiskModel.load``.
    """
    return RiskModel.load()


def horizon(step: int) -> int:
    """Return the steps after ``step`` within which a failure counts as soon."""
    return max(HORIZON_LEAST, math.ceil(HORIZON_SHARE * step))


def words(value: float | None) -> str:
    """Return what a reading means, in one plain sentence. None and NaN: nothing was measured yet."""
    if value is None or math.isnan(value):
        return "Risk n/a: nothing has been measured yet."
    if value > HIGHEST:
        return "Risk 100: the loss is not finite any more. The run has failed."
    shown = f"{value:.0f}"
    if not _calibrated():
        return f"Risk {shown} of 100, not calibrated: it tells more from less, but is no share of anything."
    seen, unseen = (_bin(default_model().measured.get(table, ()), value) for table in ("reliability_seen", "reliability"))
    if seen is None:
        return f"Risk {shown} of 100: likelier to fail soon than a run with a lower number; no moments like this were measured."
    of_others = f"; in kinds of runs new to it, {unseen['came']:.0f} %" if unseen is not None else ""
    return (
        f"Risk {shown}: in foreshock's own test runs, {seen['came']:.0f} % of the moments with a risk of {seen['low']} to "
        f"{seen['high']} were followed by a failure before the run was twice as long (in its first {HORIZON_LEAST} steps: within "
        f"{HORIZON_LEAST}){of_others}."
    )


def _bin(table: Sequence[Mapping[str, Any]], value: float) -> Mapping[str, Any] | None:
    """Return the row of a table of reliability that a reading falls into; None where no moments did."""
    return next((row for row in table if row["low"] <= value < row["high"] and row["moments"]), None)


def shifted(value: float, share: float, zoo_share: float) -> float:
    """Return a reading as it would be where another share of the runs fails than in the zoo.

    The evidence is the same, the odds before it are others: ``odds * (share / (1 - share)) / (zoo_share / (1 - zoo_share))``.

    Args:
        value: the reading, 0 to 100.
        share: of your runs that fail, between 0 and 1.
        zoo_share: of the zoo's; ``default_model().measured["failed_share"]``.

    Raises:
        ValueError: a share is not between 0 and 1.
    """
    for given in (share, zoo_share):
        if not 0.0 < given < 1.0:
            raise ValueError(f"got {given!r}; allowed: a share between 0 and 1, both excluded")
    if not 0.0 < value < 100.0:
        return value
    odds = value / (100.0 - value) * (share / (1.0 - share)) / (zoo_share / (1.0 - zoo_share))
    return 100.0 * odds / (1.0 + odds)


def _calibrated() -> bool:
    try:
        return default_model().calibrated
    except RiskError:
        return False
