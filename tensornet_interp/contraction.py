"""Tensors with named modes, and the one way to contract them.

A network is a tuple of `Term`s. A mode that several terms share is summed, unless it is asked for in the output, where
it is matched. Everything else in the package is built from terms: composing is renaming, evaluating is adding terms.
"""

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import opt_einsum
import torch
from torch import Tensor

from tensornet_interp.checks import DEFAULT_MAX_ELEMENTS, check_alike, check_tensor

Modes = tuple[str, ...]
Optimizer = str | Callable[..., Any]


class Term(NamedTuple):
    """One array and the names of its axes."""

    data: Tensor
    modes: Modes


class TensorNetwork(ABC):
    """Anything with open `modes` and `terms()`: a layer, a stack of layers, a decomposition of one."""

    @property
    @abstractmethod
    def modes(self) -> Modes:
        """The open modes, in the order of `to_tensor()`."""

    @abstractmethod
    def terms(self) -> tuple[Term, ...]:
        """The arrays of the network; the same array object wherever a part is used more than once."""

    @property
    def sizes(self) -> dict[str, int]:
        """Size of every open mode."""
        sizes = _sizes(self.terms())
        return {mode: sizes[mode] for mode in self.modes}

    def to_tensor(self, *, max_elements: float = DEFAULT_MAX_ELEMENTS) -> Tensor:
        """The dense tensor over `modes`: an oracle for small networks. Cost: the product of the sizes of the modes."""
        return contract(self, max_elements=max_elements)


def rename(terms: Sequence[Term], names: Mapping[str, str]) -> tuple[Term, ...]:
    """The same arrays with modes renamed; modes that are not mentioned stay."""
    return tuple(Term(term.data, tuple(names.get(mode, mode) for mode in term.modes)) for term in terms)


class Step(NamedTuple):
    """One contraction of a plan: slots in, one slot out. Slots number the distinct arrays, given ones first."""

    inputs: tuple[int, ...]
    equation: str  # in letters, for einsum
    names: str  # the same in mode names, of the first place where it is needed
    flops: int
    elements: int
    last_use: tuple[int, ...]  # slots that nothing needs after this step


@dataclass(frozen=True)
class Plan:
    """The order of pairwise sums of a contraction, each distinct one once, and what it costs. `print` it."""

    output: Modes
    sizes: Mapping[str, int]
    leaves: tuple[int, ...]  # slot of every given term: terms of one array with one slot are shared
    steps: tuple[Step, ...]
    unshared_steps: int

    @property
    def flops(self) -> int:
        """Multiplications and additions of all distinct steps."""
        return sum(step.flops for step in self.steps)

    @property
    def largest_intermediate(self) -> int:
        """Elements of the largest array that is made, the output included."""
        return max((step.elements for step in self.steps), default=0)

    @property
    def peak_elements(self) -> int:
        """Largest number of elements alive together, the given terms not counted."""
        alive: dict[int, int] = {}
        peak = 0
        made = max(self.leaves) + 1
        for number, step in enumerate(self.steps):
            alive[made + number] = step.elements
            peak = max(peak, sum(alive.values()))
            for slot in step.last_use:
                alive.pop(slot, None)
        return peak

    def __str__(self) -> str:
        width = max((len(step.names) for step in self.steps), default=0)
        lines = [
            f"contraction to ({', '.join(self.output)}): {len(self.steps)} distinct pairwise contractions"
            f" ({self.unshared_steps} before sharing)",
            f"  flops {self.flops:.3e}, largest intermediate {self.largest_intermediate:.3e} elements,"
            f" {self.peak_elements:.3e} alive together",
            "  sizes " + ", ".join(f"{mode}={size}" for mode, size in self.sizes.items()),
        ]
        lines += [f"  {s.names:<{width}}  flops {s.flops:.2e}  elements {s.elements:.2e}" for s in self.steps]
        return "\n".join(lines)


