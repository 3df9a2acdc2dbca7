"""Take the error of delta apart, for docs/delta_sign.md: ``python docs/figures_delta_sign_states.py FOLDER`` (6 minutes).

With L the loss of one window, O the exact output of one attention layer, e what rounding does to it, g and H the gradient and the
Hessian of L with respect to O: attention that stores O + e gets dO = g(O + e), and errs in delta by ``g(O + e) . e``, row by row:

    g(O + e) . e  =  g(O) . e  +  (g(O + e) - g(O)) . e,        the latter  e^T H e  to lowest order.

All of it is measured in float64, on states of training runs, with only that layer's output rounded. One JSON file a run; runs that
are there are not measured again.
"""

import argparse
import copy
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from foreshock.kernels import Precision
from foreshock.zoo.scenarios.low_precision_attention import build
from foreshock.zoo.text import windows
from torch import Tensor, nn

RUNS = {"failing": Precision.flash(output=3), "float32": Precision()}
STEPS = (50, 100, 200, 300, 400, 500, 600)
BITS = (2, 3, 4, 5, 6, 7, 8, 10)
CONTROLLED = (3, 7)
DRAWS = 2
LAYERS = 2


def rounded(x: Tensor, bits: int, noise: Tensor | float = 0.5) -> Tensor:
    """Round float64 to so many mantissa bits: to nearest, or stochastically with uniform ``noise``."""
    significand, exponent = torch.frexp(x)
    scaled = torch.ldexp(significand, torch.tensor(bits + 1))
    whole = scaled.round() if isinstance(noise, float) else (scaled + noise).floor()
    return torch.ldexp(whole, exponent - bits - 1)


class Layer:
    """One attention layer of a model at rest, float64, whose output can be moved by an error.

    After ``gradient``: q, k, v, p of the layer, its input x (B, T, C) and its exact output.
    """

    def __init__(self, model: nn.Module, number: int) -> None:
        self.model = copy.deepcopy(model).double().requires_grad_(False)
        self.data = windows(count=16, context=64)
        layers = [block.attention for block in self.model.blocks]  # type: ignore[union-attr]
        for layer in layers:
            layer.attend = lambda q, k, v: attention(q, k, v)[0]
        self.layer = layers[number]
        self.layer.attend = self._attend
        self.layer.register_forward_pre_hook(lambda _, given: setattr(self, "x", given[0]))
        self.e: Tensor | float = 0.0

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self.q, self.k, self.v = q, k, v
        self.exact, self.p = attention(q, k, v)
        self.leaf = (self.exact + self.e).requires_grad_()
        return self.leaf

    def loss(self, e: Tensor | float = 0.0) -> Tensor:
        """Return the loss of each window, (16,), with the output moved by e."""
        self.e = e
        self.logits = self.model(self.data[:, :-1])
        return F.cross_entropy(self.logits.mT, self.data[:, 1:], reduction="none").mean(1)

    def gradient(self, e: Tensor | float = 0.0) -> Tensor:
        """Return g(O + e), (B, H, T, D). Windows do not meet in the network: one pass serves them all."""
        return torch.autograd.grad(self.loss(e).sum(), self.leaf)[0]

    def curvature(self, e: Tensor) -> Tensor:
        """Return H e at O."""
        g = torch.autograd.grad(self.loss().sum(), self.leaf, create_graph=True)[0]
        return torch.autograd.grad((g * e).sum(), self.leaf)[0]

    def gauss_newton(self, e: Tensor) -> Tensor:
        """Return each window's ``(J e)^T C (J e)``, C the (positive semi-definite) Hessian of cross-entropy in the logits."""
        h = 1e-3
        with torch.no_grad():
            self.loss(h * e)
            forward = self.logits
            self.loss(-h * e)
            moved = (forward - self.logits) / (2 * h)
            self.loss()
            p = self.logits.softmax(-1)
        return ((p * moved.square()).sum(-1) - (p * moved).sum(-1).square()).mean(1)


