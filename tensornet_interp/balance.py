"""Rescale by powers of two, which is exact, so that later computations neither overflow nor underflow."""

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from tensornet_interp.checks import check_size
from tensornet_interp.layer import BilinearLayer
from tensornet_interp.names import Names
from tensornet_interp.numerics import largest_entries

__all__ = ["Balanced", "balance", "balance_rows", "rescale", "times_power", "without_names"]


class Balanced(NamedTuple):
    """Balanced layers are float64 layers divided by a power of two: layers[i] * 2^exponent is the given layer i."""

    layers: tuple[BilinearLayer, ...]
    exponent: int


def balance(*layers: BilinearLayer) -> Balanced:
    """Return the layers with rescaled hidden units: all columns of left and right have largest entries in [1, 2).

    given layers[i] = 2^exponent * (down', left', right'), where primes mark the returned layers[i]

    Every hidden unit has its own powers of two, so a unit with down 1e-170 and left 1e170 loses nothing. The largest
    unit of all layers determines the exponent, so a unit that is 1e308 times smaller may become 0. If the layers have
    equal rank and the powers of a unit differ by at most one, they share the larger power: aligned factors stay
    aligned, and differences of such factors keep their digits. (The largest entry of a sharing column may then be in
    [1/2, 1).) Powers of two do not round, and autograd treats them as constants. Zero columns stay zero. Cost: one pass
    over the weights.
    """
    lefts, rights = (_shared([_exponents(getattr(layer, side)) for layer in layers]) for side in ("left", "right"))
    inputs = [left + right for left, right in zip(lefts, rights, strict=True)]  # (rank,) of each layer
    sizes = [_exponents(layer.down) + own for layer, own in zip(layers, inputs, strict=True)]
    live = [
        (layer.down.detach().any(0) & layer.left.detach().any(0) & layer.right.detach().any(0)).nonzero()[:, 0]
        for layer in layers
    ]
    exponent = max((int(size[at].max()) for size, at in zip(sizes, live, strict=True) if len(at)), default=0)
    cores = []
    for layer, left, right, own in zip(layers, lefts, rights, inputs, strict=True):
        check_size("rank", left=len(left), down=layer.rank)
        cores.append(
            BilinearLayer(
                down=times_power(layer.down, own - exponent),
                left=times_power(layer.left, -left),
                right=times_power(layer.right, -right),
                name=layer.name,
                history=layer.history,
                basis=layer.basis,
                constant_in=layer.constant_in,
                constant_out=layer.constant_out,
            )
        )
    return Balanced(tuple(cores), exponent)


def without_names(layer: BilinearLayer) -> BilinearLayer:
    """Return the layer over all coordinates, constant ones included, which have no names: arrays for arithmetic."""
    return replace(layer, constant_in=False, constant_out=False, names=Names())


def balance_rows(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows scaled to largest magnitudes in [1, 2), in float64, and their exponents, without rounding.

    matrix[i] = 2^exponents[i] * scaled[i]

    A row of zeros stays zero and has exponent 0.
    """
    columns = matrix.to(torch.float64).T
    exponents = _exponents(columns)
    return times_power(columns, -exponents).T, exponents


def rescale(values: Tensor) -> tuple[Tensor, int]:
    """Return values scaled to a largest magnitude in [1, 2), in float64, and one exponent, without rounding.

    values = 2^exponent * scaled

    If all values are zero, the exponent is 0.
    """
    wide = values.to(torch.float64)
    exponent = int(_exponents(wide.reshape(-1, 1)))
    return times_power(wide, -exponent), exponent


def _exponents(columns: Tensor) -> Tensor:
    """Return e (rank,) such that the largest entry of each column is in [2^e, 2^(e + 1)); 0 for a zero column."""
    largest = largest_entries(columns)
    exponents = torch.frexp(largest).exponent.to(torch.int64) - 1
    return torch.where(largest > 0, exponents, 0)


def _shared(exponents: list[Tensor]) -> list[Tensor]:
    """Return exponents that the layers share per hidden unit: the largest, if theirs differ by at most one.

    If they differ by more, or the ranks differ, each layer keeps its own.
    """
    if len({len(own) for own in exponents}) > 1:
        return exponents
    every = torch.stack(exponents)
    largest = every.amax(0)
    close = largest - every.amin(0) <= 1
    return [torch.where(close, largest, own) for own in exponents]


def times_power(matrix: Tensor, exponents: Tensor | int) -> Tensor:
    """Return matrix[:, r] * 2^exponents[r], in float64.

    Each power of two is exact, because its float64 bit pattern is written directly. Exponents beyond +-1000 are applied
    in several multiplications.
    """
    exponents = torch.as_tensor(exponents, device=matrix.device)
    while True:
        step = exponents.clamp(-1000, 1000)
        matrix = matrix * ((step + 1023) << 52).view(torch.float64)
        exponents = exponents - step
        if not bool(exponents.any()):
            return matrix
