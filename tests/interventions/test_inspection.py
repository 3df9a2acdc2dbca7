"""Inspecting a bundle tells the rounded output's error from others, by what the layer itself did."""

import contextlib
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from foreshock.cli import app
from foreshock.interventions.bundle import AttentionSlice, Bundle, BundleError, CapturedStep, read_bundle, write_bundle
from foreshock.interventions.inspection import inspect_bundle
from foreshock.interventions.recomputation import recomputed
from foreshock.kernels.precision import DeltaSource, Precision
from foreshock.kernels.reference import reference_attention
from foreshock.storage import open_store
from foreshock.storage.captures import INSPECTED
from foreshock.storage.records import Run
from torch import Tensor
from typer.testing import CliRunner

SCALE = 0.35


def layer(
    seed: int, output: int = 3, inner: int = 7, delta_from: DeltaSource = "stored", rows: int = 40, heads: int = 2, kept: int = 0
) -> AttentionSlice:
    """One step of a layer that rounds so, 2 sequences, one key head for ``heads``; ``kept`` rows of it are captured, 0 for all."""
    draw = torch.Generator().manual_seed(seed)
    q, k, v, do = (torch.randn(2, h, rows, 8, generator=draw) for h in (heads, 1, 1, heads))
    q, k, v, do = (x.bfloat16().float() for x in (q, k, v - 4, do))
    k.requires_grad_()
    bias = torch.full((rows, rows), -torch.inf).triu(1)
    precision = Precision(
        inputs=inner, probabilities=inner, output=output, score_gradients=inner, gradients=inner, delta_from=delta_from
    )
    out = reference_attention(q, k, v, scale=SCALE, attn_mask=bias, precision=precision)
    (dk,) = torch.autograd.grad(out, k, do)
    at = torch.arange(rows) if not kept else torch.randperm(rows, generator=draw)[:kept].sort().values
    return AttentionSlice(
        module="layer",
        heads=tuple(range(heads)),
        q=q[:, :, at],
        k=k.detach(),
        v=v,
        out=out.detach()[:, :, at],
        grad_out=do[:, :, at],
        shift=dk.sum(2),
        key_norm=dk.norm(dim=(2, 3)),
        bias=bias[at],
        scale=SCALE,
        spacing=2.0**-output,
        roundoff=2.0 ** -(inner + 1),
        row_share=len(at) / rows,
        delta_from_output=delta_from == "stored",
    )


def bundle_of(steps: int = 8, **options: Any) -> Bundle:
    return Bundle({}, [CapturedStep(step, attention=[layer(step, **options)]) for step in range(steps)])


@pytest.mark.parametrize(
    ("options", "verdict"),
    [
        ({}, "confirmed"),
        ({"kept": 12}, "confirmed"),
        ({"output": 7}, "small"),
        ({"delta_from": "random_sign"}, "other"),
        ({"delta_from": "float32"}, "rejected"),
        ({"output": 23, "inner": 23}, "rejected"),
        ({"steps": 2}, "undecided"),
    ],
    ids=["low precision", "some rows", "bfloat16", "random signs", "stabilised", "float32", "two steps"],
)
def test_the_verdict_on_real_attention(options: dict[str, Any], verdict: str) -> None:
    found = inspect_bundle(bundle_of(**options))
    (finding,) = found.findings
    assert finding.verdict == found.verdict == verdict, finding
    assert finding.numbers is not None
    coupled = verdict in ("confirmed", "small", "undecided")
    if finding.numbers.excess > 3:
        assert finding.numbers.coupling == pytest.approx(1.0 if coupled else 0.0, abs=0.3)
    # Nothing is left in float64, and what is left in float32 is in its last bits.
    assert finding.numbers.residuals.float64 < 1e-12
    assert finding.numbers.residuals.float32 < 1e-5


def test_chance_leaves_what_it_is_said_to_leave() -> None:
    """Over many layers whose errors are independent, the excess is about 1 and p below 0.05 comes about as often."""
    numbers = []
    for one in range(12):
        steps = [CapturedStep(step, attention=[layer(10 * one + step, delta_from="float32", rows=24)]) for step in range(3)]
        (finding,) = inspect_bundle(Bundle({}, steps)).findings
        assert finding.numbers is not None
        numbers.append(finding.numbers)
    assert sum(each.excess for each in numbers) / 12 == pytest.approx(1.0, abs=0.15)
    assert sum(each.excess_p < 0.05 for each in numbers) <= 3


