"""Layers and moments for the tests of the metric of the data."""

import pytest
import torch
from helpers import dense, layer_of, normal

from tensornet_interp import Moments, lift
from tensornet_interp.decompositions import Whitened
from tensornet_interp.metric import Metric
from tensornet_interp.registry import get_decomposition

LIFTED, SINGULAR = pytest.mark.parametrize("lifted", [False, True]), pytest.mark.parametrize("rank", [6, 4])


def moments_of(size, rank, seed=7, mean=0.5):
    """Moments of 300 inputs that fill `rank` dimensions."""
    x = normal(300, rank, seed=seed) @ normal(rank, size, seed=seed + 1) + mean * normal(size, seed=seed + 2)
    return Moments.of(x - (x.mean(0) if rank < size and mean == 0 else 0))


def a_layer(lifted, dtype=torch.float64, seed=1):
    layer = layer_of(3, 6, 5, seed, dtype=dtype)
    if not lifted:
        return layer
    left, right = normal(5, seed=8, dtype=dtype), normal(5, seed=9, dtype=dtype)
    return lift(layer, left_bias=left, right_bias=right, bias=normal(3, seed=10, dtype=dtype))


def second_moment(moments, lifted):
    full = moments.lifted() if lifted else moments
    return full.covariance + torch.outer(full.mean, full.mean)


def steps(name, layer, moments, ridge=0.0):
    whitened = Metric.of(moments, ridge=ridge, lifted=layer.constant_in).whiten(layer.to(dtype=torch.float64))
    return [Whitened(step, moments, ridge) for step in get_decomposition(name).ladder(whitened)]


def metric_error(result, layer, moments, ridge=0.0):
    """||B - A||_S / ||B||_S from dense tensors; S gets the ridge as independent noise would give it."""
    size = len(moments.mean)
    matrix = moments.covariance if layer.constant_in else second_moment(moments, False)
    noisy = Moments(moments.mean, moments.covariance + ridge * matrix.trace() / size * torch.eye(size).double())
    s = second_moment(noisy, layer.constant_in)
    whole, lost = dense(layer).double(), dense(layer).double() - dense(result).double()

    def squared(tensor):
        tensor = (tensor + tensor.mT) / 2
        return float((tensor * (s @ tensor @ s)).sum())

    return max(0.0, squared(lost) / squared(whole)) ** 0.5
