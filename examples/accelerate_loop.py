"""Accelerate under foreshock: two lines. Trains a small regression on a CPU, in seconds.

    python examples/accelerate_loop.py --store sqlite:///foreshock.db
    foreshock dashboard

Needs: pip install "foreshock[accelerate]"
"""

import argparse
import sys

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from foreshock.integrations.accelerate import ForeshockTracker
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def main(arguments: list[str] | None = None) -> int:
    """Train; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", help="where foreshock keeps the run; foreshock.db by default")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    given = parser.parse_args(arguments)
    tracker = ForeshockTracker(store=given.store, run="regression")  # line one, and log_with below
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2, mixed_precision="bf16", log_with=tracker)
    accelerator.init_trackers("examples", config=vars(given))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=given.learning_rate)
    x = torch.randn(512, 16)
    loader = DataLoader(TensorDataset(x, x[:, :4].sum(1, keepdim=True)), batch_size=16, shuffle=True)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    tracker.watch(model, optimizer)  # line two
    for epoch in range(given.epochs):
        for inputs, wanted in loader:
            with accelerator.accumulate(model):
                loss = F.mse_loss(model(inputs).float(), wanted)
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
        accelerator.log({"epoch": epoch, "last_loss": loss.item()})
    accelerator.end_training()
    return 0


if __name__ == "__main__":
    sys.exit(main())