def attention(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Return causal attention and its probabilities."""
    s = (q @ k.mT) * q.shape[-1] ** -0.5
    p = s.masked_fill(torch.ones(s.shape[-2:], dtype=torch.bool).triu(1), float("-inf")).softmax(-1)
    return p @ v, p


class State:
    """What does not depend on the error: the exact gradients, and how an error of delta reaches W_q."""

    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        self.g = layer.gradient()
        self.exact, self.p, self.q, self.k, self.v, self.x = layer.exact, layer.p, layer.q, layer.k, layer.v, layer.x
        self.delta = (self.g * self.exact).sum(-1)
        self.scale = self.q.shape[-1] ** -0.5
        self.pk = self.p @ self.k
        dq = self.scale * (self.p * (self.g @ self.v.mT - self.delta[..., None])) @ self.k
        self.weight_gradient = self._into_weight(dq)
        u, _, v = torch.linalg.svd(layer.layer.q.weight)
        self.u, self.v1 = u[:, 0], v[0]

    def _into_weight(self, dq: Tensor) -> Tensor:
        """Return W_q's gradient of dQ (B, H, T, D), window by window: (B, C, C)."""
        return dq.transpose(1, 2).flatten(2).mT @ self.x

    def push(self, error: Tensor) -> Tensor:
        """Return how far an error of delta (B, H, T) pushes sigma_1 of W_q up in a descent step, in units of |gradient|, (B,)."""
        dq = -self.scale * error[..., None] * self.pk
        return -(self._into_weight(dq) @ self.v1 @ self.u) / self.weight_gradient.sum(0).norm()

    def summary(self, error: Tensor) -> dict[str, Any]:
        """Describe an error of delta, (B, H, T): window means in units of mean |delta|, signs, push."""
        size = self.delta.abs().mean()
        return {
            "windows": (error.mean((1, 2)) / size).tolist(),
            "rms": float(error.square().mean().sqrt() / size),
            "positive": float((error > 0).double().mean()),
            "push": float(self.push(error).sum()),
        }


def measured(state: State) -> Iterator[dict[str, Any]]:
    """Yield a record an error: nearest rounding at every width, controls at some."""
    layer, g, exact = state.layer, state.g, state.exact
    generator = torch.Generator().manual_seed(0)

    def parts(e: Tensor, e_delta: Tensor | None = None) -> dict[str, Any]:
        """Take ``g(O + e) . e_delta`` apart; the errors are the same unless told."""
        seen = e if e_delta is None else e_delta
        moved = layer.gradient(e) - g
        return {"first": state.summary((g * seen).sum(-1)), "second": state.summary((moved * seen).sum(-1))}

    for bits in BITS:
        e = rounded(exact, bits) - exact
        yield {"bits": bits, "kind": "nearest", **parts(e)}
        if bits not in CONTROLLED:
            continue
        quadratic = (layer.curvature(e) * e).sum(-1)
        size = state.delta.abs().mean()
        rows = quadratic[0].numel()
        yield {
            "bits": bits,
            "kind": "quadratic",
            "windows": (quadratic.mean((1, 2)) / size).tolist(),
            "gauss_newton": (layer.gauss_newton(e) / rows / size).tolist(),
        }
        yield {"bits": bits, "kind": "another token's", **parts(e, e.roll(1, 2))}
        yield {"bits": bits, "kind": "another window's", **parts(e, e.roll(1, 0))}
        yield {"bits": bits, "kind": "opposite", **parts(e, -e)}
        for _ in range(DRAWS):
            signs = torch.randint(2, e.shape, generator=generator).double() * 2 - 1
            yield {"bits": bits, "kind": "random sign", **parts(e * signs)}
            noise = [torch.rand(e.shape, generator=generator, dtype=torch.float64) for _ in range(2)]
            one, other = (rounded(exact, bits, each) - exact for each in noise)
            yield {"bits": bits, "kind": "stochastic", **parts(one)}
            yield {"bits": bits, "kind": "stochastic, independent", **parts(one, other)}


def main() -> int:
    """Measure what is missing; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.folder.mkdir(parents=True, exist_ok=True)
    for seed in range(given.seeds):
        for run, precision in RUNS.items():
            file = given.folder / f"states-{run}-{seed}.json"
            if file.exists():
                continue
            training = build(precision, seed)
            records = []
            for step in range(max(STEPS) + 1):
                if step in STEPS:
                    for number in range(LAYERS):
                        about = {"run": run, "seed": seed, "step": step, "layer": number}
                        records += [about | record for record in measured(State(Layer(training.model, number)))]
                training.step(step)
            file.write_text(json.dumps(records), "utf-8")
            print(file.name, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
