"""The flight recorder keeps what led to an alert, bounded, and changes nothing of the training."""

import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import foreshock
import pytest
import torch
from foreshock.interventions.batches import MOST_LETTERS, MOST_NUMBERS, noted
from foreshock.interventions.bundle import read_bundle
from foreshock.interventions.capture import Capture, bounded
from foreshock.interventions.inspection import inspect_bundle
from foreshock.kernels.precision import Precision
from foreshock.kernels.reference import reference_attention
from foreshock.probes.statistics.attention import AttentionSample, KeyGradient
from foreshock.probes.taps.attention_calls import LookedAt, SeenCall
from foreshock.slices import slice_of
from torch import Tensor, nn


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (2, 8)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        out = reference_attention(q, k, v, is_causal=True, precision=Precision.flash(output=3))
        return self.out(out.transpose(1, 2).flatten(2))


def trained(step: Callable[[int, Tensor], None], model: nn.Module, steps: int) -> list[Tensor]:
    """Train and call ``step`` with the loss after each; return the weights."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    draw = torch.Generator().manual_seed(1)
    for number in range(steps):
        loss = model(torch.randn(3, 12, 16, generator=draw)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step(number, loss)
    return [p.detach().clone() for p in model.parameters()]


def captured(
    url: str,
    folder: Path,
    batch: Callable[[int], object] = lambda step: None,
    metrics: dict[str, float] | None = None,
    **options: Any,
) -> tuple[Any, Capture, list[Tensor]]:
    """Train 30 steps, sampled every fifth; the loss that is told of step 22 is NaN."""
    torch.manual_seed(0)
    model = Attending()
    capture = Capture(folder, **{"steps": 4} | options)
    with foreshock.watch(model, store=url, every=5, interventions=[capture]) as monitor:

        def ended(step: int, loss: Tensor) -> None:
            monitor._writer.flush(10)
            monitor.step(loss if step != 22 else math.nan, batch=batch(step), **(metrics or {}))

        weights = trained(ended, model, 30)
    return monitor, capture, weights


def test_an_alert_writes_the_steps_before_it_and_says_where(url: str, tmp_path: Path) -> None:
    monitor, capture, weights = captured(url, tmp_path / "captures", batch=lambda step: [step, step + 100])
    assert monitor.faults.total == 0
    (path,) = capture.bundles
    bundle = read_bundle(path)
    assert bundle.about["alert"]["rule"] == "non_finite"
    assert bundle.about["run"]["id"] == monitor.run.id
    assert [step.step for step in bundle.steps] in ([5, 10, 15, 20], [10, 15, 20, 23])
    values = {(signal, head): value for signal, _, head, _, value in bundle.steps[1].statistics}
    store = foreshock.open_store(url)
    frame = store.frame(monitor.run, signal="attention.max_logit")
    kept = frame[(frame["step"] == bundle.steps[1].step) & (frame["head"] == 1)]["value"]
    assert values["attention.max_logit", 1] == pytest.approx(float(kept.iloc[0]))
    assert set(bundle.steps[1].random_state) == {"python", "torch"}
    assert bundle.steps[1].attention[0].q.shape == (2, 2, 12, 8)
    assert [event.data["path"] for event in store.events(monitor.run.id) if event.kind == "intervention"] == [str(path)]
    # Of every step, sampled or not, what it was trained on; in the bundle and nowhere else.
    batches = {each["step"]: each["batch"] for each in bundle.about["batches"]}
    assert batches[22] == [22, 122]
    assert sorted(batches) == list(range(bundle.about["written_at_step"] + 1))
    assert store.frame(monitor.run, signal="batch").empty
    store.close()
    said = (path / "README.txt").read_text()
    assert f"foreshock inspect {path}" in said
    assert "non_finite (critical)" in said
    # And training was what it is without a monitor.
    torch.manual_seed(0)
    alone = trained(lambda *_: None, Attending(), 30)
    assert all(torch.equal(a, b) for a, b in zip(weights, alone, strict=True))


def test_the_layers_own_gradient_of_the_keys_is_captured(url: str, tmp_path: Path) -> None:
    """In real training with coarse attention the residual is the one that its rounded output predicts."""
    _, capture, _ = captured(url, tmp_path / "captures")
    for finding in inspect_bundle(read_bundle(capture.bundles[0])).findings:
        assert finding.numbers is not None
        assert finding.numbers.coupling == pytest.approx(1.0, abs=0.1)
        assert finding.numbers.residuals.layer == pytest.approx(finding.numbers.residuals.low, rel=1e-3)
        assert finding.numbers.residuals.float64 < 1e-12


def test_many_metrics_do_not_push_a_sampled_step_out(url: str, tmp_path: Path) -> None:
    _, capture, _ = captured(url, tmp_path / "captures", metrics={f"metric_{i}": 1.0 for i in range(12)})
    assert all(len(step.statistics) > 30 for step in read_bundle(capture.bundles[0]).steps[:3])


def test_a_step_seen_twice_is_kept_twice(url: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Attending()
    capture = Capture(tmp_path / "captures", steps=4)
    with foreshock.watch(model, store=url, every=2, interventions=[capture]) as monitor:
        state = monitor.state_dict()

        def ended(step: int, loss: Tensor) -> None:
            monitor._writer.flush(10)
            monitor.step(loss if step != 5 else math.nan)
            if step == 2:  # rolled back to the beginning
                monitor.load_state_dict(state)

        trained(ended, model, 10)
    bundle = read_bundle(capture.bundles[0])
    twice = [step for step in bundle.steps if step.step == 0]
    assert len(twice) == 2
    losses = [next(value for signal, *_, value in step.statistics if signal == "loss") for step in twice]
    assert losses[0] != losses[1]
    assert not torch.equal(twice[0].attention[0].q, twice[1].attention[0].q)


def seen(heads: int = 8, key_heads: int = 4, rows: int = 6, keys: int = 12, per_head_bias: bool = False) -> SeenCall:
    draw = torch.Generator().manual_seed(0)
    q, out, grad_out = (torch.randn(2, heads, rows, 4, generator=draw) for _ in range(3))
    k, v = (torch.randn(2, key_heads, keys, 4, generator=draw) for _ in range(2))
    bias = torch.randn(2, heads, rows, keys, generator=draw) if per_head_bias else None
    gradient = KeyGradient(torch.randn(2, key_heads, 4, generator=draw), torch.rand(2, key_heads, generator=draw))
    sample = AttentionSample(q, k, v, out, bias, 0.5, 2.0**-8, 2.0**-7, True, 1.0)
    numbers = tuple(range(10, 10 + heads))
    at = LookedAt(2, None, None, None, numbers, tuple(range(key_heads)))
    return SeenCall("layer", sample, at, (2, heads, rows, 4), key_gradients=[gradient], grad_out=[grad_out])


@pytest.mark.parametrize("per_head_bias", [False, True])
def test_what_is_kept_of_a_call_is_bounded(per_head_bias: bool) -> None:
    """As many heads as fit are kept, scattered, and heads that share keys stay together; then one sequence of one."""
    call = seen(per_head_bias=per_head_bias)
    whole = slice_of(call, 1 << 20)
    assert whole.heads == tuple(range(10, 18))
    assert torch.equal(whole.q, call.sample.q)
    part = slice_of(call, int(0.6 * whole.bytes))
    assert part.heads == (10, 11, 14, 15)
    assert part.bytes == whole.bytes // 2
    for name in ("k", "v", "shift", "key_norm"):
        assert torch.equal(getattr(part, name), getattr(whole, name)[:, [0, 2]])
    for name in ("q", "out", "grad_out") + (("bias",) if per_head_bias else ()):
        assert torch.equal(getattr(part, name), getattr(whole, name)[:, [0, 1, 4, 5]])
    least = slice_of(call, 0)
    assert (least.heads, least.q.shape) == ((10, 11), (1, 2, 6, 4))
    assert least.bytes == whole.bytes // 8


def test_what_is_kept_of_a_step_is_bounded() -> None:
    """Where one head of every layer is still too much, layers are left out."""
    calls = [slice_of(seen(), 0)] * 9
    assert len(list(bounded(calls, 3 * calls[0].bytes))) == 3
    assert list(bounded(calls, 0)) == []
    assert list(bounded([], 10)) == []


def test_the_bundles_of_a_run_keep_to_their_room(url: str, tmp_path: Path) -> None:
    monitor, capture, _ = captured(url, tmp_path / "captures", total_megabytes=0)
    assert not capture.bundles
    assert not list((tmp_path / "captures").glob("*"))
    store = foreshock.open_store(url)
    (event,) = [event for event in store.events(monitor.run.id) if event.kind == "intervention"]
    assert "there are 0 bundles of 0 bytes, and Capture(most=10, total_megabytes=0) allows no other" in event.message
    store.close()


def test_a_disk_that_refuses_is_an_event(url: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monitor, capture, _ = captured(url, tmp_path / "file")
    assert not capture.bundles
    assert monitor.faults.total == 0
    store = foreshock.open_store(url)
    (event,) = [event for event in store.events(monitor.run.id) if event.kind == "intervention"]
    assert "could not be written, training goes on" in event.message
    store.close()


@pytest.mark.parametrize(
    ("given", "kept", "count"),
    [
        (17, 17, 1),
        ([3, 1, 2], [3, 1, 2], 3),
        (range(4), [0, 1, 2, 3], 4),
        (torch.tensor([5, 6]), [5, 6], 2),
        (torch.arange(3).numpy(), [0, 1, 2], 3),
        (torch.arange(9_000), list(range(MOST_NUMBERS)), 9_000),
        (hashlib.sha256(b"batch").hexdigest(), hashlib.sha256(b"batch").hexdigest(), 1),
        ("x" * 1_000, "x" * MOST_LETTERS, 1),
    ],
    ids=["number", "list", "range", "tensor", "array", "many", "hash", "long"],
)
def test_a_batch_is_indices_a_number_or_a_text(given: object, kept: object, count: int) -> None:
    assert noted(given).plain() == {"batch": kept, "count": count}


def test_indices_are_copied_before_they_change() -> None:
    indices = torch.tensor([1, 2])
    note = noted(indices)
    indices.zero_()
    assert note.plain()["batch"] == [1, 2]


@pytest.mark.parametrize("given", [torch.randn(4), torch.zeros(2, 64, dtype=torch.long), {"input_ids": 1}, [0.5], [torch.ones(1)]])
def test_data_itself_is_refused_and_training_goes_on(given: object, url: str, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"batch= takes indices of samples .*; got a"):
        noted(given)
    if isinstance(given, dict):
        monitor, capture, _ = captured(url, tmp_path / "captures", batch=lambda step: given)
        assert monitor.faults.total == 30
        assert read_bundle(capture.bundles[0]).about["batches"] == []
