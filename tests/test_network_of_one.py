"""A network of one part is its layer: same numbers, same name, history, basis and lift flags, no dense tensor made."""

from dataclasses import fields

import pytest
import torch
from helpers import normal
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from tensornet_interp import (
    BilinearNetwork,
    TensorNetwork,
    Term,
    decompose,
    difference,
    lift,
    norm,
    relative_error,
    similarity,
)
from tensornet_interp.circuits import circuit, degree_weights, expansion, project
from tensornet_interp.compare import match, stability
from tensornet_interp.features import feature_interactions, low_rank_correlation, rank_by_structure
from tensornet_interp.fidelity import fidelity, truncation_curve
from tensornet_interp.inner_products import output_similarity
from tensornet_interp.network import as_network
from tensornet_interp.sweep import sweep
from tensornet_interp.testing import random_layer

OUT, IN, RANK = 3, 7, 5


def plain():
    return random_layer(OUT, IN, RANK, seed=1).change_basis(normal(IN, IN, seed=2), basis="turned")


def lifted():
    return lift(plain(), left_bias=normal(RANK, seed=3), bias=normal(OUT, seed=4)).drop_constant()


OTHER = random_layer(OUT, IN, 4, seed=5)
X = normal(11, IN, seed=6)
DIRECTIONS, DECODER = normal(4, OUT, seed=7), normal(IN, 6, seed=8)
LABELS = torch.arange(11) % OUT
RESULT = decompose(OTHER, "eigen")
LAYERS = {"plain": plain, "lifted": lifted}
VERBS = {
    "norm": norm,
    "tree similarity": lambda part: similarity(part, other_for(part), kind="tree"),
    "symmetric similarity": lambda part: similarity(part, other_for(part), kind="symmetric"),
    "gaussian similarity": lambda part: similarity(part, other_for(part), kind="gaussian"),
    "relative_error": lambda part: relative_error(other_for(part), part),
    "relative_error of it": lambda part: relative_error(part, other_for(part)),
    "difference": lambda part: difference(part, other_for(part)),
    "output_similarity": lambda part: output_similarity(part, other_for(part)),
    "match": lambda part: match(part, other_for(part)),
    "match with it": lambda part: match(other_for(part), part),
    "stability": lambda part: stability([part, other_for(part)]),
    "sweep": lambda part: records(part),
    "feature_interactions": lambda part: feature_interactions(part, DIRECTIONS[0], DECODER),
    "low_rank_correlation": lambda part: low_rank_correlation(part, DIRECTIONS, X, (1, 2)),
    "rank_by_structure": lambda part: rank_by_structure(part, DIRECTIONS),
    "fidelity": lambda part: fidelity(part, other_for(part), X),
    "truncation_curve": lambda part: truncation_curve(RESULT, part, X, LABELS, [1, 2]),
    "circuit": lambda part: circuit(part, DIRECTIONS[0], widths=2).levels,
    "expansion": lambda part: expansion(part, X),
    "degree_weights": lambda part: degree_weights(part, 2),
}


def other_for(part):
    """Another layer with the inputs and outputs of the part."""
    return lift(OTHER, right_bias=normal(4, seed=9)).drop_constant() if part.constant_in else OTHER


def records(part):
    made = sweep(part, "eigen", {"rank": [1, 2]}, progress=False, measure=lambda result: {"name": result.report.layer})
    return [{key: value for key, value in record.items() if key != "seconds"} for record in made]


def flat(value, name="it"):
    """(name, number or text) of everything in a result; tensors as tensors."""
    if isinstance(value, Tensor | str | int | float | None):
        yield name, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from flat(item, f"{name}.{key}")
    elif isinstance(value, list | tuple):
        yield f"{name}.length", len(value)
        for i, item in enumerate(value):
            yield from flat(item, f"{name}[{i}]")
    else:
        yield from flat({field.name: getattr(value, field.name) for field in fields(value)}, name)


def assert_same(one, other):
    for (name, a), (_, b) in zip(flat(one), flat(other), strict=True):
        if isinstance(a, Tensor):
            torch.testing.assert_close(
                a, b, rtol=0, atol=0, equal_nan=True, msg=lambda text, name=name: f"{name}: {text}"
            )
        else:
            assert a == b or (a != a and b != b), name


@pytest.mark.parametrize("made", LAYERS)
@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_gives_what_it_gives_for_the_layer(verb, made):
    layer = LAYERS[made]()
    assert_same(VERBS[verb](BilinearNetwork([layer])), VERBS[verb](layer))


METHODS = {"eigen": {"rank": 2}, "output_svd": {}, "hosvd": {}, "cp": {"rank": 2, "max_iterations": 5}}


