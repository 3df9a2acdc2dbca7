"""``foreshock reproduce``: tables against slow twins, runs against bare training, the report in a browser; its other scripts."""

import importlib.util
import json
import math
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType
from typing import Any

import foreshock
import pytest
import torch
from foreshock.kernels import Precision, reference_attention
from foreshock.zoo.reproduction import command
from foreshock.zoo.reproduction.arms import ARMS, QUICK, arm
from foreshock.zoo.reproduction.capture import capture, load
from foreshock.zoo.reproduction.rounding_tables import Inputs, captured_inputs, compare, crafted, ties, variants
from foreshock.zoo.reproduction.runs import Job, made_with, perform
from foreshock.zoo.reproduction.summary import claims, summed_up
from foreshock.zoo.reproduction.workers import train_all
from foreshock.zoo.scenarios.low_precision_attention import build
from playwright.sync_api import Browser
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def script(path: str) -> ModuleType:
    """Load a script that is no module of the package."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


# -- the biased rounding ---------------------------------------------------------------------------------------------------


def test_crafted_inputs_bias_the_accumulator_and_both_ingredients_mend_what_they_should() -> None:
    given = crafted(heads=60)
    assert ties(given) == 1.0
    found = {record["variant"]: record for record in compare(given, variants(7), 7)}
    failing = found["low-precision accumulator"]
    assert failing["rows"] == 60 * 64
    # Half of the sums of two numbers lie midway between two others, and the tail tips all of these: a quarter ulp.
    assert failing["output_error_ulp"] == pytest.approx(-0.25, abs=0.01)
    assert failing["output_z"] < -100
    assert failing["same_sign"] > 0.99
    for name in ("the same, dynamic maximum, beta 2", "float32 accumulator (standard)", "stabilised: both"):
        assert abs(found[name]["output_error_ulp"]) < 0.01
        assert found[name]["same_sign"] < 0.6
    assert abs(found["stabilised: both"]["delta_error"]) < 1e-4 * abs(failing["delta_error"])
    # Mended rows must not become noisy.
    assert found["stabilised: both"]["output_rms_ulp"] < 1.15 * found["float32 accumulator (standard)"]["output_rms_ulp"]


def test_the_table_is_what_a_row_by_row_twin_gives() -> None:
    torch.manual_seed(0)
    q, k, v, do = (torch.randn(2, 3, 5, 4).bfloat16().float() for _ in range(4))
    given = Inputs(q, k, v, do, scale=0.5, is_causal=True)
    (record,) = compare(given, {"standard": Precision.flash(output=4)}, 4)
    out = reference_attention(q, k, v, is_causal=True, scale=0.5, precision=Precision.flash(output=4)).double()
    errors: list[float] = []
    deltas: list[float] = []
    for b in range(2):
        for h in range(3):
            for t in range(5):
                weights = [math.exp(0.5 * float(q[b, h, t].double() @ k[b, h, s].double())) for s in range(t + 1)]
                exact = sum((w * v[b, h, s].double() for s, w in enumerate(weights)), torch.zeros(4, dtype=torch.float64))
                exact = exact / sum(weights)
                ulp = 2.0 ** (math.floor(math.log2(float(exact.square().mean().sqrt()))) - 4)
                errors += [float(each) / ulp for each in out[b, h, t] - exact]
                deltas.append(float(do[b, h, t].double() @ (out[b, h, t] - exact)))
    assert record["output_error_ulp"] == pytest.approx(sum(errors) / len(errors), rel=1e-6)
    assert record["output_rms_ulp"] == pytest.approx(math.sqrt(sum(e * e for e in errors) / len(errors)), rel=1e-6)
    assert record["delta_error"] == pytest.approx(sum(deltas) / len(deltas), rel=1e-6)
    assert record["same_sign"] == max(sum(d > 0 for d in deltas), sum(d < 0 for d in deltas)) / len(deltas)
    draws = [sum(deltas[i : i + 5]) / 5 for i in range(0, 30, 5)]
    mean = sum(draws) / 6
    spread = math.sqrt(sum((d - mean) ** 2 for d in draws) / 5 / 6)
    assert record["delta_z"] == pytest.approx(mean / spread, rel=1e-6)


# -- the training runs -----------------------------------------------------------------------------------------------------


def test_a_run_is_the_bare_training_with_what_the_probes_saw(tmp_path: Path) -> None:
    job = Job("low_precision", 3, 41, 1, f"sqlite:///{tmp_path / 'kept.db'}", tmp_path / "run.json", capture_at=30)
    result = perform(job)
    assert result["probe_errors"] == 0
    training = build(Precision.flash(output=3), 3)
    bare = [training.step(number).item() for number in range(41)]
    # Neither watching nor capturing changed a step.
    assert result["losses"] == [float(f"{loss:.5g}") for loss in bare]
    assert json.loads(job.file.read_text()) == result
    assert (result["outcome"], result["failure"], result["lead_steps"]) == ("survived", None, None)
    sigma = result["series"]["weight.spectral_norm"]["blocks.1.attention"]
    assert sigma["steps"] == [0, 20, 40]
    assert result["series"]["rounding.direction_similarity"]["blocks.0.attention"]["steps"] == [20, 40]
    given = captured_inputs(load(job.captured))
    assert set(given) == {"blocks.0.attention", "blocks.1.attention"}
    assert given["blocks.0.attention"].do.shape == (8, 2, 64, 32)
    assert foreshock.open_store(job.store).run(result["run"]).status == "finished"


def test_what_is_captured_is_what_attention_got(tmp_path: Path) -> None:
    training = build(Precision(), 0)
    with capture(training.model, tmp_path / "step.pt"):
        training.step(0)
    kept = load(tmp_path / "step.pt")["blocks.1.attention"]
    q, k, v = (kept[name].requires_grad_() for name in ("q", "k", "v"))
    reference_attention(q, k, v, is_causal=True).backward(kept["do"])
    # Through the projection of V, its bias gets the sum of dV: gradients are there until the next step; clipping scaled them all.
    projection = training.model.get_submodule("blocks.1.attention.v")
    assert isinstance(projection, torch.nn.Linear)
    assert projection.bias.grad is not None
    assert v.grad is not None
    wanted, found = v.grad.transpose(1, 2).flatten(2).sum((0, 1)), projection.bias.grad
    assert torch.nn.functional.cosine_similarity(wanted, found, dim=0) == pytest.approx(1.0, abs=1e-5)


def result(name: str, seed: int, *, failed: bool) -> dict[str, Any]:
    failure = {"step": 100, "kind": "degradation", "transient": False, "best": 0.5, "final": 2.0} if failed else None
    return {
        "arm": name,
        "seed": seed,
        "outcome": "degraded" if failed else "survived",
        "failure": failure,
        "final": 2.0 if failed else 0.1,
        "lead_steps": 40 if failed else None,
        "first_warning": 60 if failed else None,
    }


def test_claims_hold_only_if_every_seed_bears_them_out() -> None:
    table = [
        {"output_error_ulp": -0.25, "output_z": -900.0, "same_sign": 1.0, "rows": 6400},
        {"output_error_ulp": 0.001, "output_z": 1.0, "same_sign": 0.5, "rows": 6400},
    ]
    as_expected = [result(each.name, seed, failed=each.role == "failing") for each in ARMS for seed in (1, 0)]
    arms = summed_up(as_expected)
    assert [each.name for each in arms] == [each.name for each in ARMS]
    failing = next(each for each in arms if each.name == "low_precision")
    assert (failing.failed, failing.seeds, failing.failure_steps, failing.leads) == (2, 2, [100, 100], [40, 40])
    assert failing.to_float32 == [20.0, 20.0]
    assert all(claim.held for claim in claims(table, arms))
    # The ingredients alone are reported, not claimed.
    assert not any("alone" in claim.claim for claim in claims(table, arms))
    for odd, failed in (("low_precision", False), ("stabilised", True), ("float32", True)):
        changed = [each for each in as_expected if (each["arm"], each["seed"]) != (odd, 1)] + [result(odd, 1, failed=failed)]
        wrong = [claim for claim in claims(table, summed_up(changed)) if not claim.held]
        assert [claim.found for claim in wrong] == ["1 of 2 seeds fail"]
        assert wrong[0].claim.endswith(arm(odd).title)
    flat = [table[0] | {"output_error_ulp": 0.001, "output_z": 1.0}, table[1]]
    assert [claim.held for claim in claims(flat, [])] == [False, False]


@pytest.mark.timeout(300)
def test_the_command_trains_reports_and_does_not_repeat_itself(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    chromium: Callable[[], AbstractContextManager[Browser]],
) -> None:
    monkeypatch.setattr(command, "QUICK_STEPS", 41)
    monkeypatch.setattr(command, "CAPTURE_AT", 30)
    monkeypatch.setattr(command, "QUICK_CRAFTED_HEADS", 10)
    status = command.run_reproduction(out=tmp_path, quick=True, json=True)
    summary = json.loads(capsys.readouterr().out)
    # Nothing fails in 41 steps: the command says that it did not reproduce the failure.
    assert status == 1
    assert [claim["held"] for claim in summary["claims"] if claim["claim"] == "Training fails: low precision"] == [False]
    assert [each["name"] for each in summary["arms"]] == [each.name for each in ARMS if each.name in QUICK]
    assert "runs" not in summary
    written = json.loads((tmp_path / "report.json").read_text())
    assert [len(run["losses"]) for run in written["runs"]] == [41, 41, 41]
    assert {(each["module"], each["bits"]) for each in written["captured"]} == {
        (f"blocks.{layer}.attention", bits) for layer in (0, 1) for bits in (3, 7)
    }
    with chromium() as browser:
        for scheme in ("light", "dark"):
            tab = browser.new_page(color_scheme=scheme, offline=True)
            errors: list[str] = []
            tab.on("pageerror", lambda error, errors=errors: errors.append(str(error)))
            tab.goto((tmp_path / "report.html").as_uri())
            tab.wait_for_selector("#f4 .main-svg")
            ink, paper = (tab.evaluate(f"getComputedStyle(document.body).{name}") for name in ("color", "backgroundColor"))
            assert (brightness(ink) > brightness(paper)) is (scheme == "dark")
            assert errors == []
    # Again: every result is there, so that no process is started for them.
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "runs").iterdir()}
    todo = command.jobs(tmp_path, quick=True, seeds=1, threads=1)
    assert train_all(todo, threads=1) == written["runs"]
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "runs").iterdir()} == before


def brightness(colour: str) -> int:
    return sum(int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(","))


def test_a_result_of_other_versions_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    class Pool:
        def __init__(self, *given: object, **more: object) -> None: ...
        def __enter__(self) -> "Pool":
            return self

        def __exit__(self, *given: object) -> None: ...
        def submit(self, _: object, job: Job) -> Any:
            from concurrent.futures import Future

            made.append(job.arm)
            future: Future[dict[str, Any]] = Future()
            future.set_result({"arm": job.arm})
            return future

    monkeypatch.setattr("foreshock.zoo.reproduction.workers.ProcessPoolExecutor", Pool)
    (tmp_path / "runs").mkdir()
    todo = command.jobs(tmp_path, quick=True, seeds=1, threads=1)
    versions = {todo[1].arm: made_with(), todo[2].arm: made_with() | {"torch": "0.4"}}
    for job in todo[1:]:
        job.file.write_text(json.dumps({"arm": job.arm, "made_with": versions[job.arm]}))
    assert [found["arm"] for found in train_all(todo, threads=1)] == [job.arm for job in todo]
    assert made == [todo[0].arm, todo[2].arm]


# -- the scripts beside it -------------------------------------------------------------------------------------------------


def test_gpt2_goes_on_bit_by_bit_where_it_was_interrupted(tmp_path: Path) -> None:
    gpt2 = script("examples/gpt2_low_precision.py")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "one.txt").write_bytes(bytes(range(256)) * 4)
    (tmp_path / "text" / "two.txt").write_text("Call me Ishmael. " * 40)
    usual = ["--data", str(tmp_path / "text"), "--size", "smoke", "--probes", "light", "--device", "cpu", "--checkpoint-every", "3"]

    def trained(out: str, steps: int, *more: str) -> dict[str, Any]:
        assert gpt2.main([*usual, "--out", str(tmp_path / out), "--steps", str(steps), *more]) == 0
        state: dict[str, Any] = torch.load(tmp_path / out / "checkpoint.pt", weights_only=True)
        return state

    whole = trained("whole", 6, "--attention", "stabilised")
    trained("parts", 3, "--attention", "stabilised")
    parts = trained("parts", 6, "--attention", "stabilised")
    assert parts["step"] == 6
    assert all(torch.equal(parts["model"][name], value) for name, value in whole["model"].items())
    for name in ("exp_avg", "exp_avg_sq"):
        for one, other in zip(parts["optimizer"]["state"].values(), whole["optimizer"]["state"].values(), strict=True):
            assert torch.equal(one[name], other[name])
    frames = []
    for out in ("whole", "parts"):
        store = foreshock.open_store(f"sqlite:///{tmp_path / out / 'foreshock.db'}")
        (run,) = store.runs()
        frames.append(store.frame(run, signal="loss").sort_values("step"))
        store.close()
    assert frames[1]["segment"].tolist() == [0, 0, 0, 1, 1, 1]
    assert frames[0]["value"].tolist() == frames[1]["value"].tolist()
    with pytest.raises(SystemExit, match="made with another attention"):
        trained("parts", 7, "--attention", "failing")
    with pytest.raises(SystemExit, match="no text in"):
        gpt2.main(["--data", str(tmp_path / "nothing"), "--size", "smoke", "--out", str(tmp_path / "none")])


def test_gpt2_sees_the_same_batches_whatever_its_attention() -> None:
    gpt2 = script("examples/gpt2_low_precision.py")
    size = gpt2.SIZES["smoke"]
    tokens = torch.arange(200).numpy().astype("uint16")
    one, again, other, later = (list(gpt2.windows(tokens, size, *at)) for at in ((1, 5), (1, 5), (2, 5), (1, 6)))
    assert len(one) == size.accumulate
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert not torch.equal(one[0], other[0])
    assert not torch.equal(one[0], later[0])
    assert all(window.diff().eq(1).all() for batch in one for window in batch)
    rates = [gpt2.learning_rate(gpt2.Size(), step) for step in (0, 1999, 2000, 301_000, 600_000, 900_000)]
    assert rates == pytest.approx([1e-3 / 2001, 2e-0 / 2001, 1e-3, 5.05e-4, 1e-5, 1e-5])


def gradients(attend: Callable[[Tensor, Tensor, Tensor], Tensor], seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    q, k, v, do = (torch.randn(2, 2, 9, 8, generator=generator) for _ in range(4))
    q, k, v = (x.requires_grad_() for x in (q, k, v))
    out = attend(q, k, v)
    return [out.detach(), *torch.autograd.grad(out, (q, k, v), do)]


@pytest.mark.parametrize(
    ("name", "source"), [("same error (what flash attention does)", "stored"), ("no error in delta (the cure)", "float32")]
)
def test_two_of_the_ablations_are_the_reference(name: str, source: Any) -> None:
    study = script("docs/figures_delta_sign_training.py")
    precision = Precision.flash(output=3, delta_from=source)
    wanted = gradients(lambda q, k, v: reference_attention(q, k, v, is_causal=True, precision=precision))
    assert all(map(torch.equal, gradients(study.attention(study.ABLATIONS[name], 0)), wanted))


def test_the_other_ablations_err_as_they_say() -> None:
    study = script("docs/figures_delta_sign_training.py")
    found = {name: gradients(study.attention(each, 0)) for name, each in study.ABLATIONS.items()}
    cure, same, opposite = (
        found[n] for n in ("no error in delta (the cure)", "same error (what flash attention does)", "opposite error")
    )
    # All of one forward pass; delta's error enters dQ with the opposite sign. dS is rounded to bfloat16, so nearly.
    assert torch.equal(same[0], opposite[0])
    assert torch.nn.functional.cosine_similarity((same[1] - cure[1]).flatten(), (cure[1] - opposite[1]).flatten(), dim=0) > 0.99
    exact = gradients(lambda q, k, v: reference_attention(q, k, v, is_causal=True, precision=Precision.flash(output=23)))
    assert torch.equal(found["same error, exact forward pass"][0], exact[0])
    x, generator = torch.tensor([1.3, -0.7, 5.1]), torch.Generator().manual_seed(0)
    drawn = torch.stack([study.stochastically_rounded(x, 3, generator) for _ in range(4000)])
    assert torch.allclose(drawn.mean(0), x, rtol=3e-3)
    assert all(len(column.unique()) == 2 for column in drawn.T)


def test_delta_is_taken_apart_as_the_formulas_say() -> None:
    study = script("docs/figures_delta_sign_states.py")
    training = build(Precision(), 0)
    for number in range(3):
        training.step(number)
    layer = study.Layer(training.model, 0)
    state = study.State(layer)
    e = study.rounded(state.exact, 3) - state.exact
    # g is the derivative of the loss, H e that of g, and J e that of the logits: central differences.
    h = 1e-4
    with torch.no_grad():
        numeric = (layer.loss(h * e) - layer.loss(-h * e)) / (2 * h)
    assert torch.allclose((state.g * e).sum((1, 2, 3)), numeric, rtol=1e-5)
    curved = (layer.gradient(h * e) - layer.gradient(-h * e)) / (2 * h)
    assert torch.allclose(layer.curvature(e), curved, rtol=1e-4, atol=1e-9)
    assert (layer.gauss_newton(e) > 0).all()
    # An error of delta pushes sigma_1 by what it changes W_q's gradient along u_1 v_1^T: against autograd's own dQ.
    error = (state.g * e).sum(-1)
    p, x = state.p, state.x
    q = layer.layer.q.weight
    total = torch.zeros_like(q)
    for window in range(16):
        for head in range(2):
            dq = -(32**-0.5) * error[window, head][:, None] * (p[window, head] @ state.k[window, head])
            total[head * 32 : (head + 1) * 32] += dq.T @ x[window]
    u, _, v = torch.linalg.svd(q)
    wanted = -(u[:, 0] @ total @ v[0]) / state.weight_gradient.sum(0).norm()
    assert torch.allclose(state.push(error).sum(), wanted)
