"""What each rank of a test's job runs: ``python rank_of_two.py FOLDER RANK PORT``."""

import json
import math
import sys
from pathlib import Path
from typing import Any

import foreshock
import torch
import torch.distributed as dist
from foreshock.interventions.attention import StabilizedAttention
from foreshock.interventions.checkpoint import Checkpoint
from foreshock.interventions.learning_rate import LowerLearningRate
from foreshock.interventions.rollback import Rollback
from foreshock.interventions.skip_step import SkipStep
from foreshock.interventions.stop import Stop
from foreshock.kernels.switch import installed
from foreshock.probes.distributed import council, exchange
from torch import nn
from torch.nn.parallel import DistributedDataParallel

MOST_STEPS = 1_500

folder, rank = Path(sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(1)
council.HEARD_WITHIN_SECONDS, exchange._LONGEST_PAUSE = 0.1, 0.02
dist.init_process_group("gloo", store=dist.TCPStore("127.0.0.1", int(sys.argv[3]), 2, rank == 0), rank=rank, world_size=2)


def told_by(mark: str, severity: str) -> dict[str, Any]:
    return {
        "detector": "level",
        "signals": {"value": mark},
        "severity": severity,
        "clear": 1,
        "cooldown": 0,
        "warmup": 0,
        "parameters": {"level": 0.5, "direction": "above"},
    }


def skipping() -> None:
    """One rank's bad batch reaches all through the all-reduce."""
    torch.manual_seed(0)
    model = DistributedDataParallel(nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 3)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    skipping = SkipStep()
    own = torch.Generator().manual_seed(rank)
    url = f"sqlite:///{folder / 'skipping.db'}"
    with foreshock.watch(model, optimizer, store=url, every=10, interventions=[skipping, "capture"]) as monitor:
        for step in range(60):
            factor = {(4, 0): math.nan, (20, 1): math.inf, (50, 1): 1e5}.get((step, rank), 1.0)
            loss = model(torch.randn(8, 6, generator=own)).square().mean() * factor
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            monitor.step(loss)
    moments = [value for state in optimizer.state.values() for value in state.values()]
    torch.save({"skipped": skipping.skipped, "state": [*model.parameters(), *moments]}, folder / f"skipping {rank}.pt")


def agreeing() -> None:
    """What is told to the first rank acts on both."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.Tanh(), nn.Linear(12, 3))
    model = DistributedDataParallel(net)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    own = torch.Generator().manual_seed(rank)

    rules = {
        f"told_{name}": told_by(name, severity)
        for name, severity in (("cut", "warning"), ("switch", "warning"), ("end", "critical"))
    }
    backs: list[Any] = []
    seen_back = MOST_STEPS
    keeping = Checkpoint(folder / f"kept {rank}", every=10, settle=5)  # a folder that the other rank does not see
    lowering = LowerLearningRate(rules=["told_cut"], patience=5000)
    rolling = Rollback(rules=["non_finite"], on_rollback=backs.append)
    chosen = [keeping, lowering, StabilizedAttention(rules=["told_switch"]), rolling, Stop(rules=["told_end"])]
    seen: list[list[Any]] = []
    switched_at = None
    try:
        with foreshock.watch(
            model, optimizer, store=f"sqlite:///{folder / 'runs.db'}", every=50, rules=rules, interventions=chosen
        ) as monitor:
            for number in range(MOST_STEPS):
                if switched_at is None and installed():
                    switched_at = number
                calm = 0 if switched_at is None else number - switched_at
                bad = rank == 1 and calm == 60
                loss = model(torch.randn(8, 6, generator=own) * (math.nan if bad else 1.0)).square().mean()
                optimizer.zero_grad()
                loss.backward()
                factor = lowering.factor
                optimizer.step()
                seen.append([factor, installed(), len(backs), float(sum(p.detach().double().sum() for p in model.parameters()))])
                end = bool(backs) and number > seen_back + 10
                monitor.step(loss, cut=float(factor == 1.0), switch=float(factor < 1.0 and not installed()), end=float(end))
                if len(backs) == 1 and seen[-1][2] == 0:
                    seen_back = number
                monitor.flush()
        ended = monitor.should_stop
    finally:
        moments = [value for state in optimizer.state.values() for value in state.values()]
        torch.save({"state": [*model.parameters(), *moments], "buffers": [*model.buffers()]}, folder / f"{rank}.pt")
    (folder / f"{rank}.json").write_text(
        json.dumps(
            {
                "seen": [[*each[:3], each[3] if math.isfinite(each[3]) else "nan"] for each in seen],
                "backs": [[back.step, back.to, back.rule] for back in backs],
                "ended": ended,
                "faults": monitor.faults.total,
            }
        )
    )


skipping()
agreeing()
dist.destroy_process_group()
