"""Refit the coefficients of kept components, to find the best that these components can do."""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from tensornet_interp.balance import rescale, times_power
from tensornet_interp.checks import (
    check_int,
    check_iterations,
    check_kind,
    check_labels,
    check_mask,
    check_size,
    check_tensor,
)
from tensornet_interp.float64 import needs_float64
from tensornet_interp.spectral import SpectralResult


@needs_float64
def keep_first(ranking: Tensor, count: int) -> Tensor:
    """Return a boolean mask (block, rank) of the first `count` components of every block in a ranking.

    ranking: (block, rank), as returned by `component_ranking`. Pass the mask to `refit` or `SpectralResult.keep`.
    """
    whole = isinstance(ranking, Tensor) and ranking.dtype == torch.int64 and ranking.layout == torch.strided
    if not whole or ranking.ndim != 2:
        raise TypeError("ranking must be an int64 tensor (block, rank) of indices, as returned by component_ranking")
    count = check_int("count", count, 1, ranking.shape[1], "components per block in ranking")
    return torch.zeros_like(ranking, dtype=torch.bool).scatter_(1, ranking[:, :count], True)


@needs_float64
def refit(
    result: SpectralResult, kept: Tensor, x: Tensor, targets: Tensor, *, max_iterations: int = 300
) -> SpectralResult:
    """Return the result with the coefficients of the kept components refitted to targets.

    y[out] = sum_block outputs[out, block] sum_kept c[block, rank] (v . x)^2

    Eigenvectors v and outputs do not change. kept: mask (block, rank) of the components to use. x: (batch, in),
    training inputs; measure the result on other samples, or the figures are optimistic.
    targets: one of two kinds.
    - Float (batch, out): outputs, fitted by least squares through the normal equations. Combinations of components
      below about 1e-7 of the largest get coefficient 0.
    - Int64 (batch,): labels, fitted by softmax regression (convex; L-BFGS from the eigenvalues). If the classes can be
      separated, there is no finite optimum and the fit stops at max_iterations.

    The fit runs in float64. The result holds only the kept components, with c as eigenvalues, largest magnitude first.
    No intercept is fitted, so the result is a bilinear map. Its relative error is None, because it does not approximate
    the tensor. Raises ValueError if no component is kept or sizes differ, TypeError for targets of another kind.
    Cost, with k kept components per block: batch * blocks * k^2 for least squares (batch * blocks^2 * k^2 if the output
    vectors are not orthogonal), batch * blocks * k per iteration for softmax regression.
    """
    check_kind("result", result, SpectralResult)
    check_mask("kept", kept, ("block", "rank"), tuple(result.eigenvalues.shape))
    check_tensor("x", x, ("batch", "in"))
    if not isinstance(targets, Tensor) or not targets.ndim:
        raise TypeError(f"targets must be a tensor of outputs or of int64 labels, got {type(targets).__name__}")
    outputs = result.drop_constant().outputs.double()  # (out, block)
    check_size("batch", x=len(x), targets=len(targets))
    small, used = _only(result, kept)
    inputs, exponent = rescale(result.lift_input("x", x))  # fourth powers of what is left neither over- nor underflow
    squares = (inputs @ small.eigenvectors.double()).square()  # (block, batch, rank)
    scale = squares.square().mean(1).sqrt()  # scaled to rms 1, so that the solvers do not depend on units
    scale = torch.where(used & (scale > 0), scale, torch.inf)
    features = squares / scale[:, None, :]
    if targets.is_floating_point():
        check_tensor("targets", targets, ("batch", "out"))
        check_size("out", result=len(outputs), targets=targets.shape[1])
        found, how = _least_squares(features, outputs, targets.double()), "least squares of outputs"
    else:
        check_labels("targets", targets, samples=len(x), classes=len(outputs))
        # a component that no sample activates has an infinite scale: its coefficient is not determined, and left at 0
        start = torch.where(scale.isfinite(), times_power(small.eigenvalues.double() * scale, 2 * exponent), 0.0)
        max_iterations = check_iterations("max_iterations", max_iterations)
        found, how = _softmax(features, outputs, targets, start, max_iterations), "softmax regression"
    values = times_power(found / scale, -2 * exponent).to(result.eigenvalues.dtype)
    order = values.abs().argsort(dim=1, descending=True, stable=True)
    report = result.report.unmeasured(f"{result.report.method}, {int(kept.sum())} eigenpairs refitted by {how}")
    ordered = small.eigenvectors.gather(2, order[:, None, :].expand_as(small.eigenvectors))
    return replace(result, report=report, eigenvalues=values.gather(1, order), eigenvectors=ordered)


def _only(result: SpectralResult, kept: Tensor) -> tuple[SpectralResult, Tensor]:
    """Return the kept components at the front of every block, and a mask of the filled places.

    Blocks that keep fewer components than others are padded.
    """
    masked = result.keep(kept)  # checks the mask
    if not bool(kept.any()):
        raise ValueError("kept has no component, so there is nothing to fit")
    order = kept.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, : int(kept.sum(1).max())]
    index = order[:, None, :].expand(-1, result.eigenvectors.shape[1], -1)
    values, vectors = masked.eigenvalues.gather(1, order), result.eigenvectors.gather(2, index)
    return replace(masked, eigenvalues=values, eigenvectors=vectors), kept.gather(1, order)


def _least_squares(features: Tensor, outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the coefficients c (block, rank) with the smallest squared error.

    argmin_c sum_n |targets[n] - sum_block outputs[:, block] sum_rank c[block, rank] features[block, n, rank]|^2
    """
    blocks, _, rank = features.shape
    overlap = outputs.T @ outputs  # (block, block)
    right = ((targets @ outputs).T[:, None, :] @ features)[:, 0]  # (block, rank)
    if torch.equal(overlap, torch.diag(overlap.diagonal())):  # every block by itself
        gram = features.mT @ features * overlap.diagonal()[:, None, None]
        return (torch.linalg.pinv(gram, hermitian=True, rtol=1e-15 * rank) @ right[..., None])[..., 0]
    flat = features.transpose(0, 1).flatten(1)  # (batch, block * rank)
    gram = (flat.T @ flat) * overlap.repeat_interleave(rank, 0).repeat_interleave(rank, 1)
    solved = torch.linalg.pinv(gram, hermitian=True, rtol=1e-15 * len(gram)) @ right.flatten()
    return solved.reshape(blocks, rank)


def _softmax(features: Tensor, outputs: Tensor, labels: Tensor, start: Tensor, max_iterations: int) -> Tensor:
    """Return the coefficients c (block, rank) with the smallest cross-entropy.

    The logits are outputs @ sum_rank c[block, rank] features[block, n, rank].
    """
    wanted = one_hot(labels, len(outputs))
    c = start.clone()  # (block, rank)
    # torch's, not SciPy's: a second pool of threads beside torch's made it several times slower
    solver = torch.optim.LBFGS(
        [c], max_iter=max_iterations, tolerance_grad=1e-6, history_size=10, line_search_fn="strong_wolfe"
    )

    def closure() -> float:
        logits = (features @ c[..., None])[..., 0].T @ outputs.T  # (batch, out)
        slope = (logits.softmax(-1) - wanted) @ outputs / len(labels)  # (batch, block)
        c.grad = (slope.T[:, None, :] @ features)[:, 0]
        return float(cross_entropy(logits, labels))

    solver.step(closure)
    return c
