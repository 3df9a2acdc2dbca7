"""What the runs say, arm by arm, and which of the papers' claims they bear out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .arms import ARMS

Result = dict[str, Any]
"""What ``runs.perform`` returns."""


@dataclass(frozen=True, slots=True)
class ArmSummary:
    """An arm over its seeds.

    Attributes:
        name, title, family, role: the arm's.
        seeds: how many runs there are.
        failed: how many of them failed for good.
        finals: last running median of the loss by seed; None where it ended not finite.
        to_float32: the same over that of the float32 run of that seed; None where either is missing. A run that neither fails by
            the rule nor learns shows here.
        failure_steps: first step of the failure by seed; None where there was none.
        leads: steps from the first warning to the failure by seed; None where nothing failed or nothing warned.
        warned: how many runs raised a warning.
    """

    name: str
    title: str
    family: str
    role: str
    seeds: int
    failed: int
    finals: list[float | None]
    to_float32: list[float | None]
    failure_steps: list[int | None]
    leads: list[int | None]
    warned: int


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim, what was found, and whether that bears it out."""

    claim: str
    found: str
    held: bool


def summed_up(results: Sequence[Result]) -> list[ArmSummary]:
    """Return a summary of every arm that was run."""
    summaries = []
    twins = {run["seed"]: run["final"] for run in results if run["arm"] == "float32"}
    for arm in ARMS:
        runs = sorted((run for run in results if run["arm"] == arm.name), key=lambda run: int(run["seed"]))
        if runs:
            failed = [run["outcome"] != "survived" for run in runs]
            summaries.append(
                ArmSummary(
                    arm.name,
                    arm.title,
                    arm.family,
                    arm.role,
                    len(runs),
                    sum(failed),
                    [run["final"] for run in runs],
                    [_ratio(run["final"], twins.get(run["seed"])) for run in runs],
                    [run["failure"]["step"] if bad else None for run, bad in zip(runs, failed, strict=True)],
                    [run["lead_steps"] for run in runs],
                    sum(run["first_warning"] is not None for run in runs),
                )
            )
    return summaries


def _ratio(final: float | None, twin: float | None) -> float | None:
    return final / twin if final is not None and twin else None


def claims(crafted: Sequence[dict[str, Any]], arms: Sequence[ArmSummary]) -> list[Claim]:
    """Return every claim that these measurements can judge. The ingredients alone are reported, not claimed."""
    biased, mended = crafted[0], crafted[1]
    drop = abs(biased["output_error_ulp"]) / max(abs(mended["output_error_ulp"]), 1e-12)
    judged = [
        Claim(
            "Rows with tied maxima and values of one sign bias a low-precision accumulator",
            f"mean error of O {biased['output_error_ulp']:+.3f} ulp (z {biased['output_z']:.0f}), "
            f"delta's error has one sign in {biased['same_sign']:.0%} of {biased['rows']:,} rows",
            abs(biased["output_error_ulp"]) > 0.1 and abs(biased["output_z"]) > 10,
        ),
        Claim(
            "The dynamic maximum removes that bias",
            f"mean error of O {mended['output_error_ulp']:+.4f} ulp, {drop:.0f} times less; one sign in {mended['same_sign']:.0%}",
            drop >= 20,
        ),
    ]
    for arm in arms:
        found = f"{arm.failed} of {arm.seeds} seeds fail"
        if arm.role == "failing":
            judged.append(Claim(f"Training fails: {arm.title}", found, arm.failed == arm.seeds))
        elif arm.role in ("control", "cure"):
            judged.append(Claim(f"Training survives: {arm.title}", found, arm.failed == 0))
    return judged
