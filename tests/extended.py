"""The dense truth in extended precision (80 bits on x86): what float64 results are measured against."""

import numpy as np
import pytest
import torch

EPS = float(np.finfo(np.longdouble).eps)


def needs_extended():
    """Skip where long double is no wider than float64."""
    if np.finfo(np.longdouble).eps >= np.finfo(np.float64).eps:
        pytest.skip("long double is float64 on this machine")


def wide(tensor):
    """A tensor of any dtype as long double, exactly."""
    return tensor.detach().cpu().double().numpy().astype(np.longdouble)


def dense(part):
    """The symmetrized tensor (out, in, in) of a layer or result, from its CP factors in long double."""
    layer = part.to(dtype=torch.float64).to_layer()  # float64 products: exact to 1e-16 of each term
    down, left, right = (wide(factor) for factor in (layer.down, layer.left, layer.right))
    tensor = np.stack([(left * row) @ right.T for row in down])
    return (tensor + tensor.transpose(0, 2, 1)) / 2


def norm(tensor):
    return np.sqrt((tensor**2).sum())


def relative_error(approximation, reference):
    """||A - B|| / ||B|| of the symmetrized tensors."""
    truth = dense(reference)
    return norm(dense(approximation) - truth) / norm(truth)
