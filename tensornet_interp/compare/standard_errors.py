"""Standard errors of components: how far white noise of the size of the residual would move them."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from tensornet_interp.compare.tangents import Tangents, block_tangents, cp_tangents
from tensornet_interp.decompositions.compress import Compressed, unfolding
from tensornet_interp.decompositions.eigen import eigenpairs
from tensornet_interp.layer import BilinearLayer
from tensornet_interp.numerics import eigenvalue_noise
from tensornet_interp.results import CPResult
from tensornet_interp.spectral import SpectralResult

_MOST, _MOST_BLOCKS = 6000, 2000  # unknowns: the side of the largest matrix that is inverted
_CONVERGED, _NOT_FITTED = 0.01, 0.1  # shares of the squared error that one more step would take away
_EXACT = 1e-6  # a relative error below this is rounding, of float64 weights; no noise can be read from it
_SAME = 1e-2  # rounding of eigenvalues in the narrowest dtype
_TAIL = 2.02  # 99 % quantile of the Tracy-Widom law of real symmetric matrices


class Errors(NamedTuple):
    """Standard errors of components, (component,) or (block, rank), the noise they are for, and warnings."""

    values: Tensor
    noise: Tensor
    flags: list[str]


def fitted_errors(result: CPResult | SpectralResult, state: Compressed, noise: float | None, error: float) -> Errors:
    """Return the standard errors of components that were fitted together, and what is wrong with the fit.

    result: in float64. error: its relative error. noise: as in `component_trust`, which says what is refused.
    """
    made, active = _tangents(result, state)
    n_out, size, _ = state.core.shape
    data, free = n_out * size * (size + 1) // 2, made.parameters
    if data <= free:
        raise ValueError(
            f"result has {free} free parameters for the {data} entries of the layer (out={n_out}, d={size} compressed"
            " inputs): no degrees of freedom are left to estimate the noise; take a smaller rank"
        )
    blocks = isinstance(result, SpectralResult) and result.rank > 1
    most = _MOST_BLOCKS if blocks else _MOST
    if made.unknowns > most:
        raise ValueError(
            f"result needs the inverse of a matrix of size {made.unknowns}, more than {most} for"
            f" {'block terms' if blocks else 'rank-one terms'}; take a smaller rank"
        )
    flags = []
    residual = _residual(result, state)
    exact = error <= max(_EXACT, 1e2 * torch.finfo(result.outputs.dtype).eps)
    if not exact:
        share = made.explained(residual) / error**2
        if share > _NOT_FITTED:
            raise ValueError(
                f"result is no least-squares fit of the layer: one more step would take {share:.0%} off its squared"
                " error; fit it longer, without priors, in the coordinates and the metric of the layer"
            )
        if share > _CONVERGED:
            flags.append(f"the fit has not converged: one more step would take {share:.1%} off its squared error")
        flags += _structure(residual, error)
    sigma = error / (data - free) ** 0.5 if noise is None else noise / (float(state.scale) or 1.0)
    errors = torch.full((len(active),), torch.inf, dtype=torch.float64, device=active.device)
    errors[active] = made.standard_error(sigma)
    flags += _collinear(made, active, errors)
    return Errors(errors, torch.full_like(errors, sigma * float(state.scale)), flags)


def _tangents(result: CPResult | SpectralResult, state: Compressed) -> tuple[Tangents, Tensor]:
    """Return the tangents at the components that are not zero, at the scale of the core, and which these are."""
    if isinstance(result, CPResult):
        outputs, left, right = result.outputs * (result.weights / state.scale), result.left, result.right
        active = outputs.any(0) & left.any(0) & right.any(0)
        _check_some(active)
        return cp_tangents(outputs[:, active], state.project(left[:, active]), state.project(right[:, active])), active
    active = result.outputs.any(0) & result.eigenvalues.any(1)
    _check_some(active)
    vectors = state.project(result.eigenvectors[active])
    return block_tangents(result.outputs[:, active], result.eigenvalues[active] / state.scale, vectors), active


def _check_some(active: Tensor) -> None:
    if not active.any():
        raise ValueError("result has no component that is not zero")


def _residual(result: CPResult | SpectralResult, state: Compressed) -> BilinearLayer:
    """Return layer - result in the coordinates and at the scale of the core."""
    made, core = result.to_layer(), state.core
    return BilinearLayer(
        down=torch.cat([core.down, -made.down / state.scale], 1),
        left=torch.cat([core.left, state.project(made.left)], 1),
        right=torch.cat([core.right, state.project(made.right)], 1),
    )


def _structure(residual: BilinearLayer, error: float) -> list[str]:
    """Return a warning if a leading singular value of an unfolding is above those of white noise of this norm.

    The limit is the 99 % quantile of the largest eigenvalue of a Wishart matrix; for the unfolding along the inputs,
    whose symmetric blocks hold every entry twice, its width is doubled.
    """
    n_out, size, _ = residual.shape
    variance = error**2 / (n_out * size * (size + 1) / 2)
    found = []
    for mode, rows, columns, wide in (
        ("out", n_out, size * (size + 1) / 2, 1.0),
        ("in", size, n_out * size, 2.0),
    ):
        edge = math.sqrt(rows) + math.sqrt(columns)
        most = edge**2 + wide * _TAIL * edge * (1 / math.sqrt(rows) + 1 / math.sqrt(columns)) ** (1 / 3)
        leading = float(unfolding(residual, mode)[1][0])
        limit = math.sqrt(variance * most * (1.0 if mode == "out" else 0.5))
        if leading > limit:
            found.append(f"{leading / limit:.1f} times (along '{mode}')")
    if not found:
        return []
    return [f"the residual is not white: its leading singular value is {' and '.join(found)} the limit of white noise"]


def _collinear(made: Tangents, active: Tensor, errors: Tensor) -> list[str]:
    """Return a warning for one output, and for pairs of components whose outputs coincide within their errors."""
    if made.outputs.shape[0] == 1:
        return ["the layer has one output: a sum of terms of one matrix is never unique"]
    cosines = (made.outputs.T @ made.outputs).clamp(-1, 1).triu(1)
    sines = (1 - cosines.square()).sqrt()
    own = errors[active]
    close = (sines < torch.maximum(own[:, None], own)).triu(1)
    places = torch.nonzero(active)[:, 0]
    pairs = [tuple(places[pair].tolist()) for pair in torch.nonzero(close)]
    if not pairs:
        return []
    listed = ", ".join(f"{a} and {b}" for a, b in pairs[:4]) + (", ..." if len(pairs) > 4 else "")
    return [f"the output vectors of components {listed} are collinear within their standard errors"]


def eigenvector_errors(result: SpectralResult, directions: Tensor, state: Compressed, noise: float | None) -> Errors:
    """Return the standard errors of the eigenvectors of every block, (block, rank), from the gaps of its spectrum."""
    size, kept = state.core.shape[1], result.rank
    values = state.scale * eigenpairs(state.core, directions, size)[0]  # (block, d)
    own = result.eigenvalues[:, : min(kept, size)]
    largest = values.abs().amax(1, keepdim=True)
    apart = (own.abs() - values[:, :kept].abs()).abs().amax(1, keepdim=True)
    if bool((apart > _SAME * largest).any()):
        raise ValueError(
            f"result holds no leading eigenvalues of this layer: they differ by {float((apart / largest).max()):.3g} of"
            " the largest; give the layer that was decomposed, in the same basis"
        )
    rest = size - kept
    if noise is None and rest <= 0:
        raise ValueError(
            f"result keeps {min(kept, size)} of {size} eigenpairs, so no residual is left to estimate the noise: take a"
            " smaller rank, or give noise="
        )
    if noise is None:
        sigma = (values[:, kept:].square().sum(1) / (rest * (rest + 1) / 2)).sqrt()
    else:
        sigma = torch.full_like(values[:, 0], noise)
    place = (own[:, :, None] - values[:, None, :]).abs().argmin(2)  # (block, rank): of each in the whole spectrum
    gaps = (values.gather(1, place)[:, :, None] - values[:, None, :]).abs()  # (block, rank, d)
    gaps.scatter_(2, place[:, :, None], torch.inf)
    limit = eigenvalue_noise(values, size).amax(1)[:, None, None]
    spread = torch.where(gaps > limit, gaps, 0.0).pow(-2).sum(2).div(2).sqrt()
    errors = torch.zeros_like(result.eigenvalues)
    errors[:, : own.shape[1]] = torch.where(spread.isinf(), torch.inf, sigma[:, None] * spread)
    return Errors(errors, sigma[:, None].expand_as(errors).clone(), [])
