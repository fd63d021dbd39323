"""Circuits: the tree of components is the network, its numbers are what removing a component does."""

from dataclasses import replace

import pytest
import torch
from helpers import normal

from tensornet_interp import BilinearLayer, BilinearNetwork, decompose, lift
from tensornet_interp.circuits import Circuit, circuit
from tensornet_interp.testing import random_layer

EPS = torch.finfo(torch.float64).eps
EXACT = 1e-10  # of a tree of products of random numbers; what is seen is below 1e-13


def lifted(n_out, n_in, rank, seed, device="cpu", residual=0.0):
    biases = {"left_bias": rank, "right_bias": rank, "bias": n_out}
    given = {name: normal(size, seed=seed + i, device=device) for i, (name, size) in enumerate(biases.items(), 50)}
    return lift(random_layer(n_out, n_in, rank, seed=seed, device=device), residual=residual, **given)


NETWORKS = {
    "plain": lambda device: BilinearNetwork(
        [
            random_layer(n_out, n_in, rank, seed=rank, device=device)
            for n_out, n_in, rank in ((5, 4, 3), (6, 5, 7), (3, 6, 4))
        ]
    ),
    "biases and residuals": lambda device: BilinearNetwork(
        [lifted(5, 4, 3, 1, device), lifted(5, 5, 6, 2, device, 0.5), lifted(3, 5, 4, 3, device)]
    ),
    "few hidden units": lambda device: BilinearNetwork([lifted(5, 90, 2, 1, device), lifted(3, 5, 4, 2, device)]),
    "a decomposition inside": lambda device: decompose(
        BilinearNetwork([lifted(5, 4, 3, 1, device), lifted(3, 5, 4, 2, device)]), {0: "eigen"}
    ),
    "one layer": lambda device: BilinearNetwork([lifted(3, 4, 5, 4, device)]),
}


@pytest.fixture(params=NETWORKS)
def network(request, device):
    return NETWORKS[request.param](device)


def given(network, samples=7):
    """A direction and inputs."""
    layer = network.layers[0]
    device = layer.down.device
    size = layer.shape[1] - layer.constant_in
    return normal(3, seed=10, device=device), normal(samples, size, seed=11, device=device)


def without(tree: Circuit, depth: int, number: int) -> Circuit:
    """The tree with one component set to zero."""
    eigenvalues = tree.levels[depth].eigenvalues.clone()
    eigenvalues[number] = 0
    levels = list(tree.levels)
    levels[depth] = replace(levels[depth], eigenvalues=eigenvalues)
    return replace(tree, levels=tuple(levels))


def largest(tensor):
    return float(tensor.abs().max())


@pytest.mark.parametrize("ranked", [True, False], ids=["by inputs", "by weights"])
def test_complete_widths_reproduce_the_output(network, ranked):
    direction, x = given(network)
    tree = circuit(network, direction, widths=None, x=x if ranked else None)
    output = network(x) @ direction
    assert largest(tree(x) - output) <= EXACT * largest(output)
    assert tree.relative_error(x) <= EXACT
    assert tree(x[:6].reshape(2, 3, -1)).shape == (2, 3)
    assert tree(x[0]).shape == ()
    assert circuit(network, direction, widths=None, x=x[0]).relative_error(x) <= EXACT


def test_children_sum_to_the_activation_of_their_parent(network):
    direction, x = given(network)
    tree = circuit(network, direction, widths=None)
    parents = [(network(x) @ direction)[:, None], *tree.coordinates(x)[:-1]]
    for level, parts, parent in zip(tree.levels, tree.contributions(x), parents, strict=True):
        total = torch.zeros_like(parent).index_add(-1, level.parents, parts)
        assert largest(total - parent) <= EXACT * largest(parent)


