"""Compute the Gram matrices below and above every bond of a stack of bilinear layers, and the singular values."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tensornet_interp.checks import check_int
from tensornet_interp.inner_products.stack import Stack
from tensornet_interp.layer import BilinearLayer
from tensornet_interp.moments import cross_gram, input_gram
from tensornet_interp.store import register_type

_EPS = torch.finfo(torch.float64).eps
FLOOR = math.sqrt(_EPS)  # Gram matrices resolve singular values down to this share of the largest

Scaled = tuple[Tensor, float]  # (matrix, log_scale) stands for matrix * exp(log_scale)


@register_type("Bond")
@dataclass(frozen=True, eq=False)
class Bond:
    """Bond l of a network carries the outputs of layer l to layer l + 1; bond 0 is the input and bond L the output.

    The network is a tree in which bond l occurs 2^(L - l) times. The bond's singular values are those of the whole
    network unfolded across ONE of these occurrences, divided by the network's tree norm, so their squares sum to 1.
    They are float64, largest first; values below 1.5e-8 times the largest are noise.

    "Without the constant" means that the constant coordinate is projected out: the Gram matrix X below the bond is
    replaced by X - X e_0 e_0^T X / X_00, which is a covariance if X is a second moment. A cut always keeps the
    constant, so the values without the constant determine its error. Ranks do not count the constant.
    """

    index: int
    size: int  # without the constant coordinate
    occurrences: int  # number of times that the bond occurs in the tree, 2**(L - l)
    log_norm: float  # logarithm of the network's tree norm, computed at this bond; equal at every bond
    singular_values: Tensor  # of all coordinates
    singular_values_without_constant: Tensor  # equal to `singular_values` if there is no constant
    encoder: Tensor  # (rank, all coordinates), most important row first
    decoder: Tensor  # (all coordinates, rank)
    center: Tensor | None  # (all coordinates,): the decoded constant, [1, mean]; None if there is no constant

    @property
    def rank(self) -> int:
        """Return the number of singular values (without the constant) above the floor of 1.5e-8 times the largest."""
        return self.encoder.shape[0]

    def discarded(self, rank: int) -> float:
        """Return sum_(i >= rank) s_i^2, the squared relative error of a cut of one occurrence to `rank` coordinates.

        s_i are the singular values without the constant.
        """
        check_int("rank", rank, 0)
        return float(self.singular_values_without_constant[rank:].square().sum())

    def gap(self, rank: int) -> float:
        """Return s[rank - 1] / s[rank], the last kept singular value divided by the first discarded one.

        The gap is inf if no coordinate is kept or none is discarded. s are the singular values without the constant.
        """
        if not 0 < check_int("rank", rank, 0) < self.rank:
            return math.inf
        values = self.singular_values_without_constant
        return float(values[rank - 1] / values[rank])

    def in_cluster(self, rank: int) -> bool:
        """Return True if s[rank - 1] and s[rank] differ by at most 1.5e-8 * s[0]; a cut between them is arbitrary.

        Return False if no coordinate is kept or none is discarded.
        """
        if not 0 < check_int("rank", rank, 0) < self.rank:
            return False
        values = self.singular_values_without_constant
        return float(values[rank - 1] - values[rank]) <= FLOOR * float(values[0])

    def maps(self, rank: int) -> tuple[Tensor, Tensor]:
        """Return the encoder (new, all coordinates) and decoder (all coordinates, new) of a cut to `rank` coordinates.

        new counts the kept coordinates: `rank`, and first the constant if there is one.
        """
        check_int("rank", rank, 0)
        encoder, decoder = self.encoder[:rank], self.decoder[:, :rank]
        if self.center is None:
            return encoder, decoder
        constant = torch.zeros_like(self.center)
        constant[0] = 1
        return torch.cat([constant[None], encoder]), torch.cat([self.center[:, None], decoder], 1)


def make_bonds(stack: Stack, moment: Tensor) -> tuple[Bond, ...]:
    """Return every bond of a stack, input first; moment (in, in) is X_0, the second moment of the input.

    Raises ValueError if the Gram matrix of the output is zero. Cost: O(rank^2 * in + in^3) per layer.
    """
    layers = stack.layers
    up = upward(layers, moment)
    if not up[-1][0].trace() > 0:
        raise ValueError("the network is zero on the given input moments: there is nothing to cut")
    down = downward(layers, up)
    constants = [layers[0].constant_in, *(layer.constant_out for layer in layers)]
    grams = enumerate(zip(up, down, constants, strict=True))
    bonds = (_bond(i, 2 ** (len(layers) - i), *gram) for i, gram in grams)
    return tuple(replace(bond, log_norm=bond.log_norm + stack.log_scale) for bond in bonds)


def upward(layers: Sequence[BilinearLayer], moment: Tensor) -> list[Scaled]:
    """Return the Gram matrix of the tree below one occurrence of every bond, input first.

    X_0 = moment, X_l = P_l C(X_(l-1)) P_l^T
    """
    grams = [_rescale(moment, 0.0)]
    for layer in layers:
        gram, log_scale = grams[-1]
        grams.append(_rescale(layer.down @ cross_gram(layer, layer, gram) @ layer.down.T, 2 * log_scale))
    return grams


def downward(layers: Sequence[BilinearLayer], up: Sequence[Scaled]) -> list[Scaled]:
    """Return the Gram matrix of the tree outside one occurrence of every bond, input first.

    N_L = I, N_(l-1) = 1/4 Z^T G Z, Z = [W; V]
    """
    last = layers[-1].down
    grams = [(torch.eye(len(last), dtype=last.dtype, device=last.device), 0.0)]
    for layer, (below, log_below) in zip(reversed(layers), reversed(up[:-1]), strict=True):
        above, log_above = grams[0]
        grams.insert(0, _rescale(input_gram(layer, below, above), log_above + log_below))
    return grams


def _bond(index: int, occurrences: int, up: Scaled, down: Scaled, constant: bool) -> Bond:
    """Return the bond with the Gram matrices X (`up`) and N (`down`).

    X = F F^T, N = R^T R, svd(R F) = A s B^T, encoder = s^(-1/2) A^T R, decoder = F B s^(-1/2)
    """
    (below, log_below), (above, log_above) = up, down
    squared = (below * above).sum()  # trace(X N)
    lower, upper = _root(below), _root(above).T  # F (all, r), R (r', all)
    unfolded = upper @ lower  # transposed and in orthonormal coordinates
    center, spectrum = None, None
    if constant:
        spectrum = torch.linalg.svdvals(unfolded)
        center = torch.zeros_like(below[:, 0])
        center[0] = 1
        if below[0, 0] > 0:  # a decomposition of a lifted layer may pass on the constant 0
            center = below[:, 0] / below[0, 0]
            direction = lower[0] / lower[0].norm()  # F^T e_0, the constant among the leaves
            unfolded = unfolded - torch.outer(unfolded @ direction, direction)
    rows, values, columns = torch.linalg.svd(unfolded, full_matrices=False)
    spectrum = values if spectrum is None else spectrum
    keep = (values > FLOOR * values[0]) & (values > len(values) * _EPS * spectrum[0])
    roots = values[keep].sqrt()
    encoder = (rows[:, keep] / roots).T @ upper
    if center is not None:
        encoder[:, 0] -= encoder @ center  # enc (1 - center e_0^T): the center is what the constant carries
    return Bond(
        index,
        below.shape[0] - constant,
        occurrences,
        (log_below + log_above + float(squared.log())) / 2,
        spectrum / squared.sqrt(),
        values / squared.sqrt(),
        encoder,
        lower @ (columns[keep].T / roots),
        center,
    )


def _root(gram: Tensor) -> Tensor:
    """Return F (n, r) with F F^T = gram.

    F comes from the eigenvectors of the correlation matrix, so that coordinates with small values keep their digits.
    """
    scale = gram.diagonal().clamp_min(0).sqrt()
    inverse = torch.where(scale > 0, 1 / scale, torch.zeros_like(scale))
    values, vectors = torch.linalg.eigh(gram * torch.outer(inverse, inverse))
    keep = values > len(values) * _EPS * values[-1]
    return scale[:, None] * vectors[:, keep] * values[keep].sqrt()


def _rescale(gram: Tensor, log_scale: float) -> Scaled:
    """Return the symmetric part of a matrix divided by its largest entry, so that deep networks do not overflow."""
    gram = (gram + gram.T) / 2
    largest = float(gram.abs().max())
    return (gram / largest, log_scale + math.log(largest)) if largest > 0 else (gram, log_scale)
