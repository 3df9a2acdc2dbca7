"""An LSTM under SGD with momentum: without clipping a rising rate blows it up, with clipping its gradients only look wild."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..recurrent import LSTM
from ..scenario import Scenario, Training, seeded
from ..text import batch_of, source_windows
from ..training import Schedule, constant, ramp, trained

STEPS = 900
_FAMILY = "lstm"
_SOURCE = "arXiv 1211.5063 (on the difficulty of training recurrent neural networks); setting found by experiment"


def build(rate: float, schedule: Schedule, clip: float | None, seed: int) -> Training:
    """One LSTM of width 48 learns 32 windows of 32 bytes of Python source by heart."""
    order = seeded(seed)
    data = source_windows(count=32, context=32)
    model = LSTM(48)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9, fused=True)

    def loss(number: int) -> Tensor:
        given, wanted = batch_of(data, 8, order)
        return F.cross_entropy(model(given).flatten(0, 1), wanted.flatten())

    return trained(model, optimizer, loss, schedule=schedule, clip=clip)


LSTM_RAMP = Scenario(
    name="lstm-ramp",
    family=_FAMILY,
    split="train",
    title="An LSTM under SGD with momentum, not clipped, the learning rate rising",
    cause="recurrent gradients compound through time; beyond some rate one long gradient throws the weights away",
    expected="diverged",
    steps=STEPS,
    build=lambda seed: build(20.0, ramp(STEPS, 2), None, seed),
    source=_SOURCE,
    onset="slow",
    cause_id="learning_rate_too_high",
)

LSTM_CLIPPED = Scenario(
    name="clipped-lstm",
    family=_FAMILY,
    split="train",
    title="The same LSTM at a high constant rate, clipped at 1",
    cause="gradient norms of several times their median, again and again; clipping takes them in",
    expected="survived",
    steps=STEPS,
    build=lambda seed: build(0.5, constant, 1.0, seed),
    source=_SOURCE,
)