def plan(
    network: TensorNetwork | Sequence[Term],
    output: Sequence[str] | None = None,
    *,
    optimize: Optimizer = "auto-hq",
    max_elements: float = DEFAULT_MAX_ELEMENTS,
) -> Plan:
    """The plan that `contract` with the same arguments would follow; nothing is allocated.

    output: modes of the result, by default the open modes of the network (for terms: those that appear once).
    optimize: any opt_einsum optimizer, by name or a callable. `"auto"` is a bad choice here: the factors of a layer
    share a hyperedge, for which it can find paths that cost many times more.
    Raises ValueError when sizes do not meet or when more than `max_elements` would be alive together.
    """
    terms, modes = _terms_and_output(network, output)
    slots: dict[int, int] = {}
    leaves = tuple(slots.setdefault(id(term.data), len(slots)) for term in terms)
    sizes = tuple(_sizes(terms).items())
    make = _cached_plan if isinstance(optimize, Hashable) else _make_plan
    result = make(tuple(term.modes for term in terms), leaves, sizes, modes, optimize)
    if result.peak_elements > max_elements:
        raise ValueError(
            f"contraction to {modes} needs {result.peak_elements:.1e} elements at once, more than"
            f" max_elements={max_elements:.0e}; restrict or project some modes, or raise max_elements"
        )
    return result


def contract(
    network: TensorNetwork | Sequence[Term],
    output: Sequence[str] | None = None,
    *,
    optimize: Optimizer = "auto-hq",
    max_elements: float = DEFAULT_MAX_ELEMENTS,
) -> Tensor:
    """Sum over every mode that is not in `output`: the tensor with axes `output`. Arguments and errors: `plan`.

    Contractions that occur more than once (copies of a layer in a stack) are done once, and an intermediate is freed
    after its last use. Cost: `print(plan(...))`.
    """
    terms, _ = _terms_and_output(network, output)
    program = plan(network, output, optimize=optimize, max_elements=max_elements)
    arrays: dict[int, Tensor] = {slot: term.data for slot, term in zip(program.leaves, terms, strict=True)}
    made = max(program.leaves) + 1
    slot = program.leaves[0]
    for number, step in enumerate(program.steps):
        slot = made + number
        arrays[slot] = torch.einsum(step.equation, *(arrays[i] for i in step.inputs))
        for used in step.last_use:
            arrays.pop(used, None)
    return arrays[slot]


def _terms_and_output(
    network: TensorNetwork | Sequence[Term], output: Sequence[str] | None
) -> tuple[tuple[Term, ...], Modes]:
    terms = tuple(network.terms()) if isinstance(network, TensorNetwork) else tuple(network)
    if not terms:
        raise ValueError("nothing to contract: the list of terms is empty")
    for number, term in enumerate(terms):
        if not isinstance(term, Term):
            raise TypeError(f"term {number} must be a Term(data, modes), got {type(term).__name__}")
    terms = tuple(Term(term.data, tuple(term.modes)) for term in terms)
    sizes = _sizes(terms)
    if isinstance(output, str):
        raise TypeError(
            f"output must be a sequence of mode names, got the string {output!r}; did you mean ({output!r},)?"
        )
    if output is None:
        if isinstance(network, TensorNetwork):
            return terms, network.modes
        uses = [mode for term in terms for mode in term.modes]
        return terms, tuple(mode for mode in sizes if uses.count(mode) == 1)
    modes = tuple(output)
    for mode in modes:
        if mode not in sizes:
            raise ValueError(f"output mode '{mode}' is in no term; there are: {', '.join(sizes)}")
    if len(set(modes)) != len(modes):
        raise ValueError(f"output names a mode twice: {modes}")
    return terms, modes


