"""Losses, gradients and curvature on factors are those of the dense tensors, and the solver never goes up."""

from itertools import pairwise

import pytest
import torch
from helpers import assert_close, dense, normal, of_factors

from tensornet_interp.decompositions.compress import compress
from tensornet_interp.decompositions.fit import Point, descend, gauss_newton, overlaps
from tensornet_interp.decompositions.parametrize import Free, Tied
from tensornet_interp.testing import random_layer

SINGLE = 1e-5  # of a linear system that is solved in float32
SIZES = (4, 5, 7)  # (out, in, hidden)
RANK = 3


def target(device="cpu", seed=1):
    return compress(random_layer(*SIZES, seed=seed, device=device), inputs=False).core


def triple(device="cpu", seed=2):
    n_out, n_in, _ = SIZES
    return tuple(normal(n, RANK, seed=seed + i, device=device) for i, n in enumerate((n_out, n_in, n_in)))


def tied(signs, device="cpu"):
    """A model with blocks, and parameters (out, block), (in, rank)."""
    signs = torch.tensor(signs, dtype=torch.float64, device=device)
    return Tied(signs), (
        normal(SIZES[0], len(signs), seed=5, device=device),
        normal(SIZES[1], signs.shape[1], seed=6, device=device),
    )


MODELS = {
    "free": lambda device: (Free(), triple(device)),
    "narrow": lambda device: (Free(), tuple(factor[:, :2] for factor in triple(device))),  # fewer columns than inputs
    "symmetric": lambda device: tied([[1, 0, 0], [0, 1, 0], [0, 0, 1]], device),
    "blocks": lambda device: tied([[1, -1, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0], [0, 0, 0, -1, 1, 1]], device),
}


def tensor_of(components):
    c, a, b = components
    tensor = torch.einsum("or,ir,jr->oij", c, a, b)
    return (tensor + tensor.mT) / 2


def at(core, model, parameters, *, refit=False):
    outputs, *sides = parameters
    return Point(core, model, outputs, torch.cat(sides, 1), refit=refit)


def parameters_of(point, parameters):
    return (point.outputs.clone(), *(side.clone() for side in point.inputs.split(parameters[1].shape[1], 1)))


def test_the_loss_is_that_of_the_dense_tensors(device):
    core, components = target(device), triple(device)
    free = [t.requires_grad_() for t in components]
    loss = (dense(core) - tensor_of(free)).square().sum()
    cross, squared = overlaps(core, tuple(free))
    assert float(1 - 2 * cross.detach() + squared.detach()) == pytest.approx(float(loss.detach()), rel=1e-12)
    assert_close(torch.autograd.grad(1 - 2 * cross + squared, free), torch.autograd.grad(loss, free))


def test_products_are_differentiable_in_the_layer_and_the_components():
    layer = random_layer(*SIZES, seed=1)
    inputs = [t.requires_grad_() for t in (layer.down, layer.left, layer.right, *triple())]
    assert torch.autograd.gradcheck(lambda *w: overlaps(of_factors(*w[:3]), w[3:]), inputs)


@pytest.mark.parametrize("name", MODELS)
def test_points_have_the_dense_loss_gradient_and_step(name, device):
    model, parameters = MODELS[name](device)
    core = target(device)
    point = at(core, model, parameters)
    free = [t.requires_grad_() for t in parameters_of(point, parameters)]
    loss = (dense(core) - tensor_of(model.components(tuple(free)))).square().sum()
    assert point.loss == pytest.approx(float(loss.detach()), rel=1e-12)
    slope = torch.cat(torch.autograd.grad(loss, free[1:]), 1) / 2
    assert_close([point.slope], [slope])

    at_point = tuple(t.detach() for t in free)
    jacobian = torch.autograd.functional.jacobian(lambda *p: tensor_of(model.components(p)), at_point)
    of_outputs = jacobian[0].flatten(0, 2).flatten(1)  # (out in in, parameters)
    of_inputs = torch.cat(jacobian[1:], -1).flatten(0, 2).flatten(1)
    damping = 0.1

    def damped(matrix):
        return matrix + damping * torch.eye(len(matrix)).to(matrix)

    mixed = of_inputs.T @ of_outputs
    system = of_inputs.T @ of_inputs - mixed @ torch.linalg.solve(damped(of_outputs.T @ of_outputs), mixed.T)
    step, gain = point.step(damping, 200)
    rest = (damped(system) @ step.flatten()).view_as(slope) + slope
    inverse = torch.linalg.inv(damped(point.block))
    # the conjugate gradients end at a residual of 1e-4, squared, in the norm of their preconditioner
    assert float((rest @ inverse * rest).sum()) <= (1e-4 + SINGLE) * float((slope @ inverse * slope).sum())
    step = step.flatten()
    assert gain == pytest.approx(float(-2 * slope.flatten() @ step - step @ system @ step), rel=SINGLE)


