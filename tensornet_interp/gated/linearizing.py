"""The best bilinear layer in the place of a gated one."""

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from tensornet_interp.checks import check_bool, check_kind, check_size
from tensornet_interp.float64 import needs_float64
from tensornet_interp.gated.fitting import GateFit, gate_fit, gaussian, rows
from tensornet_interp.gated.layer import GatedLayer
from tensornet_interp.gated.lines import GaussianUnits
from tensornet_interp.layer import BilinearLayer
from tensornet_interp.lifting import lift
from tensornet_interp.moments import Moments, cross_gram, hidden_means
from tensornet_interp.numerics import nonzero, without_autocast

_PIVOT = 1e-9  # of a Gram matrix with ones on its diagonal: below it, a column is nearly a combination of others
_LISTED = 12  # silent units in a message


@needs_float64
@without_autocast
@torch.no_grad()
def linearize(
    gated: GatedLayer,
    inputs: Tensor | Iterable[Tensor] | Moments,
    *,
    weighted: bool = True,
    refit: bool = True,
    linear: bool = True,
    held_out: Tensor | None = None,
) -> BilinearLayer:
    """Return the best bilinear layer for a gated layer on inputs: lifted, and with the same hidden units.

    y = down' ((offset + slope u) * v) + L x + c,  u = left x + left_bias, v = right x + right_bias

    These are two steps of least squares. `gate_fit` gives every gate its line; then down', L and c are found together,
    as the minimum of E|y_gated - y|^2. The units x_j * 1 of L stand after those of the layer and of the constant.
    inputs: (batch, in), the vectors that the layer reads, after the norm; a stream of batches that can be read twice,
    such as a list or a data loader; or `Moments`: then both steps are exact for Gaussian inputs.
    weighted: whether the lines are weighted by v^2. refit: if False, down and bias stay as they are, and L = 0.
    linear: if False, L = 0. held_out: (batch, in), other inputs; the history states the relative error on them, which
    `linearization_error` returns. The name, basis and names of the layer are kept.

    A UserWarning names hidden units whose product is 0 on all inputs. Works in float64; the result has the dtype of the
    layer. Raises ValueError if there are fewer inputs than coefficients per output, for a stream that can be read only
    once, if sizes or devices differ, and for entries that are not finite.
    Cost: n = rank + 1 coefficients per output, or n = rank + 1 + in with a linear part. 2 * batch * n * (n + out)
    flops and n^3 / 3 for the solution (about 10 n^3 if units depend on each other linearly); memory: three times n^2
    numbers, and 10 * batch * rank for a batch, so give many inputs as a list of batches.

    Example:
    >>> layer = GatedLayer.from_weights(left=torch.eye(2), right=torch.eye(2), down=torch.eye(2), gate="silu")
    >>> linearize(layer, Moments.standard(2)).history
    ('linearized: lines through the gate silu, for Gaussian moments', 'down refitted, with a linear part')
    """
    check_kind("gated", gated, GatedLayer)
    check_bool("refit", refit)
    check_bool("linear", linear)
    if refit and isinstance(inputs, Iterator):
        raise ValueError("inputs is a stream that can be read only once, and refit=True reads it twice; pass a list")
    wide = gated.to(dtype=torch.float64)
    if held_out is not None:
        for _ in rows("held_out", wide, held_out):  # checked before the work
            pass
    fit = gate_fit(wide, inputs, weighted=weighted)
    if fit.silent:
        shown = ", ".join(map(str, fit.silent[:_LISTED])) + ", ..." * (len(fit.silent) > _LISTED)
        warnings.warn(f"{len(fit.silent)} hidden units are 0 on all inputs: {shown}", stacklevel=4)
    found = _with_lines(wide, fit, linear=refit and linear)
    if refit:
        sums = _gaussian_sums(wide, found, inputs) if isinstance(inputs, Moments) else _sums(wide, found, inputs)
        down = torch.cat([found.down[:1], _solved(*sums)])
        note = "down refitted, with a linear part" if linear else "down refitted"
        found = replace(found, down=down, history=(*found.history, note))
    found = found.to(dtype=gated.down.dtype)
    if held_out is not None:
        error = linearization_error(wide, found, held_out)
        found = replace(found, history=(*found.history, f"relative error {error:.4g} on {len(held_out)} other inputs"))
    return found


