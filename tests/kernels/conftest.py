"""One thread: these tensors are small, and the machine is shared. Property tests repeat exactly and have no deadline."""

import pytest
import torch
from hypothesis import settings

settings.register_profile("foreshock", deadline=None, derandomize=True, database=None)
settings.load_profile("foreshock")


@pytest.fixture(scope="package", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    torch.manual_seed(0)


def _twin(q, k, v, attn_mask=None, is_causal=False, scale=None, window=None, softcap=None, dropped=None):
    """Attention as in a textbook, in float64; a query that sees no key gets zeros. Its gradients are autograd's."""
    groups = q.shape[1] // k.shape[1]
    q, k, v = (x.double() for x in (q, k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)))
    s = (q.shape[-1] ** -0.5 if scale is None else scale) * torch.einsum("bhtd,bhsd->bhts", q, k)
    if softcap is not None:
        s = softcap * torch.tanh(s / softcap)
    i, j = torch.arange(q.shape[2])[:, None], torch.arange(k.shape[2])
    seen = torch.ones(len(i), len(j), dtype=torch.bool)
    if is_causal:
        seen &= j <= i
    if window is not None:
        seen &= (i - j).abs() < window
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        seen = seen & attn_mask
    elif attn_mask is not None:
        s = s + attn_mask.double()
        seen = seen & (attn_mask > float("-inf"))
    seen = seen.expand(s.shape)
    top = s.detach().masked_fill(~seen, -torch.inf).amax(-1, keepdim=True) if len(j) else s.new_zeros(*s.shape[:-1], 1)
    weights = torch.where(seen, torch.where(seen, s - top, 0.0).exp(), 0.0)
    p = weights / weights.sum(-1, keepdim=True).clamp_min(1e-300)
    return torch.einsum("bhts,bhsd->bhtd", p if dropped is None else p * dropped, v)


@pytest.fixture(scope="session")
def twin():
    return _twin


@pytest.fixture(scope="session")
def with_gradients():
    def run(attention, q, k, v, do, **options):
        """Return the output and the gradients of q, k and v; float64 in, float64 out."""
        q, k, v = (x.detach().clone().requires_grad_() for x in (q, k, v))
        out = attention(q, k, v, **options)
        return out.detach(), *torch.autograd.grad(out, (q, k, v), do.to(out.dtype))

    return run
