"""Numbers that decide where rounding begins."""

import pytest
import torch

from tensornet_interp.numerics import eigenvalue_noise, row_noise, t_interval


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
