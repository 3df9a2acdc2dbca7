"""A graph net of many layers: each averages over neighbours, in the end all nodes are the same, and the loss stays at chance."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..scenario import Reachable, Scenario, Training, seeded
from ..training import trained, warm_up

STEPS = 800
NODES = 64
GROUPS = 4
_FAMILY = "over_smoothing"
_SOURCE = "arXiv 1801.07606 (over-smoothing), arXiv 2007.02133 (GCNII, the initial residual); setting found by experiment"
_TWIN = "graph-net-with-residual"


class GraphNet(nn.Module):
    """A graph convolutional net (arXiv 1609.02907).

    Args:
        width, layers: its size.
        share: of the first layer's output in the input of each later one.
    """

    def __init__(self, width: int, layers: int, share: float) -> None:
        super().__init__()
        self.share = share
        self.first = nn.Linear(GROUPS, width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))
        self.activations = nn.ModuleList(nn.ReLU() for _ in range(layers))
        self.head = nn.Linear(width, GROUPS)
        for parameter in self.layers.parameters():
            if parameter.dim() == 2:
                nn.init.kaiming_normal_(parameter)
            else:
                nn.init.zeros_(parameter)

    def forward(self, nodes_NF: Tensor, adjacency_NN: Tensor) -> Tensor:
        """Map the nodes' features (N, 4) and the normalised adjacency (N, N) to logits (N, 4)."""
        h = first = F.relu(self.first(nodes_NF))
        for layer, activation in zip(self.layers, self.activations, strict=True):
            h = activation(layer((1.0 - self.share) * (adjacency_NN @ h) + self.share * first))
        logits: Tensor = self.head(h)
        return logits


def draw(order: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Return a graph of four groups, linked closely within and loosely between: noisy features, adjacency, and the groups."""
    groups = torch.randint(GROUPS, (NODES,), generator=order)
    features = F.one_hot(groups, GROUPS) + 0.7 * torch.randn(NODES, GROUPS, generator=order)
    likely = torch.where(groups[:, None] == groups, 0.25, 0.05)
    links = (torch.rand(NODES, NODES, generator=order) < likely).float().triu(1)
    links = links + links.T + torch.eye(NODES)
    root = links.sum(1).rsqrt()
    return features, root[:, None] * links * root, groups


def build(share: float, seed: int) -> Training:
    """A graph net of 20 layers of width 32 that tells nodes' groups, a new graph each step; Adamax at 3e-3.

    Args:
        share: of the first layer's output in the input of each later one.
        seed: of the run.
    """
    order = seeded(seed)
    model = GraphNet(32, 20, share)
    optimizer = torch.optim.Adamax(model.parameters(), lr=3e-3)

    def loss(number: int) -> Tensor:
        features, adjacency, groups = draw(order)
        return F.cross_entropy(model(features, adjacency), groups)

    return trained(model, optimizer, loss, schedule=warm_up(50))


SMOOTHED = Scenario(
    name="over-smoothed-graph-net",
    family=_FAMILY,
    split="held_out",
    title="A graph convolutional net of 20 layers",
    cause="each layer averages over neighbours; after twenty all nodes have the same features, and no group is told from another",
    expected="stuck",
    steps=STEPS,
    build=lambda seed: build(0.0, seed),
    source=_SOURCE,
    onset="silent",
    cause_id="representation_collapse",
    reachable=Reachable(0.75, 500, _TWIN),
)

RESIDUAL = Scenario(
    name=_TWIN,
    family=_FAMILY,
    split="held_out",
    title="The same graph net with a fifth of the first layer's output in each later one",
    cause="as deep; what tells nodes apart comes in again at every layer",
    expected="survived",
    steps=STEPS,
    build=lambda seed: build(0.2, seed),
    source=_SOURCE,
)
