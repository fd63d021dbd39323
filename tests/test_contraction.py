"""Contracting terms is einsum, whatever the order; the plan tells the cost before anything is allocated."""

import opt_einsum
import pytest
import torch
from helpers import assert_close, layer_of, normal

from tensornet_interp import BilinearNetwork, Term, contract, plan, rename

# sums of some hundred products of standard normal numbers: rounding below 1e-14 of the largest entry, times 100


def hyperedge_terms(device="cpu"):
    return (
        Term(normal(2, 5, seed=1, device=device), ("out", "rank")),
        Term(normal(3, 5, seed=2, device=device), ("in1", "rank")),
        Term(normal(4, 5, seed=3, device=device), ("in2", "rank")),
        Term(normal(6, 4, seed=4, device=device), ("batch", "in2")),
    )


OUTPUTS = [
    ("out", "in1", "batch"),
    ("batch", "in1", "out"),
    ("rank", "out"),  # a shared mode that is asked for is matched, not summed
    ("rank",),
    (),
    ("in2", "rank", "in1", "out", "batch"),
]


@pytest.mark.parametrize("output", OUTPUTS, ids=lambda output: ",".join(output) or "scalar")
@pytest.mark.parametrize(
    "optimize",
    ["auto-hq", "greedy", opt_einsum.DynamicProgramming(), opt_einsum.paths.optimal],
    ids=["auto-hq", "greedy", "object", "function"],
)
def test_contract_is_einsum(output, optimize, device):
    terms = hyperedge_terms(device)
    letters = {"out": "o", "rank": "r", "in1": "i", "in2": "j", "batch": "b"}
    equation = "or,ir,jr,bj->" + "".join(letters[mode] for mode in output)
    reference = torch.einsum(equation, *(term.data for term in terms))
    assert_close(contract(terms, output, optimize=optimize), reference)


def test_default_output_of_terms_is_the_modes_that_appear_once():
    terms = hyperedge_terms()
    assert plan(terms).output == ("out", "in1", "batch")
    assert_close(contract(terms), contract(terms, ("out", "in1", "batch")))


def test_default_output_of_a_network_is_its_modes():
    one = layer_of(2, 3, 5, seed=1)
    assert plan(one).output == one.modes == ("out", "in1", "in2")
    assert_close(one.to_tensor(), torch.einsum("or,ir,jr->oij", one.down, one.left, one.right))
    assert one.sizes == {"out": 2, "in1": 3, "in2": 3}


@pytest.mark.parametrize(
    ("output", "equation"), [(("i", "j"), "ij->ij"), (("j", "i"), "ij->ji"), (("j",), "ij->j"), ((), "ij->")]
)
def test_one_term_is_permuted_and_summed(output, equation):
    data = normal(3, 4, seed=1)
    assert_close(contract([Term(data, ("i", "j"))], output), torch.einsum(equation, data))


def test_a_mode_twice_in_one_term_is_its_diagonal():
    data = normal(3, 3, 4, seed=1)
    assert_close(contract([Term(data, ("i", "i", "j"))], ("i", "j")), torch.einsum("iij->ij", data))
    assert_close(contract([Term(data, ("i", "i", "j"))], ("j",)), torch.einsum("iij->j", data))


def test_one_array_in_several_places_is_shared_but_not_confused():
    a = normal(3, 3, seed=1)
    chain = [Term(a, ("i", "j")), Term(a, ("j", "k")), Term(a, ("k", "l"))]
    assert_close(contract(chain, ("i", "l")), a @ a @ a)
    transposed = [Term(a, ("i", "j")), Term(a, ("k", "j")), Term(a, ("k", "l"))]
    assert_close(contract(transposed, ("l", "i")), (a @ a.T @ a).T)


def test_rename_changes_the_named_modes_only():
    terms = hyperedge_terms()
    renamed = rename(terms, {"rank": "hidden", "in1": "x", "absent": "y"})
    assert [term.modes for term in renamed] == [
        ("out", "hidden"),
        ("x", "hidden"),
        ("in2", "hidden"),
        ("batch", "in2"),
    ]
    assert all(new.data is old.data for new, old in zip(renamed, terms, strict=True))
    assert_close(contract(renamed, ("out", "x", "batch")), contract(terms, ("out", "in1", "batch")))


