"""Losses, gradients and curvature on factors are those of the dense tensors, and the solver never goes up."""

from itertools import pairwise

import pytest
import torch
from helpers import assert_close, dense, normal, of_factors

from tensornet_interp.decompositions.compress import compress
from tensornet_interp.decompositions.fit import descend, gauss_newton, gradient, overlaps
from tensornet_interp.decompositions.parametrize import Free, Tied
from tensornet_interp.testing import random_layer

EXACT = 1e-11  # sums of some thousand products in float64
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
    "symmetric": lambda device: tied([[1, 0, 0], [0, 1, 0], [0, 0, 1]], device),
    "blocks": lambda device: tied([[1, -1, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0], [0, 0, 0, -1, 1, 1]], device),
}


def tensor_of(components):
    c, a, b = components
    tensor = torch.einsum("or,ir,jr->oij", c, a, b)
    return (tensor + tensor.mT) / 2


def test_loss_and_gradient_are_those_of_the_dense_tensors(device):
    core, components = target(device), triple(device)
    free = [t.requires_grad_() for t in components]
    loss = (dense(core) - tensor_of(free)).square().sum()
    expected = torch.autograd.grad(loss, free)
    found, half = gradient(core, tuple(t.detach() for t in free))
    assert found == pytest.approx(float(loss.detach()), rel=1e-12)
    assert_close([2 * h for h in half], expected)
    cross, squared = overlaps(core, tuple(free))
    assert float(1 - 2 * cross.detach() + squared.detach()) == pytest.approx(found, rel=1e-12)
    assert_close(torch.autograd.grad(1 - 2 * cross + squared, free), expected)


def test_products_are_differentiable_in_the_layer_and_the_components():
    layer = random_layer(*SIZES, seed=1)
    inputs = [t.requires_grad_() for t in (layer.down, layer.left, layer.right, *triple())]
    assert torch.autograd.gradcheck(lambda *w: overlaps(of_factors(*w[:3]), w[3:]), inputs)


@pytest.mark.parametrize("name", MODELS)
def test_models_have_the_dense_gradient_and_curvature(name, device):
    model, parameters = MODELS[name](device)
    core = target(device)
    free = [t.requires_grad_() for t in parameters]
    loss = (dense(core) - tensor_of(model.components(tuple(free)))).square().sum()
    expected = torch.autograd.grad(loss, free)
    parameters = tuple(t.detach() for t in free)
    _, wrt = gradient(core, model.components(parameters))
    assert_close([2 * g for g in model.gradient(parameters, wrt)], expected)

    jacobian = torch.autograd.functional.jacobian(lambda *p: tensor_of(model.components(p)), parameters)
    jacobian = torch.cat([j.flatten(0, 2).flatten(1) for j in jacobian], 1)  # (out in in, parameters)
    direction = tuple(normal(*p.shape, seed=7 + i, device=device) for i, p in enumerate(parameters))
    curvature = model.curvature(parameters)
    flat = torch.cat([d.flatten() for d in direction])
    found = torch.cat([p.flatten() for p in curvature.product(direction)])
    assert_close([found], [jacobian.T @ (jacobian @ flat)])
    # the block of the outputs is exact: the same (n, n) matrix for every output coordinate
    outputs = parameters[0]
    count = outputs.numel()
    block = torch.kron(torch.eye(len(outputs)).to(outputs), curvature.blocks[0])
    assert_close([block], [jacobian[:, :count].T @ jacobian[:, :count]])
    for block in curvature.blocks:
        assert torch.linalg.eigvalsh(block)[0] >= -EXACT * block.abs().max()


@pytest.mark.parametrize("name", MODELS)
def test_balancing_changes_scales_and_not_the_tensor(name, device):
    model, parameters = MODELS[name](device)
    uneven = (1e6 * parameters[0], *parameters[1:])
    balanced = model.balance(uneven)
    assert_close([tensor_of(model.components(balanced))], [tensor_of(model.components(uneven))])
    if name == "free":
        norms = torch.stack([factor.norm(dim=0) for factor in balanced])
        assert (norms / norms[0] - 1).abs().max() <= 1e-12
    else:  # an output vector has the joint norm of the vectors of its block
        outputs, vectors = balanced
        joint = (vectors.square() @ model.signs.abs().T).sum(0).sqrt()
        assert (outputs.norm(dim=0) / joint - 1).abs().max() <= 1e-12
    zero = tuple(0 * p for p in parameters)
    assert not any(bool(p.any()) or not bool(torch.isfinite(p).all()) for p in model.balance(zero))


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
    start = model.balance((core.down.norm() / model.components(parameters)[0].norm() * parameters[0], *parameters[1:]))
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
