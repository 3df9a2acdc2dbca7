"""``foreshock inspect``: what a bundle shows, in plain words and as data. How it is judged: verdict.py."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from .bundle import AttentionSlice, Bundle, CapturedStep
from .verdict import Finding, judged

_SHOWN_NUMBERS = 6

_SUMMED = {
    "confirmed": "The rounding hypothesis is confirmed. Switch to stabilised attention: foreshock.kernels.install(), or "
    "interventions=['stabilized_attention'].",
    "undecided": "The rounding hypothesis is neither confirmed nor rejected.",
    "other": "The rounding hypothesis is rejected: delta is not taken from the rounded output. But these gradients hold rounding "
    "errors of another origin, as large as those that do harm. Look at what else is kept in low precision.",
    "small": "The rounding hypothesis is rejected here: the errors are there, and too small to move the weights in these steps. In "
    "a long run watch `weight.spectral_norm` of the query projection.",
    "rejected": "The rounding hypothesis is rejected.",
    "not applicable": "The rounding hypothesis cannot be tested on these layers.",
}
"""What is said of the whole bundle, the first that any head shows."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a bundle shows.

    Attributes:
        about: the run, the alert, versions.
        steps: the captured steps: number, loss, gradient norm, and what was said of the batch, as far as they are known.
        findings: one for each key head.
    """

    about: dict[str, Any]
    steps: tuple[dict[str, Any], ...]
    findings: tuple[Finding, ...]

    @property
    def confirmed(self) -> bool:
        """Whether any head confirms the hypothesis."""
        return self.verdict == "confirmed"

    @property
    def verdict(self) -> str:
        """That of the whole bundle: the gravest of any head."""
        found = {finding.verdict for finding in self.findings}
        return next((verdict for verdict in _SUMMED if verdict in found), "not applicable")

    def to_plain(self) -> dict[str, Any]:
        """Return it as JSON takes it; numbers that are not finite as None."""
        plain = {"about": self.about, "verdict": self.verdict, "confirmed": self.confirmed, "steps": list(self.steps)}
        return _finite(plain | {"findings": [asdict(finding) for finding in self.findings]})  # type: ignore[no-any-return]

    def describe(self) -> str:
        """Say it in plain words."""
        alert, run = self.about.get("alert", {}), self.about.get("run", {})
        lines = [f"Captured for {alert.get('rule')} ({alert.get('severity')}) in run {run.get('name')}: {alert.get('message')}"]
        lines += [_step_words(step) for step in self.steps]
        if not self.findings:
            return "\n".join([*lines, "", "No attention was captured: nothing can be said about its rounding."])
        return "\n".join([*lines, "", *(_words(finding) for finding in self.findings), "", _SUMMED[self.verdict]])


def inspect_bundle(bundle: Bundle) -> Inspection:
    """Re-compute what a bundle holds of attention and judge each key head."""
    seen: dict[tuple[str, int], list[tuple[AttentionSlice, int]]] = {}
    for step in bundle.steps:
        for call in step.attention:
            each = call.q.shape[1] // call.k.shape[1]
            for place in range(call.k.shape[1]):
                seen.setdefault((call.module, call.heads[place * each] // each), []).append((call, place))
    about = {name: value for name, value in bundle.about.items() if name != "batches"}
    batches = {each["step"]: each for each in bundle.about.get("batches", ())}
    steps = tuple(_about_step(step, batches.get(step.step, {})) for step in bundle.steps)
    return Inspection(about, steps, tuple(judged(module, head, parts) for (module, head), parts in seen.items()))


def _about_step(step: CapturedStep, batch: dict[str, Any]) -> dict[str, Any]:
    values = {signal: value for signal, module, *_, value in step.statistics if not module}
    known = {"loss": values.get("loss"), "gradient.norm": values.get("gradient.norm"), "batch": batch.get("batch")}
    return {"step": step.step} | {name: value for name, value in known.items() if value is not None}


def _step_words(step: dict[str, Any]) -> str:
    parts = [f"  step {step['step']:,}"]
    parts += [f"{words} {step[name]:.4g}" for name, words in (("loss", "loss"), ("gradient.norm", "gradient norm")) if name in step]
    batch = step.get("batch")
    if isinstance(batch, list):
        more = f" and {len(batch) - _SHOWN_NUMBERS:,} more" if len(batch) > _SHOWN_NUMBERS else ""
        batch = f"{' '.join(map(str, batch[:_SHOWN_NUMBERS]))}{more}"
    return "  ".join(parts if batch is None else [*parts, f"batch {batch}"])


def _words(finding: Finding) -> str:
    place = f"  {finding.module} head {finding.head}: {finding.verdict}, for {finding.reason}."
    found = finding.numbers
    if found is None:
        return place
    residuals = found.residuals
    lines = [
        f"size      {found.excess:.3g} times what independent rounding errors leave (p {found.excess_p:.2g}; clear in "
        f"{found.excess_steps:.0%} of {finding.steps} steps)",
        f"origin    {found.coupling:.2f} +- {found.coupling_doubt:.2f} of the error of a delta from the rounded output "
        f"(p {found.coupling_p:.2g})",
        f"effect    that error is {found.part:.2g} of the query gradient",
        f"residual  {residuals.layer:.2g} in the layer; float64 {residuals.float64:.1g}, float32 {residuals.float32:.1g}, "
        f"low precision {residuals.low:.2g}, and with delta from float32 {residuals.low_float32_delta:.2g}",
        f"besides   z of {finding.rows:,} errors {found.z:+.1f}; direction from step to step {found.coherence:.2f} "
        f"(p {found.coherence_p:.2g})",
    ]
    return "\n    ".join([place, *lines])


def _finite(value: Any) -> Any:
    """Put None where JSON has no number."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
