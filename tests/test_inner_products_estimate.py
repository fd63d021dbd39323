"""An estimate is its value times exp(log_scale), and says how it was come by."""

import math

import pytest
import torch

from tensornet_interp import BilinearLayer, Estimate
from tensornet_interp.inner_products import inner_by_output


def test_an_estimate_an_output_is_a_tensor_of_the_true_numbers():
    layer = BilinearLayer(down=torch.eye(2).double() * 10, left=torch.eye(2).double(), right=torch.eye(2).double())
    estimate = inner_by_output(layer, layer)
    torch.testing.assert_close(estimate.to_tensor(), torch.tensor([100.0, 100.0]).double())
    with pytest.raises(TypeError, match="use to_tensor"):
        float(estimate)


def test_numbers_that_do_not_fit_say_so():
    large = Estimate(torch.tensor(2.0), "exact", log_scale=1000.0)
    with pytest.raises(OverflowError, match="use its value and log_scale"):
        float(large)
    assert float(Estimate(torch.tensor(2.0), "exact", log_scale=math.log(3))) == pytest.approx(6, rel=1e-12)


def test_the_factor_alone_may_be_out_of_range():
    """exp(715) is above the largest float64, 1e-10 exp(715) is not; exp(709) fits, 9 exp(709) does not."""
    small = Estimate(torch.tensor(1e-10, dtype=torch.float64), "exact", log_scale=715.0)
    for number in (float(small), float(small.to_tensor())):
        assert math.log(number) == pytest.approx(715 - 10 * math.log(10), rel=1e-12)
    assert float(Estimate(torch.tensor(0.0), "exact", log_scale=1e5)) == 0
    for large in (
        Estimate(torch.tensor([9.0]), "exact", log_scale=709.0),
        Estimate(torch.tensor([1e-300], dtype=torch.float64), "exact", log_scale=1e5),
    ):
        for read in (float, Estimate.to_tensor):
            with pytest.raises(OverflowError, match="use its value and log_scale"):
                read(large)


@pytest.mark.parametrize(
    ("axes", "labels"), [(0, []), (1, ["output"]), (2, ["first", "second"]), (3, ["first", "second", "output"])]
)
def test_records_say_which_networks_and_which_output(axes, labels):
    rows = Estimate(torch.arange(2.0**axes).reshape([2] * axes), "exact").records()
    assert [[name for name in row if name in ("first", "second", "output")] for row in rows] == [labels] * 2**axes
    assert [row["value"] for row in rows] == list(range(2**axes))
    if axes:
        assert [row[labels[-1]] for row in rows[:2]] == [0, 1]


def test_it_prints_what_is_known():
    assert repr(Estimate(torch.tensor(2.0), "exact")) == "Estimate(2.0, exact)"
    sampled = Estimate(torch.tensor(2.0), "sampled", 1.5, torch.tensor(0.25))
    assert repr(sampled) == "Estimate(2.0 +- 0.25 * exp(1.5), sampled)"