@needs_float64
@without_autocast
@torch.no_grad()
def linearization_error(gated: GatedLayer, layer: BilinearLayer, inputs: Tensor | Iterable[Tensor]) -> float:
    """Return sqrt(sum |y_gated - y|^2 / sum |y_gated|^2) over inputs (batch, in), or over a stream of batches.

    Works in float64. Raises ValueError if the sizes of the layers differ, if there are no inputs, and if all outputs of
    the gated layer are zero. Cost: that of two calls.
    """
    check_kind("gated", gated, GatedLayer)
    plain = check_kind("layer", layer, BilinearLayer).drop_constant()
    check_size("in", gated=len(gated.left), layer=len(plain.left) - plain.constant_in)
    check_size("out", gated=len(gated.down), layer=len(plain.down))
    wide, other = gated.to(dtype=torch.float64), plain.to(dtype=torch.float64)
    off = total = 0.0
    for x in rows("inputs", wide, inputs):
        y = wide(x)
        off, total = off + float((other(x) - y).square().sum()), total + float(y.square().sum())
    if not total > 0:
        raise ValueError("inputs must give outputs that are not all zero, to have a relative error")
    return (off / total) ** 0.5


def _with_lines(wide: GatedLayer, fit: GateFit, *, linear: bool) -> BilinearLayer:
    """Return the lifted layer of the lines in float64; with `linear`, it has units for a linear part, which is zero."""
    gate = wide.gate if isinstance(wide.gate, str) else getattr(wide.gate, "__name__", "of a function")
    source = "Gaussian moments" if fit.count is None else f"{fit.count} inputs"
    plain = BilinearLayer(
        down=wide.down,
        left=wide.left * fit.slopes,
        right=wide.right,
        name=wide.name,
        history=(*wide.history, f"linearized: lines through the gate {gate}, for {source}"),
        basis=wide.basis,
        names=wide.names,
    )
    shift = 0.0 if wide.left_bias is None else fit.slopes * wide.left_bias
    part = wide.down.new_zeros(len(wide.down), len(wide.left)) if linear else None
    lifted = lift(plain, left_bias=fit.offsets + shift, right_bias=wide.right_bias, bias=wide.bias, linear=part)
    return replace(lifted, history=plain.history)


def _sums(wide: GatedLayer, layer: BilinearLayer, inputs: Tensor | Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Return sum h h^T (unit, unit) and sum y h^T (out, unit), over the hidden units h of the lifted layer."""
    count = layer.rank
    gram, cross = layer.down.new_zeros(count, count), layer.down.new_zeros(len(wide.down), count)
    samples = 0
    for x in rows("inputs", wide, inputs):
        lifted = layer.lift_input("inputs", x)
        hidden = (lifted @ layer.left) * (lifted @ layer.right)
        gram += hidden.T @ hidden
        cross += wide(x).T @ hidden
        samples += len(x)
    if samples < count:
        raise ValueError(
            f"inputs has {samples} vectors, but {count} coefficients per output are fitted; give more inputs (many "
            "times as many, for a layer that holds on others), or linear=False, or refit=False, or Moments"
        )
    return gram, cross


def _gaussian_sums(wide: GatedLayer, layer: BilinearLayer, moments: Moments) -> tuple[Tensor, Tensor]:
    """Return E[h h^T] and E[y h^T] for Gaussian inputs."""
    lifted = gaussian(wide, moments).lifted()
    means = hidden_means(layer, lifted.mean, lifted.second_moment)
    gram = 2 * cross_gram(layer, layer, lifted.second_moment) + torch.outer(means.expected, means.expected)
    gram -= 2 * torch.outer(means.at_mean, means.at_mean)
    cross = wide.down @ GaussianUnits(wide, moments).cross(layer.left, layer.right)
    return gram, cross if wide.bias is None else cross + torch.outer(wide.bias, means.expected)


def _solved(gram: Tensor, cross: Tensor) -> Tensor:
    """Return X (out, unit) with X gram = cross; what depends on other units gets the solution of least norm."""
    scale = nonzero(gram.diagonal()).sqrt()
    scaled, right = gram / scale / scale[:, None], cross / scale
    factor, failed = torch.linalg.cholesky_ex(scaled)
    if not int(failed) and float(factor.diagonal().min()) ** 2 > _PIVOT:
        return torch.cholesky_solve(right.T, factor).T / scale
    return right @ torch.linalg.pinv(scaled, hermitian=True, rtol=1e-15 * len(scaled)) / scale
