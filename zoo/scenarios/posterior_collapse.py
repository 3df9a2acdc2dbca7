"""A text autoencoder whose latent goes unused: its price is a sum, the reconstruction a mean, so that it never pays.

A variational autoencoder has to pay for what a latent tells of its text. Summed over the latent while the reconstruction is a mean
over tokens, the price is as many times too high as there are tokens.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..scenario import Reachable, Scenario, Training, seeded
from ..text import batch_of, windows
from ..training import trained, warm_up

STEPS = 900
CONTEXT = 24
WIDTH = 48
LATENT = 16
_FAMILY = "posterior_collapse"
_SOURCE = "arXiv 1511.06349 (a latent that is ignored), arXiv 1711.00464 (its price and its rate); setting found by experiment"
_TWIN = "text-autoencoder"


class TextVAE(nn.Module):
    """A GRU reads a text into the mean and the log-variance of a latent; an MLP writes each byte from it and the position."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(256, WIDTH), nn.Parameter(torch.randn(CONTEXT, WIDTH) * 0.5)
        self.reader = nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.mean, self.log_variance = nn.Linear(WIDTH, LATENT), nn.Linear(WIDTH, LATENT)
        self.unfold = nn.Linear(LATENT, WIDTH)
        self.writer = nn.Sequential(nn.Linear(WIDTH, 128), nn.GELU(), nn.Linear(128, WIDTH))
        self.head = nn.Linear(WIDTH, 256)

    def forward(self, tokens_BT: Tensor, noise_BL: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits (B, T, 256) of the text itself, and what the latent of each text costs (B,), in nats."""
        _, last = self.reader(self.tokens(tokens_BT))
        mean, log_variance = self.mean(last[0]), self.log_variance(last[0])
        latent = mean + noise_BL * (0.5 * log_variance).exp()
        price = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).sum(-1)
        logits: Tensor = self.head(self.writer(self.positions + self.unfold(latent)[:, None]))
        return logits, price


def build(price: float, seed: int) -> Training:
    """A text autoencoder of width 48 on 32 windows; NAdam.

    Args:
        price: what the loss takes of a nat that the latent tells, where a nat of each token counts 1 / 24.
        seed: of the run.
    """
    order = seeded(seed)
    data = windows(32, CONTEXT)
    model = TextVAE()
    optimizer = torch.optim.NAdam(model.parameters(), lr=5e-3, foreach=True)

    def loss(number: int) -> Tensor:
        tokens, _ = batch_of(data, 12, order)
        logits, cost = model(tokens, torch.randn(len(tokens), LATENT, generator=order))
        told: Tensor = price * cost.mean()
        return F.cross_entropy(logits.flatten(0, 1), tokens.flatten()) + told

    return trained(model, optimizer, loss, schedule=warm_up(50), clip=1.0)


COLLAPSED = Scenario(
    name="text-autoencoder-posterior-collapse",
    family=_FAMILY,
    split="held_out",
    title="A variational text autoencoder whose latent costs a sum where the reconstruction is a mean",
    cause="to tell all texts apart costs more than it can save: the encoder gives each the same latent, and the decoder ignores it",
    expected="stuck",
    steps=STEPS,
    build=lambda seed: build(1.0, seed),
    source=_SOURCE,
    onset="silent",
    cause_id="representation_collapse",
    reachable=Reachable(0.7, 700, _TWIN),
)

AUTOENCODER = Scenario(
    name=_TWIN,
    family=_FAMILY,
    split="held_out",
    title="The same autoencoder, the latent's price divided by the tokens as the reconstruction is",
    cause="the price rises as the latent tells more, and the loss falls by more than that",
    expected="survived",
    steps=STEPS,
    build=lambda seed: build(1.0 / CONTEXT, seed),
    source=_SOURCE,
)
