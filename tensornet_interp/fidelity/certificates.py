"""Prove that a truncated layer makes the same decision as the full layer, or prove the full layer's decision itself.

The decision for an input is the output with the largest value.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tensornet_interp.balance import balance, rescale
from tensornet_interp.checks import check_int, check_kind, check_list, check_tensor
from tensornet_interp.decompositions.eigen import eigenpairs
from tensornet_interp.float64 import needs_float64
from tensornet_interp.layer import BilinearLayer
from tensornet_interp.metric import Metric
from tensornet_interp.numerics import nonzero, unit_columns
from tensornet_interp.spectral import SpectralResult

_BATCH = 512  # samples whose component activations are in memory at once
_ROUNDING = 1e-12  # rounding of float64 sums, as a share of the sum of magnitudes


@needs_float64
def certificate(result: SpectralResult, rank: int, x: Tensor) -> Tensor:
    """Return True for each input, (batch,), if the first `rank` eigenpairs per block prove the full layer's decision.

    rho = |x|^2 - |V^T x|^2, where V are the kept eigenvectors of a block

    The decision is the largest output. The cut part of a block adds at least min(0, lowest cut eigenvalue) * rho and at
    most max(0, highest cut eigenvalue) * rho. A decision is proven if its margin to every other output exceeds the most
    that the cut parts can add to the difference. Two things are subtracted from the margin: the error bound of `result`
    and what its eigenvectors lack of being orthonormal. So if rounding dominates a layer, nothing is proven. |x|^2
    includes the 1 of a lifted input. In a metric, filters are not orthonormal but their products in the metric are, so
    all of this is computed in whitened coordinates: rho = |F+ x|^2 - |W^T x|^2. The result says nothing about an input
    with a part on which the metric has no weight.
    x: (batch, in). Raises ValueError if `result` lacks eigenpairs or has fewer than 2 outputs, or if an input is off
    the support of the metric of the result; the message names its row.
    Cost: block * in * (result's rank)^2 + batch * block * (in * rank + out); in a metric also batch * in * (its rank).
    """
    rank = check_int("rank", rank, 1, check_kind("result", result, SpectralResult).rank)
    rounded = 2 * torch.finfo(result.eigenvalues.dtype).eps  # eigenvalues and eigenvectors
    report, metric = result.report, result.metric
    found, bound = report.relative_error, report.relative_error_bound
    if metric is not None:
        found, bound = report.metric_error, report.metric_error_bound
    if found is None or found > max(1e-3, rounded) or report.relative_error is None:
        raise ValueError(f"a certificate needs the whole spectrum (rank=None); relative error {found}")
    check_tensor("x", x, ("batch", "in"))
    # a decision depends on no scale, and squares must neither over- nor underflow
    outputs, _ = rescale(result.drop_constant().outputs)  # (out, block)
    eigenvalues, _ = rescale(result.eigenvalues)
    error = bound or found
    filters = result.eigenvectors.double()  # (block, in, rank)
    vectors = filters if metric is None else metric.full().T @ filters  # (block, whitened in, rank)
    identity = torch.eye(vectors.shape[2], dtype=vectors.dtype, device=vectors.device)
    error += float(torch.linalg.matrix_norm(vectors.mT @ vectors - identity).max())  # |V^T x|^2 <= (1 + this) |x|^2
    if len(outputs) < 2:
        raise ValueError(f"a decision needs at least 2 outputs, the result has {len(outputs)}")
    largest = torch.linalg.matrix_norm(outputs, 2)
    scale = largest * eigenvalues.norm()
    # the norm of the layer over all inputs: of the result, and of what the result is off
    gram = (filters.mT @ filters).square()
    reach = largest * torch.einsum("brs,br,bs->", gram, eigenvalues, eigenvalues).clamp_min(0).sqrt()
    reach = reach / max(1 - report.relative_error, torch.finfo(reach.dtype).tiny)
    low, high = _cut_range(eigenvalues[:, rank:])  # (block,)
    proven = []
    for first in range(0, len(x), _BATCH):
        wide = result.lift_input("x", x[first : first + _BATCH]).double()
        seen = _Seen(wide, *wide.new_zeros(2, len(wide))) if metric is None else _see(metric, wide, first)
        columns, lengths = unit_columns(seen.coordinates.T)
        parts = (seen.noise, seen.distance, unit_columns(wide.T)[1])
        z, noise, distance, size = columns.T, *(part / nonzero(lengths) for part in parts)
        projected = torch.einsum("ni,bir->nbr", z, vectors[:, :, :rank]).square()
        squared = z.square().sum(-1)
        rho = (squared[:, None] - projected.sum(-1)).clamp_min(0)  # (batch, block)
        logits = (eigenvalues[:, :rank] * projected).sum(-1) @ outputs.T
        winner = logits.argmax(-1)
        gap = outputs[winner][:, None, :] - outputs  # (batch, out, block)
        worst = gap.clamp_min(0) @ (low * rho)[..., None] + gap.clamp_max(0) @ (high * rho)[..., None]
        margin = logits.gather(-1, winner[:, None]) - logits + worst[..., 0]
        margin.scatter_(-1, winner[:, None], torch.inf)
        slack = 2 * scale * (error + _ROUNDING + noise * (2 + noise)) * squared
        slack = slack + 2 * reach * distance * (2 * size + distance)
        proven.append(margin.amin(-1) > slack)
    return torch.cat(proven)


@needs_float64
def difference_certificate(layer: BilinearLayer, counts: Sequence[int], x: Tensor) -> Tensor:
    """Return the layer's decision if k eigenpairs of every class difference prove it, else -1, as (count, batch) int64.

    rho = |x|^2 - |V_k^T x|^2, where V_k are the first k eigenvectors of M_c - M_c'

    Each output is a class, with interaction matrix M_c. Every difference M_c - M_c' is decomposed and cut to its k
    eigenpairs of largest magnitude. The cut part adds at least min(0, lowest cut eigenvalue) * rho and at most max(0,
    highest cut eigenvalue) * rho to output[c] - output[c']. If these bounds keep all differences of class c above 0, c
    is proven to be the layer's largest output. This proves more decisions than `certificate` with as many eigenpairs
    per class. But the cut differences are no classifier: they may contradict each other, because no class outputs with
    these differences need exist.
    x: (batch, in). The result has one row per k in `counts`. |x|^2 includes the 1 of a lifted input. The computation
    uses float64. Raises TypeError if `layer` is not a `BilinearLayer`, because the whole spectrum is needed (use
    `to_layer()` of a result); ValueError for fewer than 2 outputs.
    Cost: out^2 / 2 eigendecompositions of size min(in, 2 * hidden), one in memory at a time, and batch * in * k for
    each.
    """
    check_kind("layer", layer, BilinearLayer, "; a result has to_layer()")
    check_tensor("x", x, ("batch", "in"))
    layer = balance(layer.drop_constant()).layers[0]  # a decision depends on no scale
    n_out, n_in, _ = layer.shape
    if n_out < 2:
        raise ValueError(f"a decision needs at least 2 outputs, the layer has {n_out}")
    full = min(n_in, 2 * layer.rank)
    check_list("counts", counts, "give the numbers of eigenpairs to keep")
    counts = [check_int("counts", k, 1, full, "eigenpairs of a difference") for k in counts]
    z = unit_columns(layer.lift_input("x", x.double()).T)[0].T
    # rounding is a share of the hidden units, which may be far larger than the difference that they leave
    sizes = layer.down.abs() @ (layer.left.norm(dim=0) * layer.right.norm(dim=0))  # (out,)
    squared = z.square().sum(-1)  # (batch,)
    least = z.new_full((len(counts), len(x), n_out), torch.inf)  # lower bound of output[c] - output[c'] over all c'
    for a in range(n_out):
        for b in range(a + 1, n_out):
            direction = z.new_zeros(1, n_out)
            direction[0, a], direction[0, b] = 1, -1
            values, vectors = (part[0] for part in eigenpairs(layer, direction, full))  # (full,), (in, full)
            squares = (z @ vectors[:, : max(counts)]).square()  # (batch, k)
            projected = squares.cumsum(-1)  # |V_k^T x|^2
            partial = (squares * values[: max(counts)]).cumsum(-1)
            slack = _ROUNDING * (sizes[a] + sizes[b]) * squared
            for row, k in enumerate(counts):
                low, high = _cut_range(values[None, k:])
                rho = (squared - projected[:, k - 1]).clamp_min(0)
                at_least = partial[:, k - 1] + low * rho - slack
                at_most = partial[:, k - 1] + high * rho + slack
                least[row, :, a] = torch.minimum(least[row, :, a], at_least)
                least[row, :, b] = torch.minimum(least[row, :, b], -at_most)
    best, winner = least.max(-1)
    return torch.where(best > 0, winner, torch.full_like(winner, -1))


class _Seen(NamedTuple):
    """What a metric sees of inputs: coordinates (batch, in), bounds on their rounding, and distances to the support."""

    coordinates: Tensor
    noise: Tensor  # (batch,)
    distance: Tensor  # (batch,)


def _see(metric: Metric, x: Tensor, first: int) -> _Seen:
    """Return what a metric sees of inputs (batch, in), constant included; raise ValueError for inputs off its support.

    first: the number of the first input, for the error.
    """
    plain = x if metric.center is None else x[:, 1:]
    z, distance = metric.coordinates(plain)
    sizes = plain.abs() if metric.center is None else plain.abs() + metric.center.abs()
    reached = sizes @ metric.inverse()[0].abs().T  # |F+| (|x| + |center|)
    share = 4 * sum(metric.root.shape) * torch.finfo(torch.float64).eps
    allowed = share * torch.linalg.vector_norm(sizes + reached @ metric.root.abs().T, dim=1)
    off = distance > allowed
    if bool(off.any()):
        row = int(off.nonzero()[0])
        raise ValueError(
            f"x[{first + row}] is off the support of the metric (rank {metric.rank} of {len(metric.root)}) by a part of"
            f" length {float(distance[row]):.3g}, of which the result says nothing; decompose with a ridge above 0"
        )
    return _Seen(z, share * torch.linalg.vector_norm(reached, dim=1), distance)


def _cut_range(cut: Tensor) -> tuple[Tensor, Tensor]:
    """Return the least and the most that eigenvalues (block, cut) can add to x^T M x, divided by |x|^2.

    Both have shape (block,); the first is at most 0 and the second at least 0.
    """
    padded = torch.cat([cut, cut.new_zeros(len(cut), 1)], 1)
    return padded.amin(1), padded.amax(1)
