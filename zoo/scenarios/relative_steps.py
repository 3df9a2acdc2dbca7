"""Adafactor with steps relative to the weights: what grows moves faster, so it grows as a power."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models import SelfAttention, full_attention
from ..scenario import Reachable, Scenario, Training, seeded
from ..text import windows
from ..training import trained, warm_up

STEPS = 900
WIDTH = 48
CONTEXT = 32
MASK = 255
_FAMILY = "relative_steps"
_TWIN = "small-relative-steps"
_SOURCE = "arXiv 1804.04235 (Adafactor: relative steps of at most 0.01), arXiv 1910.10683 (T5); setting found by experiment"


class Encoder(nn.Module):
    """A T5-like encoder over bytes: RMS norms before each branch, ReLU, the head is the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(256, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.norms = nn.ModuleList(nn.RMSNorm(WIDTH) for _ in range(5))
        self.attentions = nn.ModuleList(SelfAttention(WIDTH, 2, full_attention) for _ in range(2))
        self.ups = nn.ModuleList(nn.Linear(WIDTH, 4 * WIDTH, bias=False) for _ in range(2))
        self.downs = nn.ModuleList(nn.Linear(4 * WIDTH, WIDTH, bias=False) for _ in range(2))
        for table in (self.tokens, self.positions):
            nn.init.normal_(table.weight, std=0.05)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Return the logits (B, T, 256) of the byte at each place."""
        h = self.tokens(tokens_BT) + self.positions.weight
        for place, attention in enumerate(self.attentions):
            h = h + attention(self.norms[2 * place](h))
            h = h + self.downs[place](F.relu(self.ups[place](self.norms[2 * place + 1](h))))
        return F.linear(self.norms[4](h), self.tokens.weight)


class RelativeAdafactor(torch.optim.Optimizer):
    """Adafactor as T5 used it: a factored second moment, updates clipped at RMS 1, times the RMS of the weights they change.

    Args:
        params: what to train.
        lr: the relative step: that of weights of RMS 1.
    """

    def __init__(self, params: list[nn.Parameter], lr: float) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter."""
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                state["step"] = state.get("step", 0) + 1
                kept = 1.0 - state["step"] ** -0.8
                square = parameter.grad.square() + 1e-30
                if parameter.dim() == 2:
                    rows = state["rows"] = _mixed(state.get("rows"), square.mean(1), kept)
                    columns = state["columns"] = _mixed(state.get("columns"), square.mean(0), kept)
                    second = rows[:, None] * columns / rows.mean()
                else:
                    second = state["second"] = _mixed(state.get("second"), square, kept)
                update = parameter.grad * second.rsqrt()
                update /= update.square().mean().sqrt().clamp(min=1.0)
                size = parameter.square().mean().sqrt().clamp(min=1e-3)
                parameter.sub_(update * size * group["lr"])


def _mixed(before: Tensor | None, now: Tensor, kept: float) -> Tensor:
    return now if before is None else before.lerp(now, 1.0 - kept)


def build(rate: float, seed: int) -> Training:
    """The encoder fills in 15 % of the bytes of 64 windows of Moby-Dick, 16 windows a batch; a warm-up of 50 steps."""
    order = seeded(seed)
    data = windows(count=64, context=CONTEXT)[:, :-1]
    model = Encoder()
    optimizer = RelativeAdafactor(list(model.parameters()), lr=rate)

    def loss(number: int) -> Tensor:
        wanted = data[torch.randint(len(data), (16,), generator=order)]
        hidden = torch.rand(wanted.shape, generator=order) < 0.15
        logits = model(wanted.masked_fill(hidden, MASK))
        return F.cross_entropy(logits[hidden], wanted[hidden])

    return trained(model, optimizer, loss, schedule=warm_up(50))


LARGE = Scenario(
    name="large-relative-steps",
    family=_FAMILY,
    split="train",
    title="A masked language model under Adafactor with relative steps of 0.06",
    cause="every update turns each matrix by 6 % of its size: the tokens' table grows, and nothing finer than byte counts is kept",
    expected="stuck",
    steps=STEPS,
    build=lambda seed: build(0.06, seed),
    source=_SOURCE,
    onset="silent",
    cause_id="learning_rate_too_high",
    reachable=Reachable(2.2, 800, _TWIN),
)

SMALL = Scenario(
    name=_TWIN,
    family=_FAMILY,
    split="train",
    title="The same model with relative steps of 0.01",
    cause="the same long shelf at the frequencies of bytes at first, then it reads the context",
    expected="survived",
    steps=STEPS,
    build=lambda seed: build(0.01, seed),
    source=_SOURCE,
)

MEDIUM = Scenario(
    name="medium-relative-steps",
    family=_FAMILY,
    split="train",
    title="The same model with relative steps of 0.02",
    cause="the tokens' table doubles and the gain of the last norm grows fourfold; it learns as fast as with half the step",
    expected="survived",
    steps=STEPS,
    build=lambda seed: build(0.02, seed),
    source=_SOURCE,
)
