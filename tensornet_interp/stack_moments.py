"""Moments of the inputs of every layer of a network, from data or by a Gaussian closure."""

from collections.abc import Iterable

import torch
from torch import Tensor

from tensornet_interp.affine import lift_vectors
from tensornet_interp.float64 import needs_float64
from tensornet_interp.layer import BilinearLayer, TensorNetwork
from tensornet_interp.moments import Moments, RunningMoments, batches, cross_gram, hidden_slopes, input_moments
from tensornet_interp.network import as_network
from tensornet_interp.numerics import without_autocast

__all__ = ["layer_moments"]


@needs_float64
@torch.no_grad()
@without_autocast
def layer_moments(network: TensorNetwork, inputs: Moments | Tensor | Iterable[Tensor]) -> list[Moments]:
    """Return the moments of the inputs of every part of a network, first part first, for `decompose(..., moments=...)`.

    inputs: inputs (batch, in) of the network or a stream of them, as for `Moments.of`; or the moments of the inputs.
    From inputs, the moments of all parts are those of the data. From moments, the inputs of every part are taken as
    Gaussian: those of the second part are then exact if the inputs are, and the others are an approximation, which
    `note` says. The moments are in plain coordinates, without the constant of a lifted part.
    Raises ValueError as `Moments.of`, also if an inner layer overflows, and if sizes or devices differ.
    Cost: one pass of the inputs through the network, and 2 * batch * in^2 flops per part; from moments, rank^2 * (2 *
    in + out) * 4 flops per part but the last.

    Example:
    >>> from tensornet_interp.testing import random_layer
    >>> network = as_network(random_layer(3, 5, 4, seed=0))
    >>> layer_moments(network, torch.eye(5, dtype=torch.float64))
    [Moments(in=5, count=5, note='computed from data')]
    """
    network = as_network(network)
    if isinstance(inputs, Moments):
        found = [inputs]
        input_moments(network.layers[0], inputs)  # checks sizes
        for number, layer in enumerate(network.layers[:-1], 1):
            found.append(_closure(layer, found[-1], f"Gaussian closure of {number} layers: {inputs.note}"))
        return found
    running = [RunningMoments() for _ in network.parts]
    first = network.parts[0]
    like = first.terms()[0].data
    for name, batch in batches("inputs", inputs):
        running[0].add(batch, name)  # checks the batch, and names a row of NaN
        x = lift_vectors(name, batch, first.sizes["in1"], constant=first.constant_in, like=like)
        for number, (part, after) in enumerate(zip(network.parts, running[1:], strict=False)):
            x = part.multilinear(x)
            after.add(x[:, int(part.constant_out) :], f"the output of part {number} for {name}")
    return [each.moments() for each in running]


def _closure(layer: BilinearLayer, inputs: Moments, note: str) -> Moments:
    """Return the moments of the outputs of a layer, exactly for Gaussian inputs.

    cov(h) = 2 C + J covariance J^T, h the hidden units, J their slope at the mean, C the `cross_gram` of the covariance
    """
    wide = layer.to(dtype=torch.float64)
    given = input_moments(wide, inputs)
    expected, slope = hidden_slopes(wide, given.mean, given.covariance)
    hidden = 2 * cross_gram(wide, wide, given.covariance) + slope @ given.covariance @ slope.T
    mean = wide.down @ expected
    covariance = wide.down @ hidden @ wide.down.T
    keep = slice(int(layer.constant_out), None)
    return Moments(mean[keep], (covariance + covariance.T)[keep, keep] / 2, None, note)
