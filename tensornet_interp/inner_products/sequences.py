"""Compute inner products over positions: of attention layers, and of stacks of attention and other maps."""

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from tensornet_interp.attention.closure import Closure, check_comparable, is_nonlinear
from tensornet_interp.attention.heads import layer_inner
from tensornet_interp.attention.layer import AttentionLayer
from tensornet_interp.attention.parts import Part
from tensornet_interp.attention.sequence import SequenceNetwork, array_of, part_sizes
from tensornet_interp.checks import check_size
from tensornet_interp.inner_products.kinds import Gaussian, Kind, Tree
from tensornet_interp.inner_products.operands import Comparable
from tensornet_interp.inner_products.sampling import Evaluated, normal_inputs, sampled, unit_rows
from tensornet_interp.inner_products.table import Table, Task, fill
from tensornet_interp.moments import Moments


def over_positions(named: Mapping[str, Comparable]) -> dict[str, SequenceNetwork]:
    """Return the operands as stacks over positions if one of them is one or an attention layer; else nothing."""
    if not any(isinstance(network, SequenceNetwork | AttentionLayer) for network in named.values()):
        return {}
    return {
        name: network if isinstance(network, SequenceNetwork) else SequenceNetwork([network])
        for name, network in named.items()
    }


def sequence_table(networks: dict[str, SequenceNetwork], task: Task, kind: Kind) -> Table:
    """Return the products of all pairs of networks over positions; what belongs to one network is computed once."""
    if not isinstance(kind, Gaussian):
        return _of_tensors(networks, task, kind)
    moments = kind.moments or standard_moments(networks)
    if kind.method == "sampled":
        return _sampled(networks, task, kind, moments)
    check_comparable(networks)
    method = "exact"
    for name, network in networks.items():
        count = sum(is_nonlinear(part.map) for part in network)
        if count > 1:
            method = "closure"
            if kind.method == "exact":
                raise ValueError(
                    f"no exact 'gaussian' product is known beyond one part that is not linear, and network {name} has"
                    f" {count}; use an estimate: method='closure' or 'sampled'"
                )
    own = [
        Closure(f"network {name}", network, moments, diagonal=True, progress=task.progress)
        for name, network in networks.items()
    ]
    table = fill(
        task, lambda i, j: (own[i].product(own[j]).sum(0), 0.0), method=method, title="products of pairs of networks"
    )
    share = max((closure.share for closure in own if closure.share is not None), default=None)
    limit = min(closure.large_share for closure in own)
    warnings: tuple[str, ...] = ()
    if share is not None and share > limit:
        warnings = (
            f"a part adds {share:.2g} of the size of its input, and the closure takes its outputs as Gaussian: above"
            f" {limit}, cosines can be off by more than 0.001; compare with method='sampled'",
        )
    return Table(table.value, table.log_scale, method, share=share, warnings=warnings)


def _of_tensors(networks: dict[str, SequenceNetwork], task: Task, kind: Kind) -> Table:
    """Return the products of the tensors of single attention layers."""
    layers = []
    for name, network in networks.items():
        part = network[0]
        if len(network) > 1 or not isinstance(part.map, AttentionLayer) or part != Part(part.map):
            raise ValueError(
                f"kind '{kind.name}' compares attention layers, or stacks without positions, but network {name} is a"
                " stack over positions, whose tensor is out of reach; use Gaussian(moments), by a closure or by samples"
            )
        layers.append(part.map)
    whole = not isinstance(kind, Tree)

    def product(i: int, j: int) -> tuple[Tensor, float]:
        return layer_inner(layers[i], layers[j], all_legs=whole, by_output=task.by_output)

    return fill(task, product, method="exact", title=f"{kind.name} products")


def standard_moments(networks: dict[str, SequenceNetwork]) -> Moments:
    """Return mean 0 and the identity for all positions of the shortest mask, or for one position without masks."""
    first, *_ = networks.values()
    positions = [network.positions for network in networks.values()]
    shortest = min((count for count in positions if count is not None), default=1)
    return Moments.standard(shortest * part_sizes(first[0])[0], device=array_of(first[0].map).device)


def _sampled(networks: dict[str, SequenceNetwork], task: Task, kind: Gaussian, moments: Moments) -> Table:
    """Return averages of products of outputs over random inputs; networks of any kind, such as softmax, have them."""
    (reference, first), *others = networks.items()
    for name, network in others:
        for mode, at, end in (("in", 0, 0), ("out", -1, 1)):
            check_size(mode, **{reference: part_sizes(first[at])[end], name: part_sizes(network[at])[end]})
    size = part_sizes(first[0])[0]
    positions, rest = divmod(len(moments.mean), size)
    if rest or not positions:
        raise ValueError(f"moments must be those of positions of {size} inputs, got {len(moments.mean)} inputs")
    wide = [network.to(dtype=torch.float64) for network in networks.values()]
    widest = max(plan.peak_elements for network in wide for part in network.plan(1, positions) for plan in part)

    def evaluate(network: SequenceNetwork, x: Tensor) -> tuple[Tensor, Tensor]:
        return unit_rows(network(x.unflatten(1, (positions, size))))

    evaluated = Evaluated({i: partial(evaluate, network) for i, network in enumerate(wide)}, widest)
    return sampled(task, evaluated, normal_inputs(moments, kind.seed), 0.0, kind.samples)
