"""Kept components with coefficients of their own: what they can do, apart from what the cut left them with."""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from tensornet_interp.checks import check_int, check_size, check_tensor
from tensornet_interp.results import SpectralResult


def keep_first(ranking: Tensor, count: int) -> Tensor:
    """mask[block, rank], true for the first `count` components of every row of a ranking (see `component_ranking`)."""
    count = check_int("count", count, 1, ranking.shape[1], "components a block")
    return torch.zeros_like(ranking, dtype=torch.bool).scatter_(1, ranking[:, :count], True)


def refit(
    result: SpectralResult, kept: Tensor, x: Tensor, targets: Tensor, *, max_iterations: int = 300
) -> SpectralResult:
    """outputs[out, block] sum_kept c[block, rank] (v . x)^2 with the coefficients c that come closest to targets.

    kept: mask (block, rank) of the components to use. x (batch, in): training inputs; on the samples on which the
    result is measured it would be optimistic. targets, float (batch, out): outputs to come close to, by least squares
    (closed form; normal equations, so that combinations below 1e-7 of the largest are left at 0); int64 (batch,):
    labels, by softmax regression (L-BFGS from the eigenvalues as they are; convex, stopped by max_iterations where the
    samples can be separated). Work in float64.
    The result holds the kept components only, with c as eigenvalues, largest magnitude first; no intercept is fitted,
    so it stays a bilinear map. Its relative error is not measured: it is not meant to be the tensor.
    Cost: batch * blocks * k^2 (least squares; blocks^2 where output vectors are not orthogonal), batch * blocks * k
    an iteration (softmax).
    """
    check_tensor("x", x, ("batch", "in"))
    if not isinstance(targets, Tensor):
        raise TypeError(f"targets must be a tensor of outputs or of int64 labels, got {type(targets).__name__}")
    outputs = result.drop_constant().outputs.double()  # (out, block)
    check_size("batch", x=len(x), targets=len(targets))
    small, used = _only(result, kept)
    squares = (result.lift_input("x", x).double() @ small.eigenvectors.double()).square()  # (block, batch, rank)
    scale = squares.square().mean(1).sqrt()  # every feature of size 1: the solvers see no units
    scale = torch.where(used & (scale > 0), scale, torch.inf)
    features = squares / scale[:, None, :]
    if targets.is_floating_point():
        check_tensor("targets", targets, ("batch", "out"))
        check_size("out", result=len(outputs), targets=targets.shape[1])
        found, how = _least_squares(features, outputs, targets.double()), "least squares of outputs"
    else:
        if targets.dtype != torch.int64 or targets.ndim != 1:
            raise TypeError("targets must be outputs (batch, out) or a tensor (batch,) of int64 class numbers")
        low, high = int(targets.min()), int(targets.max())
        if low < 0 or high >= len(outputs):
            raise ValueError(f"targets go from {low} to {high} but there are {len(outputs)} outputs")
        # a component that no sample activates has an infinite scale: its coefficient is not determined, and left at 0
        start = torch.where(scale.isfinite(), small.eigenvalues.double() * scale, 0.0)
        max_iterations = check_int("max_iterations", max_iterations, 1)
        found, how = _softmax(features, outputs, targets, start, max_iterations), "softmax regression"
    values = (found / scale).to(result.eigenvalues.dtype)
    order = values.abs().argsort(dim=1, descending=True, stable=True)
    report = replace(
        result.report,
        method=f"{result.report.method}, {int(kept.sum())} eigenpairs refitted by {how}",
        relative_error=None,
    )
    ordered = small.eigenvectors.gather(2, order[:, None, :].expand_as(small.eigenvectors))
    return replace(result, report=report, eigenvalues=values.gather(1, order), eigenvectors=ordered)


def _only(result: SpectralResult, kept: Tensor) -> tuple[SpectralResult, Tensor]:
    """The kept components, moved to the front of every block, and which places are filled: blocks may have fewer."""
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
