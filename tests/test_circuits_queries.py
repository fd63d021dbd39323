"""What is asked of a network by contraction is what its dense tensor, or its function, says."""

import dataclasses
import itertools
import math

import pytest
import torch
from helpers import assert_close, layer_of, normal, symmetrized

from tensornet_interp import BilinearNetwork, TensorNetwork, Term, contract, decompose, lift, plan
from tensornet_interp.circuits import degree_weights, evaluation, expansion, interaction_tensor, project


def plain(depth, device="cpu"):
    sizes = [(4, 3), (5, 4), (2, 5)][:depth]
    return BilinearNetwork([layer_of(*size, 6 + i, 10 * i, device) for i, size in enumerate(sizes)])


def lifted(depth, device="cpu"):
    """Biases in every place; a residual wherever sizes allow, with a scale of its own."""
    layers = []
    for i, n_out in enumerate([4, 4, 2][-depth:]):
        a, b, c = (normal(n, seed=50 + 10 * i + j, device=device) for j, n in enumerate((6 + i, 6 + i, n_out)))
        layer = layer_of(n_out, 4, 6 + i, 10 * i, device)
        layers.append(lift(layer, left_bias=a, right_bias=b, bias=c, residual=0.7 if n_out == 4 else 0.0))
    return BilinearNetwork(layers)


def n_in(network):
    return network.sizes["in1"] - network.constant_in


NETWORKS = pytest.mark.parametrize(
    ("make_network", "depth"), [(plain, 1), (plain, 2), (plain, 3), (lifted, 1), (lifted, 2), (lifted, 3)]
)


@NETWORKS
def test_evaluation_is_the_forward_pass(make_network, depth, device):
    network = make_network(depth, device)
    x = normal(7, n_in(network), seed=90, device=device)
    query = evaluation(network, x)
    assert query.modes == ("batch", "out")
    assert repr(query) == f"Query({len(query.terms())} terms, batch=7, out={query.sizes['out']})"
    assert_close(contract(query), network(x))
    assert_close(contract(query, ("out", "batch"), chunk="batch", max_elements=100), network(x).T)


def test_evaluation_takes_layers_and_decompositions():
    layer = lift(layer_of(4, 4, 6, 1), bias=normal(4, seed=9), residual=0.5)
    x = normal(7, 4, seed=90)
    assert_close(contract(evaluation(layer, x)), layer(x))
    assert_close(contract(evaluation(decompose(layer, "eigen"), x)), layer(x), 1e-11)


def test_evaluation_grows_linearly_with_depth():
    """Batch 256, width 512: four distinct products a layer (left, right, their product, down), none twice."""
    for batch, width in ((256, 512), (600, 512)):
        parts = [layer_of(width, width, width, 10 * i) for i in range(5)]
        x = normal(batch, width, seed=90)
        for depth in (1, 2, 3, 4, 5):
            costs = plan(evaluation(BilinearNetwork(parts[:depth]), x))
            assert len(costs.steps) == 4 * depth
            assert costs.unshared_steps == 3 * (2**depth - 1) + 2**depth - 1  # one less than terms
            assert costs.flops == depth * (3 * 2 * batch * width**2 + batch * width)
            assert costs.largest_intermediate == batch * width


def test_a_large_batch_never_costs_more_than_layer_by_layer():
    parts = [layer_of(40, 40, 40, 10 * i) for i in range(4)]
    x = normal(1000, 40, seed=90)
    counts = [plan(evaluation(BilinearNetwork(parts[:depth]), x)) for depth in (1, 2, 3, 4)]
    for depth, costs in enumerate(counts, 1):
        assert costs.flops <= depth * (3 * 2 * 1000 * 40**2 + 1000 * 40)
    steps = [len(costs.steps) for costs in counts]
    assert steps[3] - steps[2] == steps[2] - steps[1]


