"""Balanced layers: exact powers of two, unit by unit; and norms that no cancellation fools, within their bounds."""

import math

import extended
import numpy as np
import pytest
import torch

from tensornet_interp import BilinearLayer, difference
from tensornet_interp.balance import balance
from tensornet_interp.inner_products.frobenius import frobenius, output_products
from tensornet_interp.testing import random_layer


def spread(layer, seed):
    """The same function: every hidden unit's down, left and right scaled by up to 1e+-100, with product 1."""
    generator = torch.Generator().manual_seed(seed)
    scale = 10.0 ** torch.randint(-100, 100, (layer.rank,), generator=generator).double()
    return BilinearLayer(down=layer.down * scale, left=layer.left / scale, right=layer.right)


def nearly_itself(layer, size, seed):
    """layer minus a copy with permuted units and left moved by `size`: units that cancel."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(layer.rank, generator=generator)
    moved = layer.left + size * torch.randn(layer.left.shape, generator=generator, dtype=torch.float64)
    return difference(
        layer, BilinearLayer(down=layer.down[:, order], left=moved[:, order], right=layer.right[:, order])
    )


@pytest.mark.parametrize(
    "exponents", [(0, 0, 0), (-550, 0, 0), (515, 0, 0), (-560, 560, 0), (300, 300, 300), (-340,) * 3]
)
def test_balancing_is_exact_and_near_one(exponents):
    layer = random_layer(3, 6, 4, seed=0)
    parts = [
        part * math.ldexp(1.0, e) for part, e in zip((layer.down, layer.left, layer.right), exponents, strict=True)
    ]
    balanced = balance(BilinearLayer(down=parts[0], left=parts[1], right=parts[2]))
    (core,), exponent = balanced
    for side in (core.left, core.right):
        largest = side.abs().amax(0)
        assert bool(((largest >= 1) & (largest < 2)).all())
    assert 1 <= float(core.down.abs().max()) < 8
    reference = balance(layer)
    for name in ("down", "left", "right"):
        assert torch.equal(getattr(core, name), getattr(reference.layers[0], name))
    assert exponent == reference.exponent + sum(exponents)


@pytest.mark.parametrize(("factor", "kept"), [(1, 1), (2, 2), (0.5, 0.5), (4, 1), (0.25, 1)])
def test_units_whose_powers_differ_by_one_share_the_larger(factor, kept):
    layer = random_layer(3, 6, 4, seed=0)
    other = BilinearLayer(down=layer.down, left=factor * layer.left, right=layer.right)
    (first, second), _ = balance(layer, other)
    assert torch.equal(second.left, kept * first.left)


def test_every_unit_is_scaled_by_itself():
    layer = random_layer(3, 6, 4, seed=0)
    (core,), exponent = balance(spread(layer, 1))
    truth = extended.dense(layer)
    made = extended.dense(core) * np.longdouble(2) ** exponent
    assert extended.norm(made - truth) <= 1e-15 * extended.norm(truth)  # `spread` rounds, balancing does not


def test_aligned_layers_of_one_rank_share_their_powers():
    layer = random_layer(3, 6, 4, seed=0)
    other = BilinearLayer(down=layer.down, left=layer.left * (1 + 1e-12), right=layer.right)
    (a, b), _ = balance(layer, other)
    assert float((a.left - b.left).abs().max()) <= 2e-12 * float(a.left.abs().max())


def test_a_zero_layer_stays_zero():
    layer = random_layer(3, 6, 4, seed=0)
    zero = BilinearLayer(down=0 * layer.down, left=layer.left, right=layer.right)
    (core,), exponent = balance(zero)
    assert exponent == 0
    assert not core.down.any()
    assert float(frobenius(core).value) == 0


@pytest.mark.parametrize("seed", range(60))
def test_the_norm_lies_within_its_bound(seed):
    """Plain layers, layers whose units cancel down to 1e-13, layers with units of unlike scale."""
    extended.needs_extended()
    generator = torch.Generator().manual_seed(seed)
    n_out, n_in, rank = (int(n) for n in torch.randint(1, 14, (3,), generator=generator))
    layer = random_layer(n_out, n_in, rank, seed=seed)
    if seed % 3 == 1:
        layer = nearly_itself(layer, 10.0 ** -(3 + seed % 10), seed)
    elif seed % 3 == 2:
        layer = spread(layer, seed)
    (core,), _ = balance(layer)
    truth = extended.dense(core)
    found = frobenius(core)
    assert abs(np.longdouble(float(found.value)) - extended.norm(truth)) <= found.rounding
    values, rounding = output_products(core, core)
    assert bool((values >= 0).all())
    assert (np.abs(extended.wide(values) - (truth**2).sum((1, 2))) <= extended.wide(rounding)).all()


def test_the_norm_of_units_that_cancel():
    """The sum over pairs of units gives 0 here."""
    a = random_layer(4, 12, 8, seed=0)
    (core,), exponent = balance(nearly_itself(a, 1e-9, 0))
    truth = float(extended.norm(extended.dense(core)))
    assert float(frobenius(core).value) == pytest.approx(truth, rel=1e-5)
    assert math.ldexp(truth, exponent) == pytest.approx(5.5e-8, rel=0.5)


def test_more_outputs_than_units_are_compressed():
    layer = nearly_itself(random_layer(30, 5, 3, seed=2), 1e-8, 1)
    (core,), _ = balance(layer)
    assert float(frobenius(core).value) == pytest.approx(float(extended.norm(extended.dense(core))), rel=1e-6)


def test_the_norm_is_differentiable_on_both_paths():
    layer = random_layer(2, 4, 3, seed=3)
    for part in (layer, nearly_itself(layer, 1e-6, 1)):
        weights = [w.clone().requires_grad_() for w in (part.down, part.left, part.right)]

        def value(down, left, right):
            return frobenius(BilinearLayer(down=down, left=left, right=right)).value

        (gradient,) = torch.autograd.grad(value(*weights), weights[0])
        truth = extended.dense(part)
        one = torch.ones(1, 1, dtype=torch.float64)
        expected = np.empty(gradient.shape)
        for h in range(part.rank):  # d norm / d down[k, h] = <B[k], sym(left_h right_h)> / norm
            unit = BilinearLayer(down=one, left=part.left[:, h : h + 1], right=part.right[:, h : h + 1])
            expected[:, h] = (truth * extended.dense(unit)).sum((1, 2)) / extended.norm(truth)
        assert np.abs(gradient.numpy() - expected).max() <= 1e-8 * np.abs(expected).max()
