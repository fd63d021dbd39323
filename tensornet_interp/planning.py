"""Plan contractions: find the order of the pairwise sums and their cost from mode names and sizes, without arrays."""

import functools
import itertools
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import opt_einsum

from tensornet_interp.cards import Card, Shown, text_card
from tensornet_interp.paths import Modes, Optimizer, Path, find_path
from tensornet_interp.tables import Record

__all__ = ["SHARED", "Chunk", "Plan", "Step", "make_plan"]

SHARED = "shared"  # the default optimizer
_MAX_SEARCHED = 64  # opt_einsum's search on more terms takes longer than most contractions


class Step(NamedTuple):
    """A step contracts one or more arrays into one. Each array is named by an integer, its slot.

    The given arrays have the first slots, and the result of each step has the next one. Terms with the same array share
    a slot, unless the array is sliced along different axes.
    """

    inputs: tuple[int, ...]
    equation: str  # in letters, for einsum
    names: str  # the same equation in the mode names of its first use
    flops: int
    elements: int
    last_use: tuple[int, ...]  # slots that no later step needs


class Chunk(NamedTuple):
    """A chunk says which mode of the output is cut into slices, and how large each slice is."""

    mode: str
    size: int  # of one slice; the last one may be smaller
    total: int

    @property
    def slices(self) -> int:
        """Return the number of slices."""
        return math.ceil(self.total / self.size)


@dataclass(frozen=True)
class Plan(Shown):
    """A plan is the order of the pairwise sums of a contraction, with their cost; `print` shows it.

    A sum that occurs several times is one step. If there is a `chunk`, `sizes` and `steps` describe one slice.
    """

    output: Modes
    sizes: Mapping[str, int]
    leaves: tuple[int, ...]  # slot of the array of every given term
    steps: tuple[Step, ...]
    unshared_steps: int
    chunk: Chunk | None = None

    @property
    def flops(self) -> int:
        """Return the number of multiplications and additions of all steps and slices; each slice counts as full."""
        return sum(step.flops for step in self.steps) * (self.chunk.slices if self.chunk else 1)

    @property
    def largest_intermediate(self) -> int:
        """Return the number of elements of the largest computed array; the output counts too."""
        return max([self._whole_output, *(step.elements for step in self.steps)])

    @property
    def peak_elements(self) -> int:
        """Return the largest number of elements in memory at the same time, without the given terms."""
        alive: dict[int, int] = {}
        peak = 0
        made = max(self.leaves) + 1
        for number, step in enumerate(self.steps):
            alive[made + number] = step.elements
            peak = max(peak, sum(alive.values()))
            for slot in step.last_use:
                alive.pop(slot, None)
        return peak + self._whole_output

    @property
    def _whole_output(self) -> int:
        """Return the number of elements of the output that slices are written to, or 0 if there are no slices."""
        if self.chunk is None:
            return 0
        return math.prod(self.sizes[mode] for mode in self.output) // self.chunk.size * self.chunk.total

    def records(self) -> list[Record]:
        """Return one record per step."""
        return [{"equation": step.names, "flops": step.flops, "elements": step.elements} for step in self.steps]

    def _card(self) -> Card:
        return text_card(str(self))

    def __str__(self) -> str:
        width = max((len(step.names) for step in self.steps), default=0)
        lines = [
            f"contraction to ({', '.join(self.output)}): {len(self.steps)} distinct pairwise contractions"
            f" ({self.unshared_steps} before sharing)",
            f"  flops {self.flops:.3e}, largest intermediate {self.largest_intermediate:.3e} elements,"
            f" {self.peak_elements:.3e} alive together",
            "  sizes " + ", ".join(f"{mode}={size}" for mode, size in self.sizes.items()),
        ]
        if self.chunk:
            mode, size, total = self.chunk
            lines.append(f"  the steps below {self.chunk.slices} times, for {size} of {mode}={total} at a time")
        lines += [f"  {s.names:<{width}}  flops {s.flops:.2e}  elements {s.elements:.2e}" for s in self.steps]
        return "\n".join(lines)


