"""fp16 with a loss scale that doubles until gradients overflow: steps that overflowed are skipped, or they are not.

Tensors between layers are rounded to fp16 forward and backward by a true conversion, overflow to infinity included.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..images import batch_of
from ..scenario import Scenario, Training, seeded
from ..vision import MLP

STEPS = 700
DOUBLE_EVERY = 40
_FAMILY = "loss_scale"
_SOURCE = "arXiv 1710.03740 (mixed precision training); setting found by experiment"


class HalfPrecisionMLP(nn.Module):
    """An MLP whose tensors between layers pass through fp16, values and gradients alike."""

    def __init__(self) -> None:
        super().__init__()
        self.body = MLP(64, 4, norm=True)
        for module in self.body.modules():
            if isinstance(module, nn.Linear):
                module.register_forward_hook(lambda module, given, out: out.half().float())

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, 1, 12, 12) to logits (B, 32)."""
        logits: Tensor = self.body(images)
        return logits


def build(skip: bool, seed: int) -> Training:
    """A 4-layer MLP with layer norms; AdamW; the scale starts at 2^12, doubles each 40 steps, halves when a step is skipped."""
    order = seeded(seed)
    model = HalfPrecisionMLP()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    scale = 2.0**12

    def step(number: int) -> Tensor:
        nonlocal scale
        images, labels = batch_of(32, order)
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        (loss * scale).backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        torch._foreach_div_(gradients, scale)
        overflowed = skip and not all(bool(g.isfinite().all()) for g in gradients)
        if overflowed:
            scale /= 2
        else:
            optimizer.step()
            scale *= 2.0 if (number + 1) % DOUBLE_EVERY == 0 else 1.0
        return loss.detach()

    return Training(model, optimizer, step)


FP16_OVERFLOW = Scenario(
    name="fp16-overflow",
    family=_FAMILY,
    split="train",
    title="An MLP in fp16 whose loss scale doubles each 40 steps, with nothing that skips an overflowed step",
    cause="a gradient passes 65,504 and becomes infinite; the update writes it into the weights",
    expected="diverged",
    steps=STEPS,
    build=lambda seed: build(False, seed),
    source=_SOURCE,
    onset="abrupt",
    cause_id="overflow",
)

LOSS_SCALE_SKIP = Scenario(
    name="loss-scale-skip",
    family=_FAMILY,
    split="train",
    title="The same MLP in fp16, each overflowed step skipped and the scale halved",
    cause="gradients that are not finite, again and again: how dynamic loss scaling finds its scale",
    expected="survived",
    steps=STEPS,
    build=lambda seed: build(True, seed),
    source=_SOURCE,
)
