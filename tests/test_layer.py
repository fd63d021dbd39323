"""A layer is the function its weights say, and everything that is done to it is exact."""

from dataclasses import replace

import pytest
import tensorly
import torch
from helpers import assert_close, layer_of, normal, unsymmetrized
from tensorly.cp_tensor import CPTensor

from tensornet_interp import BilinearLayer, TensorNetwork, Term, decompose, difference, lift
from tensornet_interp.lifting import split

OUT, IN, RANK = 3, 4, 6


def test_from_weights_is_the_module(device):
    torch.manual_seed(1)
    left, right = (torch.nn.Linear(IN, RANK, bias=False, dtype=torch.float64, device=device) for _ in range(2))
    down = torch.nn.Linear(RANK, OUT, bias=False, dtype=torch.float64, device=device)
    layer = BilinearLayer.from_weights(left=left.weight, right=right.weight, down=down.weight, name="a", history=["b"])
    x = normal(2, 5, IN, seed=1, device=device)
    assert_close(layer(x), down(left(x) * right(x)))
    assert (layer.shape, layer.rank, layer.name, layer.history) == ((OUT, IN, IN), RANK, "a", ("b",))


def test_call_is_the_dense_form_of_two_inputs(device):
    layer, x1, x2 = (
        layer_of(OUT, IN, RANK, 1, device=device),
        normal(5, IN, seed=8, device=device),
        normal(5, IN, seed=9, device=device),
    )
    assert_close(layer(x1, x2), torch.einsum("oij,bi,bj->bo", unsymmetrized(layer), x1, x2))
    assert_close(layer(x1), layer(x1, x1))
    assert_close(layer(x1[0]), layer(x1)[0])
    assert_close(layer.to_tensor(), unsymmetrized(layer))


@pytest.mark.parametrize(("n_out", "n_in"), [(3, 5), (5, 3), (4, 4), (1, 3), (3, 1)])
def test_from_tensor_is_exact(n_out, n_in, device):
    given = normal(n_out, n_in, n_in, seed=2, device=device)
    layer = BilinearLayer.from_tensor(given, name="dense")
    assert torch.equal(layer.to_tensor(), given)  # sums of one number and zeros
    assert layer.rank == n_in * min(n_in, n_out)
    x1, x2 = normal(7, n_in, seed=3, device=device), normal(7, n_in, seed=4, device=device)
    assert_close(layer(x1, x2), torch.einsum("oij,bi,bj->bo", given, x1, x2))


def test_from_tensor_wants_square_slices():
    with pytest.raises(ValueError, match="mode 'in' has size 4 in in1 but 5 in in2"):
        BilinearLayer.from_tensor(normal(3, 4, 5, seed=1))


def test_cp_round_trip_is_tensorlys(device):
    layer = layer_of(OUT, IN, RANK, 1, device=device)
    assert isinstance(layer.cp, CPTensor)
    assert_close(tensorly.cp_to_tensor(layer.cp), layer.to_tensor())
    again = BilinearLayer.from_cp(layer.cp, name="again", history=["came from TensorLy"])
    assert all(
        torch.equal(a, b) for a, b in [(again.down, layer.down), (again.left, layer.left), (again.right, layer.right)]
    )
    assert again.history == ("came from TensorLy",)


@pytest.mark.parametrize("weighted", [True, False])
def test_from_cp_absorbs_the_weights(weighted):
    layer, weights = layer_of(OUT, IN, RANK, 1), normal(RANK, seed=9)
    cp = CPTensor((weights if weighted else None, [layer.down, layer.left, layer.right]))
    assert_close(BilinearLayer.from_cp(cp).to_tensor(), tensorly.cp_to_tensor(cp))


def test_from_cp_wants_three_factors():
    with pytest.raises(ValueError, match="3 factors"):
        BilinearLayer.from_cp((None, [normal(2, 3, seed=1), normal(4, 3, seed=2)]))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("n_out", "n_in"), [(3, 5), (5, 3)])
