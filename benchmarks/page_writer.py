"""The training that ``foreshock bench page`` watches: a small network, one step after each pause, told on standard output.

``python -m foreshock.benchmarks.page_writer URL RUN PAUSE``: it ends with its standard input.
"""

import json
import random
import sys
import threading
import time

import torch

from ..attach import watch


def main(url: str, name: str, pause: float) -> None:
    """Train until nobody listens any more; print each step and the time at which ``monitor.step`` was called."""
    torch.set_num_threads(1)
    ended = threading.Event()

    def wait() -> None:
        sys.stdin.read()
        ended.set()

    threading.Thread(target=wait, daemon=True).start()
    model = torch.nn.Sequential(
        torch.nn.Linear(32, 64), torch.nn.Tanh(), torch.nn.Linear(64, 64), torch.nn.Tanh(), torch.nn.Linear(64, 8)
    )
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    source = random.Random(0)
    with watch(model, optimizer, run=name, store=url, every=10) as monitor:
        step = 0
        while not ended.is_set():
            inputs = torch.randn(32, 32)
            loss = (model(inputs) - inputs[:, :8]).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            called = time.time()
            monitor.step(loss)
            print(json.dumps({"step": step, "time": called}), flush=True)
            step += 1
            # No multiple of the page's own rhythm: every phase of it is met.
            ended.wait(pause * (0.6 + 0.8 * source.random()))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
