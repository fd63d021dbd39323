"""A stack is its layers one after the other, and also one tree of tensors."""

import dataclasses

import pytest
import torch
from helpers import assert_close, layer_of, normal

from tensornet_interp import (
    BilinearNetwork,
    SpectralResult,
    TensorNetwork,
    Term,
    contract,
    decompose,
    difference,
    lift,
    rename,
)
from tensornet_interp.circuits import evaluation
from tensornet_interp.layer import BilinearMap

# (in, width, out, hidden): a residual needs the middle sizes equal; all others differ
IN, WIDTH, OUT = 3, 4, 2
HIDDEN = (5, 6, 7)


def plain_layers(device="cpu"):
    sizes = [(WIDTH, IN), (5, WIDTH), (OUT, 5)]
    return [layer_of(n_out, n_in, HIDDEN[i], 10 * i, device) for i, (n_out, n_in) in enumerate(sizes)]


def affine_layers(device="cpu"):
    """Three layers with biases, the first two with a residual, and the function they are, written out."""
    layers, functions = [], []
    for i, n_out in enumerate((WIDTH, WIDTH, OUT)):
        layer = layer_of(n_out, WIDTH, HIDDEN[i], 10 * i, device)
        a, b, c = (normal(n, seed=50 + 10 * i + j, device=device) for j, n in enumerate((HIDDEN[i], HIDDEN[i], n_out)))
        scale = 0.7 if n_out == WIDTH else 0.0
        layers.append(lift(layer, left_bias=a, right_bias=b, bias=c, residual=scale))

        def function(x, layer=layer, a=a, b=b, c=c, scale=scale):
            y = ((x @ layer.left + a) * (x @ layer.right + b)) @ layer.down.T + c
            return y + scale * x if scale else y

        functions.append(function)
    return layers, functions


def attached(network, x):
    if network.constant_in:
        x = torch.cat([torch.ones_like(x[:, :1]), x], 1)
    return (*network.terms(), *(Term(x, ("batch", mode)) for mode in network.modes[1:]))


def test_a_stack_with_biases_and_residuals_is_the_formula_and_its_tree(device):
    layers, functions = affine_layers(device)
    network = BilinearNetwork(layers)
    x = normal(6, WIDTH, seed=90, device=device)
    formula = x
    for function in functions:
        formula = function(formula)
    assert_close(network(x), formula)
    assert_close(contract(attached(network, x), ("batch", "out")), formula)
    assert_close(network(x[0]), formula[0])
    assert len(network) == 3
    assert network.sizes["out"] == OUT


def test_a_plain_stack_is_the_formula_and_its_tree(device):
    network = BilinearNetwork(plain_layers(device))
    x = normal(6, IN, seed=90, device=device)
    formula = x
    for layer in network.layers:
        formula = torch.einsum("oij,bi,bj->bo", layer.to_tensor(), formula, formula)
    assert_close(network(x), formula)
    assert_close(contract(attached(network, x), ("batch", "out")), formula)
    assert_close(network(2 * x), 2**8 * formula)  # homogeneous of degree 2^3


def test_dense_tensor_of_two_layers(device):
    first, second = plain_layers(device)[:2]
    network = BilinearNetwork([first, second])
    assert network.modes == ("out", "in1", "in2", "in3", "in4")
    a, b = first.to_tensor(), second.to_tensor()
    assert_close(network.to_tensor(), torch.einsum("oab,aij,bkl->oijkl", b, a, a))


def test_a_network_of_one_layer_is_the_layer(device):
    layer = plain_layers(device)[0]
    assert_close(BilinearNetwork([layer]).to_tensor(), layer.to_tensor())


def test_replace_exchanges_one_part():
    network = BilinearNetwork(plain_layers())
    other = layer_of(5, WIDTH, 3, 77)
    for i in (1, -2):
        changed = network.replace(i, other)
        assert changed.parts == (network[0], other, network[2])
    assert network[1] is not other
    x = normal(6, IN, seed=1)
    assert_close(changed(x), network[2](other(network[0](x))))
    with pytest.raises(ValueError, match="from -3 to 2"):
        network.replace(3, other)


