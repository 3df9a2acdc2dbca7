"""A training script that knows nothing of foreshock: ``foreshock run`` watches it as it is. On a CPU, in seconds.

    foreshock run --run plain examples/plain_loop.py --learning-rate 0.003
    foreshock dashboard

docs/integrations.md shows the same loop with foreshock's two lines in it.
"""

import argparse
import sys

import torch
import torch.nn.functional as F
from torch import nn


def main(arguments: list[str] | None = None) -> int:
    """Train; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    given = parser.parse_args(arguments)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=given.learning_rate)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.1, total_iters=10)
    for step in range(given.steps):
        x = torch.randn(32, 16)
        loss = F.cross_entropy(model(x), x[:, :4].argmax(-1))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 20 == 0:
            print(f"step {step:4d}   loss {loss.item():.4f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
