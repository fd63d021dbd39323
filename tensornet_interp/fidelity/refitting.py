"""Kept components with new coefficients: what these components can do at best."""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from tensornet_interp.balance import rescale, times_power
from tensornet_interp.checks import check_int, check_labels, check_size, check_tensor
from tensornet_interp.spectral import SpectralResult


def keep_first(ranking: Tensor, count: int) -> Tensor:
    """Return a mask (block, rank) of the first `count` components of every block in a ranking.

    ranking: (block, rank), as `component_ranking` returns it; `refit` and `SpectralResult.keep` take the mask.
    """
    count = check_int("count", count, 1, ranking.shape[1], "components per block")
    return torch.zeros_like(ranking, dtype=torch.bool).scatter_(1, ranking[:, :count], True)


def refit(
    result: SpectralResult, kept: Tensor, x: Tensor, targets: Tensor, *, max_iterations: int = 300
) -> SpectralResult:
    """Refit the coefficients of the kept components to targets; eigenvectors and outputs stay as they are.

    y[out] = sum_block outputs[out, block] sum_kept c[block, rank] (v . x)^2

    kept: mask (block, rank) of the components to use. x: (batch, in), training inputs; refitting on the samples on
    which the result is then measured would be optimistic. targets: either float (batch, out), outputs to approximate
    by least squares (closed form; normal equations, so combinations below 1e-7 of the largest stay at 0), or int64
    (batch,), labels for softmax regression (L-BFGS that starts from the eigenvalues; convex; max_iterations stops it
    if the samples can be separated). Work in float64.
    The result holds only the kept components, with c as eigenvalues, largest magnitude first. No intercept is fitted,
    so the result is a bilinear map. Its relative error is None, because it does not approximate the tensor.
    Raises ValueError if no component is kept or sizes differ.
    Cost: batch * blocks * k^2 (least squares; blocks^2 if output vectors are not orthogonal), or
    batch * blocks * k per iteration (softmax).
    """
    check_tensor("x", x, ("batch", "in"))
    if not isinstance(targets, Tensor):
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
        max_iterations = check_int("max_iterations", max_iterations, 1)
        found, how = _softmax(features, outputs, targets, start, max_iterations), "softmax regression"
    values = times_power(found / scale, -2 * exponent).to(result.eigenvalues.dtype)
    order = values.abs().argsort(dim=1, descending=True, stable=True)
    report = replace(
        result.report,
        method=f"{result.report.method}, {int(kept.sum())} eigenpairs refitted by {how}",
        relative_error=None,
    )
    ordered = small.eigenvectors.gather(2, order[:, None, :].expand_as(small.eigenvectors))
    return replace(result, report=report, eigenvalues=values.gather(1, order), eigenvectors=ordered)


def _only(result: SpectralResult, kept: Tensor) -> tuple[SpectralResult, Tensor]:
    """The kept components at the front of every block, and a mask of the filled places: blocks may keep fewer."""
    masked = result.keep(kept)  # checks the mask
    if not bool(kept.any()):
        raise ValueError("kept has no component: nothing to fit")
    order = kept.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, : int(kept.sum(1).max())]
    index = order[:, None, :].expand(-1, result.eigenvectors.shape[1], -1)
    values, vectors = masked.eigenvalues.gather(1, order), result.eigenvectors.gather(2, index)
    return replace(masked, eigenvalues=values, eigenvectors=vectors), kept.gather(1, order)


def _least_squares(features: Tensor, outputs: Tensor, targets: Tensor) -> Tensor:
    """argmin_c |targets[n, out] - sum_block outputs[out, block] sum_rank c[block, rank] features[block, n, rank]|^2."""
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
    """argmin_c of the cross-entropy of outputs @ sum_rank c[block, rank] features[block, n, rank]."""
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
