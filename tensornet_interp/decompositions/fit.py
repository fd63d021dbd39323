"""Least-squares fits of sums of rank-one terms to a layer; they use only the factors.

The loss is ||B - B'||^2 between symmetrized tensors, where B is the layer in compressed coordinates with unit norm. The
loss is computed from inner products of hidden units; no array of size out * in^2 is made. `gauss_newton` minimizes the
plain loss by damped Gauss-Newton steps (Levenberg-Marquardt) on the inputs; outputs are always those that fit best
(variable projection: Golub and Pereyra, SIAM J. Numer. Anal. 10(2), 1973). Preconditioned conjugate gradients solve the
linear system of each step, as in Sorber, Van Barel and De Lathauwer, SIAM J. Optim. 23(2), 2013. `descend` minimizes a
loss with priors by Adam.
"""

import math
from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from tensornet_interp.decompositions.parametrize import Model
from tensornet_interp.layer import BilinearLayer
from tensornet_interp.numerics import nonzero, without_autocast

_EXACT = 1e-15  # a relative squared error that is rounding of the expansion
_INNER = 40  # conjugate-gradient steps per iteration, fewer if there are few columns
_SHIFT = 1e-12  # of the largest entry: components that cancel are large, and so is the rounding of their Gram matrix


class Fit(NamedTuple):
    """A fit holds the fitted parameters, the minimized loss, the squared error per iteration and the stop reason.

    The minimized loss includes priors; the relative squared error does not. The tangent share is the norm of what the
    next step would remove from the residual, to first order, over the norm of the residual; None if it is not known.
    """

    parameters: tuple[Tensor, ...]
    value: float
    losses: list[float]
    stop_reason: str
    tangent_share: float | None = None


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


class Point:
    """A point holds parameters of a model, the squared error there, and the Gauss-Newton system of the next step.

    outputs (out, m) and inputs (in, n) are rescaled, so that none is much larger than another.
    """

    def __init__(self, target: BilinearLayer, model: Model, outputs: Tensor, inputs: Tensor, *, refit: bool) -> None:
        """Compute the squared error of the parameters; if `refit`, of the outputs that fit these inputs best.

        Cost in flops: 2 * hidden * (2 * in * n + out * m), where hidden is the number of hidden units of the target.
        """
        w, v = target.left.T @ inputs, target.right.T @ inputs  # (hidden, n)
        to_outputs = target.down @ model.merge(w * model.partner(v))
        square = inputs.T @ inputs
        gram = self._gram(model, square)
        if refit:
            # from the given outputs on: dependent terms keep their shares
            change = torch.cholesky_solve((to_outputs - outputs @ gram).T, _root(gram, 0.0)).T
            outputs = outputs + change
        self.loss = float(1 - 2 * (outputs * to_outputs).sum() + ((outputs.T @ outputs) * gram).sum())
        self.target, self.model = target, model
        own, scale = model.scales(outputs, inputs)
        self.outputs, self.inputs = outputs * own, inputs * scale
        self.products = w * scale, v * scale
        self.square = square * scale * scale[:, None]

    @staticmethod
    def _gram(model: Model, square: Tensor) -> Tensor:
        return model.merge_both(square * model.partner_both(square))

    @cached_property
    def slope(self) -> Tensor:
        """Return half of the gradient of the squared error with respect to the inputs, (in, n).

        Cost in flops: 2 * hidden * n * (2 * in + out).
        """
        target, partner, (w, v) = self.target, self.model.partner, self.products
        shares = self.model.spread(target.down.T @ self.outputs)  # (hidden, n)
        slope = torch.addmm(self.inputs @ self.block, target.left, shares * partner(v), alpha=-1)
        return slope.addmm_(target.right, shares * partner(w), alpha=-1)

    @cached_property
    def weights(self) -> Tensor:
        """Return twice the inner products (n, n) of the outputs of the columns."""
        return 2 * self.model.spread_both(self.outputs.T @ self.outputs)

    @cached_property
    def block(self) -> Tensor:
        """Return the block (n, n) of J^T J that a row of the inputs has with itself; it is the same for every row."""
        return self.weights * self.model.partner_both(self.square)

    def step(self, damping: float, steps: int) -> tuple[Tensor, float]:
        """Return the step of the inputs with (J^T J + damping) step = -slope, and the predicted decrease of the loss.

        The outputs are eliminated from J^T J. Outside the span of the inputs, J^T J is `block` alone, which is solved
        exactly. Inside, at most `steps` conjugate-gradient steps in float32 solve the system; `block` + damping is
        their preconditioner. The decrease is that of the undamped quadratic model. Cost of a conjugate-gradient step:
        6 * n^2 * min(in, n) + 6 * min(out, m) * n^2 flops.
        """
        inverse = torch.cholesky_inverse(_root(self.block, damping))
        if self.inputs.shape[1] >= self.inputs.shape[0]:
            inner, predicted = self._solve(self.inputs, -self.slope, inverse, damping, steps)
            return inner, max(predicted, 1e-300)
        # inputs = Q root^T; what rounding takes from the orthonormal Q only makes the step worse
        root = _root(self.square, 0.0)
        inner = -torch.linalg.solve_triangular(root, self.inputs.T @ self.slope, upper=False)  # (n, n): of -slope
        outer = (self.slope.T @ self.slope).addmm_(inner.T, inner, alpha=-1)  # the Gram matrix of what is outside
        predicted = float((outer * torch.addmm(inverse, inverse, inverse, alpha=damping)).sum())
        step, gain = self._solve(root.T, inner, inverse, damping, steps)
        step = torch.linalg.solve_triangular(root.T, step - inner @ inverse, upper=True)
        return torch.addmm(self.inputs @ step, self.slope, inverse, alpha=-1), max(predicted + gain, 1e-300)

    def _solve(self, inputs: Tensor, goal: Tensor, inverse: Tensor, damping: float, steps: int) -> tuple[Tensor, float]:
        """Return the step to a goal, in the coordinates of the inputs, and the decrease of the loss."""
        size = float(torch.linalg.vector_norm(goal))
        if not 0 < size < math.inf:
            return torch.zeros_like(goal), 0.0
        product = self._product(inputs, damping)
        goal, inverse = (goal / size).float(), inverse.float()  # squares of a small slope would vanish in float32
        rest, step = goal.clone(), torch.zeros_like(goal)
        direction = rest @ inverse
        image = rest.clone()  # of the direction, under the inverse of the preconditioner
        left = first = _dot(rest, direction)
        for _ in range(steps):
            whole = product(direction).add_(image)
            curved = _dot(direction, whole)
            if not curved > 0:  # what is left of the slope is rounding
                break
            step.add_(direction, alpha=left / curved)
            rest.sub_(whole, alpha=left / curved)
            scaled = rest @ inverse
            left, before = _dot(rest, scaled), left
            if not left >= 1e-4 * first:
                break
            direction = scaled.add_(direction, alpha=left / before)
            image.mul_(left / before).add_(rest)
        # the residual of the damped system gives (J^T J) step without one more product
        return size * step.to(inputs), size**2 * _dot(step, goal + rest + damping * step)

    def _product(self, inputs: Tensor, damping: float) -> Callable[[Tensor], Tensor]:
        """Return the product with J^T J without `block`, after the outputs are eliminated, in float32."""
        model, inputs, outputs, square = self.model, inputs.float(), self.outputs, self.square
        if len(outputs) > outputs.shape[1]:  # only their inner products matter
            outputs = _root(outputs.T @ outputs, 0.0).T
        of_outputs = torch.cholesky_inverse(_root(self._gram(model, square), damping)).float() * -4
        shares, weights, exchanged = model.spread(outputs).float(), self.weights.float(), model.partner(inputs)
        square, partners = square.float(), model.partner_both(square).float()

        def product(direction: Tensor) -> Tensor:
            inner = direction.T @ inputs  # (n, n)
            change = model.merge(shares @ (inner * partners)) @ of_outputs  # of the outputs
            mixed = model.spread(change).T @ shares
            return model.partner(exchanged @ (weights * inner).addcmul_(mixed, square))

        return product


