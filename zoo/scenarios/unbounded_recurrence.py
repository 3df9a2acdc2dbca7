"""A linear recurrence whose factors nobody holds below one: to remember better they grow past it, and the state as their power.

The task is to tell, after 127 words, which word stood first. Behind a norm only the proportions of a state count, and in them the
first word stands out the more, the larger the factors are. From step 200 to 700 the largest state grows from 2e4 or less to 1e13 or
more, while the loss halves; its square is infinite after step 780 or later. In the twin the largest state goes from 50 to 150.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..scenario import Scenario, Training, seeded
from ..training import trained, warm_up

STEPS = 1400
LENGTH = 128
WORDS = 16
TOPICAL = 0.03
_FAMILY = "unbounded_recurrence"
_SOURCE = "arXiv 2303.06349 (LRU: factors as exp(-exp(x))), arXiv 2202.09729 (S4 with unstable states); setting found by experiment"


class StateSpace(nn.Module):
    """Words to the logits of the first one: ``state = factor * state + input``, a factor for each channel, and a gated MLP on top.

    Args:
        width: channels.
        bounded: factors are ``exp(-exp(x))`` of what is learnt.
    """

    def __init__(self, width: int, bounded: bool) -> None:
        super().__init__()
        self.bounded = bounded
        factors = torch.rand(width) * 0.099 + 0.9
        self.factor = nn.Parameter((-factors.log()).log() if bounded else factors)
        self.words, self.before = nn.Embedding(WORDS, width), nn.Linear(width, width)
        self.state, self.norm = nn.Identity(), nn.RMSNorm(width)
        self.up, self.down, self.head = nn.Linear(width, 4 * width), nn.Linear(2 * width, width), nn.Linear(width, WORDS)

    def forward(self, words_BT: Tensor) -> Tensor:
        """Return the logits (B, words) at the end of each sequence."""
        factor_C = (-self.factor.exp()).exp() if self.bounded else self.factor
        kernel_TC = factor_C ** torch.arange(words_BT.shape[1] - 1, -1, -1)[:, None]
        state_BC = self.norm(self.state((self.before(self.words(words_BT)) * kernel_TC).sum(1)))
        gate, fed = self.up(state_BC).chunk(2, -1)
        logits: Tensor = self.head(state_BC + self.down(F.silu(gate) * fed))
        return logits


def build(bounded: bool, seed: int) -> Training:
    """A recurrence of 48 channels tells the first of 128 words, three in a hundred of which repeat it; RAdam at 2e-2.

    Args:
        bounded: the factors cannot exceed one.
        seed: of the run.
    """
    order = seeded(seed)
    model = StateSpace(48, bounded)
    optimizer = torch.optim.RAdam(model.parameters(), lr=2e-2, foreach=True)

    def loss(number: int) -> Tensor:
        words = torch.randint(WORDS, (32, LENGTH), generator=order)
        topical = torch.rand(words.shape, generator=order) < TOPICAL
        words = torch.where(topical, words[:, :1], words)
        return F.cross_entropy(model(words), words[:, 0])

    return trained(model, optimizer, loss, schedule=warm_up(50), clip=1.0)


UNBOUNDED = Scenario(
    name="unbounded-recurrence",
    family=_FAMILY,
    split="held_out",
    title="A state-space model whose factors may exceed one",
    cause="the task rewards ever larger factors, and behind a norm the size of the states costs nothing until float32 ends",
    expected="diverged",
    steps=STEPS,
    build=lambda seed: build(False, seed),
    source=_SOURCE,
    onset="slow",
    cause_id="runaway_weights",
)

BOUNDED = Scenario(
    name="bounded-recurrence",
    family=_FAMILY,
    split="held_out",
    title="The same state-space model, its factors written as exp(-exp(x))",
    cause="factors come ever nearer to one, states grow a little, and the first word is remembered as well",
    expected="survived",
    steps=STEPS,
    build=lambda seed: build(True, seed),
    source=_SOURCE,
)
