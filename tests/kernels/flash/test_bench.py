"""``foreshock bench kernels``: it runs, says what it cannot measure, writes what it was asked to. Figures are not tested."""

import csv
import json
import math
from pathlib import Path

import pytest
import torch
from foreshock.benchmarks import kernels
from foreshock.cli import app
from typer.testing import CliRunner

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
SMALL = ["bench", "kernels", "--backend", "cpu", "--length", "16", "--length", "32", "--head-dim", "8", "--rounds", "2"]


@without_gpu
def test_without_a_gpu_it_compares_on_the_cpu_and_says_what_it_cannot_measure(tmp_path: Path) -> None:
    table, page = tmp_path / "costs.csv", tmp_path / "costs.html"
    result = CliRunner().invoke(app, [*SMALL, "--json", "--csv", str(table), "--plot", str(page)])
    assert result.exit_code == 0, result.output
    assert "Not measured: the Triton kernels" in result.stderr
    told = json.loads(result.stdout)
    assert "Not measured: the Triton kernels" in told["not_measured"]
    costs = told["costs"]
    assert {cost["contestant"] for cost in costs} == set(kernels.contestants("cpu"))
    assert {(cost["direction"], cost["length"]) for cost in costs} == {(d, n) for d in ("forward", "backward") for n in (16, 32)}
    for cost in costs:
        assert cost["failure"] == ""
        assert 0 < cost["p20_ms"] <= cost["p50_ms"] <= cost["p80_ms"]
        assert math.isclose(cost["tflops"] * cost["p50_ms"] * 1e9, work(cost), rel_tol=1e-6)
        assert cost["memory_mib"] is None
    with table.open() as file:
        assert [row["contestant"] for row in csv.DictReader(file)] == [cost["contestant"] for cost in costs]
    text = page.read_text()
    assert "backward, head dimension 8" in text
    assert "SDPA math" in text


def work(cost: dict) -> float:
    """Floating-point operations of a causal pass."""
    once = 2 * cost["batch"] * cost["heads"] * cost["length"] ** 2 * cost["head_dim"]
    return once * (2.5 if cost["direction"] == "backward" else 1.0)


def test_what_a_contestant_cannot_do_is_told_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(q, k, v, causal):
        raise RuntimeError("no such kernel\nand a long story")

    ours = kernels.contestants("cpu")["foreshock, torch body"]
    monkeypatch.setattr(kernels, "contestants", lambda device: {"broken": refuse, "whole": ours})
    costs = kernels.measure("cpu", [16], [8], rounds=1)
    assert [cost.failure for cost in costs] == ["RuntimeError: no such kernel"] * 2 + [""] * 2
    lines = kernels.told(costs).splitlines()
    assert "did not run: RuntimeError: no such kernel" in lines[1]
    assert len(lines) == 5


@without_gpu
@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--backend", "cuda"], "no GPU"), (["--backend", "tpu"], "none of cuda, cpu"), (["--dtype", "int8"], "none of bfloat16")],
)
def test_what_cannot_be_measured_is_refused(arguments, words) -> None:
    result = CliRunner().invoke(app, ["bench", "kernels", *arguments])
    assert result.exit_code == 2
    assert words in " ".join(result.stderr.replace("│", " ").split())
