"""The training runs that are measured: real models learning real text, or images made of noise, on one machine."""

from collections.abc import Callable, Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..zoo.models import GPT
from ..zoo.scenario import Training, seeded
from ..zoo.text import windows

CONTEXT, BATCH = 256, 4


def small_gpt(seed: int, *, clip: bool = True) -> Training:
    """Build a GPT of width 256: 4 layers, 8 heads, 256 tokens of context, batch 4, AdamW."""
    return _gpt(seed, width=256, heads=8, clip=clip)


def wide_gpt(seed: int) -> Training:
    """Build a GPT of width 512: 4 layers, 8 heads, 256 tokens of context, batch 4, AdamW."""
    return _gpt(seed, width=512, heads=8, clip=True)


def conv_net(seed: int) -> Training:
    """Build a conv net of six convolutions and two linear layers: batches of 32 images of 32 x 32, SGD with momentum."""
    order = seeded(seed)
    model = nn.Sequential(
        *_stage(3, 64),
        *_stage(64, 128),
        *_stage(128, 256),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(256, 256),
        nn.ReLU(),
        nn.Linear(256, 10),
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    images, labels = torch.randn(256, 3, 32, 32, generator=order), torch.randint(10, (256,), generator=order)

    def step(number: int) -> Tensor:
        batch = torch.randint(len(images), (32,), generator=order)
        return _learn(model, optimizer, F.cross_entropy(model(images[batch]), labels[batch]), clip=True)

    return Training(model, optimizer, step)


WORKLOADS: Mapping[str, Callable[[int], Training]] = {"gpt": small_gpt, "wide-gpt": wide_gpt, "convnet": conv_net}


def _stage(into: int, out: int) -> list[nn.Module]:
    norms = nn.BatchNorm2d(out), nn.BatchNorm2d(out)
    first, second = nn.Conv2d(into, out, 3, padding=1), nn.Conv2d(out, out, 3, padding=1)
    return [first, norms[0], nn.ReLU(), second, norms[1], nn.ReLU(), nn.MaxPool2d(2)]


def _gpt(seed: int, *, width: int, heads: int, clip: bool) -> Training:
    order = seeded(seed)
    data = windows(count=10, context=CONTEXT)
    model = GPT(width, heads, 4, CONTEXT, partial(F.scaled_dot_product_attention, is_causal=True))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)

    def step(number: int) -> Tensor:
        batch = data[torch.randint(len(data), (BATCH,), generator=order)]
        loss = F.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
        return _learn(model, optimizer, loss, clip=clip)

    return Training(model, optimizer, step)


def _learn(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor, *, clip: bool) -> Tensor:
    optimizer.zero_grad()
    loss.backward()
    if clip:
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss
