"""Statistics of chunks against those of all numbers at once."""

import math

import pytest
import torch
from helpers import normal

from tensornet_interp.features.statistics import summarize

SHARES = (0.0, 0.01, 0.25, 0.5, 0.9, 1.0)


VALUES = {
    "normal": normal(1001, seed=0),
    "far from zero": 1e6 + normal(1001, seed=1),
    "heavy tails": normal(1001, seed=2) ** 5,
    "one outlier": torch.cat([normal(1000, seed=3), torch.tensor([1e5], dtype=torch.float64)]),
    "two values": torch.tensor([-1.0, 3.0], dtype=torch.float64).repeat(500),
}


def chunked(values, sizes):
    return lambda: iter(values.split(sizes))


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("sizes", [1, 37, 10**6])
def test_moments_are_those_of_all_numbers(name, sizes, device):
    values = VALUES[name]
    found = summarize(chunked(values.to(device), sizes), 5.0, SHARES)
    centred = values - values.mean()
    squared = float(centred.square().mean())
    # a deviation is known to the rounding of the values it is the difference of
    rel = 1e-12 + 8 * torch.finfo(torch.float64).eps * float(values.abs().max()) / math.sqrt(squared)
    assert found.count == len(values)
    assert found.mean == pytest.approx(float(values.mean()), abs=rel * math.sqrt(squared))
    assert found.std == pytest.approx(math.sqrt(squared), rel=rel)
    assert found.kurtosis == pytest.approx(float((centred**4).mean()) / squared**2, rel=10 * rel)
    assert (found.minimum, found.maximum) == (float(values.min()), float(values.max()))
    assert found.outliers == int((centred.abs() > 5 * math.sqrt(squared)).sum())


@pytest.mark.parametrize("name", VALUES)
def test_quantiles_are_within_a_bin_of_the_number_of_that_order(name, device):
    values = VALUES[name].sort().values
    found = summarize(chunked(values.to(device), 37), 5.0, SHARES)
    ends = [math.asinh((float(end) - found.mean) / found.std) for end in (values[0], values[-1])]
    for share, quantile in found.quantiles.items():
        expected = float(values[math.ceil(share * (len(values) - 1) - 0.5)])
        # the width of a bin where it lies: d sinh(t) = cosh(t) dt, at most over the bin; and rounding
        width = 1.01 * (ends[1] - ends[0]) / 2**16 * math.hypot(1, (expected - found.mean) / found.std)
        assert quantile == pytest.approx(expected, abs=found.std * (width + 1e-9))


def test_equal_numbers_have_no_kurtosis():
    found = summarize(chunked(torch.full((50,), 0.1, dtype=torch.float64), 7), 3.0, (0.5,))
    assert (found.count, found.mean, found.quantiles, found.outliers) == (50, pytest.approx(0.1), {0.5: found.mean}, 0)
    assert math.isnan(found.kurtosis)


def test_outliers_are_counted_and_printed():
    found = summarize(chunked(VALUES["one outlier"], 100), 5.0, (0.5,))
    assert found.outliers == 1
    assert "1 beyond 5 std" in str(found)
    assert found.kurtosis > 900


@pytest.mark.parametrize("z", [0, -1, math.nan, math.inf, True, "5"])
def test_z_is_a_positive_number(z):
    with pytest.raises((TypeError, ValueError), match=r"z must be (a number|finite|above 0), got"):
        summarize(chunked(VALUES["normal"], 100), z, (0.5,))


@pytest.mark.parametrize("quantiles", [(), (0.5, 1.1), (-0.1,)])
def test_quantiles_are_shares(quantiles):
    with pytest.raises(ValueError, match=r"quantiles (is empty|must be in \[0, 1\], got)"):
        summarize(chunked(VALUES["normal"], 100), 5.0, quantiles)


def test_a_number_at_z_standard_deviations_is_no_outlier():
    values = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    assert summarize(chunked(values, 2), 1.0, (0.5,)).outliers == 0
    assert summarize(chunked(values, 2), 0.999, (0.5,)).outliers == 2