def test_the_recomputation_is_what_automatic_differentiation_gives() -> None:
    """The slow twin: attention in float64 whose backward pass takes delta from the stored output, by autograd."""
    call = layer(3)
    found = recomputed(call, 0)
    q, k, v, stored, do = (x.double() for x in (call.q, call.k, call.v, call.out, call.grad_out))
    q.requires_grad_()
    k.requires_grad_()
    p = torch.softmax(SCALE * (q @ k.mT) + call.bias, -1)
    (p @ v).backward(do)
    assert q.grad is not None
    assert k.grad is not None
    assert float(k.grad.sum(2).norm() / k.grad.norm()) < 1e-13
    assert found.gradient == pytest.approx(float(q.grad.sum((0, 1, 2)).norm()))
    exact_q, exact_k = q.grad.clone(), k.grad.clone()
    with torch.no_grad():
        ds = p * (do @ v.mT - (do * stored).sum(-1, keepdim=True))
        wrong_k = (SCALE * ds.mT @ q).sum(1, keepdim=True)
        wrong_q = SCALE * ds @ k
    torch.testing.assert_close(found.parts.sum(1), (wrong_k - exact_k).sum((1, 2)), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(-found.errors[:, None] * found.effects, (wrong_q - exact_q).flatten(0, 2), rtol=1e-9, atol=1e-12)


def test_numbers_that_are_not_finite_are_left_out() -> None:
    steps = list(bundle_of(steps=5).steps)
    steps[2].attention[0].grad_out[0, 0, 0] = math.nan
    (finding,) = inspect_bundle(Bundle({}, steps)).findings
    assert (finding.steps, finding.verdict) == (4, "confirmed")
    for step in steps:
        step.attention[0].grad_out.fill_(math.inf)
    found = inspect_bundle(Bundle({}, steps))
    assert found.verdict == "not applicable"
    assert "no step has finite numbers" in found.describe()
    json.dumps(found.to_plain(), allow_nan=False)


def test_an_output_that_is_no_softmax_attention_is_not_judged() -> None:
    """Dropout, for one: then O is not what q, k and v give, and the difference is no rounding error."""
    steps = list(bundle_of(steps=4).steps)
    for step in steps:
        step.attention[0].out.mul_(torch.randint(0, 2, (40, 1)) * 2)
    found = inspect_bundle(Bundle({}, steps))
    assert found.verdict == "not applicable"
    assert "dropout" in found.describe()


def written(folder: Path, steps: int = 4, **options: Any) -> Path:
    about = {
        "run": {"id": "a" * 32, "name": "mine", "project": ""},
        "alert": {"rule": "key_shift_bias", "severity": "warning", "message": "It grows."},
        "written_at_step": 9,
        "batches": [{"step": 1, "batch": list(range(20)), "count": 20}, {"step": 2, "batch": "3af0", "count": 1}],
    }
    for step in (made := bundle_of(steps, **options)).steps:
        step.statistics.extend([["loss", "", -1, -1, math.nan if step.step == 0 else 2.5], ["weight.norm", "layer", -1, -1, 1.0]])
    write_bundle(folder, about, made.steps)
    return folder


def test_the_command_says_it_in_words_and_as_json(tmp_path: Path) -> None:
    folder = written(tmp_path / "bundle")
    runner = CliRunner()
    said = runner.invoke(app, ["inspect", str(folder)])
    assert said.exit_code == 1
    words = " ".join(said.stdout.split())
    assert "Captured for key_shift_bias (warning) in run mine: It grows." in words
    assert "step 1 loss 2.5 batch 0 1 2 3 4 5 and 14 more" in words
    assert "layer head 0: confirmed, for delta is taken from the rounded output" in words
    assert "The rounding hypothesis is confirmed. Switch to stabilised attention" in words
    data = json.loads(runner.invoke(app, ["inspect", str(folder), "--json"]).stdout)
    assert (data["verdict"], data["confirmed"]) == ("confirmed", True)
    assert data["steps"][:2] == [{"step": 0, "loss": None}, {"step": 1, "loss": 2.5, "batch": list(range(20))}]
    assert data["steps"][2] == {"step": 2, "loss": 2.5, "batch": "3af0"}
    assert data["findings"][0]["numbers"]["coupling"] == pytest.approx(1.0, abs=0.02)
    assert runner.invoke(app, ["inspect", str(written(tmp_path / "cured", delta_from="float32"))]).exit_code == 0


def test_the_verdict_is_noted_in_a_store_once(tmp_path: Path) -> None:
    url, folder = f"sqlite:///{tmp_path / 'runs.db'}", written(tmp_path / "bundle")
    with contextlib.closing(open_store(url)) as store:
        store.create_run(Run("a" * 32, "mine"))
        for _ in range(2):
            assert CliRunner().invoke(app, ["inspect", str(folder), "--store", url]).exit_code == 1
        (event,) = store.events("a" * 32, kind=INSPECTED)
    assert (event.step, event.data) == (9, {"bundle": "bundle", "verdict": "confirmed"})


def test_what_is_no_bundle_or_damaged_is_said_to_be(tmp_path: Path) -> None:
    def refused(folder: Path) -> str:
        answer = CliRunner().invoke(app, ["inspect", str(folder)])
        assert (answer.exit_code, answer.stdout, len(answer.stderr.splitlines())) == (2, "", 1)
        with pytest.raises(BundleError):
            read_bundle(folder)
        return answer.stderr

    folder = written(tmp_path / "bundle", steps=2)
    plain, tensors = (folder / "bundle.json").read_text(), (folder / "attention.pt").read_bytes()
    assert "bundle.json is missing" in refused(tmp_path)
    assert "is missing" in refused(folder / "bundle.json")
    for text in ("", plain[:-40], "[]", "{}", json.dumps(json.loads(plain) | {"format": 99}), plain.replace('"scale"', '"scales"')):
        (folder / "bundle.json").write_text(text)
        assert "bundle" in refused(folder)
    (folder / "bundle.json").write_text(plain)
    (folder / "attention.pt").write_bytes(tensors[: len(tensors) // 2])
    assert "damaged" in refused(folder)
    (folder / "attention.pt").write_bytes(tensors)
    whole: dict[str, Tensor] = torch.load(folder / "attention.pt", weights_only=True)
    for name, changed in (("0/0/k", None), ("1/0/q", whole["1/0/q"][:, :1]), ("1/0/bias", whole["1/0/bias"][:5]), ("0/0/v", 3)):
        torch.save({key: x for key, x in (whole | {name: changed}).items() if x is not None}, folder / "attention.pt")
        assert "damaged" in refused(folder)
    (folder / "attention.pt").unlink()
    assert "attention.pt is missing" in refused(folder)


def test_nothing_captured_is_said(tmp_path: Path) -> None:
    write_bundle(tmp_path / "empty", {}, [CapturedStep(3)])
    answer = CliRunner().invoke(app, ["inspect", str(tmp_path / "empty")])
    assert answer.exit_code == 0
    assert "No attention was captured" in answer.stdout
