"""The order of a contraction: copies are treated alike, the cheapest order is taken, and it is found once."""

import itertools

import opt_einsum
import pytest

from tensornet_interp.planning import SHARED, Chunk, Plan, make_plan

LIMIT = 10**9


def tree(depth):
    """Term modes and slots of a stack of CP layers with one array x at every input."""
    modes, leaves = [], []

    def grow(level, out, name):
        legs = [f"{name}{side}" for side in "ab"]
        rank = f"rank{name}"
        for slot, mode in enumerate((out, *legs)):
            modes.append((mode, rank))
            leaves.append(3 * level + slot)
        for leg in legs:
            if level:
                grow(level - 1, leg, leg)
            else:
                modes.append(("batch", leg))
                leaves.append(3 * depth)

    grow(depth - 1, "out", "n")
    return tuple(modes), tuple(leaves)


def sizes_of(modes, width, batch):
    return {mode: batch if mode == "batch" else width for mode in dict.fromkeys(itertools.chain(*modes))}


@pytest.mark.parametrize(("width", "batch"), [(512, 256), (512, 500), (30, 7)])
def test_copies_are_contracted_alike(width, batch):
    for depth in range(1, 7):
        modes, leaves = tree(depth)
        plan = make_plan(modes, leaves, sizes_of(modes, width, batch), ("batch", "out"), SHARED, LIMIT)
        assert len(plan.steps) == 4 * depth
        assert plan.flops == depth * (6 * batch * width**2 + batch * width)


def test_a_search_alone_loses_the_sharing_that_shared_keeps():
    """The reason for "shared": opt_einsum counts every copy, and breaks ties differently from copy to copy."""
    modes, leaves = tree(4)
    arguments = modes, leaves, sizes_of(modes, 512, 256), ("batch", "out")
    assert len(make_plan(*arguments, "auto-hq", LIMIT).steps) > 16 == len(make_plan(*arguments, SHARED, LIMIT).steps)


def test_shared_is_never_dearer_than_the_search():
    chains = [
        [("i", "j"), ("j", "k"), ("k", "l"), ("l", "m")],
        [("i", "r"), ("j", "r"), ("k", "r"), ("i", "s"), ("j", "s"), ("k", "s")],  # two CP tensors, their product
        [("a", "b", "c"), ("c", "d"), ("b", "d", "e"), ("e", "a", "f")],
    ]
    for number, modes in enumerate(chains):
        names = list(dict.fromkeys(itertools.chain(*modes)))
        for shift in range(4):
            sizes = {mode: 2 + (3 * i + 5 * shift) % 11 for i, mode in enumerate(names)}
            output = (names[0],) if number != 1 else ()
            arguments = tuple(modes), tuple(range(len(modes))), sizes, output
            shared, search = (make_plan(*arguments, optimize, LIMIT) for optimize in (SHARED, "auto-hq"))
            assert shared.flops <= search.flops
            assert shared.unshared_steps == search.unshared_steps == len(modes) - 1


def test_an_order_within_the_limit_goes_before_a_cheaper_one():
    """At a large batch it is cheaper to multiply weights first (two 30 x 30 arrays kept), layer by layer needs less."""
    modes, leaves = tree(2)
    arguments = modes, leaves, sizes_of(modes, 30, 400), ("batch", "out"), SHARED
    free, tight = (make_plan(*arguments, limit) for limit in (LIMIT, 36500))
    assert tight.peak_elements == 3 * 400 * 30 <= 36500 < free.peak_elements
    assert free.flops < tight.flops == 2 * (6 * 400 * 30**2 + 400 * 30)


def test_a_plan_is_made_once_for_a_structure_with_its_sizes():
    calls = []

    def optimizer(*arguments):
        calls.append(arguments)
        return opt_einsum.paths.optimal(*arguments)

    modes, leaves = (("i", "j"), ("j", "k")), (0, 1)
    first = make_plan(modes, leaves, {"i": 2, "j": 3, "k": 5}, ("i", "k"), optimizer, LIMIT)
    assert make_plan(modes, leaves, {"i": 2, "j": 3, "k": 5}, ("i", "k"), optimizer, LIMIT) is first
    assert len(calls) == 1
    for changed in (
        (modes, (0, 0), {"i": 2, "j": 2, "k": 2}, ("i", "k")),  # other sharing
        (modes, leaves, {"i": 2, "j": 3, "k": 6}, ("i", "k")),
        (modes, leaves, {"i": 2, "j": 3, "k": 5}, ("k", "i")),
    ):
        make_plan(*changed, optimizer, LIMIT)
    assert len(calls) == 4


def test_an_optimizer_object_serves_contractions_of_several_sizes():
    optimizer = opt_einsum.DynamicProgramming(), opt_einsum.RandomGreedy(max_repeats=2)
    for one in optimizer:
        for size in (7, 4):  # a batch and its chunks
            plan = make_plan((("i", "j"), ("j", "k")), (0, 1), {"i": size, "j": 3, "k": 5}, ("i", "k"), one, LIMIT)
            assert plan.flops == 2 * size * 3 * 5


def test_terms_without_a_common_mode_are_multiplied_out():
    plan = make_plan((("i",), ("j",), ("k",)), (0, 1, 2), {"i": 2, "j": 3, "k": 5}, ("k", "i", "j"), SHARED, LIMIT)
    assert plan.steps[-1].elements == 30
    assert len(plan.steps) == 2


def test_one_term_takes_one_step():
    plan = make_plan((("i", "j"),), (0,), {"i": 2, "j": 3}, ("j",), SHARED, LIMIT)
    assert [step.equation for step in plan.steps] == ["ab->b"]


def test_a_chunk_counts_its_slices_and_the_whole_output():
    modes, leaves = (("batch", "i"), ("i", "j")), (0, 1)
    one = make_plan(modes, leaves, {"batch": 4, "i": 3, "j": 5}, ("batch", "j"), SHARED, LIMIT)
    plan = Plan(one.output, one.sizes, one.leaves, one.steps, one.unshared_steps, Chunk("batch", 4, 10))
    assert plan.chunk.slices == 3
    assert plan.flops == 3 * 2 * 4 * 3 * 5
    assert plan.largest_intermediate == 10 * 5
    assert plan.peak_elements == 10 * 5 + 4 * 5


def test_the_batch_stays_the_first_axis():
    """Data times weights, rows of samples: the transposed product took twice as long in float64."""
    modes, leaves = tree(2)
    plan = make_plan(modes, leaves, sizes_of(modes, 512, 256), ("batch", "out"), SHARED, LIMIT)
    assert all(step.names.split("-> ")[1].startswith("batch ") for step in plan.steps)
