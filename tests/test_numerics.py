"""Numbers that decide where rounding begins, and QR decompositions of tall matrices."""

import pytest
import torch
from helpers import normal

from tensornet_interp.numerics import cholesky_qr, eigenvalue_noise, row_noise, t_interval, thin_qr


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_rounding_of_equal_rows_is_that_of_independent_errors(dtype):
    """eps / 2 * rms * (sqrt(m) + sqrt(n)) over the norm rms * sqrt(m n): 5 / 12 of eps / 2 for 4 x 9 entries."""
    eps = torch.finfo(dtype).eps
    for scale in (1e-20, 1.0, 3e4):
        rows = torch.full((4, 9), scale).to(dtype)
        assert row_noise(rows, dtype) == pytest.approx(eps if not rows.any() else eps * 5 / 12, rel=1e-12)


def test_rows_in_double_have_the_usual_cut():
    assert row_noise(torch.ones(4, 9, dtype=torch.float64), torch.float64) == 9 * 2**-52


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_noise_of_eigenvalues_depends_on_their_magnitudes(dtype, sign):
    values = sign * torch.tensor([4.0, -1.0, 0.5], dtype=dtype)
    rounded = 0 if dtype == torch.float64 else torch.finfo(dtype).eps * torch.tensor([8, 5, 4.5], dtype=torch.float64)
    torch.testing.assert_close(
        eigenvalue_noise(values, 7), torch.full((3,), 10 * 7 * 2**-52 * 4, dtype=torch.float64) + rounded
    )


def test_the_interval_of_a_mean_by_hand():
    values = torch.tensor(
        [1.0, 2, 3], dtype=torch.float64
    )  # standard deviation 1; t of two degrees of freedom is 4.3027
    assert t_interval(values, 0.95) == pytest.approx((2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5), rel=1e-6)
    assert all(end != end for end in t_interval(values[:1], 0.95))


@pytest.mark.parametrize("condition", [1.0, 1e3, 1e6, 1e12])
@pytest.mark.parametrize("rows", [9, 200])
def test_a_qr_decomposition_holds_at_any_condition(rows, condition, device):
    """Both ways give an orthonormal Q and an upper triangular R to rounding, even of nearly dependent columns."""
    columns = normal(rows, 7, seed=1, device=device)
    columns[:, -1] = columns[:, 0] + columns[:, -1] / condition
    basis, triangle = thin_qr(columns)
    unit = torch.eye(7, dtype=torch.float64, device=device)
    assert float((basis.T @ basis - unit).norm()) <= 1e-14
    assert float((basis @ triangle - columns).norm()) <= 1e-15 * rows**0.5 * float(columns.norm())
    assert not bool(triangle.tril(-1).any())


def test_only_tall_and_clearly_independent_columns_have_cholesky_factors(device):
    tall = normal(200, 7, seed=1, device=device)
    assert cholesky_qr(tall) is not None
    assert cholesky_qr(tall[:40]) is None
    assert cholesky_qr(tall.clone().requires_grad_()) is None
    assert cholesky_qr(torch.cat([tall[:, :3], tall[:, :3]], 1)) is None
    nearly = torch.cat([tall[:, :3], tall[:, :1] + 1e-12 * tall[:, 3:4]], 1)
    assert cholesky_qr(nearly) is None
