"""Train the ablations of docs/delta_sign.md: ``python docs/figures_delta_sign_training.py FOLDER`` (15 minutes).

In each, attention stores a coarse O in the forward pass and takes delta from an O that is off by some error. They differ in which:
the one that the forward pass made, the same with the opposite sign, one of the same size that has nothing to do with it.
One JSON file a run goes to FOLDER, and runs that are there are not repeated. ``figures_delta_sign.py`` makes the page's table.
"""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from foreshock.analyzer.failure import date_failure, outcome
from foreshock.kernels import Precision
from foreshock.kernels.rounding import round_mantissa
from foreshock.zoo.scenarios.low_precision_attention import STEPS, build
from torch import Tensor

OPERAND_BITS = 7  # of bfloat16, as in the scenario


@dataclass(frozen=True, slots=True)
class Ablation:
    """A way to err in delta.

    Attributes:
        bits: mantissa bits that O is rounded to.
        forward: whether the network sees the rounded O (else the exact one).
        delta: error of the O that delta is taken from, given the forward pass's error e.
        stochastic: O is rounded up or down at random, with e = 0 on average.
    """

    bits: int
    forward: bool
    delta: str
    stochastic: bool = False


ABLATIONS = {
    "same error (what flash attention does)": Ablation(3, True, "same"),
    "no error in delta (the cure)": Ablation(3, True, "none"),
    "same error, exact forward pass": Ablation(3, False, "same"),
    "opposite error": Ablation(3, True, "opposite"),
    "another token's error": Ablation(3, True, "shifted"),
    "stochastic rounding, same error": Ablation(3, True, "same", stochastic=True),
    "stochastic rounding, independent error": Ablation(3, True, "independent", stochastic=True),
    "same error, 4 bits": Ablation(4, True, "same"),
    "same error, 5 bits": Ablation(5, True, "same"),
}


def stochastically_rounded(x: Tensor, bits: int, generator: torch.Generator) -> Tensor:
    """Round float32 to one of its two neighbours of so many mantissa bits, with probabilities that make the mean exact."""
    significand, exponent = torch.frexp(x)
    scaled = torch.ldexp(significand, torch.tensor(bits + 1))
    return torch.ldexp((scaled + torch.rand(x.shape, generator=generator)).floor(), exponent - bits - 1)


class _Ablated(torch.autograd.Function):
    """Causal attention as ``Precision.flash`` has it, with an ablation's O in the forward pass and in delta."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        q, k, v = (round_mantissa(x, OPERAND_BITS) for x in args[:3])
        ablation: Ablation = args[3]
        generator: torch.Generator = args[4]
        scale = q.shape[-1] ** -0.5
        s_BHTS = scale * (q @ k.mT)
        s_BHTS = s_BHTS.masked_fill(torch.ones(s_BHTS.shape[-2:], dtype=torch.bool).triu(1), float("-inf"))
        p_bar = torch.exp(s_BHTS - s_BHTS.amax(-1, keepdim=True))
        l_BHT1 = p_bar.sum(-1, keepdim=True)
        exact = (round_mantissa(p_bar, OPERAND_BITS) @ v) / l_BHT1

        def rounded() -> Tensor:
            if ablation.stochastic:
                return stochastically_rounded(exact, ablation.bits, generator)
            return round_mantissa(exact, ablation.bits)

        seen = rounded()
        e = seen - exact
        errors: dict[str, Callable[[], Tensor]] = {
            "same": lambda: e,
            "none": lambda: torch.zeros_like(e),
            "opposite": lambda: -e,
            # From the next sequence of the batch: of the same position, head and size.
            "shifted": lambda: e.roll(1, 0),
            "independent": lambda: rounded() - exact,
        }
        ctx.save_for_backward(q, k, v, p_bar / l_BHT1, exact + errors[ablation.delta]())
        ctx.scale = scale
        return seen if ablation.forward else exact

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, p_BHTS, out = ctx.saved_tensors
        do = round_mantissa(grad_outputs[0].contiguous(), OPERAND_BITS)
        delta = (do * out).sum(-1, keepdim=True)
        ds_BHTS = round_mantissa(p_BHTS * (do @ v.mT - delta), OPERAND_BITS)
        gradients = (ctx.scale * (ds_BHTS @ k), ctx.scale * (ds_BHTS.mT @ q), round_mantissa(p_BHTS, OPERAND_BITS).mT @ do)
        return *(round_mantissa(each, OPERAND_BITS) for each in gradients), None, None


def attention(ablation: Ablation, seed: int) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Return the attention of an ablation; its own random numbers come from a generator of its own."""
    generator = torch.Generator().manual_seed(1_000_003 * (seed + 1))
    return lambda q, k, v: _Ablated.apply(q, k, v, ablation, generator)  # type: ignore[no-untyped-call]


def train(ablation: Ablation, seed: int) -> dict[str, Any]:
    """Train the zoo's scenario with an ablation's attention; return how it went."""
    training = build(Precision(), seed)
    layers = [block.attention for block in training.model.blocks]  # type: ignore[union-attr]
    attend = attention(ablation, seed)
    for layer in layers:
        layer.attend = attend
    losses: list[float] = []
    sigma: list[float] = []
    for number in range(STEPS):
        losses.append(training.step(number).item())
        if number % 20 == 0:
            norms = [torch.linalg.matrix_norm(layer.q.weight.detach(), 2) for layer in layers]
            sigma.append(float(max(norms)))
    failure = date_failure(range(STEPS), losses)
    return {
        "ablation": asdict(ablation),
        "seed": seed,
        "outcome": outcome(failure),
        "failure": asdict(failure) if failure else None,
        "final": sum(losses[-50:]) / 50,
        "losses": [round(loss, 4) for loss in losses],
        "sigma_1": [round(value, 4) for value in sigma],
    }


def main() -> int:
    """Train what is missing; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--share", default="0/1", help="i/n: train every n-th run, from the i-th on")
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.folder.mkdir(parents=True, exist_ok=True)
    which, of = map(int, given.share.split("/"))
    todo = [(name, seed) for seed in range(given.seeds) for name in ABLATIONS]
    for name, seed in todo[which::of]:
        file = given.folder / f"{name.replace(' ', '_').replace(',', '')}-{seed}.json"
        if not file.exists():
            found = {"name": name, **train(ABLATIONS[name], seed)}
            file.write_text(json.dumps(found))
            print(f"{name}, seed {seed}: {found['outcome']}, {found['final']:.3f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
