"""Numbers that decide where rounding begins."""

import pytest
import torch

from tensornet_interp.numerics import row_noise


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_rounding_of_equal_rows_is_that_of_independent_errors(dtype):
    """eps / 2 * rms * (sqrt(m) + sqrt(n)) over the norm rms * sqrt(m n): 5 / 12 of eps / 2 for 4 x 9 entries."""
    eps = torch.finfo(dtype).eps
    for scale in (1e-20, 1.0, 3e4):
        rows = torch.full((4, 9), scale).to(dtype)
        assert row_noise(rows, dtype) == pytest.approx(eps if not rows.any() else eps * 5 / 12, rel=1e-12)


def test_rows_in_double_have_the_usual_cut():
    assert row_noise(torch.ones(4, 9, dtype=torch.float64), torch.float64) == 9 * 2**-52