def _sizes(terms: Sequence[Term]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for number, (data, modes) in enumerate(terms):
        check_tensor(f"term {number} {modes}", data, modes, finite=False)
        for mode, size in zip(modes, data.shape, strict=True):
            if sizes.setdefault(mode, size) != size:
                raise ValueError(
                    f"mode '{mode}' has size {sizes[mode]} in one term but {size} in term {number} {modes}"
                )
    check_alike(**{f"term {number}": term.data for number, term in enumerate(terms)})
    return sizes


def _make_plan(
    term_modes: tuple[Modes, ...],
    leaves: tuple[int, ...],
    size_items: tuple[tuple[str, int], ...],
    output: Modes,
    optimize: Optimizer,
) -> Plan:
    sizes = dict(size_items)
    live: list[tuple[int, Modes]] = list(zip(leaves, term_modes, strict=True))
    made = max(leaves) + 1
    known: dict[tuple[tuple[int, ...], str], int] = {}
    steps: list[Step] = []
    unshared = 0
    for positions in _path(term_modes, sizes, output, optimize):
        chosen = sorted((live[i] for i in positions), key=lambda operand: operand[0])
        live = [operand for i, operand in enumerate(live) if i not in positions]
        needed = set(output).union(*(modes for _, modes in live))
        modes_in = tuple(modes for _, modes in chosen)
        seen = tuple(dict.fromkeys(mode for modes in modes_in for mode in modes))
        kept = tuple(mode for mode in seen if mode in needed)
        if not live:
            kept = output
        letters = {mode: opt_einsum.get_symbol(i) for i, mode in enumerate(seen)}
        equation = _equation(modes_in, kept, letters.__getitem__, "", ",")
        inputs = tuple(slot for slot, _ in chosen)
        unshared += 1
        if (inputs, equation) not in known:
            known[inputs, equation] = made + len(steps)
            work = math.prod(sizes[mode] for mode in seen)
            steps.append(
                Step(
                    inputs,
                    equation,
                    _equation(modes_in, kept, str, " ", ", "),
                    work * (len(chosen) - 1 + (len(kept) < len(seen))),
                    math.prod(sizes[mode] for mode in kept),
                    (),
                )
            )
        live.append((known[inputs, equation], kept))
    last: dict[int, int] = {slot: number for number, step in enumerate(steps) for slot in step.inputs}
    freed = [tuple(slot for slot, at in last.items() if at == number) for number in range(len(steps))]
    steps = [step._replace(last_use=slots) for step, slots in zip(steps, freed, strict=True)]
    return Plan(output, sizes, leaves, tuple(steps), unshared)


def _path(
    term_modes: tuple[Modes, ...], sizes: Mapping[str, int], output: Modes, optimize: Optimizer
) -> list[tuple[int, ...]]:
    letters = {mode: opt_einsum.get_symbol(i) for i, mode in enumerate(sizes)}
    equation = _equation(term_modes, output, letters.__getitem__, "", ",")
    shapes = [tuple(sizes[mode] for mode in modes) for modes in term_modes]
    if callable(optimize) and not isinstance(optimize, opt_einsum.paths.PathOptimizer):
        indices = [frozenset(letters[mode] for mode in modes) for modes in term_modes]
        wanted = frozenset(letters[mode] for mode in output)
        return list(optimize(indices, wanted, {letters[mode]: size for mode, size in sizes.items()}, None))
    try:
        path, _ = opt_einsum.contract_path(equation, *shapes, shapes=True, optimize=optimize)
    except KeyError as error:
        raise ValueError(f"optimize must be an opt_einsum optimizer, got {optimize!r}: {error.args[0]}") from None
    return list(path)


def _equation(
    inputs: Sequence[Modes], output: Modes, name: Callable[[str], str], between_modes: str, between_terms: str
) -> str:
    def side(modes: Modes) -> str:
        return between_modes.join(name(mode) for mode in modes)

    return f"{between_terms.join(side(modes) for modes in inputs)}{between_modes}->{between_modes}{side(output)}"


_cached_plan = functools.lru_cache(maxsize=1024)(_make_plan)
