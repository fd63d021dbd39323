"""Gram matrices of a layer from its factors are those of its dense tensor."""

import pytest
import torch
from dense_layer import dense, normal

from tensornet_interp.moments import cross_gram, input_gram
from tensornet_interp.testing import random_layer

EXACT = 1e-12  # of the largest entry: sums of some hundred products in float64


def semidefinite(size, seed, device):
    root = normal(size, size + 1, seed=seed, device=device)
    return root @ root.T


@pytest.mark.parametrize("sizes", [(3, 5, 7), (6, 11, 4), (1, 2, 3), (4, 1, 6)])
@pytest.mark.parametrize("with_moment", [True, False])
@pytest.mark.parametrize("with_metric", [True, False])
def test_input_gram_is_that_of_the_dense_tensor(sizes, with_moment, with_metric, device):
    n_out, n_in, _ = sizes
    layer = random_layer(*sizes, seed=1, device=device)
    moment = semidefinite(n_in, 2, device) if with_moment else None
    metric = semidefinite(n_out, 3, device) if with_metric else None
    found = input_gram(layer, moment, metric)
    eyes = [torch.eye(n, dtype=torch.float64, device=device) for n in (n_in, n_out)]
    x, n = eyes[0] if moment is None else moment, eyes[1] if metric is None else metric
    expected = torch.einsum("oij,jk,op,plk->il", dense(layer), x, n, dense(layer))
    assert (found - expected).abs().max() <= EXACT * expected.abs().max()


def test_input_gram_in_chunks_of_hidden_units(device):
    """More hidden units than a block of rows holds: the sum over blocks is the whole."""
    layer = random_layer(2, 3, 2100, seed=4, device=device)  # 2^22 / 2100 rows a block: two blocks
    expected = torch.einsum("oij,olj->il", dense(layer), dense(layer))
    assert (input_gram(layer) - expected).abs().max() <= EXACT * expected.abs().max()


def test_cross_gram_is_that_of_symmetrized_products(device):
    first, second = random_layer(3, 5, 7, seed=1, device=device), random_layer(2, 5, 4, seed=2, device=device)
    moment = normal(5, 5, seed=3, device=device)  # need not be symmetric

    def units(layer):
        product = torch.einsum("ih,jh->hij", layer.left, layer.right)
        return (product + product.mT) / 2

    expected = torch.einsum("hij,ik,jl,gkl->hg", units(first), moment, moment, units(second))
    found = cross_gram(first, second, moment)
    assert (found - expected).abs().max() <= EXACT * expected.abs().max()
