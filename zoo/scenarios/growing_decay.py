"""Weight decay with the wrong sign in a hand-written optimizer: every weight grows by the same share in every step.

Lion is thirty lines, so many write it themselves, and want it with several times AdamW's decay. ``1 + rate * decay`` in the place
of ``1 - rate * decay`` breaks nothing at first.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..scenario import Scenario, Training, seeded
from ..text import batch_of, source_windows
from ..training import trained, warm_up

STEPS = 1200
WIDTH = 64
_FAMILY = "growing_decay"
_SOURCE = (
    "arXiv 2302.06675 (Lion, which wants 3 to 10 times AdamW's decay); the wrong sign is a mistake of practice, set by experiment"
)


class GRU(nn.Module):
    """A GRU over bytes; the head is the embedding, and has a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(256, WIDTH)
        nn.init.normal_(self.tokens.weight, std=0.2)
        self.gru = nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.bias = nn.Parameter(torch.zeros(256))

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Return the logits (B, T, 256) of the next byte."""
        h_BTC, _ = self.gru(self.tokens(tokens_BT))
        return F.linear(h_BTC, self.tokens.weight, self.bias)


class Lion(torch.optim.Optimizer):
    """Every weight moves by the learning rate, in the direction of the sign of a mean gradient.

    Args:
        params: what to train.
        lr: the step.
        weight_decay: share of each weight taken off a step, over the step; below 0 it is put on.
    """

    def __init__(self, params: list[nn.Parameter], lr: float, weight_decay: float) -> None:
        super().__init__(params, {"lr": lr, "betas": (0.9, 0.99), "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter."""
        for group in self.param_groups:
            fast, slow = group["betas"]
            for parameter in group["params"]:
                mean = self.state[parameter].setdefault("exp_avg", torch.zeros_like(parameter))
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.sub_(mean.lerp(parameter.grad, 1 - fast).sign_(), alpha=group["lr"])
                mean.lerp_(parameter.grad, 1 - slow)


def build(decay: float, rate: float, seed: int) -> Training:
    """The GRU learns 64 windows of 32 bytes of Python source; Lion, clipped at 1."""
    order = seeded(seed)
    data = source_windows(count=64, context=32)
    model = GRU()
    optimizer = Lion(list(model.parameters()), rate, decay)

    def loss(number: int) -> Tensor:
        given, wanted = batch_of(data, 8, order)
        return F.cross_entropy(model(given).flatten(0, 1), wanted.flatten())

    return trained(model, optimizer, loss, schedule=warm_up(50), clip=1.0)


GROWING = Scenario(
    name="growing-decay",
    family=_FAMILY,
    split="train",
    title="A GRU under a Lion that adds its weight decay instead of taking it off",
    cause="weights grow by 0.3 % a step: gates saturate, the logits grow with the embedding, every wrong guess costs more",
    expected="diverged",
    steps=STEPS,
    build=lambda seed: build(-3.0, 1e-3, seed),
    source=_SOURCE,
    onset="slow",
    cause_id="runaway_weights",
)

DECAYING = Scenario(
    name="lion-decay",
    family=_FAMILY,
    split="train",
    title="The same GRU with a decay of 1 that is taken off",
    cause="signed updates let the recurrent weights grow fivefold all the same, until the decay holds them",
    expected="survived",
    steps=STEPS,
    build=lambda seed: build(1.0, 1e-3, seed),
    source=_SOURCE,
)

FAST = Scenario(
    name="fast-lion",
    family=_FAMILY,
    split="train",
    title="The same GRU under Lion at a threefold rate",
    cause="recurrent weights grow nearly tenfold in four hundred steps and every update is large; decay and clipping hold them",
    expected="survived",
    steps=STEPS,
    build=lambda seed: build(1.0, 3e-3, seed),
    source=_SOURCE,
)
