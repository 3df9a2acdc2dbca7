"""GPT-2 (124M) in bfloat16, with attention that fails, that is standard, or that is stabilised: for owners of a GPU.

    python examples/gpt2_low_precision.py --data text/ --out runs/failing --attention failing
    python examples/gpt2_low_precision.py --data text/ --out runs/stabilised --attention stabilised

The setting of arXiv 2510.04212 as its authors' public code has it: 12 layers, 12 heads, width 768, 1,024 tokens of context, no
biases, no dropout, tied embeddings; AdamW with betas 0.9 and 0.95 and no weight decay, gradients clipped to 1, learning rate 1e-3
after 2,000 warm-up steps, by cosine to 1e-5 at step 600,000; 327,680 tokens a step (16 times 20 windows), bfloat16 autocast,
GPT-2's tokens. They train on OpenWebText; any text does here: name files or folders of text. No promise is made whether your loss
explodes, or when: this script was tried on a CPU only, at its smallest size.

The order of the data follows from --seed and the step alone, so runs with another --attention see the same batches. A run that was
interrupted goes on from its last checkpoint when started again with the same arguments; on a CPU bit by bit as if it had not been.
Watch it live: foreshock dashboard --store sqlite:///runs/failing/foreshock.db

Needs: pip install "foreshock[train]", and tiktoken for --tokenizer gpt2. To try it on a CPU in seconds: --size smoke --steps 20.
"""

import argparse
import contextlib
import hashlib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import foreshock
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Size:
    """A model and how it is trained; ``batch`` windows at once, ``accumulate`` times a step."""

    layers: int = 12
    heads: int = 12
    width: int = 768
    context: int = 1024
    batch: int = 20
    accumulate: int = 16
    learning_rate: float = 1e-3
    least_learning_rate: float = 1e-5
    warm_up: int = 2_000
    decay: int = 600_000
    tokenizer: str = "gpt2"


SIZES = {
    "gpt2": Size(),
    "smoke": Size(layers=2, heads=2, width=32, context=32, batch=2, accumulate=2, warm_up=5, decay=100, tokenizer="bytes"),
}
VOCABULARY = {"gpt2": 50_304, "bytes": 256}  # GPT-2's 50,257 tokens, padded to a multiple of 64
ATTENTION = ("standard", "failing", "stabilised", "sdpa")


def attention(kind: str) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Return causal attention over (B, H, T, D): a variant of ``foreshock.kernels.attention``, or PyTorch's own."""
    if kind == "sdpa":
        return lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True)
    from foreshock import kernels

    variant = {"standard": kernels.STANDARD, "failing": kernels.FAILING, "stabilised": kernels.STABILISED}[kind]
    return lambda q, k, v: kernels.attention(q, k, v, is_causal=True, stabilize=variant)


