"""Define tensors with named modes, and the one function `contract` that contracts them.

A network is a tuple of `Term`s. A mode that several terms share is summed, unless it is a mode of the output; then the
entries with equal index are multiplied and kept. The rest of the package builds on terms: renaming modes composes
networks, and adding the inputs as terms evaluates a network.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from tensornet_interp.checks import (
    DEFAULT_MAX_ELEMENTS,
    check_alike,
    check_list,
    check_mapping,
    check_number,
    check_tensor,
    check_text,
    suggestion,
)
from tensornet_interp.numerics import without_autocast
from tensornet_interp.paths import Modes, Optimizer, find_path
from tensornet_interp.planning import SHARED, Chunk, Plan, Step, make_plan
from tensornet_interp.store import register_type

__all__ = ["HasTerms", "Modes", "Optimizer", "Plan", "Step", "Term", "contract", "mode_sizes", "plan", "rename"]


@register_type("Term")
class Term(NamedTuple):
    """A term is one array with a name for each of its axes."""

    data: Tensor
    modes: Modes


@runtime_checkable
class HasTerms(Protocol):
    """An object has terms if it offers `terms()` and `modes`; `contract` and `plan` accept such an object."""

    @property
    def modes(self) -> Modes:
        """Return the open modes, in the order of the axes of the result."""

    def terms(self) -> tuple[Term, ...]:
        """Return the terms of the network; an array that occurs several times is the same object each time."""


def rename(terms: Sequence[Term], names: Mapping[str, str]) -> tuple[Term, ...]:
    """Return the terms with renamed modes: `names` maps old to new, and other modes keep their names."""
    for mode, name in check_mapping("names", names).items():
        check_text(f"names[{mode!r}]", name)
    terms = check_terms("terms", terms)
    return tuple(Term(term.data, tuple(names.get(mode, mode) for mode in term.modes)) for term in terms)


def check_terms(name: str, terms: object) -> tuple[Term, ...]:
    """Return a list of terms as a tuple; TypeError if it is no list or holds anything but a `Term`."""
    listed = check_list(name, terms)
    for number, term in enumerate(listed):
        if not isinstance(term, Term):
            raise TypeError(f"{name}: term {number} must be a Term(data, modes), got {type(term).__name__}")
    return tuple(listed)


def plan(
    network: HasTerms | Sequence[Term],
    output: Sequence[str] | None = None,
    *,
    chunk: str | None = None,
    optimize: Optimizer = SHARED,
    max_elements: float = DEFAULT_MAX_ELEMENTS,
) -> Plan:
    """Return the plan that `contract` follows for the same arguments; no array is allocated.

    network: a network, or a list of terms. output: the modes of the result. The default is the open modes of the
    network; for a list of terms, the default is the modes that appear once.
    chunk: a mode of the output, for example the batch. If the contraction needs more than `max_elements`, it runs slice
    by slice along this mode, with slices small enough for the limit. The whole output counts towards the limit.
    optimize: "shared" (contract all copies of a part in the same way, so that each is computed once); an optimizer of
    opt_einsum or cotengra, by name or as an object; or a path, such as [(0, 2), (0, 1)]. One path serves all slices.
    Avoid "auto": the factors of a layer share a mode (a hyperedge), and for hyperedges it can find paths that cost many
    times more.
    max_elements: the most array elements that may be in memory at once, without the given terms.
    Raises ValueError if sizes do not match or if more than `max_elements` elements would be in memory at once.
    """
    terms, modes = _terms_and_output(network, output)
    return _plan(terms, modes, chunk, optimize, max_elements)


@without_autocast
def contract(
    network: HasTerms | Sequence[Term],
    output: Sequence[str] | None = None,
    *,
    chunk: str | None = None,
    optimize: Optimizer = SHARED,
    max_elements: float = DEFAULT_MAX_ELEMENTS,
) -> Tensor:
    """Return the tensor with axes `output`, summed over every mode that is not in `output`.

    Arguments and errors are those of `plan`. A contraction that occurs several times (for copies of a layer in a stack)
    is computed once, and an intermediate is freed after its last use. `print(plan(...))` shows the cost.
    """
    terms, modes = _terms_and_output(network, output)
    program = _plan(terms, modes, chunk, optimize, max_elements)
    if program.chunk is None:
        return _run(program, terms)
    mode, size, total = program.chunk
    sizes = {**program.sizes, mode: total}
    result = terms[0].data.new_empty([sizes[name] for name in modes])
    for start in range(0, total, size):
        stop = min(start + size, total)
        result.narrow(modes.index(mode), start, stop - start).copy_(_run(program, _slice(terms, mode, start, stop)))
    return result


def _plan(terms: tuple[Term, ...], output: Modes, chunk: str | None, optimize: Optimizer, max_elements: float) -> Plan:
    """Check the options, and return the plan with as many slices of the mode `chunk` as `max_elements` requires."""
    if chunk is not None and (not isinstance(chunk, str) or chunk not in output):
        raise ValueError(
            f"chunk must be a mode of the output {output}, got {chunk!r}{suggestion(chunk, output)}; a summed mode"
            " cannot be cut into slices"
        )
    check_number("max_elements", max_elements, 1)
    slots: dict[tuple[int, tuple[bool, ...]], int] = {}
    # an array gets two slots if two terms slice it along different axes, or if only one of them slices it
    keys = [(id(data), tuple(mode == chunk for mode in modes)) for data, modes in terms]
    leaves = tuple(slots.setdefault(key, len(slots)) for key in keys)
    sizes, term_modes = mode_sizes(terms), tuple(term.modes for term in terms)
    if not isinstance(optimize, str) or optimize != SHARED:
        optimize = find_path(term_modes, sizes, output, optimize)  # one path for all slices
    result = make_plan(term_modes, leaves, sizes, output, optimize, max_elements)
    count = 1
    while result.peak_elements > max_elements and chunk is not None and count < sizes[chunk]:
        # at least twice as many slices, and as many as suffice if every intermediate shrinks with them
        count = min(max(2 * count, math.ceil(count * result.peak_elements / max_elements)), sizes[chunk])
        piece = Chunk(chunk, math.ceil(sizes[chunk] / count), sizes[chunk])
        room = max_elements - math.prod(sizes[mode] for mode in output)
        part = make_plan(term_modes, leaves, {**sizes, chunk: piece.size}, output, optimize, room)
        result = replace(part, chunk=piece)
    if result.peak_elements > max_elements:
        slices = "" if chunk else "cut a mode of the output into slices (chunk=...), "
        raise ValueError(
            f"contraction to {output} needs {result.peak_elements:.1e} elements at once, more than"
            f" max_elements={max_elements:.0e}; restrict or project some modes, {slices}or increase max_elements"
        )
    return result


def _run(program: Plan, terms: Sequence[Term]) -> Tensor:
    """Carry out the steps of a plan and return the resulting array."""
    arrays: dict[int, Tensor] = {slot: term.data for slot, term in zip(program.leaves, terms, strict=True)}
    made = max(program.leaves) + 1
    slot = program.leaves[0]
    for number, step in enumerate(program.steps):
        slot = made + number
        arrays[slot] = torch.einsum(step.equation, *(arrays[i] for i in step.inputs))
        for used in step.last_use:
            arrays.pop(used, None)
    return arrays[slot]


def _slice(terms: Sequence[Term], mode: str, start: int, stop: int) -> tuple[Term, ...]:
    """Return the terms with only the indices start ... stop - 1 of the mode, as views."""

    def cut(term: Term) -> Tensor:
        data = term.data
        for axis, name in enumerate(term.modes):
            if name == mode:
                data = data.narrow(axis, start, stop - start)
        return data

    return tuple(Term(cut(term), term.modes) for term in terms)


def _terms_and_output(
    network: HasTerms | Sequence[Term], output: Sequence[str] | None
) -> tuple[tuple[Term, ...], Modes]:
    """Return the checked terms and the modes of the output, or raise TypeError or ValueError."""
    terms = tuple(network.terms()) if isinstance(network, HasTerms) else check_terms("network", network)
    if not terms:
        raise ValueError("nothing to contract: the list of terms of this network is empty")
    terms = tuple(Term(term.data, tuple(term.modes)) for term in terms)
    sizes = mode_sizes(terms)
    if isinstance(output, str):
        raise TypeError(
            f"output must be a sequence of mode names, got the string {output!r}; did you mean ({output!r},)?"
        )
    if output is None:
        if isinstance(network, HasTerms):
            return terms, network.modes
        uses = [mode for term in terms for mode in term.modes]
        return terms, tuple(mode for mode in sizes if uses.count(mode) == 1)
    modes = tuple(check_list("output", output))
    for mode in modes:
        if not isinstance(mode, str) or mode not in sizes:
            raise ValueError(f"output mode '{mode}' is in no term; the terms have: {', '.join(sizes)}")
    if len(set(modes)) != len(modes):
        raise ValueError(f"output names a mode twice: {modes}")
    return terms, modes


def mode_sizes(terms: Sequence[Term]) -> dict[str, int]:
    """Return the size of every mode.

    Raises ValueError if two terms differ in the size of a mode, in device or in dtype.
    """
    sizes: dict[str, int] = {}
    for number, (data, modes) in enumerate(check_terms("terms", terms)):
        check_tensor(f"term {number} {modes}", data, modes, finite=False)
        for mode, size in zip(modes, data.shape, strict=True):
            if sizes.setdefault(mode, size) != size:
                raise ValueError(
                    f"mode '{mode}' has size {sizes[mode]} in one term but {size} in term {number} {modes}"
                )
    check_alike(**{f"term {number}": term.data for number, term in enumerate(terms)})
    return sizes
