"""A trainer of the shape of torchtitan's under foreshock: two lines. On a CPU, in seconds; with torchrun its weights are sharded.

The shape: a model made on the meta device, then parallelised (every block compiled, then FSDP2 where there are several ranks), a
container of optimizers, learning-rate schedulers, accumulated micro-batches, a clipped gradient, and distributed checkpoints (DCP).

    python examples/torchtitan_style.py --store sqlite:///foreshock.db --steps 20
    python examples/torchtitan_style.py --store sqlite:///foreshock.db --steps 40 --resume
    torchrun --nproc-per-node 2 examples/torchtitan_style.py

Needs: pip install "foreshock[train]"
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import foreshock
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.fsdp import fully_shard
from torch.optim.lr_scheduler import LambdaLR

VOCABULARY, WIDTH, HEADS, TOKENS = 64, 64, 4, 32


class Attention(nn.Module):
    """Causal attention with torchtitan's names: wq, wk, wv, wo."""

    def __init__(self) -> None:
        super().__init__()
        self.wq, self.wk, self.wv, self.wo = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4))

    def forward(self, x_BTC: Tensor) -> Tensor:
        """Map (B, T, C) to the same."""
        q, k, v = (layer(x_BTC).unflatten(-1, (HEADS, -1)).transpose(1, 2) for layer in (self.wq, self.wk, self.wv))
        out: Tensor = self.wo(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        return out


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self) -> None:
        super().__init__()
        self.attention_norm, self.attention, self.ffn_norm = nn.RMSNorm(WIDTH), Attention(), nn.RMSNorm(WIDTH)
        self.feed_forward = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.SiLU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x_BTC: Tensor) -> Tensor:
        """Map (B, T, C) to the same."""
        x_BTC = x_BTC + self.attention(self.attention_norm(x_BTC))
        fed: Tensor = self.feed_forward(self.ffn_norm(x_BTC))
        return x_BTC + fed


class Transformer(nn.Module):
    """A language model of a few blocks."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.tok_embeddings = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.ModuleDict({str(number): Block() for number in range(layers)})
        self.norm, self.output = nn.RMSNorm(WIDTH), nn.Linear(WIDTH, VOCABULARY, bias=False)

    def init_weights(self) -> None:
        """Fill what was made on the meta device."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
                if getattr(module, "bias", None) is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.RMSNorm):
                nn.init.ones_(module.weight)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Return the logits, (B, T, vocabulary)."""
        h = self.tok_embeddings(tokens_BT)
        for layer in self.layers.values():
            h = layer(h)
        logits: Tensor = self.output(self.norm(h))
        return logits


class OptimizersContainer:
    """Steps several optimizers as one: matrices have weight decay, vectors have none."""

    def __init__(self, model: nn.Module, lr: float) -> None:
        matrices = [p for p in model.parameters() if p.dim() > 1]
        vectors = [p for p in model.parameters() if p.dim() < 2]
        self.optimizers = [
            torch.optim.AdamW(matrices, lr=lr, betas=(0.9, 0.95), weight_decay=0.1),
            torch.optim.AdamW(vectors, lr=lr, betas=(0.9, 0.95), weight_decay=0.0),
        ]

    def step(self) -> None:
        """Step them all."""
        for optimizer in self.optimizers:
            optimizer.step()

    def zero_grad(self) -> None:
        """Forget the gradients of all."""
        for optimizer in self.optimizers:
            optimizer.zero_grad()


def parallelize(model: Transformer, compiler: str | None) -> None:
    """Compile every block, and shard every block and the whole where there are several ranks."""
    for layer in model.layers.values():
        if compiler is not None:
            layer.compile(backend=compiler, fullgraph=True)
    if dist.is_initialized() and dist.get_world_size() > 1:
        for layer in model.layers.values():
            fully_shard(layer)
        fully_shard(model)


class Trainer:
    """Trains, checkpoints and goes on."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given, self.step = given, 0
        with torch.device("meta"):
            self.model = Transformer(given.layers)
        parallelize(self.model, given.compile)
        self.model.to_empty(device="cpu")
        torch.manual_seed(0)
        self.model.init_weights()
        self.optimizers = OptimizersContainer(self.model, given.learning_rate)
        self.lr_schedulers = [LambdaLR(one, lambda step: min(1.0, (step + 1) / 10)) for one in self.optimizers.optimizers]
        options: dict[str, Any] = {"store": given.store, "resume" if given.resume else "run": given.run}
        self.monitor = foreshock.watch(self.model, self.optimizers.optimizers, **options)  # line one, once all is parallelised
        if given.resume:
            self.load()

    def batches(self) -> Iterator[Tensor]:
        """Yield the micro-batches of a step: they depend on step and rank alone."""
        rank = dist.get_rank() if dist.is_initialized() else 0
        generator = torch.Generator().manual_seed(1000 * self.step + rank)
        for _ in range(self.given.accumulate):
            start = torch.randint(VOCABULARY, (8, 1), generator=generator)
            yield (start + torch.arange(TOKENS + 1) * torch.randint(1, 4, (8, 1), generator=generator)) % VOCABULARY

    def train_step(self) -> None:
        """Train one step over its micro-batches."""
        self.optimizers.zero_grad()
        total = torch.zeros(())
        for window in self.batches():
            logits = self.model(window[:, :-1])
            loss = F.cross_entropy(logits.flatten(0, 1), window[:, 1:].flatten()) / self.given.accumulate
            loss.backward()
            total += loss.detach()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizers.step()
        for schedule in self.lr_schedulers:
            schedule.step()
        self.step += 1
        self.monitor.step(total)  # line two

    def train(self) -> None:
        """Train to the last step, and keep a checkpoint of it."""
        with self.monitor:
            while self.step < self.given.steps:
                self.train_step()
            self.save()

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint holds. DCP is given the monitor's state as one text: its parts differ from run to run."""
        model, optimizers = get_state_dict(self.model, self.optimizers.optimizers, options=StateDictOptions())
        own = {"step": self.step, "monitor": json.dumps(self.monitor.state_dict())}
        return {
            "model": model,
            "optimizers": optimizers,
            "schedules": [one.state_dict() for one in self.lr_schedulers],
            "train": own,
        }

    def save(self) -> None:
        """Write a checkpoint."""
        dcp.save(self.state(), checkpoint_id=self.given.out / "checkpoint", no_dist=not dist.is_initialized())

    def load(self) -> None:
        """Go on from the checkpoint."""
        state = self.state()
        dcp.load(state, checkpoint_id=self.given.out / "checkpoint", no_dist=not dist.is_initialized())
        set_state_dict(
            self.model, self.optimizers.optimizers, model_state_dict=state["model"], optim_state_dict=state["optimizers"]
        )
        for schedule, kept in zip(self.lr_schedulers, state["schedules"], strict=True):
            schedule.load_state_dict(kept)
        self.step = state["train"]["step"]
        self.monitor.load_state_dict(json.loads(state["train"]["monitor"]))


def main(arguments: list[str] | None = None) -> int:
    """Train; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", help="where foreshock keeps the run; foreshock.db by default")
    parser.add_argument("--out", type=Path, default=Path("out"), help="where the checkpoint goes")
    parser.add_argument("--run", default="torchtitan style", help="name of the run")
    parser.add_argument("--resume", action="store_true", help="go on with that run from its checkpoint")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--accumulate", type=int, default=2)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--compile", metavar="BACKEND", help="compile every block: inductor, aot_eager")
    given = parser.parse_args(arguments)
    if "RANK" in os.environ:
        dist.init_process_group("gloo")
    try:
        Trainer(given).train()
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())