class Block(nn.Module):
    """A pre-LN transformer block with q, k and v in one projection."""

    def __init__(self, size: Size, attend: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.heads, self.attend = size.heads, attend
        self.norm_1, self.norm_2 = nn.LayerNorm(size.width, bias=False), nn.LayerNorm(size.width, bias=False)
        self.qkv, self.o = nn.Linear(size.width, 3 * size.width, bias=False), nn.Linear(size.width, size.width, bias=False)
        self.up, self.down = nn.Linear(size.width, 4 * size.width, bias=False), nn.Linear(4 * size.width, size.width, bias=False)

    def forward(self, x_BTC: Tensor) -> Tensor:
        """Map (B, T, C) to the same."""
        b, t, c = x_BTC.shape
        q, k, v = (y.view(b, t, self.heads, c // self.heads).transpose(1, 2) for y in self.qkv(self.norm_1(x_BTC)).split(c, dim=2))
        x_BTC = x_BTC + self.o(self.attend(q, k, v).transpose(1, 2).reshape(b, t, c))
        fed: Tensor = self.down(F.gelu(self.up(self.norm_2(x_BTC))))
        return x_BTC + fed


class GPT2(nn.Module):
    """GPT-2 with its initialisation; returns the mean loss of predicting each next token."""

    def __init__(self, size: Size, attend: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY[size.tokenizer], size.width)
        self.positions = nn.Embedding(size.context, size.width)
        self.blocks = nn.ModuleList(Block(size, attend) for _ in range(size.layers))
        self.norm = nn.LayerNorm(size.width, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                residual = name.endswith((".o.weight", ".down.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * size.layers) if residual else 0.02)

    def forward(self, window_BT: Tensor) -> Tensor:
        """Take (B, context + 1) tokens and return the loss, 0-d."""
        given, wanted = window_BT[:, :-1], window_BT[:, 1:]
        h = self.tokens(given) + self.positions(torch.arange(given.shape[1], device=given.device))
        for block in self.blocks:
            h = block(h)
        logits = F.linear(self.norm(h), self.tokens.weight)
        return F.cross_entropy(logits.float().flatten(0, 1), wanted.flatten())


def prepare(sources: list[Path], tokenizer: str, folder: Path) -> np.memmap[Any, np.dtype[np.uint16]]:
    """Tokenise text into ``folder`` once, and map the tokens.

    Args:
        sources: text files, and folders whose files are all text, read in order of their paths.
        tokenizer: ``"gpt2"`` or ``"bytes"``.
        folder: where tokens and their description are kept.
    """
    files = sorted({file for source in sources for file in (source.rglob("*") if source.is_dir() else [source]) if file.is_file()})
    if not files:
        raise SystemExit(f"no text in {', '.join(map(str, sources))}: name text files, or folders of them, with --data")
    described = json.dumps([tokenizer, *((str(file), file.stat().st_size) for file in files)])
    stem = f"{tokenizer}-{hashlib.sha256(described.encode()).hexdigest()[:16]}"
    tokens = folder / f"{stem}.bin"
    if not tokens.exists():
        folder.mkdir(parents=True, exist_ok=True)
        encode, end = _encoder(tokenizer)
        part = tokens.with_suffix(".part")
        with part.open("wb") as out:
            for file in files:
                np.asarray([*encode(file.read_bytes()), *end], dtype=np.uint16).tofile(out)
        os.replace(part, tokens)
        print(f"{tokens}: {tokens.stat().st_size // 2:,} tokens of {len(files):,} files", flush=True)
    return np.memmap(tokens, dtype=np.uint16, mode="r")


def _encoder(tokenizer: str) -> tuple[Callable[[bytes], list[int]], list[int]]:
    """Return what turns a file into tokens, and the tokens that end it."""
    if tokenizer == "bytes":
        return list, []
    try:
        import tiktoken
    except ImportError:
        raise SystemExit("--tokenizer gpt2 needs tiktoken: pip install tiktoken; or use --tokenizer bytes") from None
    gpt2 = tiktoken.get_encoding("gpt2")
    return lambda text: gpt2.encode_ordinary(text.decode("utf-8", errors="replace")), [gpt2.eot_token]


def windows(tokens: np.memmap[Any, np.dtype[np.uint16]], size: Size, seed: int, step: int) -> Iterator[Tensor]:
    """Yield the batches of a step, (batch, context + 1), int64: they depend on seed and step alone."""
    places = np.random.default_rng([seed, step]).integers(len(tokens) - size.context, size=(size.accumulate, size.batch))
    for batch in places:
        yield torch.from_numpy(np.stack([tokens[at : at + size.context + 1] for at in batch]).astype(np.int64))


def learning_rate(size: Size, step: int) -> float:
    """Return the learning rate of a step: linear warm-up, cosine decay, constant."""
    if step < size.warm_up:
        return size.learning_rate * (step + 1) / (size.warm_up + 1)
    done = min(1.0, (step - size.warm_up) / max(1, size.decay - size.warm_up))
    return size.least_learning_rate + (size.learning_rate - size.least_learning_rate) * (1 + math.cos(math.pi * done)) / 2


def train(given: argparse.Namespace) -> list[float]:
    """Train to ``given.steps``, from the last checkpoint if there is one; return the losses of the steps trained now."""
    size, device = sized(given), torch.device(given.device)
    tokens = prepare(given.data, size.tokenizer, given.out / "tokens")
    if len(tokens) <= size.context:
        raise SystemExit(f"{len(tokens)} tokens are too few for windows of {size.context}: name more text with --data")
    torch.manual_seed(given.seed)
    model = GPT2(size, attention(given.attention)).to(device)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=size.learning_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=device.type == "cuda"
    )
    settings = {"size": asdict(size), "attention": given.attention, "seed": given.seed, "tokens": len(tokens)}
    kept = load(given.out / "checkpoint.pt", settings, device)
    if kept:
        model.load_state_dict(kept["model"])
        optimizer.load_state_dict(kept["optimizer"])
    first = kept["step"] if kept else 0
    losses: list[float] = []
    watched = foreshock.watch(
        model,
        optimizer,
        run=f"gpt2 {given.attention}",
        project="gpt2-low-precision",
        store=given.store or f"sqlite:///{given.out / 'foreshock.db'}",
        probes=given.probes,
        every=given.sample_every,
        resume=kept["monitor"]["run"] if kept and kept["monitor"] else None,
    )
    with watched as monitor:
        if kept:
            monitor.load_state_dict(kept["monitor"])
        began = time.monotonic()
        for step in range(first, given.steps):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(size, step)
            total = torch.zeros((), device=device)
            for batch in windows(tokens, size, given.seed, step):
                with torch.autocast(device.type, torch.bfloat16):
                    loss = model(batch.to(device, non_blocking=True)) / size.accumulate
                loss.backward()
                total += loss.detach()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            monitor.step(total)
            losses.append(total.item())
            done = step + 1
            if done % given.report_every == 0 or done == given.steps:
                rate = (done - first) * size.batch * size.accumulate * size.context / (time.monotonic() - began)
                print(f"step {done:6d}   loss {losses[-1]:.4f}   {rate:,.0f} tokens/s", flush=True)
            if done % given.checkpoint_every == 0 or done == given.steps:
                state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "monitor": monitor.state_dict()}
                save(given.out / "checkpoint.pt", settings | state | {"step": done})
            if not math.isfinite(losses[-1]):
                print(f"the loss of step {step} is not finite; the last checkpoint is kept", flush=True)
                break
    return losses


def sized(given: argparse.Namespace) -> Size:
    """Return the size that was asked for, with what the command line changes of it."""
    changes = {name: getattr(given, name) for name in ("batch", "accumulate", "tokenizer") if getattr(given, name) is not None}
    return Size(**(asdict(SIZES[given.size]) | changes))


def save(file: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint whole or not at all."""
    part = file.with_suffix(".part")
    torch.save(state, part)
    os.replace(part, file)


def load(file: Path, settings: dict[str, Any], device: torch.device) -> dict[str, Any] | None:
    """Return the checkpoint of an earlier start with the same settings, if there is one."""
    if not file.exists():
        return None
    state: dict[str, Any] = torch.load(file, map_location=device, weights_only=True)
    if differing := [name for name, value in settings.items() if state[name] != value]:
        raise SystemExit(f"{file} was made with another {', '.join(differing)}: give the same arguments, or another --out")
    print(f"going on from step {state['step']}", flush=True)
    return state


def main(arguments: list[str] | None = None) -> int:
    """Prepare, train or go on training; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", required=True, metavar="PATH", help="text files, or folders of them")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="tokens, checkpoint and store go there")
    parser.add_argument("--attention", choices=ATTENTION, default="standard")
    parser.add_argument("--size", choices=SIZES, default="gpt2")
    parser.add_argument("--steps", type=int, default=600_000, help="train to this step")
    parser.add_argument("--batch", type=int, help="windows at once, if the size's are too many for the GPU's memory")
    parser.add_argument("--accumulate", type=int, help="batches a step")
    parser.add_argument("--tokenizer", choices=VOCABULARY)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--store", metavar="URL", help="where foreshock keeps the run; FOLDER/foreshock.db by default")
    parser.add_argument("--probes", default="full", help="foreshock's preset")
    parser.add_argument("--sample-every", type=int, help="steps between samples; by default at most 1 %% of the time is spent")
    parser.add_argument("--checkpoint-every", type=int, default=1_000)
    parser.add_argument("--report-every", type=int, default=100)
    given = parser.parse_args(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(KeyboardInterrupt):
        train(given)
    return 0


if __name__ == "__main__":
    sys.exit(main())
