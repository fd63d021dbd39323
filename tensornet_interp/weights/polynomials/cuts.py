"""Which layer computes which product, and which values pass from one layer to the next."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

from tensornet_interp.weights.polynomials.values import Value, ancestors, levels

_ENDLESS = 2**31 - 1  # capacities are 32-bit numbers


class Stage(NamedTuple):
    """A stage is one planned layer of the network: it reads the values `below` and computes the values `above`.

    above = affine in (products, below); the factors of the products are affine in `below`.
    """

    below: tuple[Value, ...]
    products: tuple[Value, ...]
    above: tuple[Value, ...]

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Return the numbers of coordinates below, of products and of coordinates above."""
        n_in, rank, n_out = (sum(value.size for value in part) for part in self)
        return n_in, rank, n_out

    @property
    def weights(self) -> int:
        """Return how many numbers the matrices of this stage have."""
        n_in, rank, n_out = self.sizes
        return rank * (2 * n_in + n_out) + n_in * n_out


def stages(source: Value, output: Value) -> list[Stage]:
    """Return the layers of a network from `source` to `output`, bottom first.

    A product can be computed as soon as its factors are known, or just before its result is needed. An early product
    saves passing on its factors, a late one saves passing on its result. So both plans are made, and the smaller
    network is taken. Raises ValueError if the values have more than 2^31 - 1 coordinates.
    """
    values = ancestors([output], {source})
    total = sum(value.size for value in values)
    if total > _ENDLESS:
        raise ValueError(
            f"the values of model have {total:.1e} coordinates, more than {_ENDLESS:.1e}: give less in example"
        )
    plans = [_plan(values, source, output, when) for when in (_early(values), _late(values, output))]
    return min(plans, key=lambda plan: sum(stage.weights for stage in plan))  # the early one, if they are alike


def _early(values: Sequence[Value]) -> dict[Value, int]:
    return {value: level for value, level in levels(values).items() if value.is_product}


def _late(values: Sequence[Value], output: Value) -> dict[Value, int]:
    last = levels(values)
    deadline = dict.fromkeys(values, last[output])
    for value in reversed(values):
        for parent in value.parents:
            if parent in deadline:
                deadline[parent] = min(deadline[parent], deadline[value] - value.is_product)
    return {value: deadline[value] for value in values if value.is_product}


def _plan(values: Sequence[Value], source: Value, output: Value, when: Mapping[Value, int]) -> list[Stage]:
    """Return the stages of the plan in which layer when[p] computes product p; layers count from 1."""
    ready: dict[Value, int] = {}  # the layer behind which a value can be computed
    for value in values:
        below = max((ready[parent] for parent in value.parents), default=0) if value is not source else 0
        ready[value] = when.get(value, below)
    found = []
    state: tuple[Value, ...] = (source,)
    for layer in range(1, max(ready[output], 1) + 1):
        products = tuple(value for value in values if when.get(value) == layer)
        if layer >= ready[output]:
            above: tuple[Value, ...] = (output,)
        else:
            needed = {
                parent
                for value in values
                for parent in value.parents
                if ready[parent] <= layer and (when.get(value, 0) > layer or ready[value] > layer)
            }
            above = _smallest_cut([value for value in values if ready[value] <= layer], {*state, *products}, needed)
        found.append(Stage(state, products, above))
        state = above
    return found


def _smallest_cut(values: Sequence[Value], there: set[Value], needed: set[Value]) -> tuple[Value, ...]:
    """Return the values of smallest total size from which all `needed` values can be computed.

    They can be computed from the values `there`, and they are a minimum vertex cut between these and the `needed`
    values. If there are several minimum cuts, the cut nearest to the values `there` is returned, because it is the same
    for every maximum flow.
    """
    at = {value: 2 + 2 * i for i, value in enumerate(values)}  # a value enters at an even node, leaves at the odd one
    edges = [(0, at[value], _ENDLESS) for value in values if value in there]
    edges += [(at[value] + 1, 1, _ENDLESS) for value in values if value in needed]
    edges += [(at[value], at[value] + 1, value.size) for value in values]
    edges += [
        (at[parent] + 1, at[value], _ENDLESS)
        for value in values
        if value not in there
        for parent in dict.fromkeys(value.parents)
        if parent in at
    ]
    rows, columns, sizes = np.array(edges, dtype=np.int32).T
    count = 2 + 2 * len(values)
    graph = csr_array((sizes, (rows, columns)), shape=(count, count))
    left_over = csr_array(graph - maximum_flow(graph, 0, 1).flow)
    left_over.eliminate_zeros()
    reached = set(breadth_first_order(left_over, 0, return_predecessors=False).tolist())
    return tuple(value for value in values if at[value] in reached and at[value] + 1 not in reached)
