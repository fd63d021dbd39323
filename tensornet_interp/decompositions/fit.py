"""Least-squares fits of sums of rank-one terms to a layer; they use only the factors.

The loss is ||B - B'||^2 between symmetrized tensors, where B is the layer in compressed coordinates with unit norm. The
loss is computed from inner products of hidden units; no array of size out * in^2 is made. `gauss_newton` minimizes the
plain loss by damped Gauss-Newton steps (Levenberg-Marquardt). Preconditioned conjugate gradients solve the linear
system of each step, as in Sorber, Van Barel and De Lathauwer, SIAM J. Optim. 23(2), 2013. `descend` minimizes a loss
with priors by Adam.
"""

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from tensornet_interp.decompositions.parametrize import Curvature, Model
from tensornet_interp.layer import BilinearLayer

_EXACT = 1e-15  # a relative squared error that is rounding of the expansion
_INNER = 25  # conjugate-gradient steps per iteration


class Fit(NamedTuple):
    """A fit holds the fitted parameters, the minimized loss, the squared error per iteration and the stop reason.

    The minimized loss includes priors; the relative squared error does not.
    """

    parameters: tuple[Tensor, ...]
    value: float
    losses: list[float]
    stop_reason: str


def overlaps(target: BilinearLayer, components: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the inner products <B, B'> and <B', B'> of symmetrized tensors.

    B is the target, which has unit norm, and B' is the sum of the components.
    The squared error is 1 - 2 <B, B'> + <B', B'>, with a rounding error of 1e-15. Both values are differentiable.
    """
    c, a, b = components
    wa, va, wb, vb = target.left.T @ a, target.right.T @ a, target.left.T @ b, target.right.T @ b
    cross = ((target.down.T @ c) * (wa * vb + va * wb)).sum() / 2
    ab = a.T @ b
    return cross, ((c.T @ c) * ((a.T @ a) * (b.T @ b) + ab * ab.T)).sum() / 2


def gradient(
    target: BilinearLayer, components: tuple[Tensor, Tensor, Tensor]
) -> tuple[float, tuple[Tensor, Tensor, Tensor]]:
    """Return the squared error of the components, and half of its gradient with respect to each of their factors.

    Cost in flops: 2 * hidden * rank * (8 * in + 2 * out), where hidden is the number of hidden units of the target.
    """
    c, a, b = components
    rank = a.shape[1]
    both = torch.cat([a, b], 1)  # (in, 2 rank)
    w, v = target.left.T @ both, target.right.T @ both  # (hidden, 2 rank)
    aa, bb, ab, cc = a.T @ a, b.T @ b, a.T @ b, c.T @ c
    hidden = (w[:, :rank] * v[:, rank:] + v[:, :rank] * w[:, rank:]) / 2
    gram = (aa * bb + ab * ab.T) / 2
    outputs = (target.down.T @ c).repeat(1, 2)
    to_c = target.down @ hidden
    to_both = (target.left @ (outputs * v.roll(rank, 1)) + target.right @ (outputs * w.roll(rank, 1))) / 2
    loss = 1 - 2 * float((c * to_c).sum()) + float((cc * gram).sum())
    return loss, (
        c @ gram - to_c,
        (a @ (cc * bb) + b @ (cc * ab)) / 2 - to_both[:, :rank],
        (b @ (cc * aa) + a @ (cc * ab.T)) / 2 - to_both[:, rank:],
    )


@torch.no_grad()
def gauss_newton(
    target: BilinearLayer,
    model: Model,
    parameters: tuple[Tensor, ...],
    *,
    max_iterations: int,
    tolerance: float,
    report: Callable[[float], None] = lambda loss: None,
) -> Fit:
    """Minimize the squared error, starting from the given parameters; no iteration increases the error.

    The fit stops if the gradient is zero, if no step lowers the loss, if the loss is below its rounding of 1e-15, if
    ten iterations together lower the loss by less than 10 * tolerance * loss, or after max_iterations. Cost of each
    tried step: one call of `gradient`, and at most 25 products with `Curvature`.
    """
    parameters = model.balance(parameters)
    loss, wrt = gradient(target, model.components(parameters))
    losses = [loss]
    damping = 1e-3
    for iteration in range(max_iterations):
        if loss < _EXACT:
            return Fit(parameters, loss, losses, "converged: the error is rounding")
        slope = model.gradient(parameters, wrt)
        if not any(bool(s.any()) for s in slope):
            return Fit(parameters, loss, losses, "converged: the gradient is zero")
        curvature = model.curvature(parameters)
        while True:
            step, predicted = _solve(curvature, slope, damping, min(10 + iteration, _INNER))  # roughly at first
            trial = model.balance(tuple(p + s for p, s in zip(parameters, step, strict=True)))
            trial_loss, trial_wrt = gradient(target, model.components(trial))
            if trial_loss < loss:
                break
            damping *= 4
            if damping > 1e6:
                return Fit(parameters, loss, losses, "converged: no step lowers the loss")
        gain = (loss - trial_loss) / predicted
        damping = max(1e-9, damping / 3 if gain > 0.75 else damping if gain > 0.25 else 2 * damping)
        parameters, loss, wrt = trial, trial_loss, trial_wrt
        losses.append(loss)
        report(loss)
        if len(losses) > 10 and losses[-11] - loss < 10 * tolerance * loss:
            return Fit(parameters, loss, losses, "converged: the gain is below the tolerance")
    reason = "converged: the error is rounding" if loss < _EXACT else f"not converged in {max_iterations} iterations"
    return Fit(parameters, loss, losses, reason)


def descend(
    loss: Callable[[tuple[Tensor, ...]], tuple[Tensor, Tensor]],
    parameters: tuple[Tensor, ...],
    *,
    max_iterations: int,
    report: Callable[[float], None] = lambda loss: None,
) -> Fit:
    """Minimize a loss by Adam with a cosine schedule of the learning rate; return the best parameters seen.

    loss(parameters) returns two numbers: the loss to minimize, and the relative squared error, which is only recorded.
    The first learning rate of a parameter is a fifth of the root mean square of its entries. Raises ValueError if the
    loss is not finite at the start.
    """
    free = [p.detach().clone().requires_grad_() for p in parameters]
    optimizer = torch.optim.Adam(
        [{"params": [p], "lr": 0.2 * float(p.detach().square().mean().sqrt()) or 0.1} for p in free]
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max_iterations)
    losses: list[float] = []
    best, kept = math.inf, tuple(p.detach().clone() for p in free)
    for step in range(max_iterations + 1):
        with torch.enable_grad():
            total, error = loss(tuple(free))
        losses.append(float(error.detach()))
        if float(total.detach()) < best:
            best, kept = float(total.detach()), tuple(p.detach().clone() for p in free)
        if step == max_iterations or not bool(torch.isfinite(total)):
            break
        report(losses[-1])
        gradients = torch.autograd.grad(total, free)
        for p, g in zip(free, gradients, strict=True):
            p.grad = g
        optimizer.step()
        schedule.step()
    if best == math.inf:
        raise ValueError("the loss with these priors is not finite at the start: check the penalties")
    end = "" if math.isfinite(float(total.detach())) else ", after which the loss with these priors was not finite"
    return Fit(kept, best, losses, f"{len(losses) - 1} steps of Adam{end}")


def _solve(
    curvature: Curvature, slope: tuple[Tensor, ...], damping: float, steps: int
) -> tuple[tuple[Tensor, ...], float]:
    """Return the step x with (J^T J + damping) x = -slope, and the decrease of the loss that is predicted for it.

    At most `steps` conjugate-gradient steps solve the system approximately; the diagonal blocks of J^T J are the
    preconditioner. All parameters together form one flat vector.
    """
    inverses = [
        # a share of the largest entry: components that cancel are large, and so is the rounding of their Gram matrix
        torch.cholesky_inverse(
            torch.linalg.cholesky(
                block
                + (damping + 1e-12 * block.diagonal().max())
                * torch.eye(len(block), dtype=block.dtype, device=block.device)
            )
        )
        for block in curvature.blocks
    ]

    def split(vector: Tensor) -> tuple[Tensor, ...]:
        parts = vector.split([s.numel() for s in slope])
        return tuple(part.view(s.shape) for part, s in zip(parts, slope, strict=True))

    def join(parts: Iterable[Tensor]) -> Tensor:
        return torch.cat([part.reshape(-1) for part in parts])

    def product(vector: Tensor) -> Tensor:
        return join(curvature.product(split(vector))).add_(vector, alpha=damping)

    def precondition(vector: Tensor) -> Tensor:
        return join(v @ inverse for v, inverse in zip(split(vector), inverses, strict=True))

    rest = -join(slope)
    target, step = rest.clone(), torch.zeros_like(rest)
    direction = precondition(rest)
    size = first = float(rest @ direction)
    for _ in range(steps):
        image = product(direction)
        curved = float(direction @ image)
        if not curved > 0:  # what is left of the slope is so small that its squares vanish
            break
        length = size / curved
        step.add_(direction, alpha=length)
        rest.sub_(image, alpha=length)
        scaled = precondition(rest)
        size, previous = float(rest @ scaled), size
        if size < 1e-4 * first:
            break
        direction = scaled.add_(direction, alpha=size / previous)
    # the residual of the damped system gives (J^T J) step without one more product
    image = target - rest - damping * step
    predicted = float(2 * (target @ step) - step @ image)
    return split(step), max(predicted, 1e-300)