def test_rename_can_swap():
    (term,) = rename([Term(normal(2, 3, seed=1), ("a", "b"))], {"a": "b", "b": "a"})
    assert term.modes == ("b", "a")


def test_plan_of_a_product_of_two_matrices_by_hand():
    one = plan([Term(normal(2, 3, seed=1), ("i", "j")), Term(normal(3, 5, seed=2), ("j", "k"))])
    # 2 * 3 * 5 multiplications and as many additions; nothing but the result is made
    assert (one.flops, one.largest_intermediate, one.peak_elements) == (60, 10, 10)
    assert one.sizes == {"i": 2, "j": 3, "k": 5}


def test_plan_of_a_chain_by_hand():
    chain = [
        Term(normal(2, 30, seed=1), ("i", "j")),
        Term(normal(30, 5, seed=2), ("j", "k")),
        Term(normal(5, 40, seed=3), ("k", "l")),
    ]
    costs = plan(chain)
    # (A B) C: 2 * (2 30 5) + 2 * (2 5 40) = 600 + 800; A B has 10 elements and lives until the result (80) is made
    assert (costs.flops, costs.largest_intermediate, costs.peak_elements) == (1400, 80, 90)
    assert [step.elements for step in costs.steps] == [10, 80]


def test_plan_of_an_outer_product_counts_no_additions():
    costs = plan([Term(normal(2, seed=1), ("i",)), Term(normal(7, seed=2), ("j",))])
    assert (costs.flops, costs.largest_intermediate, costs.peak_elements) == (14, 14, 14)


def test_plan_shows_its_cost():
    text = str(plan(hyperedge_terms(), ("out", "batch")))
    assert "flops" in text
    assert "rank=5" in text
    assert "batch in2" in text or "in2 rank, batch in2" in text


def test_copies_in_a_stack_are_contracted_once():
    stack = BilinearNetwork([layer_of(4, 3, 5, seed=1), layer_of(6, 4, 7, seed=11), layer_of(2, 6, 8, seed=21)])
    x = normal(9, 3, seed=31)
    terms = (*stack.terms(), *(Term(x, ("batch", mode)) for mode in stack.modes[1:]))
    shared = plan(terms, ("batch", "out"))
    copies = tuple(Term(data.clone(), modes) for data, modes in terms)
    apart = plan(copies, ("batch", "out"))
    assert shared.unshared_steps == apart.unshared_steps == len(apart.steps) == len(terms) - 1
    assert len(shared.steps) < len(apart.steps)
    assert shared.flops < apart.flops
    assert_close(contract(terms, ("batch", "out")), contract(copies, ("batch", "out")))


def test_one_layer_on_a_batch_costs_what_the_layer_costs():
    batch, n_in, rank, n_out = 1024, 784, 256, 10
    one = layer_of(n_out, n_in, rank, seed=1)
    x = normal(batch, n_in, seed=4)
    terms = (*one.terms(), Term(x, ("batch", "in1")), Term(x, ("batch", "in2")))
    costs = plan(terms, ("batch", "out"), optimize="auto-hq")
    by_hand = 2 * batch * rank * (2 * n_in + n_out) + batch * rank
    assert costs.flops <= by_hand
    assert costs.largest_intermediate <= batch * rank
    assert_close(contract(terms, ("batch", "out"), optimize="auto-hq"), one(x))


def huge(size, *modes):
    return Term(torch.zeros(1, dtype=torch.float64).expand((size,) * len(modes)), modes)


@pytest.mark.parametrize("act", [plan, contract])
def test_too_many_elements_are_refused_before_they_are_allocated(act):
    terms = [huge(10**7, "i"), huge(10**7, "j")]  # the product would take 800 TB
    with pytest.raises(ValueError, match="max_elements"):
        act(terms, ("i", "j"))


def test_max_elements_is_the_peak():
    terms = [Term(normal(2, seed=1), ("i",)), Term(normal(7, seed=2), ("j",))]
    assert contract(terms, max_elements=14).shape == (2, 7)
    with pytest.raises(ValueError, match=r"max_elements"):
        contract(terms, max_elements=13)


def batched(samples=50, device="cpu"):
    one = layer_of(2, 3, 4, seed=1, device=device)
    x = normal(samples, 3, seed=9, device=device)
    return one, x, (*one.terms(), Term(x, ("batch", "in1")), Term(x, ("batch", "in2")))


