"""``foreshock reproduce``: trains every arm in worker processes, measures the rounding, judges the claims, writes the report."""

import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from ..._version import __version__
from ..scenarios.low_precision_attention import BATCH, LEARNING_RATE, STEPS
from .arms import ARMS, QUICK
from .capture import load
from .report import as_html, as_json
from .rounding_tables import captured_inputs, compare, crafted, ties, variants
from .runs import Job
from .summary import ArmSummary, Claim, claims, summed_up
from .workers import train_all

SEEDS = 5
QUICK_STEPS = 800
CRAFTED_HEADS, QUICK_CRAFTED_HEADS = 1600, 100
# What is looked at beside crafted inputs: a state shortly before the loss turns.
CAPTURED_ARM, CAPTURE_AT = "low_precision", 400
BFLOAT16_BITS, COARSE_BITS = 7, 3


def run_reproduction(*, out: Path, quick: bool = False, seeds: int | None = None, threads: int = 1, json: bool = False) -> int:
    """Measure, write ``report.html`` and ``report.json``, print a summary; return 0 where every claim held, else 1.

    Args:
        out: folder for the report, the results of the runs and the store they are kept in. Results that are there already, made
            by the same versions, are used and not made again.
        quick: one seed, three arms, 800 steps; about a minute on two free cores.
        seeds: seeds of every arm; 5, or 1 when quick.
        threads: torch's CPU threads in each of at most two runs at a time.
        json: print the summary as JSON on stdout, and nothing else there.
    """
    started = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    todo = jobs(out, quick=quick, seeds=seeds or (1 if quick else SEEDS), threads=threads)
    report = measure(todo, train_all(todo, threads=threads), quick=quick)
    (out / "report.json").write_text(as_json(report), "utf-8")
    (out / "report.html").write_text(as_html(report), "utf-8")
    if json:
        shown = {name: value for name, value in report.items() if name != "runs"}
        print(as_json(shown | {"report": str(out / "report.html")}), flush=True)
    else:
        _print(report["claims"], report["arms"])
    print(f"{out / 'report.html'} after {time.monotonic() - started:.0f} s", file=sys.stderr)
    print(f"The runs themselves: foreshock dashboard --store sqlite:///{out / 'reproduce.db'}", file=sys.stderr)
    return 0 if all(claim.held for claim in report["claims"]) else 1


def jobs(folder: Path, *, quick: bool, seeds: int, threads: int) -> list[Job]:
    """List every run of the experiment, seed by seed."""
    steps = QUICK_STEPS if quick else STEPS
    (folder / "runs").mkdir(exist_ok=True)
    return [
        Job(
            arm.name,
            seed,
            steps,
            threads,
            f"sqlite:///{folder / 'reproduce.db'}",
            folder / "runs" / f"{arm.name}-{seed}-{steps}-{threads}.json",
            capture_at=CAPTURE_AT if (arm.name, seed) == (CAPTURED_ARM, 0) else None,
        )
        for seed in range(seeds)
        for arm in ARMS
        if not quick or arm.name in QUICK
    ]


def measure(todo: list[Job], results: list[dict[str, Any]], *, quick: bool) -> dict[str, Any]:
    """Return the report: what was measured, the arms summed up, the claims judged."""
    bits = BFLOAT16_BITS
    on_crafted = compare(crafted(QUICK_CRAFTED_HEADS if quick else CRAFTED_HEADS), variants(bits), bits)
    captured = []
    for job in todo:
        if job.capture_at is not None:
            for module, given in captured_inputs(load(job.captured)).items():
                for width in (COARSE_BITS, BFLOAT16_BITS):
                    about = {"module": module, "bits": width, "step": job.capture_at, "seed": job.seed, "ties": ties(given)}
                    captured.append(about | {"variants": compare(given, variants(width), width)})
    arms = summed_up(results)
    return {
        "about": f"foreshock {__version__}, torch {torch.__version__}, {platform.machine()}, {os.cpu_count()} cores; "
        f"{'quick: ' if quick else ''}{len(results)} runs of {todo[0].steps} steps, {todo[0].threads} thread(s) each. An "
        "accelerated model of the failure described in arXiv 2510.04212, at fewer bits: at this size true bfloat16 does not fail.",
        "setting": "A GPT of 2 layers, width 64, 2 heads and 64 bytes of context learns 16 windows of text by heart: AdamW, "
        f"learning rate {LEARNING_RATE:g} after a warm-up, batches of {BATCH}, values biased to -2. Arms with the same seed differ "
        "in nothing but where attention rounds. A run fails by the rule of demo and backtest.",
        "quick": quick,
        "claims": claims(on_crafted, arms),
        "crafted": on_crafted,
        "captured": captured,
        "arms": arms,
        "runs": results,
    }


def _print(judged: list[Claim], arms: list[ArmSummary]) -> None:
    console = Console(markup=False, highlight=False, emoji=False)
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for head in ("held", "claim", "found"):
        table.add_column(head, overflow="fold")
    for claim in judged:
        table.add_row("yes" if claim.held else "NO", claim.claim, claim.found)
    console.print(table)
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for head in ("arm", "fail", "final loss by seed"):
        table.add_column(head, overflow="fold")
    for arm in arms:
        finals = ", ".join("not finite" if final is None else f"{final:.2f}" for final in arm.finals)
        table.add_row(arm.title, f"{arm.failed} of {arm.seeds}", finals)
    console.print("")
    console.print(table)