def test_iteration_and_indexing():
    network = BilinearNetwork(plain_layers())
    assert list(network) == [network[0], network[1], network[-1]]


@pytest.mark.parametrize("lifted", [True, False])
def test_a_full_decomposition_stands_in_for_its_layer(lifted, device):
    network = BilinearNetwork(affine_layers(device)[0] if lifted else plain_layers(device))
    x = normal(6, WIDTH if lifted else IN, seed=90, device=device)
    for i in range(3):
        changed = network.replace(i, decompose(network.layers[i], "eigen"))
        assert isinstance(changed[i], SpectralResult)
        # eigh is backward stable to about size * eps of the largest eigenvalue; the layers above amplify it
        assert_close(changed(x), network(x), 1e-10)
        assert_close(contract(attached(changed, x), ("batch", "out")), network(x), 1e-10)


def test_a_truncated_decomposition_is_another_network(device):
    network = BilinearNetwork(plain_layers(device))
    part = decompose(network[1], "eigen", rank=1)
    changed = network.replace(1, part)
    x = normal(6, IN, seed=90, device=device)
    assert_close(changed(x), network[2](part(network[0](x))))


class Dense(TensorNetwork):
    """The least a user's own part must be."""

    def __init__(self, data):
        self.data = data

    @property
    def modes(self):
        return ("out", "in1", "in2")

    def terms(self):
        return (Term(self.data, self.modes),)


def test_any_part_with_the_modes_of_a_layer_stands_in():
    network = BilinearNetwork(plain_layers())
    changed = network.replace(1, Dense(network.layers[1].to_tensor()))
    x = normal(6, IN, seed=90)
    assert_close(changed(x), network(x))


def test_decompose_takes_a_mapping_of_parts():
    network = BilinearNetwork(plain_layers())
    changed = decompose(network, {0: "eigen", -1: lambda layer: decompose(layer, "eigen", rank=2)})
    assert [isinstance(part, SpectralResult) for part in changed] == [True, False, True]
    assert changed[1] is network[1]
    assert changed[2].rank == 2
    x = normal(6, IN, seed=90)
    assert_close(changed(x), changed[2](network[1](network[0](x))), 1e-10)
    with pytest.raises(TypeError, match="needs a BilinearNetwork"):
        decompose(network[0], {0: "eigen"})
    with pytest.raises(ValueError, match="rank"):
        decompose(network, {0: "eigen"}, rank=2)


def test_decompose_takes_one_method_for_all():
    layers, _ = affine_layers()
    network = BilinearNetwork(layers)
    changed = decompose(network, "eigen")
    assert all(isinstance(part, SpectralResult) for part in changed)
    x = normal(6, WIDTH, seed=90)
    assert_close(changed(x), network(x), 1e-10)


def test_sizes_that_do_not_meet_are_an_error():
    with pytest.raises(ValueError, match="part 0 has 4 outputs but part 1 takes 5 inputs"):
        BilinearNetwork([layer_of(4, 3, 5, 1), layer_of(2, 5, 6, 2)])


def test_lifted_and_plain_layers_do_not_mix():
    below, above = layer_of(4, 3, 5, 1), layer_of(2, 4, 6, 2)
    with pytest.raises(ValueError, match=r"part 0 has the constant output.*part 1 does not take"):
        BilinearNetwork([lift(below), above])
    with pytest.raises(ValueError, match=r"part 0 lacks the constant output.*part 1 expects"):
        BilinearNetwork([below, lift(above)])
    with pytest.raises(ValueError, match="lacks"):
        BilinearNetwork([lift(below).drop_constant(), lift(above)])


