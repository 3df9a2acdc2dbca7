"""What the kernels report about themselves, against float64."""

import pytest
import torch
from foreshock.kernels.flash import launch
from foreshock.kernels.options import FAILING, STABILISED, STANDARD, Options


@pytest.mark.parametrize("variant", [STANDARD, FAILING, STABILISED], ids=["standard", "failing", "stabilised"])
@pytest.mark.parametrize("options", [Options(0.3), Options(0.3, is_causal=True, window=40, softcap=9.0)], ids=["full", "bounded"])
def test_row_statistics(variant, options, device, twin) -> None:
    q, k, v = (torch.randn(1, 2, 70, 48, device=device).bfloat16() for _ in range(3))
    k[:, :, 60] = k[:, :, 5]
    q[:, :, 60:] += k[:, :, 60:61]
    plain = launch.forward(q, k, v, options, variant)
    got = launch.forward(q, k, v, options, variant, statistics=True)
    assert plain.statistics is None
    assert torch.equal(plain.out, got.out)
    assert torch.equal(plain.log_sum_exp, got.log_sum_exp)
    s = twin.scores(q, k, options)
    p = twin.probabilities(s)
    seen = got.statistics
    torch.testing.assert_close(seen.maximum, s.amax(-1).float(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(seen.head_maximum, s.amax((-1, -2)).float(), atol=1e-5, rtol=1e-5)
    assert torch.equal(seen.tie_count, (s >= s.amax(-1, keepdim=True) - 1e-3).sum(-1).int())
    if options.window is None:
        assert (seen.tie_count[:, :, 60:] == 2).all()
    torch.testing.assert_close(seen.entropy, -torch.xlogy(p, p).sum(-1).float(), atol=5e-3, rtol=0)


def test_row_residuals_show_the_error_of_delta(device, twin) -> None:
    q, k, v, do = (torch.randn(1, 2, 70, 32, device=device).bfloat16() for _ in range(4))
    options = Options(0.3)
    left = {}
    for name, variant in (("standard", STANDARD), ("stabilised", STABILISED)):
        got = launch.forward(q, k, v, options, variant)
        rows = torch.full((1, 2, 70), 7.0, device=device)
        launch.backward(do, q, k, v, got.out, got.residual, got.log_sum_exp, options, variant, row_residuals=rows)
        left[name] = rows
        # sum_j dS = sum_j P dP - delta sum_j P: with P exact, what delta is off by.
        p = twin.probabilities(twin.scores(q, k, options))
        out = got.out.double() + (got.residual.double() if got.residual is not None else 0)
        expected = (p * (do.double() @ v.double().transpose(-1, -2))).sum(-1) - (do.double() * out).sum(-1)
        torch.testing.assert_close(rows.double(), expected, atol=2e-5, rtol=0)
    # What remains is the rounding of P before P V, which is in O whatever its type.
    assert twin.rms(left["stabilised"]) < 0.6 * twin.rms(left["standard"])