def make_plan(
    term_modes: tuple[Modes, ...],
    leaves: tuple[int, ...],
    sizes: Mapping[str, int],
    output: Modes,
    optimize: Optimizer,
    max_elements: float,
) -> Plan:
    """Return the plan for terms with these modes; `leaves` are the slots of their arrays.

    optimize: as in `find_path`, or "shared", which compares up to three orders of contraction. The first two contract
    all copies of a sub-network in the same way, so that copies cost nothing. The third, for at most 64 terms, is
    opt_einsum's "auto-hq". Among the orders that stay within max_elements, the order with the fewest flops is taken;
    copies count once. Plans are cached by modes, slots, sizes and path.
    """
    shared = isinstance(optimize, str) and optimize == SHARED
    path = None if shared else find_path(term_modes, sizes, output, optimize)
    return _plan(term_modes, leaves, tuple(sizes.items()), output, path, max_elements)


@functools.lru_cache(maxsize=1024)
def _plan(
    term_modes: tuple[Modes, ...],
    leaves: tuple[int, ...],
    size_items: tuple[tuple[str, int], ...],
    output: Modes,
    path: Path | None,
    max_elements: float,
) -> Plan:
    """Return the plan for these arguments; sizes come as pairs (mode, size), and the path is None for "shared"."""
    sizes = dict(size_items)

    def program() -> _Program:
        return _Program(term_modes, leaves, sizes, output)

    if path is not None:
        return program().follow(path)
    carried = Counter(mode for modes in term_modes for mode in set(modes))
    batch = {mode for mode in output if carried[mode] > 1}
    candidates = [program().follow_classes(set())]
    if batch:
        candidates.append(program().follow_classes(batch))
    if len(term_modes) <= _MAX_SEARCHED:
        candidates.append(program().follow(find_path(term_modes, sizes, output, "auto-hq")))
    return min(candidates, key=lambda p: (max(p.peak_elements, max_elements), p.flops, p.peak_elements))


class _Product(NamedTuple):
    """A product is a possible contraction of some operands; equal `inputs` and `equation` give equal results."""

    inputs: tuple[int, ...]
    equation: str
    modes_in: tuple[Modes, ...]
    seen: Modes
    kept: Modes