def test_an_ablation_is_what_removing_the_component_does(network):
    direction, x = given(network)
    tree = circuit(network, direction, widths=None, x=x)
    output = network(x) @ direction
    for depth, (level, changes) in enumerate(zip(tree.levels, tree.ablations(x), strict=True)):
        for number in range(0, len(level), max(1, len(level) // 5)):
            change = output - without(tree, depth, number)(x)
            assert largest(changes[:, number] - change) <= EXACT * largest(output) + EXACT * largest(change)
            assert float(level.scores[number]) == pytest.approx(
                float(change.norm() / output.norm()), rel=1e-8, abs=1e-12
            )


def test_coordinates_and_ablations_do_not_depend_on_what_is_kept(network):
    direction, x = given(network)
    whole = circuit(network, direction, widths=None)
    cut = circuit(network, direction, widths=1)
    for values in ("coordinates", "ablations"):
        for full, kept in zip(getattr(whole, values)(x), getattr(cut, values)(x), strict=True):
            best = (full - kept).abs().amax(0).min()
            assert float(best) <= EXACT * largest(full)


def tensors(tree):
    """The tensor of every component, flattened, level by level from the top; the output's comes first."""
    found = [tree.levels[-1].vectors]
    for depth in reversed(range(len(tree.levels))):
        level = tree.levels[depth]
        squares = (found[0][:, :, None] * found[0][:, None, :]).flatten(1)
        total = squares.new_zeros(len(tree.levels[depth - 1]) if depth else 1, squares.shape[1])
        found.insert(0, total.index_add(0, level.parents, level.eigenvalues[:, None] * squares))
    return found


def test_without_inputs_a_score_bounds_the_change_of_the_tensor(device):
    network = BilinearNetwork([lifted(2, 2, rank, rank, device) for rank in (3, 4, 5)])
    tree = circuit(network, normal(2, seed=10, device=device), widths=None)
    (whole,), *parts = tensors(tree)  # 3^8 entries
    norms = [part.norm(dim=1) for part in parts]
    first, second, third = (layer.symmetrize().to_tensor() for layer in network.layers)
    pairs = torch.einsum("zij,iab,jcd->zabcd", second, first, first).flatten(1)
    dense = torch.einsum("o,oij,ia,jb->ab", tree.direction, third, pairs, pairs).flatten()
    assert largest(whole - dense) <= 1e-12 * largest(dense)
    for depth, level in enumerate(tree.levels):
        for number, score in enumerate(level.scores.tolist()):
            change = tensors(without(tree, depth, number))[0][0] - whole
            assert float(change.norm() / whole.norm()) <= score * (1 + 1e-9)
            # |a^2 - b^2| <= |a - b| (2 |a| + |a - b|), level by level
            bound = abs(float(level.eigenvalues[number])) * float(norms[depth][number]) ** 2
            above = int(level.parents[number])
            for up in reversed(range(depth)):
                eigenvalue, norm = float(tree.levels[up].eigenvalues[above]), float(norms[up][above])
                bound *= abs(eigenvalue) * (2 * norm + bound)
                above = int(tree.levels[up].parents[above])
            assert score == pytest.approx(bound / float(whole.norm()), rel=1e-9)


def test_the_square_of_a_product_by_hand(device):
    """f = (x1 x2)^2: one square above, and x1 x2 = 1/4 (x1 + x2)^2 - 1/4 (x1 - x2)^2 below."""
    eye = torch.eye(2, dtype=torch.float64, device=device)
    product = BilinearLayer(down=eye[:1, :1], left=eye[:, :1], right=eye[:, 1:])
    square = BilinearLayer(down=eye[:1, :1], left=eye[:1, :1], right=eye[:1, :1])
    tree = circuit(BilinearNetwork([product, square]), eye[0, :1], widths=None)
    assert [len(level) for level in tree.levels] == [1, 2]
    assert tree.levels[0].eigenvalues.tolist() == [1.0]
    torch.testing.assert_close(tree.levels[1].eigenvalues.abs(), eye.new_tensor([0.5, 0.5]), rtol=4 * EPS, atol=0)
    torch.testing.assert_close(tree.levels[1].vectors.abs(), eye.new_full((2, 2), 0.5**0.5), rtol=8 * EPS, atol=0)
    x = eye.new_tensor([3.0, 2.0])
    assert float(tree(x)) == pytest.approx(36, rel=1e-14)
    parts = sorted(tree.contributions(x)[1].tolist())
    assert parts == pytest.approx([-0.25, 6.25], rel=1e-13)
    # without -1/4 (x1 - x2)^2 the output is 6.25^2, without 1/4 (x1 + x2)^2 it is 0.25^2
    assert sorted(tree.ablations(x)[1].tolist()) == pytest.approx([36 - 6.25**2, 36 - 0.25**2], rel=1e-13)


def test_widths_keep_the_best_children_of_every_parent(device):
    network = NETWORKS["plain"](device)
    direction, x = given(network)
    whole = circuit(network, direction, widths=None, x=x)
    tree = circuit(network, direction, widths=(3, 2, 4), x=x)
    assert [len(level) for level in tree.levels] == [4, 8, 24]
    assert [level.layer for level in tree.levels] == [2, 1, 0]
    torch.testing.assert_close(tree.levels[0].scores, whole.levels[0].scores[:4], rtol=1e-12, atol=0)
    for number in range(4):
        kept = tree.levels[1].scores[tree.levels[1].parents == number]
        all_scores = whole.levels[1].scores[whole.levels[1].parents == number]
        torch.testing.assert_close(kept, all_scores[:2], rtol=1e-9, atol=0)
    assert [len(level) for level in circuit(network, direction, widths=2).levels] == [2, 4, 8]


def test_a_beam_keeps_the_best_of_a_level_and_nothing_without_children(device):
    network = NETWORKS["biases and residuals"](device)
    direction, x = given(network)
    whole = circuit(network, direction, widths=None, x=x)
    tree = circuit(network, direction, widths=None, beam=4, x=x)
    assert all(len(level) <= 4 for level in tree.levels)
    assert len(tree.levels[-1]) == 4
    for level, below in zip(tree.levels, tree.levels[1:], strict=False):
        assert below.parents.unique().tolist() == list(range(len(level)))
    best = whole.levels[1].scores[whole.levels[1].parents < 4][:4]  # of those whose parents are in the beam
    assert all(float((best - score).abs().min()) <= 1e-9 * float(score) for score in tree.levels[1].scores)
    wide = circuit(network, direction, widths=None, beam=10**6, x=x)
    assert [len(level) for level in wide.levels] == [len(level) for level in whole.levels]


def test_many_inputs_are_worked_on_in_chunks_of_parents(device):
    """So many samples that only a few parents fit in a chunk; scores are means, so repeating inputs changes nothing."""
    network = BilinearNetwork(
        [random_layer(9, 12, 7, seed=1, device=device), random_layer(3, 9, 6, seed=2, device=device)]
    )
    direction, x = given(network, samples=4)
    few, many = (circuit(network, direction, widths=(3, 9), beam=11, x=x.repeat(n, 1)) for n in (1, 2**16))
    assert len(few.levels[1]) == 11
    for level, same in zip(many.levels, few.levels, strict=True):
        assert torch.equal(level.parents, same.parents)
        torch.testing.assert_close(level.scores, same.scores, rtol=1e-9, atol=0)
        torch.testing.assert_close(level.eigenvalues, same.eigenvalues, rtol=1e-9, atol=0)


def test_levels_are_sorted_unit_and_of_one_sign(network):
    tree = circuit(network, given(network)[0], widths=None, beam=30)
    for level in tree.levels:
        assert bool((level.scores.diff() <= 0).all())
        torch.testing.assert_close(level.vectors.norm(dim=1), torch.ones_like(level.scores), rtol=0, atol=1e-12)
        assert bool((level.vectors.gather(1, level.vectors.abs().argmax(1, keepdim=True)) > 0).all())


def test_what_reaches_no_input_is_left_out(device):
    """The top layer reads a coordinate that is always zero: the component of it is no part of the tree."""
    below, above = random_layer(2, 3, 4, seed=1, device=device), random_layer(1, 2, 1, seed=2, device=device)
    below = replace(below, down=below.down * below.down.new_tensor([[1.0], [0.0]]))
    eye = torch.eye(2, dtype=torch.float64, device=device)
    above = BilinearLayer(down=above.down.new_tensor([[1.0, 2.0]]), left=eye, right=eye)  # y0^2 + 2 y1^2
    network = BilinearNetwork([below, above])
    tree = circuit(network, eye[0, :1], widths=None)
    assert [len(level) for level in tree.levels] == [1, 3]
    assert tree.relative_error(normal(5, 3, seed=3, device=device)) <= EXACT


def test_components_are_the_levels_as_a_tree(network):
    tree = circuit(network, given(network)[0], widths=None, beam=12)
    seen = [0] * len(tree.levels)

    def visit(components, depth, parent):
        assert [node.score for node in components] == sorted((node.score for node in components), reverse=True)
        for node in components:
            level = tree.levels[depth]
            seen[depth] += 1
            assert int(level.parents[node.number]) == parent
            assert (node.layer, node.eigenvalue) == (level.layer, float(level.eigenvalues[node.number]))
            assert torch.equal(node.vector, level.vectors[node.number])
            assert bool(node.children) == (depth + 1 < len(tree.levels))
            visit(node.children, depth + 1, node.number)

    visit(tree.components, 0, 0)
    assert seen == [len(level) for level in tree.levels]


def test_a_printed_circuit_is_a_tree_best_first():
    network = NETWORKS["biases and residuals"]("cpu")
    tree = circuit(network, given(network)[0], widths=(1, 2, 5), name="class 0")
    head, *lines = str(tree).splitlines()
    assert head.startswith("Circuit('class 0', layers=3, components=5 + 10 + 10, score: bound on the change")
    assert lines[-1] == "  ... and 1 more"
    assert sum(line.startswith("  layer 2: eigenvalue ") for line in lines) == 4
    assert sum(line.startswith("      layer 0: eigenvalue ") for line in lines) == 8
    top = tree.components[0]
    entry = float(top.vector[0])
    assert lines[0] == (
        f"  layer 2: eigenvalue {top.eigenvalue:+.4g}, score {top.score:.3g}, constant coordinate {entry:+.2f}"
    )


def test_the_dtype_of_the_network_is_kept(device):
    network = NETWORKS["biases and residuals"](device)
    direction, x = given(network)
    single = circuit(network.to(dtype=torch.float32), direction.float(), widths=None, x=x.float())
    assert {t.dtype for level in single.levels for t in (level.eigenvalues, level.vectors, level.scores)} == {
        torch.float32
    }
    values = (
        single(x.float()),
        *(parts for name in ("contributions", "ablations") for parts in getattr(single, name)(x.float())),
    )
    assert {value.dtype for value in values} == {torch.float32}
    # three layers of products of rounded weights
    assert single.relative_error(x.float()) <= 1e-4


def test_a_layer_is_a_network_of_one():
    layer = lifted(3, 4, 5, 4)
    direction, x = given(BilinearNetwork([layer]))
    assert torch.equal(
        circuit(layer, direction, widths=2)(x), circuit(BilinearNetwork([layer]), direction, widths=2)(x)
    )


def test_behind_an_embedding_matrices_of_its_width_are_decomposed(device, monkeypatch):
    embedding = normal(5, 90, seed=3, device=device)
    layers = [lifted(5, 5, 60, 1, device).change_basis(inputs=embedding), lifted(3, 5, 4, 2, device)]
    network = BilinearNetwork(layers)
    sizes, eigh = [], torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", lambda m: sizes.append(m.shape) or eigh(m))
    direction, x = normal(3, seed=10, device=device), normal(7, 90, seed=11, device=device)
    for inputs in (x, None):
        tree = circuit(network, direction, widths=None, x=inputs)
        assert [len(level) for level in tree.levels] == [6, 36]
        assert tree.relative_error(x) <= 1e-9
    assert sum(shape[0] for shape in sizes if len(shape) == 3) == 2 * (1 + 6)  # matrices of all components
    assert max(shape[-1] for shape in sizes if len(shape) == 3) == 6  # width and constant


def test_an_embedding_that_was_rounded_to_float32_keeps_what_the_rounding_added(device):
    """Cuts belong to float64: whatever the dtype of the weights, nothing of them is dropped as rounding."""
    embedding = normal(5, 30, seed=3, device=device)
    layers = [lifted(5, 5, 20, 1, device).change_basis(inputs=embedding), lifted(3, 5, 4, 2, device)]
    network = BilinearNetwork(layers).to(dtype=torch.float32)
    direction, x = normal(3, seed=10, device=device).float(), normal(7, 30, seed=11, device=device).float()
    for inputs in (x, None):
        tree = circuit(network, direction, widths=None, x=inputs)
        wide = circuit(
            network.to(dtype=torch.float64),
            direction.double(),
            widths=None,
            x=None if inputs is None else inputs.double(),
        )
        assert [len(level) for level in tree.levels] == [len(level) for level in wide.levels]
        assert tree.relative_error(x) <= 1e-5
