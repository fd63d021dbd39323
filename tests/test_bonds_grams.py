"""What every bond carries, against the dense tree unfolded across one occurrence of the bond."""

import math

import pytest
import torch
from dense_tree import INPUTS, TIGHT, case, every_case, leaf, lowest, plain, projector, tree, unfolded
from helpers import normal

from tensornet_interp import BilinearLayer, BilinearNetwork, inner, odt


@every_case
def test_trace_is_the_squared_norm_at_every_bond(network, given, device):
    result = case(network, given, device)
    norm = float(tree(result).norm())
    for bond in result.bonds:
        assert math.exp(bond.log_norm) == pytest.approx(norm, rel=1e-12)
        assert float(bond.singular_values.square().sum()) == pytest.approx(1, rel=1e-12)
        assert bond.singular_values.device.type == device
    if given == "isotropic":
        assert norm**2 == pytest.approx(float(inner(result.network, result.network)), rel=1e-12)


@every_case
def test_singular_values_are_those_of_the_unfolded_dense_network(network, given, device):
    result = case(network, given, device)
    for bond in result.bonds:
        matrix = unfolded(result, bond.index)
        values = torch.linalg.svdvals(matrix / matrix.norm())
        found = bond.singular_values
        torch.testing.assert_close(found, values[: len(found)], rtol=0, atol=TIGHT)
        assert values[len(found) :].sum() <= TIGHT


@pytest.mark.parametrize("given", INPUTS)
def test_without_the_constant_is_the_dense_network_with_the_constant_leaves_projected_out(given, device):
    result = case("lifted", given, device)
    for bond in result.bonds[:-1]:
        matrix = unfolded(result, bond.index)
        constant = leaf(result)[0]
        for _ in range(bond.index):  # row 0 of every lifted layer is (constant)(constant)
            constant = torch.outer(constant, constant).flatten()
        constant = constant / constant.norm()
        values = torch.linalg.svdvals((matrix - torch.outer(constant, constant @ matrix)) / matrix.norm())
        found = bond.singular_values_without_constant
        torch.testing.assert_close(found, values[: len(found)], rtol=0, atol=TIGHT)
        assert bond.singular_values[0] > found[0]
    last = result.bonds[-1]  # its constant was dropped with the head
    # one matrix, two LAPACK drivers: equal to rounding, not to the bit
    torch.testing.assert_close(last.singular_values, last.singular_values_without_constant, rtol=0, atol=TIGHT)


@every_case
def test_cutting_one_occurrence_costs_exactly_what_it_discards(network, given):
    result = case(network, given)
    whole = tree(result)
    for bond in result.bonds:
        for rank in range(lowest(bond), bond.size + 1):
            for copy in {0, bond.occurrences - 1}:
                error = (tree(result, {bond.index: projector(bond, rank)}, {copy}) - whole).norm() / whole.norm()
                assert float(error**2) == pytest.approx(bond.discarded(rank), abs=1e-12)


@pytest.mark.parametrize("scale", [1e-40, 1e40])
def test_norms_beyond_the_range_of_floats_are_carried_as_logarithms(scale):
    network = plain()
    scaled = odt(
        BilinearNetwork([BilinearLayer(down=scale * x.down, left=x.left, right=x.right) for x in network.layers])
    )
    expected = odt(network).bonds[0].log_norm + 7 * math.log(scale)  # 1 + 2 + 4 copies; its square is no float
    assert [bond.log_norm for bond in scaled.bonds] == pytest.approx([expected] * 4, rel=1e-12)
    assert scaled.truncate(2).measured == pytest.approx(odt(network).truncate(2).measured, rel=1e-10)


def test_spectra_do_not_depend_on_how_a_bond_is_written():
    """Mixed, and with coordinates of very different size."""
    network = plain()
    first, second, third = network.layers
    mixing = torch.diag(torch.tensor([1.0, 1e-9, 1.0, 1e9]).double()) @ normal(4, 4, seed=8)
    back = torch.linalg.inv(mixing)
    mixed = [
        BilinearLayer(down=mixing @ first.down, left=first.left, right=first.right),
        BilinearLayer(down=second.down, left=back.T @ second.left, right=back.T @ second.right),
        third,
    ]
    a, b = odt(network), odt(BilinearNetwork(mixed))
    for bond, other in zip(a.bonds, b.bonds, strict=True):
        torch.testing.assert_close(bond.singular_values, other.singular_values, rtol=0, atol=1e-8)
    x = normal(9, 3, seed=1)
    torch.testing.assert_close(a.truncate(2).network(x), b.truncate(2).network(x), rtol=1e-6, atol=1e-8)
