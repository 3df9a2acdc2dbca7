"""A parallel corpus in which one file has a line too many: from one shard on, every source stands beside its neighbour's target."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..scenario import Scenario, Training, seeded
from ..training import trained, warm_up

STEPS = 800
BROKEN = 500
BATCH = 32
LENGTH = 8
WORDS = 24
_FAMILY = "misaligned_pairs"
_SOURCE = "arXiv 1805.12282 (misaligned sentences hurt translation most); a common mistake; setting found by experiment"


class Translator(nn.Module):
    """A GRU reads a sentence both ways; another writes, and looks at what was read by dot products.

    Args:
        width: of embeddings and states.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.source, self.target = nn.Embedding(WORDS, width), nn.Embedding(WORDS + 1, width)
        self.reader = nn.GRU(width, width // 2, batch_first=True, bidirectional=True)
        self.writer = nn.GRU(width, width, batch_first=True)
        self.query = nn.Linear(width, width, bias=False)
        self.head = nn.Sequential(nn.Linear(2 * width, width), nn.Tanh(), nn.Linear(width, WORDS))

    def forward(self, sources_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """Return the logits (B, T, words) of each target word, given those before it."""
        read_BTC, last = self.reader(self.source(sources_BT))
        before_BT = F.pad(targets_BT[:, :-1], (1, 0), value=WORDS)
        written_BTC, _ = self.writer(self.target(before_BT), last.transpose(0, 1).reshape(1, len(sources_BT), -1))
        looked = (self.query(written_BTC) @ read_BTC.transpose(1, 2)).softmax(-1) @ read_BTC
        logits: Tensor = self.head(torch.cat([written_BTC, looked], -1))
        return logits


def sentences(order: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw sources (B, T), and their translations: each word by the dictionary, the two words of each pair exchanged."""
    sources = torch.randint(WORDS, (BATCH, LENGTH), generator=order)
    targets = (7 * sources + 5) % WORDS
    return sources, targets.view(BATCH, LENGTH // 2, 2).flip(-1).flatten(1)


def build(batches: int, seed: int) -> Training:
    """A translator of width 64 for an artificial language; Adafactor at 3e-2.

    Args:
        batches: how many are a line off, from step 500 on.
        seed: of the run.
    """
    order = seeded(seed)
    model = Translator(64)
    optimizer = torch.optim.Adafactor(model.parameters(), lr=3e-2)

    def loss(number: int) -> Tensor:
        sources, targets = sentences(order)
        if BROKEN <= number < BROKEN + batches:
            targets = targets.roll(1, 0)
        return F.cross_entropy(model(sources, targets).flatten(0, 1), targets.flatten())

    return trained(model, optimizer, loss, schedule=warm_up(50), clip=1.0)


SHIFTED = Scenario(
    name="translation-shifted-by-a-line",
    family=_FAMILY,
    split="held_out",
    title="A GRU translator with attention whose source and target files are a line apart from one shard on",
    cause="no target belongs to its source any more: what was learnt is wrong from one step to the next, and nothing replaces it",
    expected="diverged",
    steps=STEPS,
    build=lambda seed: build(STEPS, seed),
    source=_SOURCE,
    onset="abrupt",
    cause_id="bad_batch",
    trouble_step=BROKEN,
)

SHORT_SHARD = Scenario(
    name="translation-short-shifted-shard",
    family=_FAMILY,
    split="held_out",
    title="The same translator after a shard of twelve batches that was a line off",
    cause="the loss leaps to that of a beginner and a part of what was learnt is lost; sound pairs bring it back",
    expected="survived",
    steps=STEPS,
    build=lambda seed: build(12, seed),
    source=_SOURCE,
    trouble_step=BROKEN,
)
