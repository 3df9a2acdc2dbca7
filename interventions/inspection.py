"""``foreshock inspect``: re-computes captured attention in float64, float32 and low precision, and judges the rounding hypothesis.

The hypothesis (arXiv 2510.04212): the layer takes delta = rowsum(dO * O) from its rounded O; the error e of delta has one sign, so
that its effects on W_q's gradient, -scale e_i (P K)_i x_i, add up. Judged for each head over all captured rows:

- sign: ``z``, the sum of e over its root of squares, each step scaled by its own size first. Random signs give |z| of about 1.
- size against random signs: ``coherence``, |sum_i e_i (P K)_i| over the same with random signs (the root mean square of 256 draws).
- size: ``error``, |scale sum_i e_i (P K)_i| over |sum_i dQ_i|, both as root mean squares over the captured steps: the part of the
  gradient that is rounding error (exactly so for a bias of q; W_q's own is weighted by the layer's inputs, which are not captured).

The same for delta re-computed in float32, which shows what is left without rounding, and for O from a plain re-computation rounded
to the layer's format, which shows whether a bfloat16-like flash attention makes such an error from these q, k, v at all.
Confirmed: |z| >= 4 (one in 16,000 by chance, and few heads are looked at) and a tenth of the gradient or more is error. One-signed
but smaller: there, and not what moves the weights. Rejected: neither. Large without a common sign: undecided, for a bundle holds
few rows, and a small bias of large errors takes many to show. Neither number was set by looking at runs; which
statistics are held against them was changed after the first bundles of the demo had been seen.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ..kernels.precision import Precision
from ..kernels.reference import reference_attention
from .bundle import AttentionSlice, Bundle

LEAST_Z = 4.0
LEAST_ERROR = 0.1
_DRAWS = 256

Verdict = Literal["confirmed", "undecided", "small", "rejected", "not applicable"]


@dataclass(frozen=True, slots=True)
class Size:
    """One way to compute delta against float64: see the module's head."""

    z: float
    same_sign: float
    coherence: float
    error: float


@dataclass(frozen=True, slots=True)
class Finding:
    """What a head's captured rows show; ``layer``, ``float32``, ``low`` are None where nothing could be computed."""

    module: str
    head: int
    steps: int
    rows: int
    verdict: Verdict
    layer: Size | None = None
    float32: Size | None = None
    low: Size | None = None


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a bundle shows."""

    about: dict[str, Any]
    steps: tuple[int, ...]
    findings: tuple[Finding, ...]

    @property
    def confirmed(self) -> bool:
        """Whether any head confirms the hypothesis."""
        return any(finding.verdict == "confirmed" for finding in self.findings)

    def to_plain(self) -> dict[str, Any]:
        """Return it as JSON takes it; numbers that are not finite as None."""
        return {"about": self.about, "steps": list(self.steps), "confirmed": self.confirmed} | {
            "findings": [_finite(asdict(finding)) for finding in self.findings]
        }

    def describe(self) -> str:
        """Say it in plain words."""
        alert = self.about.get("alert", {})
        lines = [f"Captured for {alert.get('rule')} ({alert.get('severity')}): {alert.get('message')}"]
        lines.append(f"Sampled steps: {', '.join(f'{step:,}' for step in self.steps)}.")
        if not self.findings:
            return "\n".join([*lines, "No attention was captured: nothing can be said about its rounding."])
        lines += ["", *(_words(finding) for finding in self.findings), ""]
        verdicts = {finding.verdict for finding in self.findings}
        if self.confirmed:
            lines.append(
                "The rounding hypothesis is confirmed: errors of delta have one sign and are a good part of the gradient. "
                "Switch to stabilised attention: foreshock.kernels.install(), or interventions=['stabilized_attention']."
            )
        elif verdicts == {"not applicable"}:
            lines.append("The rounding hypothesis does not apply: these layers do not take delta from a rounded output.")
        elif "undecided" in verdicts:
            lines.append(
                "The rounding hypothesis is neither confirmed nor rejected: errors of delta are a good part of the gradient, and "
                "these few rows show no common sign. Compare `rounding.key_shift_coherence`, which follows them through the run."
            )
        elif "small" in verdicts:
            lines.append("The rounding hypothesis is rejected: there are errors of one sign, too small to move the weights.")
        else:
            lines.append("The rounding hypothesis is rejected: the errors of delta are small and have no common sign.")
        return "\n".join(lines)


def inspect_bundle(bundle: Bundle) -> Inspection:
    """Re-compute what a bundle holds of attention and judge each head."""
    seen: dict[tuple[str, int], list[tuple[AttentionSlice, int]]] = {}
    for step in bundle.steps:
        for call in step.attention:
            for place, head in enumerate(call.heads):
                seen.setdefault((call.module, head), []).append((call, place))
    findings = tuple(_judged(module, head, parts) for (module, head), parts in seen.items())
    return Inspection(dict(bundle.about), tuple(step.step for step in bundle.steps), findings)


@dataclass(frozen=True, slots=True)
class _Rows:
    """One head's N rows in one step, float64: errors of delta in three ways (N,), ``scale (P K)_i`` (N, D), |sum dQ|."""

    layer: Tensor
    float32: Tensor
    low: Tensor
    pk_ND: Tensor
    gradient: float