@pytest.mark.parametrize("made", LAYERS)
@pytest.mark.parametrize("method", METHODS)
def test_decompose_gives_a_network_of_one_whose_part_is_that_of_the_layer(method, made):
    layer = LAYERS[made]()
    network = decompose(BilinearNetwork([layer]), method, **METHODS[method])
    assert isinstance(network, BilinearNetwork)
    assert len(network) == 1
    assert_same(network[0], decompose(layer, method, **METHODS[method]))


def test_blocks_of_a_network_of_one_match_as_those_of_its_result():
    results = [decompose(OTHER, "output_svd", rank=rank) for rank in (2, 3)]
    networks = [BilinearNetwork([result]) for result in results]
    assert_same(match(*networks, blocks=True), match(*results, blocks=True))
    assert_same(stability(networks, blocks=True), stability(results, blocks=True))


class Largest(TorchDispatchMode):
    """Entries of the largest tensor that an operation makes."""

    entries = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        made = operation(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(made) if isinstance(leaf, Tensor)]
        self.entries = max([self.entries, *sizes])
        return made


def cost(verb, part):
    """Flops of the products and entries of the largest tensor."""
    with FlopCounterMode(display=False) as flops, Largest() as largest:
        verb(part)
    return flops.get_total_flops(), largest.entries


@pytest.mark.parametrize("verb", VERBS)
def test_a_network_of_one_costs_what_its_layer_costs(verb):
    """Made dense, it would have rank in * min(in, out), here 21 and not 5, and all products would cost more."""
    layer = plain()
    given, expected = (cost(VERBS[verb], part) for part in (BilinearNetwork([layer]), layer))
    assert given[0] <= 1.5 * expected[0]
    assert given[1] <= 1.5 * expected[1]


@pytest.mark.parametrize("made", LAYERS)
def test_to_layer_of_a_network_of_one_is_its_layer(made):
    layer = LAYERS[made]()
    assert BilinearNetwork([layer]).to_layer() is layer
    result = decompose(layer, "eigen", rank=2)
    assert_same(BilinearNetwork([result]).to_layer(), result.to_layer())


def test_of_a_lifted_layer_only_the_constant_output_is_dropped():
    layer = lift(plain(), bias=normal(OUT, seed=4))
    assert_same(BilinearNetwork([layer]).to_layer(), layer.drop_constant())


def test_a_network_of_more_is_no_layer():
    network = BilinearNetwork([plain(), random_layer(2, OUT, 4, seed=1)])
    with pytest.raises(ValueError, match=r"a network of 2 parts is no single layer; take its parts one by one"):
        network.to_layer()
    for verb in (norm, lambda part: match(part, OTHER), lambda part: records(part)):
        with pytest.raises(ValueError, match="a network of 2 parts is no single layer"):
            verb(network)


class Dense(TensorNetwork):
    """The least a user's own network must be."""

    def __init__(self, data, modes):
        self.data, self._modes = data, modes

    @property
    def modes(self):
        return self._modes

    def terms(self):
        return (Term(self.data, self._modes),)


def test_to_layer_is_dense_by_default():
    data = normal(OUT, IN, IN)
    torch.testing.assert_close(Dense(data, ("out", "in1", "in2")).to_layer().to_tensor(), data)
    network = BilinearNetwork([plain(), random_layer(2, OUT, 4, seed=1)])
    query = project(network, {"in3": X[0], "in4": X[1]})
    torch.testing.assert_close(query.to_layer().to_tensor(), query.to_tensor())


@pytest.mark.parametrize("modes", [("in1", "in2", "out"), ("out", "in1", "in3")])
def test_other_modes_are_no_layer(modes):
    with pytest.raises(
        ValueError, match=r"a layer has the modes \('out', 'in1', 'in2'\), but this Dense has .*; rename"
    ):
        Dense(normal(OUT, IN, IN), modes).to_layer()


def test_as_network():
    layer = plain()
    network = as_network(layer)
    assert network[0] is layer
    assert as_network(network) is network
    with pytest.raises(TypeError, match=r"network must be a layer, .* got torch\.nn\.Linear; absorb a linear map"):
        as_network(torch.nn.Linear(2, 3))
    with pytest.raises(TypeError, match=r"base must be a layer, .* got str"):
        as_network("layer", "base")


def test_its_plan_has_the_flops_of_its_layer():
    (made,) = BilinearNetwork([plain()]).plan(4)
    products, multiplied, mapped = 2 * 2 * RANK * IN, RANK, 2 * OUT * RANK
    assert made.flops == 4 * (products + multiplied + mapped)