def test_project_is_einsum_with_the_dense_tensor(device):
    network = lifted(2, device)
    dense = network.to_tensor()  # (out, in1, in2, in3, in4)
    vector, matrix = normal(5, seed=1, device=device), normal(5, 3, seed=2, device=device)
    query = project(network, {"in3": vector, "in1": matrix, "in4": -2})
    assert query.modes == ("out", "in1", "in2")
    assert query.sizes == {"out": 2, "in1": 3, "in2": 5}
    assert_close(query.to_tensor(), torch.einsum("oijk,ia,k->oaj", dense[..., -2], matrix, vector))
    again = project(query, {"in1": normal(3, 2, seed=3, device=device), "out": 1})
    reference = torch.einsum("ijk,ia,k->aj", dense[1, ..., -2], matrix @ normal(3, 2, seed=3, device=device), vector)
    assert_close(again.to_tensor(), reference)


def test_a_vector_of_ones_is_the_marginal():
    network = plain(2)
    ones = torch.ones(3, dtype=torch.float64)
    marginal = project(network, {"in2": ones}).to_tensor()
    assert_close(marginal, network.to_tensor().sum(2))
    assert_close(marginal, contract(network, ("out", "in1", "in3", "in4")))


def test_slices_of_copies_stay_shared():
    network = plain(2)
    slices = project(network, dict.fromkeys(network.modes[1:], 1))
    # left * right of the slices, down; left, right, their product, down: the second copy costs nothing
    assert len(plan(slices).steps) == 6
    assert len({id(term.data) for term in slices.terms()}) == 6
    assert_close(slices.to_tensor(), network.to_tensor()[:, 1, 1, 1, 1])


@pytest.mark.parametrize(("make_network", "depth"), [(plain, 1), (plain, 2), (lifted, 1), (lifted, 2)])
def test_interaction_tensor_is_the_dense_one_restricted(make_network, depth, device):
    network = make_network(depth, device)
    components = normal(network.sizes["in1"], 2, seed=1, device=device)
    direction = normal(network.sizes["out"], seed=2, device=device)
    dense = torch.tensordot(direction, network.to_tensor(), 1)
    for _ in range(dense.ndim):
        dense = torch.tensordot(dense, components, ([0], [0]))
    assert_close(interaction_tensor(network, direction, components), symmetrized(dense, 0))


def test_interaction_tensor_gives_the_output_on_the_components():
    network = lifted(2)
    components = normal(5, 3, seed=1)
    components[0] = torch.tensor([1.0, 0.0, 0.0])  # the first component carries the constant
    interactions = interaction_tensor(network, torch.tensor([0.0, 1.0], dtype=torch.float64), components)
    c = torch.tensor([1.0, -0.4, 0.8], dtype=torch.float64)
    assert_close(torch.einsum("abcd,a,b,c,d->", interactions, c, c, c, c), network((components @ c)[1:])[1])


def test_interaction_tensor_never_forms_the_dense_one():
    """Width 100: the dense tensor would take 1e8 elements an output, the restricted one 81 and the way to it few."""
    network = BilinearNetwork([layer_of(50, 100, 40, 1), layer_of(3, 50, 30, 11)])
    interactions = interaction_tensor(network, normal(3, seed=1), normal(100, 3, seed=2), max_elements=10**4)
    assert interactions.shape == (3, 3, 3, 3)


@NETWORKS
def test_expansion_is_the_polynomial_in_a_scaling(make_network, depth, device):
    network = make_network(depth, device)
    x = normal(6, n_in(network), seed=90, device=device)
    degrees = expansion(network, x)  # (batch, out, degree)
    assert degrees.shape == (6, network.sizes["out"], 2**depth + 1)
    assert_close(degrees.sum(-1), network(x))
    for scale in (-1.3, 0.4):
        powers = torch.tensor([scale**n for n in range(2**depth + 1)], dtype=torch.float64, device=device)
        assert_close(degrees @ powers, network(scale * x), 1e-11)
    assert_close(expansion(network, x[0]), degrees[0])
    if not network.constant_in:
        assert not degrees[..., :-1].any()


