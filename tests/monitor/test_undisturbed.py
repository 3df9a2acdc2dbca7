"""The first law: training with the monitor is bit-identical to training without it."""

from collections.abc import Callable

import foreshock
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

STEPS = 200
Build = Callable[[], tuple[nn.Module, Callable[[nn.Module], Tensor]]]


def mlp() -> tuple[nn.Module, Callable[[nn.Module], Tensor]]:
    model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(inplace=True), nn.Dropout(0.2), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 5))

    def loss(model: nn.Module) -> Tensor:
        return F.cross_entropy(model(torch.randn(32, 20)), torch.randint(5, (32,)))

    return model, loss


class TinyBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, t, c = x.shape
        q, k, v = (part.view(b, t, 2, c // 2).transpose(1, 2) for part in self.qkv(self.norm(x)).chunk(3, -1))
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=0.1 if self.training else 0.0)
        return x + F.dropout(self.out(attended.transpose(1, 2).reshape(b, t, c)), 0.1, self.training)


def gpt() -> tuple[nn.Module, Callable[[nn.Module], Tensor]]:
    model = nn.Sequential(nn.Embedding(50, 32), TinyBlock(32), TinyBlock(32), nn.LayerNorm(32), nn.Linear(32, 50))

    def loss(model: nn.Module) -> Tensor:
        tokens = torch.randint(50, (4, 17))
        return F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())

    return model, loss


def conv() -> tuple[nn.Module, Callable[[nn.Module], Tensor]]:
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Dropout2d(0.2), nn.Flatten(), nn.Linear(8 * 36, 10)
    )

    def loss(model: nn.Module) -> Tensor:
        return F.cross_entropy(model(torch.randn(16, 1, 8, 8)), torch.randint(10, (16,)))

    return model, loss


def trained(build: Build, url: str | None) -> tuple[list[Tensor], Tensor]:
    """Train; return weights, buffers and optimizer state, and the state of the random generator afterwards."""
    torch.manual_seed(7)
    model, loss_of = build()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    monitor = foreshock.watch(model, optimizer, store=url, every=7) if url else None
    for step in range(STEPS):
        if step % 50 == 25:
            model.eval()
            with torch.no_grad():
                loss_of(model)
            model.train()
        loss = loss_of(model)
        optimizer.zero_grad()
        loss.backward()
        if step % 2:
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        if monitor is not None:
            monitor.step(loss)
    if monitor is not None:
        monitor.close()
        assert monitor.faults.total == 0
    moments = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    return [*model.state_dict().values(), *moments], torch.get_rng_state()


@pytest.mark.parametrize("build", [mlp, gpt, conv], ids=["mlp", "gpt", "conv"])
def test_weights_moments_and_random_state_are_bit_identical(build: Build, url: str) -> None:
    plain, plain_rng = trained(build, None)
    watched, watched_rng = trained(build, url)
    assert all(torch.equal(a, b) for a, b in zip(plain, watched, strict=True))
    assert torch.equal(plain_rng, watched_rng)
    # And it did measure: otherwise this test shows nothing.
    store = foreshock.open_store(url)
    frame = store.frame(store.runs()[0])
    assert (frame["signal"] == "loss").sum() == STEPS
    assert (frame["signal"] == "weight.spectral_norm").sum() >= STEPS // 7
    if build is gpt:
        assert (frame["signal"] == "rounding.key_shift_residual").sum() > 0
    store.close()


def test_the_model_is_left_without_hooks(url: str) -> None:
    model, loss_of = gpt()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with foreshock.watch(model, optimizer, store=url, every=1) as monitor:
        loss_of(model).backward()
        optimizer.step()
        monitor.step(1.0)
    assert not any(m._forward_pre_hooks or m._forward_hooks or m._backward_hooks for m in model.modules())
    assert not optimizer._optimizer_step_pre_hooks
    assert not torch.overrides._get_current_function_mode_stack()
    assert torch.nn.utils.clip_grad._clip_grads_with_norm_.__module__ == "torch.nn.utils.clip_grad"
