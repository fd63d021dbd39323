"""Interaction matrices of many directions, each at a scale of its own, so that squares neither over- nor underflow."""

from typing import NamedTuple

import torch
from torch import Tensor

from tensornet_interp.balance import balance, balance_rows, times_power
from tensornet_interp.checks import check_alike, check_kind, check_size, check_tensor
from tensornet_interp.decompositions.eigen import compress_inputs
from tensornet_interp.layer import BilinearLayer
from tensornet_interp.spectra.matrices import Matrices, rounding_share


class Scaled(NamedTuple):
    """Scaled matrices: the interaction matrix of direction i is 2^powers[i] * basis M_i basis^T, in float64."""

    core: BilinearLayer  # balanced, in the basis
    basis: Tensor | None  # (in, size), orthonormal columns; None for the identity
    matrices: Matrices  # the matrices M
    wide: Tensor  # (block, out), scaled directions
    powers: Tensor  # (block,), whole numbers
    scales: Tensor  # (block,), those of the matrices: upper bounds on their norms
    weights_noise: Tensor  # (block,), what the rounding of the weights, sums over out, can add to a matrix

    @classmethod
    def of(cls, layer: BilinearLayer, directions: Tensor) -> "Scaled":
        """Return the matrices of directions (block, out); every direction has its own scale, a power of two."""
        (exact,), exponent = balance(layer)
        wide, powers = balance_rows(directions)
        core, basis = compress_inputs(exact, len(directions))
        matrices = Matrices(core.left, core.right, wide @ exact.down)
        lengths = matrices.lengths()
        scales = matrices.scales(lengths)
        own = scales.frexp().exponent.to(torch.int64)
        wide, weights = (times_power(part.T, -own).T for part in (wide, matrices.weights))
        noise = rounding_share(0, core.shape[0]) * (wide.abs() @ (core.down.abs() @ lengths))
        powers = powers + own + exponent
        return cls(core, basis, matrices._replace(weights=weights), wide, powers, times_power(scales, -own), noise)


def check_directions(layer: BilinearLayer, directions: Tensor) -> None:
    """Raise TypeError or ValueError unless directions (block, out) fit the layer and none of them is zero."""
    check_kind("layer", layer, BilinearLayer, "; a result has to_layer()")
    check_tensor("directions", directions, ("block", "out"))
    check_alike(layer=layer.down, directions=directions)
    check_size("out", layer=layer.shape[0], directions=directions.shape[1])
    zero = (directions == 0).all(1)
    if bool(zero.any()):
        raise ValueError(
            f"directions must not be zero; {int(zero.sum())} are, the first at row {int(zero.int().argmax())}"
        )