def test_the_last_part_drops_its_constant_output_and_keeps_its_function():
    layer = lift(layer_of(4, 3, 5, 1))
    x = normal(6, 3, seed=2)
    for part in (layer, decompose(layer, "eigen")):
        network = BilinearNetwork([part])
        assert network.sizes["out"] == 4
        assert type(network[0]) is type(part)
        torch.testing.assert_close(network(x), layer(x), rtol=1e-12, atol=1e-12)


def test_a_lower_part_that_loses_the_constant_is_refused():
    """A part that hands on another number than 1 would silently be another network than its parts called in turn."""
    layer, other = lift(layer_of(4, 3, 5, 1)), lift(layer_of(4, 3, 5, 2))
    with pytest.raises(ValueError, match="must span the constant output"):
        decompose(layer, "eigen", directions=normal(2, 5, seed=3))
    top = lift(layer_of(2, 4, 3, 4))
    with pytest.raises(ValueError, match="lacks the constant output coordinate"):
        BilinearNetwork([difference(layer, other), top])


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (torch.nn.LayerNorm(4), r"part 1 must be a layer, .* got torch\.nn\.LayerNorm; .*a gate, a norm or a softmax"),
        (torch.nn.Softmax(-1), r"part 1 must be a layer, .* got torch\.nn\.Softmax; .*Retrain without it"),
        (torch.nn.functional.gelu, r"part 1 must be a layer, .* got builtin_function_or_method; .*a gate"),
        (
            torch.nn.Linear(4, 4),
            r"part 1 must be a layer, .* got torch\.nn\.Linear; absorb a linear map.*change_basis",
        ),
        (torch.nn.Bilinear(4, 4, 4), r"part 1 must be a layer, .* got torch\.nn\.Bilinear; .*from_torch_bilinear"),
    ],
    ids=["norm", "softmax", "gate", "linear", "bilinear"],
)
def test_a_part_that_is_not_bilinear_is_named_with_what_to_do(module, message):
    network = BilinearNetwork([layer_of(4, 3, 5, 1), layer_of(4, 4, 6, 2)])
    with pytest.raises(TypeError, match=message):
        BilinearNetwork([network[0], module, network[1]])
    with pytest.raises(TypeError, match=message):
        network.replace(1, module)


def test_an_empty_stack_is_an_error():
    with pytest.raises(ValueError, match="at least one part"):
        BilinearNetwork([])


def test_mixed_dtypes_are_an_error():
    below, above = layer_of(4, 3, 5, 1), layer_of(2, 4, 6, 2)
    with pytest.raises(ValueError, match="dtype"):
        BilinearNetwork([below, above.to(dtype=torch.float32)])


def test_to_changes_dtype_and_device(device):
    network = BilinearNetwork(affine_layers()[0]).to(device, torch.float32)
    x = normal(6, WIDTH, seed=90, device=device).float()
    assert network(x).dtype == torch.float32
    assert network(x).device.type == device


def test_names_do_not_matter():
    layers = [dataclasses.replace(layer, name="same") for layer in plain_layers()]
    x = normal(6, IN, seed=90)
    assert torch.equal(BilinearNetwork(layers)(x), BilinearNetwork(plain_layers())(x))


class NamedBond(BilinearMap):
    """A layer whose own mode is called as the legs between layers are."""

    constant_in = constant_out = False

    def __init__(self, layer):
        self.layer = layer

    def terms(self):
        return rename(self.layer.terms(), {"rank": "bond"})

    def to_layer(self):
        return self.layer


def test_a_mode_of_a_part_is_not_taken_for_a_leg():
    layers = [layer_of(4, 4, 4, seed) for seed in (0, 10, 20)]  # of one size, so that nothing would be refused
    network = BilinearNetwork([NamedBond(layer) for layer in layers])
    x = normal(5, 4, seed=30)
    assert_close(contract(evaluation(network, x)), network(x))


def test_one_layer_is_not_a_list_of_parts():
    with pytest.raises(TypeError, match="a list of parts, bottom first; got one BilinearLayer"):
        BilinearNetwork(plain_layers()[0])
