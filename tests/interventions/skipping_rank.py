"""What each rank of a test's job runs: ``python skipping_rank.py FOLDER RANK PORT``."""

import math
import sys
from pathlib import Path

import foreshock
import torch
import torch.distributed as dist
from foreshock.interventions.skip_step import SkipStep
from torch import nn
from torch.nn.parallel import DistributedDataParallel

folder, rank = Path(sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(1)
dist.init_process_group("gloo", store=dist.TCPStore("127.0.0.1", int(sys.argv[3]), 2, rank == 0), rank=rank, world_size=2)
torch.manual_seed(0)
model = DistributedDataParallel(nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 3)))
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
skipping = SkipStep()
own = torch.Generator().manual_seed(rank)
url = f"sqlite:///{folder / 'runs.db'}"
with foreshock.watch(model, optimizer, store=url, every=10, interventions=[skipping, "capture"]) as monitor:
    for step in range(60):
        factor = {(4, 0): math.nan, (20, 1): math.inf, (50, 1): 1e5}.get((step, rank), 1.0)
        loss = model(torch.randn(8, 6, generator=own)).square().mean() * factor
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        monitor.step(loss)
moments = [value for state in optimizer.state.values() for value in state.values()]
torch.save({"skipped": skipping.skipped, "state": [*model.parameters(), *moments]}, folder / f"{rank}.pt")
dist.destroy_process_group()