def test_from_torch_bilinear_is_the_module_on_one_input(bias, n_out, n_in, device):
    torch.manual_seed(2)
    module = torch.nn.Bilinear(n_in, n_in, n_out, bias=bias, dtype=torch.float64, device=device)
    if bias:
        with pytest.raises(ValueError, match="has a bias, but a bilinear layer has none; lift the layer"):
            BilinearLayer.from_torch_bilinear(module)
        layer = lift(BilinearLayer.from_tensor(module.weight.detach()), bias=module.bias.detach())
    else:
        layer = BilinearLayer.from_torch_bilinear(module, name="m")
    x = normal(7, n_in, seed=3, device=device)
    assert_close(layer(x), module(x, x).detach())
    assert layer.constant_in == layer.constant_out == bias
    assert not layer.down.requires_grad


@pytest.mark.parametrize("sizes", [(4, 4, 3), (2, 5, 3), (5, 2, 3), (3, 4, 9)])
def test_a_torch_bilinear_of_two_inputs_is_a_layer_of_both_that_decompositions_keep(sizes):
    torch.manual_seed(3)
    module = torch.nn.Bilinear(*sizes, bias=False, dtype=torch.float64)
    a, b = normal(7, sizes[0], seed=1), normal(7, sizes[1], seed=2)
    layer = BilinearLayer.from_torch_bilinear(module, inputs="two")
    for method in ("eigen", "hosvd"):
        assert_close(decompose(layer, method)(torch.cat([a, b], 1)), module(a, b).detach())


def test_a_torch_bilinear_of_one_input_has_the_symmetric_part_in_layer_and_result():
    torch.manual_seed(3)
    module = torch.nn.Bilinear(7, 7, 5, bias=False, dtype=torch.float64)
    a, b = normal(6, 7, seed=1), normal(6, 7, seed=2)
    layer = BilinearLayer.from_torch_bilinear(module)
    expected = ((module(a, b) + module(b, a)) / 2).detach()
    assert_close(layer(a, b), expected)
    assert_close(decompose(layer, "eigen")(a, b), expected)


def test_two_inputs_of_unlike_size_are_not_one():
    with pytest.raises(ValueError, match="inputs of 2 and 5 coordinates cannot be one vector; give inputs='two'"):
        BilinearLayer.from_torch_bilinear(torch.nn.Bilinear(2, 5, 3, bias=False))


def test_symmetrize_averages_the_inputs(device):
    layer, x = layer_of(OUT, IN, RANK, 1, device=device), normal(7, IN, seed=5, device=device)
    symmetric = layer.symmetrize()
    assert_close(symmetric.to_tensor(), (unsymmetrized(layer) + unsymmetrized(layer).mT) / 2)
    assert_close(symmetric(x), layer(x))
    assert symmetric.rank == 2 * RANK


@pytest.mark.parametrize("batch", [(), (5,), (2, 3)])
def test_interaction_matrix_is_the_symmetrized_slice(batch, device):
    layer, direction = layer_of(OUT, IN, RANK, 1, device=device), normal(*batch, OUT, seed=6, device=device)
    matrix = torch.einsum("...o,oij->...ij", direction, unsymmetrized(layer))
    assert_close(layer.interaction_matrix(direction), (matrix + matrix.mT) / 2)


def test_interaction_matrix_names_a_wrong_size():
    with pytest.raises(ValueError, match="mode 'out' has size 3 in layer but 4 in direction"):
        layer_of(OUT, IN, RANK, 1).interaction_matrix(normal(4, seed=1))


