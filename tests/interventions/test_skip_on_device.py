"""On a GPU: updates are left out by ``found_inf``, and nobody waits for the device."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from foreshock.interventions.base import Training
from foreshock.interventions.skip_step import SkipStep
from foreshock.storage.records import Run
from torch import Tensor, nn
from torch.optim import Optimizer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

OPTIMIZERS: dict[str, Callable[[Any], Optimizer]] = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    "sgd momentum": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, fused=True),
    "adamw, not fused": lambda p: torch.optim.AdamW(p, lr=0.01),
}
BAD = {0: math.nan, 5: math.inf, 50: math.nan, 60: 1e9, 61: -math.inf}


def train(make: Callable[[Any], Optimizer], *, guard: bool, scaled: bool) -> tuple[list[Tensor], int]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 3)).cuda()
    optimizer = make(model.parameters())
    scaler = torch.amp.GradScaler("cuda", init_scale=8.0, growth_interval=10_000, enabled=scaled)
    skipping = SkipStep(wait="fused" not in str(optimizer.defaults) or not optimizer.defaults["fused"])
    if guard:
        skipping.attach(Training({}, [optimizer], Run("r", "r")))
    for step in range(80):
        optimizer.zero_grad()
        loss = model(torch.randn(8, 6, device="cuda")).square().mean()
        # A scaler skips what is not finite by itself, and halves its scale: only wild steps are ours then.
        factor = BAD.get(step, 1.0)
        ours = step in BAD and (not scaled or math.isfinite(factor))
        scaler.scale(loss * factor).backward()
        if guard or not ours:
            if guard and optimizer.defaults.get("fused") and step > 1:
                torch.cuda.set_sync_debug_mode("error")
            scaler.step(optimizer)
            if guard:
                skipping.after_step(step)
            torch.cuda.set_sync_debug_mode("default")
        elif scaled:
            scaler.unscale_(optimizer)
        scaler.update()
    skipping.close()
    assert not hasattr(optimizer, "found_inf")
    moments = [v for state in optimizer.state_dict()["state"].values() for v in state.values() if isinstance(v, Tensor)]
    return [t.clone() for t in [*model.parameters(), *moments]], skipping.skipped


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_weights_and_moments_are_as_if_the_bad_steps_had_not_been(kind: str, scaled: bool) -> None:
    guarded, skipped = train(OPTIMIZERS[kind], guard=True, scaled=scaled)
    by_hand, _ = train(OPTIMIZERS[kind], guard=False, scaled=scaled)
    assert skipped == (1 if scaled else len(BAD))
    assert len(guarded) == len(by_hand)
    assert all(torch.equal(a, b) for a, b in zip(guarded, by_hand, strict=True))
