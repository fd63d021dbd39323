"""Layers rescaled by powers of two: exact, and nothing computed from them over- or underflows."""

from typing import NamedTuple

import torch
from torch import Tensor

from tensornet_interp.checks import check_size
from tensornet_interp.layer import BilinearLayer

__all__ = ["Balanced", "balance", "balance_rows", "rescale", "times_power"]


class Balanced(NamedTuple):
    """Layers divided by one power of two: layers[i] * 2^exponent are the given ones, in float64."""

    layers: tuple[BilinearLayer, ...]
    exponent: int


def balance(*layers: BilinearLayer) -> Balanced:
    """layers[i] = 2^exponent (down', left', right'): every column of left' and right' has its largest entry in [1, 2).

    Every hidden unit is rescaled by itself, so a unit with down 1e-170 and left 1e170 loses nothing. The exponent is
    that of the largest unit, so a unit that is 1e308 times smaller may become 0. Layers of equal rank share the powers
    of a unit if theirs differ by one at most: aligned factors stay aligned, and their differences keep their digits.
    Powers of two do not round, and they are constants to autograd. Zero columns stay zero.
    Cost: a pass over the weights.
    """
    wide = [layer.to(dtype=torch.float64) for layer in layers]
    lefts, rights = (_shared([_exponents(getattr(layer, side)) for layer in wide]) for side in ("left", "right"))
    inputs = [left + right for left, right in zip(lefts, rights, strict=True)]  # (rank,) of each layer
    sizes = [_exponents(layer.down) + own for layer, own in zip(wide, inputs, strict=True)]
    live = [
        (layer.down.detach().any(0) & layer.left.detach().any(0) & layer.right.detach().any(0)).nonzero()[:, 0]
        for layer in wide
    ]
    exponent = max((int(size[at].max()) for size, at in zip(sizes, live, strict=True) if len(at)), default=0)
    cores = []
    for layer, left, right, own in zip(wide, lefts, rights, inputs, strict=True):
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


def balance_rows(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """matrix[i] = 2^exponents[i] scaled[i]: return scaled, float64, and exponents; exact.

    The largest magnitude of each row of "scaled" is in [1, 2).
    """
    columns = matrix.to(torch.float64).T
    exponents = _exponents(columns)
    return times_power(columns, -exponents).T, exponents


def rescale(values: Tensor) -> tuple[Tensor, int]:
    """values = 2^exponent scaled: return scaled, float64, its largest magnitude in [1, 2), and the exponent; exact.

    Zeros have the exponent 0.
    """
    wide = values.to(torch.float64)
    exponent = int(_exponents(wide.reshape(-1, 1)))
    return times_power(wide, -exponent), exponent


def _exponents(columns: Tensor) -> Tensor:
    """e (rank,) with the largest entry of each column in [2^e, 2^(e + 1)); 0 for a column of zeros."""
    largest = columns.detach().abs().amax(0)
    exponents = torch.frexp(largest).exponent.to(torch.int64) - 1
    return torch.where(largest > 0, exponents, 0)


def _shared(exponents: list[Tensor]) -> list[Tensor]:
    """The larger of the exponents of a unit for all layers, if they differ by one at most; else each its own."""
    if len({len(own) for own in exponents}) > 1:
        return exponents
    every = torch.stack(exponents)
    largest = every.amax(0)
    close = largest - every.amin(0) <= 1
    return [torch.where(close, largest, own) for own in exponents]


def times_power(matrix: Tensor, exponents: Tensor | int) -> Tensor:
    """Return matrix[:, r] 2^exponents[r], exactly: each power is written by its bits, in steps that a float holds."""
    exponents = torch.as_tensor(exponents, device=matrix.device)
    while True:
        step = exponents.clamp(-1000, 1000)
        matrix = matrix * ((step + 1023) << 52).view(torch.float64)
        exponents = exponents - step
        if not bool(exponents.any()):
            return matrix