@pytest.mark.parametrize("inputs", [True, False])
@pytest.mark.parametrize("outputs", [True, False])
def test_change_of_basis_is_composition(inputs, outputs, device):
    layer = layer_of(OUT, IN, RANK, 1, device=device)
    before = normal(IN, 5, seed=7, device=device) if inputs else None
    after = normal(2, OUT, seed=8, device=device) if outputs else None
    changed = layer.change_basis(before, after, basis="pixels" if inputs else "")
    x = normal(7, 5 if inputs else IN, seed=9, device=device)
    y = layer(x @ before.T if inputs else x)
    assert_close(changed(x), y @ after.T if outputs else y)
    assert changed.basis == ("pixels" if inputs else "as given")
    assert layer.basis == "as given"


def test_basis_never_names_the_inputs_of_before():
    told = replace(layer_of(OUT, IN, RANK, 1), basis="pixels", history=("scaled",))
    turn = normal(IN, 5, seed=7)
    assert told.change_basis(turn).basis == "changed"
    assert told.change_basis(turn, note="turned").history == ("scaled", "turned")
    turned = told.change_basis(turn, basis="turned")
    assert (turned.basis, turned.history) == ("turned", ("scaled", "inputs from basis 'pixels' to 'turned'"))
    assert lift(told).change_basis(input_bias=normal(IN, seed=8)).basis == "changed"
    for note in ("", "head absorbed"):
        assert told.change_basis(outputs=normal(2, OUT, seed=8), note=note).basis == "pixels"
    with pytest.raises(ValueError, match="basis='turned' names the coordinates of new inputs; give inputs"):
        told.change_basis(outputs=normal(2, OUT, seed=8), basis="turned")


MADE = {
    "weights": lambda layer, **about: BilinearLayer.from_weights(
        left=layer.left.T, right=layer.right.T, down=layer.down, **about
    ),
    "cp": lambda layer, **about: BilinearLayer.from_cp(layer.cp, **about),
    "tensor": lambda layer, **about: BilinearLayer.from_tensor(layer.to_tensor(), **about),
}


@pytest.mark.parametrize("made", MADE)
def test_every_constructor_takes_name_history_and_basis(made):
    layer = MADE[made](layer_of(OUT, IN, RANK, 1), name="a", history=["scaled"], basis="pixels")
    assert (layer.name, layer.history, layer.basis) == ("a", ("scaled",), "pixels")
    assert MADE[made](layer_of(OUT, IN, RANK, 1)).basis == "as given"
    with pytest.raises(TypeError, match=r"history must be a sequence of texts, such as .* got 'scaled'"):
        MADE[made](layer_of(OUT, IN, RANK, 1), history="scaled")


def test_what_is_made_of_a_layer_keeps_name_history_and_basis():
    told = replace(layer_of(OUT, IN, RANK, 1), name="a", history=("scaled",), basis="pixels")
    lifted = lift(told, bias=normal(OUT, seed=1))
    results = [decompose(told, name) for name in ("eigen", "output_svd", "hosvd")]
    results += [decompose(told, "cp", rank=2, max_iterations=2), decompose(told, "tensorly_tucker", rank=2)]
    kept = [told.symmetrize(), lifted, lifted.drop_constant(), split(lifted).interaction, told.to(dtype=torch.float32)]
    kept += [difference(told, told), decompose(told, lambda layer: Bare(layer))]
    kept += [result.to_layer() for result in results]
    assert [layer.basis for layer in kept] == ["pixels"] * len(kept)
    assert [layer.history[0] for layer in kept] == ["scaled"] * len(kept)
    assert {layer.name for layer in kept} == {"a", "a - a"}
    assert {result.report.basis for result in results} == {"pixels"}


class Bare(TensorNetwork):
    """What a plugin may return: terms alone, without a name."""

    modes = ("out", "in1", "in2")

    def __init__(self, layer):
        self.data = layer.to_tensor()

    def terms(self):
        return (Term(self.data, self.modes),)