class _Program:
    """A program is an unfinished plan: the steps so far, and the remaining operands in the order of creation."""

    def __init__(
        self, term_modes: Sequence[Modes], leaves: tuple[int, ...], sizes: Mapping[str, int], output: Modes
    ) -> None:
        self.sizes, self.leaves, self.output = sizes, leaves, output
        self.live = dict(enumerate(zip(leaves, term_modes, strict=True)))
        self.uses = Counter(mode for modes in (*term_modes, output) for mode in set(modes))  # the output is a use
        self.known: dict[tuple[tuple[int, ...], str], int] = {}
        self.steps: list[Step] = []
        self.unshared = 0

    def follow(self, path: Path) -> Plan:
        """Return the plan of a path: each entry lists positions among the remaining operands.

        The result of each contraction is put at the end of the remaining operands. Raises ValueError if a position does
        not exist, or if several operands remain.
        """
        for step, positions in enumerate(path):
            numbers = list(self.live)
            if not positions or len(set(positions)) < len(positions) or not set(positions) <= set(range(len(numbers))):
                raise ValueError(
                    f"step {step} of the path of `optimize` is {positions}; it must name different positions among the"
                    f" {len(numbers)} terms that are left, from 0 to {len(numbers) - 1}"
                )
            self.contract([numbers[i] for i in positions])
        if len(self.live) > 1:
            raise ValueError(f"the path of `optimize` leaves {len(self.live)} terms; it must contract all into one")
        if not self.steps:
            self.contract(list(self.live))
        return self.finish()

    def follow_classes(self, first: set[str]) -> Plan:
        """Return the plan that repeatedly contracts the pair that adds the fewest elements, with all its copies.

        The copies are all pairs with the same inputs and equation. Pairs with a mode of `first` have priority. If
        `first` is the batch mode, the layers are contracted one after the other, from the inputs upwards.
        """
        while len(self.live) > 1:
            classes: dict[tuple[tuple[int, ...], str], list[tuple[int, int]]] = {}
            costs: dict[tuple[tuple[int, ...], str], tuple[int, int]] = {}
            for pair in self.pairs(first):
                product = self.product(pair)
                key = product.inputs, product.equation
                classes.setdefault(key, []).append(pair)
                if key not in costs:
                    costs[key] = (
                        self.elements(product.kept) - sum(map(self.elements, product.modes_in)),
                        self.flops(product),
                    )
            best = min(classes, key=lambda key: (costs[key], key))
            for pair in classes[best]:
                if all(number in self.live for number in pair):  # a pair may have lost one to the pair before
                    self.contract(pair)
        if not self.steps:
            self.contract(list(self.live))
        return self.finish()

    def pairs(self, first: set[str]) -> list[tuple[int, int]]:
        """Return the pairs of operands that share a summed mode, or else those that share any mode, or else all."""
        where: dict[str, list[int]] = {}
        for number, (_, modes) in self.live.items():
            for mode in dict.fromkeys(modes):
                where.setdefault(mode, []).append(number)
        for group in (set(where) - set(self.output), set(where)):
            found = sorted({pair for mode in group for pair in itertools.combinations(where[mode], 2)})
            touching = [pair for pair in found if any(first.intersection(self.live[i][1]) for i in pair)]
            if found:
                return touching or found
        return list(itertools.combinations(self.live, 2))

    def product(self, numbers: Sequence[int]) -> _Product:
        # the newest operand and its modes come first: data times weights, in the layout in which matmul is fastest
        chosen = sorted((self.live[i] for i in numbers), key=lambda operand: -operand[0])
        modes_in = tuple(modes for _, modes in chosen)
        here = Counter(mode for modes in modes_in for mode in set(modes))
        seen = tuple(dict.fromkeys(mode for modes in modes_in for mode in modes))
        last = len(numbers) == len(self.live)
        kept = self.output if last else tuple(mode for mode in seen if self.uses[mode] > here[mode])
        letters = {mode: opt_einsum.get_symbol(i) for i, mode in enumerate(seen)}
        equation = _equation(modes_in, kept, letters.__getitem__, "", ",")
        return _Product(tuple(slot for slot, _ in chosen), equation, modes_in, seen, kept)

    def contract(self, numbers: Sequence[int]) -> None:
        inputs, equation, modes_in, _, kept = product = self.product(numbers)
        self.unshared += 1
        if (inputs, equation) not in self.known:
            self.known[inputs, equation] = max(self.leaves) + 1 + len(self.steps)
            names = _equation(modes_in, kept, str, " ", ", ")
            self.steps.append(Step(inputs, equation, names, self.flops(product), self.elements(kept), ()))
        for number in numbers:
            del self.live[number]
        self.uses.subtract(mode for modes in modes_in for mode in set(modes))
        self.uses.update(kept)
        self.live[len(self.leaves) + self.unshared] = (self.known[inputs, equation], kept)

    def elements(self, modes: Modes) -> int:
        return math.prod(self.sizes[mode] for mode in modes)

    def flops(self, product: _Product) -> int:
        return self.elements(product.seen) * (len(product.inputs) - 1 + (len(product.kept) < len(product.seen)))

    def finish(self) -> Plan:
        last: dict[int, int] = {slot: number for number, step in enumerate(self.steps) for slot in step.inputs}
        freed = [tuple(slot for slot, at in last.items() if at == number) for number in range(len(self.steps))]
        steps = tuple(step._replace(last_use=slots) for step, slots in zip(self.steps, freed, strict=True))
        return Plan(self.output, self.sizes, self.leaves, steps, self.unshared)


def _equation(
    inputs: Sequence[Modes], output: Modes, name: Callable[[str], str], between_modes: str, between_terms: str
) -> str:
    """Return an einsum equation with mode names translated by `name` and joined by the given separators."""

    def side(modes: Modes) -> str:
        return between_modes.join(name(mode) for mode in modes)

    return f"{between_terms.join(side(modes) for modes in inputs)}{between_modes}->{between_modes}{side(output)}"
