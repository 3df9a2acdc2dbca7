"""The flight recorder writes what led to an alert; inspecting it tells one-signed rounding errors from others."""

import json
import math
from pathlib import Path
from typing import Any

import foreshock
import pytest
import torch
from foreshock.cli import app
from foreshock.interventions.bundle import AttentionSlice, Bundle, BundleError, CapturedStep, read_bundle, write_bundle
from foreshock.interventions.capture import Capture, bounded
from foreshock.interventions.inspection import inspect_bundle
from foreshock.kernels.precision import Precision
from foreshock.kernels.reference import reference_attention
from torch import Tensor, nn
from typer.testing import CliRunner


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (2, 8)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        out = reference_attention(q, k, v, is_causal=True, precision=Precision.flash())
        return self.out(out.transpose(1, 2).flatten(2))


def captured(url: str, folder: Path, steps: int = 30, **options: Any) -> tuple[Any, Capture, list[Tensor]]:
    torch.manual_seed(0)
    model = Attending()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    capture = Capture(folder, steps=4, **options)
    with foreshock.watch(model, optimizer, store=url, every=5, interventions=[capture]) as monitor:
        for step in range(steps):
            loss = model(torch.randn(3, 12, 16)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            monitor._writer.flush(10)
            monitor.step(loss if step != 22 else math.nan, batch=100 + step)
    assert monitor.faults.total == 0
    return monitor, capture, [p.detach().clone() for p in model.parameters()]


def test_an_alert_writes_the_steps_before_it_and_says_where(url: str, tmp_path: Path) -> None:
    monitor, capture, _ = captured(url, tmp_path / "captures")
    (path,) = capture.bundles
    bundle = read_bundle(path)
    assert bundle.about["alert"]["rule"] == "non_finite"
    assert bundle.about["run"]["id"] == monitor.run.id
    assert [step.step for step in bundle.steps] == [5, 10, 15, 20] or [step.step for step in bundle.steps] == [10, 15, 20, 23]
    values = {(signal, head): value for signal, _, head, _, value in bundle.steps[1].statistics}
    store = foreshock.open_store(url)
    frame = store.frame(monitor.run, signal="attention.max_logit")
    kept = frame[(frame["step"] == bundle.steps[1].step) & (frame["head"] == 1)]["value"]
    assert values["attention.max_logit", 1] == pytest.approx(float(kept.iloc[0]))
    assert values["batch", -1] == 100 + bundle.steps[1].step
    assert set(bundle.steps[1].random_state) == {"python", "torch"}
    assert bundle.steps[1].attention[0].q.shape == (2, 2, 12, 8)
    assert [event.data["path"] for event in store.events(monitor.run.id) if event.kind == "intervention"] == [str(path)]
    store.close()


def test_recording_changes_no_bit(url: str, tmp_path: Path) -> None:
    *_, watched = captured(url, tmp_path / "captures")
    torch.manual_seed(0)
    model = Attending()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(30):
        loss = model(torch.randn(3, 12, 16)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(watched, model.parameters(), strict=True))


def test_a_disk_that_refuses_is_an_event(url: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monitor, capture, _ = captured(url, tmp_path / "file")
    assert not capture.bundles
    store = foreshock.open_store(url)
    (event,) = [event for event in store.events(monitor.run.id) if event.kind == "intervention"]
    assert "could not be written, training goes on" in event.message
    store.close()


def slice_with(errors_R: Tensor, *, size: float, delta_from_output: bool = True, seed: int = 0) -> AttentionSlice:
    """Attention in float64 whose stored output is off so that delta is off by ``errors_R`` times ``size``."""
    draw = torch.Generator().manual_seed(seed)
    q, k, v, do = (torch.randn(1, 1, len(errors_R), 8, generator=draw, dtype=torch.float64) for _ in range(4))
    out = torch.softmax(0.35 * q @ k.mT, -1) @ v
    out = out + do * (size * errors_R / do.square().sum((0, 1, 3)))[:, None]
    return AttentionSlice("layer", (0,), *(x.float() for x in (q, k, v, out, do)), None, 0.35, 2.0**-7, delta_from_output)


@pytest.mark.parametrize(
    ("signs", "size", "verdict"),
    [("one", 1.0, "confirmed"), ("one", 1e-3, "small"), ("random", 1e-3, "rejected"), ("random", 3.0, "undecided")],
)
def test_the_verdict_follows_sign_and_size(signs: str, size: float, verdict: str) -> None:
    errors = torch.ones(64, dtype=torch.float64)
    if signs == "random":
        errors = errors * (2 * (torch.arange(64) % 2) - 1)
    steps = [CapturedStep(step, attention=[slice_with(errors, size=size, seed=step)]) for step in range(4)]
    (finding,) = inspect_bundle(Bundle({}, steps)).findings
    assert finding.verdict == verdict
    assert finding.rows == 256
    assert finding.layer is not None
    assert finding.float32 is not None
    assert finding.layer.z == pytest.approx(16.0 if signs == "one" else 0.0, abs=0.1)
    assert finding.float32.error < 1e-5


def test_the_errors_are_those_of_the_layers_own_output() -> None:
    """Captured from bfloat16 attention, the layer's error is that of the re-computation in low precision, to the last bit or so."""
    draw = torch.Generator().manual_seed(1)
    q, k, v, do = (torch.randn(2, 2, 40, 8, generator=draw) for _ in range(4))
    q, k, v = (x.bfloat16().float() for x in (q, k, v))
    bias = torch.full((40, 40), -torch.inf).triu(1)
    out = reference_attention(q, k, v, scale=0.35, attn_mask=bias, precision=Precision.flash())
    call = AttentionSlice("layer", (0, 1), q, k, v, out, do, bias, 0.35, 2.0**-7, True)
    for finding in inspect_bundle(Bundle({}, [CapturedStep(0, attention=[call])])).findings:
        assert finding.layer is not None
        assert finding.low is not None
        assert finding.layer.z == pytest.approx(finding.low.z, abs=1e-6)
        assert finding.layer.error == pytest.approx(finding.low.error, rel=1e-6)
        assert finding.layer.error > 1e-4


def test_stabilised_attention_has_nothing_to_confirm() -> None:
    step = CapturedStep(0, attention=[slice_with(torch.ones(64, dtype=torch.float64), size=1.0, delta_from_output=False)])
    found = inspect_bundle(Bundle({}, [step]))
    assert found.findings[0].verdict == "not applicable"
    assert "does not apply" in found.describe()


def test_what_is_kept_is_bounded_and_scattered_over_the_layers() -> None:
    calls = [slice_with(torch.ones(16, dtype=torch.float64), size=1.0)] * 9
    assert len(list(bounded(calls, 3 * calls[0].bytes))) == 3
    assert list(bounded(calls, 0)) == []
    assert list(bounded([], 10)) == []


def test_the_command_says_it_in_words_and_as_json(tmp_path: Path) -> None:
    alert = {"rule": "key_shift_bias", "severity": "warning", "message": "It grows."}
    steps = [CapturedStep(7, [["loss", "", -1, -1, math.nan]], {}, [slice_with(torch.ones(64, dtype=torch.float64), size=1.0)])]
    write_bundle(tmp_path / "bundle", {"alert": alert}, steps)
    runner = CliRunner()
    said = runner.invoke(app, ["inspect", str(tmp_path / "bundle")])
    assert said.exit_code == 1
    assert "The rounding hypothesis is confirmed" in said.stdout
    data = json.loads(runner.invoke(app, ["inspect", str(tmp_path / "bundle"), "--json"]).stdout)
    assert data["confirmed"] is True
    assert data["findings"][0]["layer"]["z"] == pytest.approx(8.0, abs=0.1)
    assert math.isnan(read_bundle(tmp_path / "bundle").steps[0].statistics[0][-1])


def test_what_is_no_bundle_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"bundle\.json is missing"):
        read_bundle(tmp_path)
    assert CliRunner().invoke(app, ["inspect", str(tmp_path)]).exit_code == 2