@NETWORKS
def test_degree_weights_act_as_the_expansion(make_network, depth, device):
    network = make_network(depth, device)
    x = normal(6, n_in(network), seed=90, device=device)
    degrees = expansion(network, x)
    for degree in range(min(2**depth, 4) + 1):
        weights = degree_weights(network, degree)
        assert weights.shape == (network.sizes["out"], *[x.shape[1]] * degree)
        value = torch.stack([contract_with(weights, sample) for sample in x])
        assert (value - degrees[..., degree]).abs().max() <= 1e-12 * degrees.abs().max()
        if degree > 1:
            assert (weights - symmetrized(weights, 1)).abs().max() <= 1e-14 * weights.abs().max()


def contract_with(weights, x):
    while weights.ndim > 1:
        weights = weights @ x
    return weights


def test_degree_weights_are_the_derivatives_at_zero():
    network = lifted(3)
    zero = torch.zeros(4, dtype=torch.float64)
    assert_close(degree_weights(network, 0), network(zero))
    assert_close(degree_weights(network, 1), torch.autograd.functional.jacobian(network, zero))
    for out in range(2):
        hessian = torch.autograd.functional.hessian(lambda x, out=out: network(x)[out], zero)
        assert_close(degree_weights(network, 2)[out], hessian / math.factorial(2))


def test_degree_weights_of_a_single_layer_are_its_blocks():
    layer = lift(layer_of(4, 4, 6, 1), bias=normal(4, seed=9), residual=0.5)
    dense = symmetrized(layer.to_tensor(), 1)[1:]
    assert_close(degree_weights(layer, 0), dense[:, 0, 0])
    assert_close(degree_weights(layer, 1), 2 * dense[:, 0, 1:])
    assert_close(degree_weights(layer, 2), dense[:, 1:, 1:])


def test_an_approximated_constant_is_carried_along():
    """Degree by degree and as a whole, whatever the lower part hands on in the place of 1."""
    network = lifted(2)
    below = network[0].to_layer()
    changed = network.replace(0, dataclasses.replace(below, down=below.down + 0.1 * normal(*below.down.shape, seed=3)))
    x = normal(6, 4, seed=90)
    assert (changed[0].multilinear(changed[0].lift_input("x", x))[:, 0] - 1).abs().max() > 1e-3
    assert_close(expansion(changed, x).sum(-1), changed(x))
    assert_close(contract(evaluation(changed, x)), changed(x))


def test_degree_weights_are_refused_over_the_limit():
    network = lifted(3)
    with pytest.raises(ValueError, match="max_elements"):
        degree_weights(network, 4, max_elements=500)
    with pytest.raises(ValueError, match="max_elements"):
        degree_weights(plain(3), 7, max_elements=500)
    with pytest.raises(ValueError, match=r"degree must be from 0 to 8 \(the degree of 3 layers\), got 9"):
        degree_weights(network, 9)


class Fresh(TensorNetwork):
    """Arrays that are made when they are asked for, and that nothing else holds."""

    modes = ("a", "b", "c", "d")

    def terms(self):
        pairs = enumerate((("a", "x", "b"), ("c", "x", "d"), ("a", "y", "d")))
        return tuple(Term(normal(3, 3, 3, seed=seed) * 1, modes) for seed, modes in pairs)


def test_slices_of_arrays_that_nothing_else_holds_are_not_confused():
    network = Fresh()
    dense = network.to_tensor()
    with torch.inference_mode():  # where a view does not hold its array either
        for modes in itertools.permutations(network.modes):
            for index in itertools.product(range(2), repeat=4):
                found = project(network, dict(zip(modes, index, strict=True))).to_tensor()
                expected = dense[tuple(index[modes.index(mode)] for mode in network.modes)]
                assert abs(found - expected) <= 1e-12 * dense.abs().max()