@pytest.mark.parametrize("limit", [10**9, 300, 150, 112])
def test_a_chunked_contraction_is_the_whole_one_within_the_limit(limit, device):
    one, x, terms = batched(device=device)
    for output in (("batch", "out"), ("out", "batch")):
        costs = plan(terms, output, chunk="batch", max_elements=limit)
        assert costs.peak_elements <= limit
        assert costs.chunk is None if limit == 10**9 else costs.chunk.total == 50
        whole = contract(terms, output, chunk="batch", max_elements=limit)
        assert_close(whole, one(x) if output[0] == "batch" else one(x).T)


def test_a_chunked_plan_by_hand():
    _, _, terms = batched()
    costs = plan(terms, ("batch", "out"), chunk="batch", max_elements=150)
    # a sample: left, right and their product (4 each, 12 together), the output 2; beside the whole output of 100
    size = costs.chunk.size
    assert costs.peak_elements == 100 + 12 * size
    assert costs.largest_intermediate == 100
    assert costs.flops == -(-50 // size) * size * (2 * 2 * 3 * 4 + 4 + 2 * 4 * 2)
    assert f"for {size} of batch=50 at a time" in str(costs)


def test_there_are_as_many_slices_as_the_limit_asks_for_and_not_the_next_power_of_two():
    one, x = layer_of(1, 30, 12, seed=1), normal(50, 30, seed=9)
    terms = (*one.terms(), Term(x, ("batch", "in1")), Term(x, ("batch", "in2")))
    costs = plan(terms, ("batch", "out"), chunk="batch", max_elements=410)
    assert costs.chunk.size == 10  # 36 elements per sample, beside the 50 of the whole output


def test_chunks_that_do_not_suffice_are_refused():
    _, _, terms = batched()
    for limit in (99, 105):  # less than the output; less than the output and what one sample takes
        with pytest.raises(ValueError, match="max_elements"):
            contract(terms, ("batch", "out"), chunk="batch", max_elements=limit)
    with pytest.raises(ValueError, match="chunk="):
        contract(terms, ("batch", "out"), max_elements=150)


def test_one_array_sliced_in_one_term_and_whole_in_another_is_not_confused():
    a = normal(6, 6, seed=1)
    terms = [Term(a, ("batch", "i")), Term(a, ("i", "j")), Term(a, ("j", "batch"))]
    for limit in (10**9, 30):
        assert_close(contract(terms, ("batch",), chunk="batch", max_elements=limit), torch.diagonal(a @ a @ a))


def test_a_chunked_contraction_is_differentiable():
    _, x, terms = batched(5)
    x.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: contract(
            [Term(x, t.modes) if "batch" in t.modes else t for t in terms],
            ("batch", "out"),
            chunk="batch",
            max_elements=40,
        ),
        x,
    )


def test_sizes_that_do_not_meet_name_the_mode():
    terms = [Term(normal(2, 3, seed=1), ("i", "shared")), Term(normal(4, seed=2), ("shared",))]
    with pytest.raises(ValueError, match=r"mode 'shared' has size 3 .* but 4"):
        contract(terms)


def test_unknown_output_mode_is_named():
    with pytest.raises(ValueError, match=r"'absent'.*out, rank, in1, in2, batch"):
        contract(hyperedge_terms(), ("out", "absent"))


def test_output_twice_is_an_error():
    with pytest.raises(ValueError, match="twice"):
        contract(hyperedge_terms(), ("out", "out"))


def test_string_output_is_an_error():
    with pytest.raises(TypeError, match=r"did you mean \('out',\)"):
        contract(hyperedge_terms(), "out")


def test_nothing_to_contract_is_an_error():
    with pytest.raises(ValueError, match="empty"):
        contract([])


def test_axes_must_match_modes_and_dtypes_each_other():
    with pytest.raises(ValueError, match="dimensions"):
        contract([Term(normal(2, 3, seed=1), ("i",))])
    with pytest.raises(ValueError, match="dtype"):
        contract([Term(normal(2, seed=1), ("i",)), Term(normal(3, seed=2).float(), ("j",))])


def test_contract_is_differentiable(device):
    data = [term.data.requires_grad_() for term in hyperedge_terms(device)]
    modes = [term.modes for term in hyperedge_terms()]

    def evaluate(*arrays):
        return contract(list(map(Term, arrays, modes)), ("out", "batch"))

    assert torch.autograd.gradcheck(evaluate, data)
