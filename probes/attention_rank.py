"""The rank of attention: how many directions a head's probabilities and its output still have, and what its weights could reach.

Trouble it reveals: heads that have become low-rank. When every row attends to the same keys (the first one, a sink, above all), P
and the output fall to rank one, tokens become alike from layer to layer, and rounding errors, which follow ``(P K)^T X``, all go
the same way (arXiv 2510.04212). A large ``qk_spectral_norm`` says that logits may grow without the inputs growing.

Formula: per head, over 32 of the sampled rows of each sequence: ``sink_mass``, the mean probability of the first key;
``stable_rank = |P|_F^2 / |P|_2^2``; ``effective_rank = exp(H(p))``, ``p_i = sigma_i / sum sigma``, of P, and
``output_effective_rank`` of the head's output P V. ``qk_spectral_norm = sigma_1(W_q W_k^T)`` through the (D, D) Gram matrices of
the head's rows, weights as they are after the step; rotation and normalisation are left out of it. Per layer:
``token_similarity_in`` and ``token_similarity_out``, the mean cosine of two different tokens of a sequence, of what the query
projection is given and of the heads' outputs joined, before the output projection.

Cost: on a sampled step, per head two small singular-value decompositions (small_spectra.py), and one read of W_q and W_k.

Source: Roy and Vetterli 2007 (effective rank); Dong et al., arXiv 2103.03404 (tokens becoming alike).
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from ..storage.records import SeriesKey
from .base import Across, Block, Scalars
from .statistics.attention import per_query_head
from .statistics.not_applicable import not_applicable
from .statistics.precision import without_autocast
from .statistics.small_spectra import effective_rank, singular_values, stable_rank
from .statistics.tokens import scattered_rows
from .taps.attention import AttentionObserver
from .taps.attention_calls import AttentionGroup, SeenCall

ROWS = 32
# Elements of low-precision weights converted to float32 at a time: bounds the temporary to 16 MiB.
_CHUNK_ELEMENTS = 1 << 22
# A product of Gram matrices is raised to the power 2^10 to find its leading eigenvector.
_SQUARINGS = 10
_TINY = torch.finfo(torch.float32).tiny


class AttentionRankProbe(AttentionObserver):
    """Per head: sink mass, stable and effective rank of P, effective rank of the output, sigma_1 of W_q W_k^T; token similarity."""

    name = "attention_rank"
    presets = frozenset({"full"})
    signals = (
        "attention.sink_mass",
        "attention.stable_rank",
        "attention.effective_rank",
        "attention.output_effective_rank",
        "attention.token_similarity_in",
        "attention.token_similarity_out",
        "attention.qk_spectral_norm",
    )
    needs_queries = True

    @override
    @torch.no_grad()
    def collect(self, step: int) -> Iterator[Block]:
        if self._tap is None:
            return
        for group in self._tap.groups():
            with without_autocast(group.sample.q.device):
                blocks = list(_blocks(group))
            yield from blocks
        # A second call in the same module has the same weights.
        known = [(call, call.weights or self._tap.queries.weights(call.name)) for call in self._tap.calls if "#" not in call.name]
        found = [(call, weights) for call, weights in known if weights is not None]
        if found:
            with without_autocast(found[0][1][0].device):
                blocks = list(_reach([call for call, _ in found], [weights for _, weights in found]))
            yield from blocks


def _blocks(group: AttentionGroup) -> Iterator[Block]:
    sample, rows = group.sample, group.rows
    calls = len(group.calls)
    picked = scattered_rows(rows.p.shape[2], ROWS, rows.p.device)
    p, seeing = (x if picked is None else x.index_select(2, picked) for x in (rows.p, rows.seeing))
    p = p * seeing[..., None]
    output = p @ per_query_head(sample.v, sample.q)
    sigma = singular_values(p)
    nothing = not_applicable(p.device)
    for name, values in (
        ("stable_rank", stable_rank(sigma)),
        ("effective_rank", effective_rank(sigma)),
        ("output_effective_rank", effective_rank(singular_values(output))),
    ):
        # A sequence whose rows see nothing, or whose values are all zero, has no rank.
        has = (sigma[..., 0] if name != "output_effective_rank" else output.abs().amax((2, 3))) != 0
        mean = torch.where(has, values, 0.0).sum(0) / has.sum(0)
        yield Scalars(group.keys(f"attention.{name}"), torch.where(has.sum(0) == 0, nothing, mean))
    counted = rows.seeing.sum((0, 2))
    sink = (rows.p[..., 0] * rows.seeing).sum((0, 2)) / counted
    yield Scalars(group.keys("attention.sink_mass"), torch.where(counted == 0, nothing, sink))
    # (L, B, R, h * D): the heads joined again.
    joined = (rows.p @ per_query_head(sample.v, sample.q)).unflatten(1, (calls, -1)).permute(1, 0, 3, 2, 4).flatten(3)
    tokens = {"out": joined} if group.x is None else {"in": group.x, "out": joined}
    for where, x in tokens.items():
        keys = tuple(SeriesKey(f"attention.token_similarity_{where}", call.name) for call in group.calls)
        yield Scalars(keys, token_similarity(x))


def token_similarity(x: Tensor) -> Tensor:
    """Return the mean cosine of two different tokens of a sequence, mean over sequences, (L,), of x (L, B, R, C).

    Tokens of zeros have no direction and count for nothing; n/a where no sequence has two others.
    """
    size = x.abs().amax(-1, keepdim=True)
    there = (size != 0).float()
    unit = F.normalize(x / torch.where(size == 0, 1.0, size), dim=-1)
    n = there.sum((2, 3))
    pairs = n * (n - 1.0)
    mean = (unit.sum(2).square().sum(-1) - n) / pairs.clamp_min(1.0)
    several = (pairs > 0).float()
    counted = several.sum(1)
    found = torch.where(pairs > 0, mean, 0.0).sum(1) / counted
    return torch.where(counted == 0, not_applicable(x.device), found)


def _reach(calls: list[SeenCall], weights: list[tuple[Tensor, Tensor]]) -> Iterator[Block]:
    """sigma_1 of W_q W_k^T of every head; calls of one number of heads and one width together."""
    alike: dict[tuple[int, int, torch.device], list[tuple[SeenCall, Tensor, Tensor]]] = {}
    for call, (query, key) in zip(calls, weights, strict=True):
        heads, width = call.q_shape[1], call.q_shape[3]
        if query.dim() != 2 or key.dim() != 2 or query.shape[0] != heads * width or key.shape[0] % width:
            continue
        # From the weight: the call may be given keys that were repeated for it.
        groups = key.shape[0] // width
        if groups and heads % groups == 0:
            grams = _grams(query, heads), _grams(key, groups).repeat_interleave(heads // groups, 0)
            alike.setdefault((heads, width, query.device), []).append((call, *grams))
    for (heads, _, _), found in alike.items():
        values = largest_singular_value(torch.cat([q for _, q, _ in found]), torch.cat([k for _, _, k in found]))
        keys = (SeriesKey("attention.qk_spectral_norm", call.name, head) for call, _, _ in found for head in range(heads))
        yield Scalars(tuple(keys), values, Across.SAME)


def largest_singular_value(query: Tensor, key: Tensor) -> Tensor:
    """Return sigma_1 of ``W_q^T W_k``, (n,), from the Gram matrices ``W_q W_q^T`` and ``W_k W_k^T``, (n, D, D).

    Its square is the largest eigenvalue of their product. Squaring the product again and again leaves the eigenvector; the
    quotient it is put into makes an error in the eigenvector one of second order.
    """
    power = query @ key
    for _ in range(_SQUARINGS):
        power = power / power.abs().amax((1, 2), keepdim=True).clamp_min(_TINY)
        power = power @ power
    largest = power.square().sum(1).argmax(1)
    column = power.gather(2, largest[:, None, None].expand(-1, power.shape[1], 1))
    column = column / column.abs().amax(1, keepdim=True).clamp_min(_TINY)
    image = (key @ column).double()
    quotient = (image.mT @ query.double() @ image)[:, 0, 0] / (column.double() * image).sum((1, 2)).clamp_min(_TINY)
    return quotient.sqrt().float()


def _grams(weight: Tensor, heads: int) -> Tensor:
    """Return ``W W^T`` of each head's rows of W (heads * D, C), (heads, D, D), float32."""
    by_head = weight.unflatten(0, (heads, -1))
    parts = by_head.split(max(1, _CHUNK_ELEMENTS // max(1, by_head[0].numel())))
    return torch.cat([part.float() @ part.float().mT for part in parts])
