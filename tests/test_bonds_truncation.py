"""Networks with their bonds cut, against the dense tree with projectors at the bonds."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from dense_tree import INPUTS, NETWORKS, TIGHT, case, every_case, lowest, plain, projector, tree
from helpers import LargestArray, layer_of, normal

from tensornet_interp import BilinearLayer, BilinearNetwork, Moments, decompose, lift, odt


@every_case
def test_the_measured_error_is_the_dense_one_and_within_the_bound_at_every_rank(network, given):
    result = case(network, given)
    whole = tree(result)
    choices = [(None, *range(lowest(bond), bond.size + 1)) for bond in result.bonds]
    for chosen in itertools.product(*choices):
        ranks = {index: rank for index, rank in enumerate(chosen) if rank is not None}
        if len(ranks) in (0, 3):  # one, two or all of four bonds
            continue
        cut = result.truncate(ranks)
        assert cut.measured <= cut.bound + TIGHT
        dense = tree(result, {index: projector(result.bonds[index], rank) for index, rank in ranks.items()})
        assert cut.measured == pytest.approx(float((dense - whole).norm() / whole.norm()), abs=TIGHT)


@every_case
def test_the_cut_network_is_the_tree_with_projectors(network, given):
    result = case(network, given)
    ranks = {0: 2, 1: 2, 2: 1, 3: 1}
    cut = result.truncate(ranks)
    assert [layer.shape[0] - layer.constant_out for layer in cut.network.layers] == [2, 1, 2]
    assert cut.ranks == ranks
    other = odt(cut.network, INPUTS[given]())
    torch.testing.assert_close(
        tree(other), tree(result, {i: projector(result.bonds[i], r) for i, r in ranks.items()}), rtol=0, atol=1e-10
    )
    x = normal(7, 3, seed=1)
    assert cut.network(x).shape == (7, 2)


def test_a_small_error_is_measured_to_all_its_digits():
    """Where the difference of squared norms sees nothing below 1e-8."""
    eye = torch.eye(3).double()
    first = BilinearLayer(down=torch.diag(normal(3, seed=0).new_tensor([1.0, 1.0, 1e-11])), left=eye, right=eye)
    result = odt(BilinearNetwork([first, BilinearLayer(down=eye, left=eye, right=eye)]))
    assert result.truncate({0: 2}).measured == pytest.approx(1e-22 / math.sqrt(2), rel=1e-9)


@every_case
def test_full_rank_changes_nothing(network, given, device):
    result = case(network, given, device)
    x = normal(9, 3, seed=1, device=device)
    cut = result.truncate({bond.index: bond.size for bond in result.bonds})
    assert max(cut.measured, cut.bound) <= 1e-10
    assert (cut.network(x) - result.network(x)).abs().max() <= 1e-10 * result.network(x).abs().max()


@pytest.mark.parametrize("given", INPUTS)
@pytest.mark.parametrize("lift_it", [False, True], ids=["plain", "lifted"])
def test_singular_bonds_are_cut_to_what_they_carry(lift_it, given):
    """Bond 1 has 5 coordinates of rank 2, one of them zero; bond 2 one that the head does not read."""
    first, second, third = (
        layer_of(5, 3, 6, 0, scale=0.5),
        layer_of(4, 5, 7, 10, scale=0.5),
        layer_of(2, 4, 8, 20, scale=0.5),
    )
    down = normal(5, 2, seed=3) @ normal(2, 6, seed=4)
    down[3] = 0
    first = BilinearLayer(down=down, left=first.left, right=first.right)
    unread = torch.ones(4, 1).double()
    unread[2] = 0
    third = BilinearLayer(down=third.down, left=third.left * unread, right=third.right * unread)
    layers = [lift(layer) if lift_it else layer for layer in (first, second, third)]
    given = INPUTS[given]()
    if given:
        given = Moments(given.mean, torch.outer(given.mean, given.mean))  # and a singular input
    result = odt(BilinearNetwork(layers), given)
    assert result.bonds[1].rank == (1 if given else 2)
    assert result.bonds[2].rank <= 3
    cut = result.truncate({1: 5, 2: 4})
    assert cut.ranks == {1: result.bonds[1].rank, 2: result.bonds[2].rank}
    assert cut.measured <= 1e-10
    assert all(bool(torch.isfinite(layer.down).all()) for layer in cut.network.layers)
    x = normal(9, 3, seed=1)
    if given:  # only inputs along the one direction of the moments are promised
        x = x[:, :1] * given.mean
    assert (cut.network(x) - result.network(x)).abs().max() <= 1e-10 * result.network(x).abs().max()


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_a_cut_keeps_the_constant_and_encodes_what_differs_from_the_center(rank):
    result = case("lifted", "second moment")
    cut = result.truncate(rank)
    x = normal(6, 3, seed=2)
    hidden = torch.cat([torch.ones(6, 1).double(), x], 1)
    for index, (part, original) in enumerate(zip(cut.network.parts[:2], result.network.parts[:2], strict=True), 1):
        assert part.constant_in
        assert part.constant_out
        bond = result.bonds[index]
        encoder, decoder = bond.maps(rank)
        h = original.multilinear(torch.cat([torch.ones(6, 1).double(), x], 1))
        codes = torch.cat([torch.ones(6, 1).double(), (h - bond.center)[:, 1:] @ bond.encoder[:rank, 1:].T], 1)
        torch.testing.assert_close(h @ encoder.T, codes, rtol=0, atol=TIGHT)
        torch.testing.assert_close(decoder[0], torch.eye(rank + 1).double()[0], rtol=0, atol=TIGHT)
        hidden = part.multilinear(hidden)
        torch.testing.assert_close(hidden[:, 0], torch.ones(6).double(), rtol=0, atol=TIGHT)


@pytest.mark.parametrize("scale", [1e-12, 1e12])
@pytest.mark.parametrize("network", NETWORKS)
def test_scaling_the_network_changes_only_its_norm(network, scale):
    result = case(network, "isotropic")
    layers = result.network.layers
    last = BilinearLayer(
        down=scale * layers[-1].down, left=layers[-1].left, right=layers[-1].right, constant_in=layers[-1].constant_in
    )
    scaled = odt(BilinearNetwork([*layers[:-1], last]))
    for a, b in zip(result.bonds, scaled.bonds, strict=True):
        assert b.log_norm - a.log_norm == pytest.approx(math.log(scale), rel=1e-12)
        torch.testing.assert_close(b.singular_values, a.singular_values, rtol=0, atol=TIGHT)
    assert scaled.truncate(1).measured == pytest.approx(result.truncate(1).measured, rel=1e-10)


@every_case
@pytest.mark.parametrize("error", [0.0, 0.03, 0.2, 0.5, 0.9])
def test_an_error_is_kept_with_the_fewest_coordinates(network, given, error):
    result = case(network, given)
    cut = result.truncate(error=error)
    assert cut.measured <= cut.bound + TIGHT
    assert cut.bound <= error + TIGHT
    inner_bonds = result.bonds[1:-1]
    fits = [
        sum(ranks)
        for ranks in itertools.product(*(range(lowest(bond), bond.size + 1) for bond in inner_bonds))
        if sum(b.occurrences * b.discarded(r) for b, r in zip(inner_bonds, ranks, strict=True)) <= error**2 + 1e-20
    ]
    assert sum(cut.ranks.values()) == min(fits)


def test_gaps_and_clusters_are_told():
    eye = torch.eye(3, dtype=torch.float64)
    down = torch.diag(torch.tensor([2.0, 1.0, 1.0]).double())
    cut = odt(
        BilinearNetwork([BilinearLayer(down=down, left=eye, right=eye), BilinearLayer(down=eye, left=eye, right=eye)])
    ).truncate(2)
    assert cut.clusters == (1,)
    assert cut.gaps[1] == pytest.approx(1)
    assert "cluster" in repr(cut)
    result = case("plain", "isotropic")
    cut = result.truncate({1: 2, 2: 5})
    values = result.bonds[1].singular_values
    assert cut.clusters == ()
    assert cut.gaps == {1: pytest.approx(float(values[1] / values[2])), 2: math.inf}
    assert "bond 1: rank 2" in repr(cut)
    assert "bond 3: size 2, rank 2, occurrences 1" in repr(result)


def test_the_dtype_is_kept_and_parts_that_are_not_cut_are_the_same_objects(device):
    network = plain(device).to(dtype=torch.float32)
    eigen = decompose(network.layers[2], "eigen")
    network = network.replace(2, eigen)
    cut = odt(network).truncate({1: 2})
    x = normal(4, 3, seed=0, device=device).float()
    assert cut.network(x).dtype == torch.float32
    assert cut.network.parts[2] is eigen
    assert cut.network.parts[0].history[-1] == "bonds cut"
    wide = odt(network.to(dtype=torch.float64)).truncate({1: 2})
    assert cut.measured == pytest.approx(wide.measured, rel=1e-12)
    torch.testing.assert_close(cut.network(x), wide.network(x.double()).float(), rtol=1e-4, atol=1e-6)


def test_a_single_layer_is_a_network_of_one():
    layer = layer_of(4, 3, 6, 0, scale=0.5)
    cut = odt(layer).truncate({1: 2})
    assert cut.measured == pytest.approx(cut.bound, rel=1e-10)  # one bond, one occurrence: nothing is lost twice


def test_no_core_is_made_dense():
    network = BilinearNetwork([layer_of(30, 30, 30, 10 * i, scale=0.5) for i in range(3)])
    with LargestArray() as seen:
        odt(network).truncate(10)
    assert 30**2 <= seen.elements <= (3 * 30) ** 2 < 30**3  # the error is measured with three times the hidden units


def test_a_part_that_hands_on_the_constant_zero():
    """As a truncated decomposition of a lifted layer may: the rest of the bond is cut as ever."""
    network = NETWORKS["lifted"]()
    layer = network.layers[0]
    down = torch.cat([torch.zeros_like(layer.down[:1]), layer.down[1:]])
    result = odt(network.replace(0, replace(layer, down=down)))
    whole = tree(result)
    for rank in range(1, 4):
        cut = result.truncate({1: rank})
        difference = whole - tree(result, {1: projector(result.bonds[1], rank)})
        assert abs(cut.measured - float(difference.norm() / whole.norm())) <= TIGHT
        assert cut.measured <= cut.bound + TIGHT