@pytest.mark.parametrize("name", MODELS)
def test_refitted_outputs_are_the_best_for_their_inputs(name, device):
    model, parameters = MODELS[name](device)
    core = target(device)
    given, point = at(core, model, parameters), at(core, model, parameters, refit=True)
    assert point.loss < given.loss
    free = [t.requires_grad_() for t in parameters_of(point, parameters)]
    loss = (dense(core) - tensor_of(model.components(tuple(free)))).square().sum()
    assert point.loss == pytest.approx(float(loss.detach()), rel=1e-12)
    (slope,) = torch.autograd.grad(loss, free[:1])
    assert float(slope.norm()) <= 1e-9 * float(at(core, model, parameters).slope.norm())


@pytest.mark.parametrize("name", MODELS)
def test_balancing_changes_scales_and_not_the_tensor(name, device):
    model, parameters = MODELS[name](device)
    uneven = (1e6 * parameters[0], *parameters[1:])
    balanced = parameters_of(at(target(device), model, uneven), parameters)
    assert_close([tensor_of(model.components(balanced))], [tensor_of(model.components(uneven))])
    if name in ("free", "narrow"):
        norms = torch.stack([factor.norm(dim=0) for factor in balanced])
        assert (norms / norms[0] - 1).abs().max() <= 1e-12
    else:  # an output vector has the joint norm of the vectors of its block
        outputs, vectors = balanced
        joint = (vectors.square() @ model.signs.abs().T).sum(0).sqrt()
        assert (outputs.norm(dim=0) / joint - 1).abs().max() <= 1e-12
    zero = parameters_of(at(target(device), model, tuple(0 * p for p in parameters)), parameters)
    assert not any(bool(p.any()) or not bool(torch.isfinite(p).all()) for p in zero)


def rounding(components):
    """Of a loss by expansion: terms may be larger than their sum."""
    c, a, b = components
    return 1e-13 * float((c.norm(dim=0) * a.norm(dim=0) * b.norm(dim=0)).sum()) ** 2


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("seed", range(2))
def test_gauss_newton_never_rises(name, seed):
    model, parameters = MODELS[name]("cpu")
    core = target(seed=seed)
    fit = gauss_newton(core, model, parameters, max_iterations=25, tolerance=1e-4)
    assert 0 <= fit.tangent_share < 1
    assert fit.losses[-1] < 0.7 * fit.losses[0]
    assert all(after < before for before, after in pairwise(fit.losses))
    components = model.components(fit.parameters)
    loss = float((dense(core) - tensor_of(components)).square().sum())
    assert loss == pytest.approx(fit.losses[-1], abs=rounding(components))


@pytest.mark.parametrize("name", MODELS)
def test_gauss_newton_ends_at_an_exact_sum_that_is_near(name):
    """From a start 1 % away it converges at second order, to the rounding of the loss."""
    model, parameters = MODELS[name]("cpu")
    core = compress(of_factors(*model.components(parameters)), inputs=False).core
    unit = (core.down.norm() / model.components(parameters)[0].norm() * parameters[0], *parameters[1:])
    start = parameters_of(at(core, model, unit), parameters)
    near = tuple(p * (1 + 0.01 * normal(*p.shape, seed=8)) for p in start)
    fit = gauss_newton(core, model, near, max_iterations=40, tolerance=1e-4)
    assert fit.stop_reason.startswith("converged")
    assert fit.losses[0] > 1e-6
    assert fit.losses[-1] <= 1e-13


def test_gauss_newton_stops_where_it_is_told(device):
    fit = gauss_newton(target(device), Free(), triple(device), max_iterations=2, tolerance=0.0)
    assert fit.stop_reason == "not converged in 2 iterations"
    assert len(fit.losses) == 3


def test_gauss_newton_bears_components_that_cancel(device):
    """Weights of 1e10 that cancel: rounding makes their Gram matrices indefinite."""
    c, a, b = triple(device)
    huge = (torch.cat([c, 1e10 * c, -1e10 * c], 1), torch.cat([a, a, a], 1), torch.cat([b, b, b], 1))
    fit = gauss_newton(target(device), Free(), huge, max_iterations=30, tolerance=1e-6)
    assert all(after < before for before, after in pairwise(fit.losses))
    assert all(bool(torch.isfinite(p).all()) for p in fit.parameters)


def test_descent_returns_the_best_it_saw(device):
    core, model, parameters = target(device), Free(), triple(device)

    def loss(free):
        cross, squared = overlaps(core, model.components(free))
        return 1 - 2 * cross + squared, 1 - 2 * cross + squared

    fit = descend(loss, parameters, max_iterations=50)
    with torch.no_grad():
        assert float(loss(fit.parameters)[1]) == pytest.approx(min(fit.losses), abs=1e-14)
    assert min(fit.losses) < fit.losses[0]
    assert (len(fit.losses), fit.stop_reason) == (51, "50 steps of Adam")
    assert torch.equal(parameters[0], triple(device)[0])  # not moved


def test_descent_refuses_a_loss_that_is_not_finite():
    with pytest.raises(ValueError, match="not finite at the start: check the penalties"):
        descend(lambda free: (free[0].sum() * float("nan"), free[0].sum()), triple(), max_iterations=5)