def test_change_of_basis_names_a_wrong_size():
    with pytest.raises(ValueError, match="mode 'in' has size 4 in layer but 5"):
        layer_of(OUT, IN, RANK, 1).change_basis(normal(5, 2, seed=1))
    with pytest.raises(ValueError, match="mode 'out' has size 3 in layer but 5"):
        layer_of(OUT, IN, RANK, 1).change_basis(outputs=normal(2, 5, seed=1))


@pytest.mark.parametrize("lifted", [True, False])
def test_contributions_sum_to_the_output(lifted, device):
    layer = layer_of(OUT, IN, RANK, 1, device=device)
    layer = lift(layer, bias=normal(OUT, seed=1, device=device)) if lifted else layer
    x1, x2 = normal(2, 5, IN, seed=2, device=device), normal(2, 5, IN, seed=3, device=device)
    assert layer.contributions(x1).shape == (2, 5, OUT, layer.rank)
    assert_close(layer.contributions(x1).sum(-1), layer(x1))
    assert_close(layer.contributions(x1, x2).sum(-1), layer(x1, x2))


def test_contributions_of_a_decomposition_sum_to_its_output(device):
    layer, x = layer_of(OUT, IN, RANK, 1, device=device), normal(5, IN, seed=2, device=device)
    result = decompose(layer, "eigen", rank=2)
    assert_close(result.contributions(x).sum((-1, -2)), result(x))


def test_to_changes_dtype_and_device(device):
    layer = lift(layer_of(OUT, IN, RANK, 1, name="it"), bias=normal(OUT, seed=1))
    moved = layer.to(device, torch.float32)
    for data, _ in moved.terms():
        assert (data.dtype, data.device.type) == (torch.float32, device)
    assert (moved.constant_in, moved.constant_out, moved.name) == (True, True, "it")
    assert layer.to(dtype=torch.float32).down.dtype == torch.float32
    assert torch.equal(layer.to(device).down.cpu(), layer.down)


def test_a_wrong_input_is_named():
    with pytest.raises(ValueError, match="mode 'in' has size 4 in the layer but 5 in x1"):
        layer_of(OUT, IN, RANK, 1)(normal(2, 5, seed=1))
    with pytest.raises(ValueError, match="mode 'in' has size 4 in the layer but 3 in x2"):
        layer_of(OUT, IN, RANK, 1)(normal(2, 4, seed=1), normal(2, 3, seed=1))
    with pytest.raises(ValueError, match="the call adds the constant"):
        lift(layer_of(OUT, IN, RANK, 1))(normal(2, 5, seed=1))
    with pytest.raises(ValueError, match="dtype"):
        layer_of(OUT, IN, RANK, 1)(normal(2, 4, seed=1).float())


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((3, 6), (4, 6), (4, 5)), "mode 'rank' has size 6 in left but 5 in right"),
        (((3, 6), (4, 6), (5, 6)), "mode 'in' has size 4 in left but 5 in right"),
        (((3, 5), (4, 6), (4, 6)), "mode 'rank' has size 6 in left but 5 in down"),
        (((3, 6), (4, 6), (4, 6, 1)), "dimensions"),
        (((0, 6), (4, 6), (4, 6)), "empty"),
    ],
)
def test_wrong_shapes_are_errors(shapes, message):
    with pytest.raises(ValueError, match=message):
        BilinearLayer.from_cp((None, [torch.ones(shape) for shape in shapes]))


def test_entries_that_are_not_finite_are_errors():
    layer = layer_of(OUT, IN, RANK, 1)
    bad = layer.left.clone()
    bad[0, 0] = float("nan")
    with pytest.raises(ValueError, match="left has 1 entries"):
        BilinearLayer(down=layer.down, left=bad, right=layer.right)


def test_batches_of_contributions_that_do_not_broadcast_are_named_in_order():
    layer = layer_of(OUT, IN, RANK, 1)
    with pytest.raises(ValueError, match=rf"broadcast, got \(3, {IN}\) and \(4, {IN}\)"):
        layer.contributions(normal(3, IN, seed=1), normal(4, IN, seed=2))