def _judged(module: str, head: int, parts: Sequence[tuple[AttentionSlice, int]]) -> Finding:
    if not any(call.delta_from_output for call, _ in parts):
        return Finding(module, head, len(parts), sum(call.q.shape[0] * call.q.shape[2] for call, _ in parts), "not applicable")
    computed = [_recomputed(call, place) for call, place in parts if call.delta_from_output]
    rows = [each for each in computed if math.isfinite(each.gradient) and bool(each.layer.isfinite().all())]
    count = sum(len(each.layer) for each in rows)
    if not rows:
        return Finding(module, head, 0, 0, "not applicable")
    layer, float32, low = (
        _size([(getattr(each, name), each.pk_ND, each.gradient) for each in rows]) for name in ("layer", "float32", "low")
    )
    one_signed, large = abs(layer.z) >= LEAST_Z, layer.error >= LEAST_ERROR
    verdict: Verdict = ("confirmed" if large else "small") if one_signed else ("undecided" if large else "rejected")
    return Finding(module, head, len(rows), count, verdict, layer, float32, low)


@torch.no_grad()
def _recomputed(call: AttentionSlice, place: int) -> _Rows:
    each = call.q.shape[1] // call.k.shape[1]
    q, out, do = (x[:, place] for x in (call.q, call.out, call.grad_out))
    k, v = (x[:, place // each] for x in (call.k, call.v))
    bias = call.bias
    if bias is not None and bias.dim() == 4:
        bias = bias[:, place if bias.shape[1] > 1 else 0]
    o64, p_BRS = _attended(q.double(), k.double(), v.double(), bias, call.scale)
    exact = (do.double() * o64).sum(-1)
    o32, _ = _attended(q, k, v, bias, call.scale)
    bits = max(1, round(-math.log2(call.spacing)))
    three = (x[:, None] for x in (q, k, v))
    mask = None if bias is None else bias.float() if bias.dim() == 2 else bias.float()[:, None]
    low = reference_attention(*three, scale=call.scale, attn_mask=mask, precision=Precision.flash(output=bits))[:, 0]
    ds_BRS = p_BRS * (do.double() @ v.double().mT - exact[..., None])
    gradient = float((call.scale * ds_BRS @ k.double()).sum((0, 1)).norm())
    layer, float32, coarse = (((do.double() * o.double()).sum(-1) - exact).flatten() for o in (out, o32, low))
    return _Rows(layer, float32, coarse, (call.scale * p_BRS @ k.double()).flatten(0, 1), gradient)


def _attended(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
    """Return O and P in the dtype given; rows that see no key are zero."""
    s_BRS = scale * (q @ k.mT)
    if bias is not None:
        s_BRS = s_BRS + bias.to(s_BRS.dtype)
    p_BRS = torch.softmax(s_BRS, -1)
    p_BRS = torch.where(s_BRS.isneginf().all(-1, keepdim=True), 0.0, p_BRS)
    return p_BRS @ v, p_BRS


def _size(rows: Iterable[tuple[Tensor, Tensor, float]]) -> Size:
    scaled, weighted = [], []
    wrong = right = 0.0
    for e, pk_ND, gradient in rows:
        size = e.square().mean().sqrt()
        scaled.append(e / size if size > 0 else e)
        weighted.append(scaled[-1][:, None] * pk_ND)
        wrong += float((e[:, None] * pk_ND).sum(0).square().sum())
        right += gradient**2
    e, effects_ND = torch.cat(scaled), torch.cat(weighted)
    counted = e[e != 0]
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, (_DRAWS, len(effects_ND)), generator=generator).double() * 2 - 1
    control = float((signs @ effects_ND).square().sum(1).mean().sqrt())
    positive = float((counted > 0).double().mean()) if len(counted) else 0.5
    return Size(
        z=float(e.sum() / e.square().sum().sqrt()) if len(counted) else 0.0,
        same_sign=max(positive, 1 - positive),
        coherence=float(effects_ND.sum(0).norm()) / control if control > 0 else 0.0,
        error=math.sqrt(wrong / right) if right > 0 else 0.0,
    )


def _words(finding: Finding) -> str:
    place = f"  {finding.module} head {finding.head}: "
    if finding.layer is None or finding.low is None or finding.float32 is None:
        return place + "its gradient does not pass through a rounded output; not applicable."
    layer, low = finding.layer, finding.low
    return (
        f"{place}{finding.verdict}. {layer.same_sign:.0%} of {finding.rows:,} errors of delta have one sign (z {layer.z:+.1f}; "
        f"re-computed in low precision {low.z:+.1f}); together they are {layer.coherence:.1f} times what random signs leave, and "
        f"{layer.error:.2g} of the gradient (float32: {finding.float32.error:.1g})."
    )


def _finite(value: Any) -> Any:
    """Put None where JSON has no number."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