def _root(matrix: Tensor, damping: float) -> Tensor:
    """Return the Cholesky factor of a positive semidefinite matrix plus damping; it is never singular."""
    shift = damping + _SHIFT * nonzero(matrix.diagonal().amax())
    return torch.linalg.cholesky_ex(matrix + shift * torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)).L


def _dot(first: Tensor, second: Tensor) -> float:
    return float(first.flatten() @ second.flatten())


@torch.no_grad()
@without_autocast
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

    Each iteration steps on the inputs, and fits the outputs to the new inputs. The fit stops if the gradient is zero,
    if no step lowers the loss, if the loss is below its rounding of 1e-15, if ten iterations together lower the loss by
    less than 10 * tolerance * loss, or after max_iterations. Cost of each tried step: one `Point`, its slope, and at
    most 40 conjugate-gradient steps.
    """
    outputs, *sides = parameters
    point = Point(target, model, outputs, torch.cat(sides, 1), refit=False)
    losses = [point.loss]
    best = Point(target, model, point.outputs, point.inputs, refit=True)
    if best.loss < point.loss:
        point = best
    damping = model.damping
    most = min(_INNER, 10 + point.inputs.shape[1] // 2)

    def inner_steps() -> int:
        return min(9 + len(losses), most)  # roughly at first

    def ended(reason: str, damping: float | None = None) -> Fit:
        share = None if damping is None else (point.step(damping, inner_steps())[1] / point.loss) ** 0.5
        found = (point.outputs, *point.inputs.split(sides[0].shape[1], 1))
        return Fit(found, point.loss, losses, reason, share)

    for _ in range(max_iterations):
        if point.loss < _EXACT:
            return ended("converged: the error is rounding")
        if not bool(point.slope.any()):
            return ended("converged: the gradient is zero")
        first = damping
        while True:
            step, predicted = point.step(damping, inner_steps())
            trial = Point(target, model, point.outputs, point.inputs + step, refit=True)
            if trial.loss < point.loss:
                break
            damping *= 4
            if damping > 1e6:
                return ended("converged: no step lowers the loss", first)
        gain = (point.loss - trial.loss) / predicted
        damping = max(1e-9, damping / 3 if gain > 0.75 else damping if gain > 0.25 else 2 * damping)
        point = trial
        losses.append(point.loss)
        report(point.loss)
        if len(losses) > 10 and losses[-11] - point.loss < 10 * tolerance * point.loss:
            return ended("converged: the gain is below the tolerance", damping)
    if point.loss < _EXACT:
        return ended("converged: the error is rounding")
    return ended(f"not converged in {max_iterations} iterations", damping)


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
