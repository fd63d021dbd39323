"""Compute inner products and cosines of layers and networks from their weights."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tensornet_interp.balance import balance, balance_rows
from tensornet_interp.checks import check_bool
from tensornet_interp.executors import Pool, Scratch, check_pool
from tensornet_interp.float64 import needs_float64
from tensornet_interp.inner_products.estimate import Estimate
from tensornet_interp.inner_products.kinds import Gaussian, Kind, Tree, as_kind
from tensornet_interp.inner_products.operands import (
    Comparable,
    Networks,
    as_networks,
    check_comparable,
    name_networks,
)
from tensornet_interp.inner_products.sequences import over_positions, sequence_table
from tensornet_interp.inner_products.stack import as_stack
from tensornet_interp.inner_products.table import (
    Pairs,
    Table,
    Task,
    cosines,
    covering_pairs,
    heavy_tails,
    mirrored,
    standard_error,
)
from tensornet_interp.inner_products.tiles import distributed, distributed_sequences
from tensornet_interp.layer import TensorNetwork
from tensornet_interp.moments import cross_gram, cross_moment, hidden_means, input_moments
from tensornet_interp.network import wide_layer


@needs_float64
def inner(a: Comparable, b: Comparable, *, kind: Kind | str = "tree", progress: bool = True) -> Estimate:
    """Return the inner product <a, b> of two layers, decompositions or networks, computed from their weights.

    <a, b> = sum_out <A[out], B[out]> for `Tree()` and `Symmetric()`, E[a(x) . b(x)] for `Gaussian()`

    a, b: layers, decompositions or networks of equal depth with the same inputs and outputs. `Tree` and `Symmetric`
    treat the constant coordinate of a lifted input like any other coordinate. The constant coordinate of a lifted
    output is dropped. Attention layers and `SequenceNetwork`s are compared over all positions: see `Gaussian`; for
    single attention layers, `Tree` symmetrizes over the legs that take the same vector, and `Symmetric` over all legs.
    kind: a kind object, or its name ("tree", "symmetric", "gaussian") for the default options.
    progress: whether work that takes more than a second shows a progress bar.
    Use `float(result)` or `result.to_tensor()` for the number; `result.value` alone lacks the factor exp(log_scale).
    `result.method` says whether the number is exact, a closure or sampled.
    Raises ValueError if the operands differ in depth, inputs, outputs or device. Cost: see the kinds.

    Example:
    >>> layer = BilinearLayer.from_weights(left=torch.eye(2), right=torch.eye(2), down=torch.ones(1, 2))
    >>> [round(float(inner(layer, layer, kind=kind)), 12) for kind in ("tree", "gaussian")]
    [2.0, 8.0]
    """
    return _without_outputs(_inner(a, b, kind, by_output=False, progress=progress))


@needs_float64
def inner_by_output(a: Comparable, b: Comparable, *, kind: Kind | str = "tree", progress: bool = True) -> Estimate:
    """Return the inner product of each output of a with the same output of b; `value` has shape (out,).

    The sum over outputs is the result of `inner`. Arguments, errors and cost are those of `inner`.
    """
    return _inner(a, b, kind, by_output=True, progress=progress)


@needs_float64
def similarity(
    a: Networks,
    b: Comparable | None = None,
    *,
    kind: Kind | str = "tree",
    progress: bool = True,
    executor: Pool | None = None,
    scratch: Scratch | None = None,
) -> Estimate:
    """Return the cosine of two networks, or the (n, n) matrix of cosines of a list of n networks.

    cosine = <a, b> / sqrt(<a, a> <b, b>)

    a: a network, or a list of networks if b is None. kind, progress: as in `inner`, which defines the products; means
    are not subtracted. In a list, each pair is computed once, and quantities of a single network are computed once per
    network. If the products are sampled, all pairs share the same draws. The cosine is then a ratio of averages, so it
    is slightly biased, and its standard error is correct to first order in the deviations of these averages. The draws
    take pairs * samples float64 numbers of memory.
    executor, scratch: where tiles of the matrix are computed, and a folder that the workers see, as in
    `executors.run_units`; the result then has no gradient.
    Raises ValueError if a network is zero. Cost: n * (n + 1) / 2 products, each as the kind says; two networks take 3.

    Example:
    >>> layer = BilinearLayer.from_weights(left=torch.eye(2), right=torch.eye(2), down=torch.ones(1, 2))
    >>> round(float(similarity(layer, layer)), 12)
    1.0
    """
    return _without_outputs(
        _similarity(a, b, kind, by_output=False, progress=progress, executor=executor, scratch=scratch)
    )


@needs_float64
def similarity_by_output(
    a: Networks,
    b: Comparable | None = None,
    *,
    kind: Kind | str = "tree",
    progress: bool = True,
    executor: Pool | None = None,
    scratch: Scratch | None = None,
) -> Estimate:
    """Return the cosine of each output of a with the same output of b, for two networks or all pairs of a list.

    `value` has shape (out,), or (n, n, out) for a list of n networks.
    Arguments and cost are those of `similarity`; sampled products take out * pairs * samples numbers of memory.
    Raises ValueError if an output of a network is zero.
    """
    return _similarity(a, b, kind, by_output=True, progress=progress, executor=executor, scratch=scratch)


@needs_float64
def output_similarity(a: TensorNetwork, b: TensorNetwork, *, kind: Kind | str = "symmetric") -> Tensor:
    """Return the cosine of every output of layer a with every output of layer b, (out, out'), float64.

    cosine[out, out'] = <A[out], B[out']> / (||A[out]|| ||B[out']||)

    The cosine is signed: two outputs can be opposed. The layers must have the same inputs; their outputs may belong to
    different tasks. kind: as in `inner`; the result is always exact, so a sampled kind raises ValueError. For single
    layers `Tree` and `Symmetric` give the same result. Raises ValueError if an output is zero.
    Cost: O(rank * rank' * (in + out + out')), plus O(rank * in^2) for `Gaussian`.

    Example:
    >>> layer = BilinearLayer.from_weights(left=torch.eye(2), right=torch.eye(2), down=torch.tensor([[1.0, 0], [1, 1]]))
    >>> output_similarity(layer, layer).round(decimals=4).tolist()
    [[1.0, 0.7071], [0.7071, 1.0]]
    """
    kind = as_kind(kind)
    if not isinstance(kind, Tree) and kind.method == "sampled":
        raise ValueError("output_similarity is exact: leave method out of kind or give method='exact', not 'sampled'")
    pair = []
    for name, part in (("a", a), ("b", b)):
        layer = wide_layer(name, part).drop_constant()
        core = balance(layer).layers[0]
        pair.append(replace(core, down=balance_rows(core.down)[0]))  # a cosine does not see the scale of an output
    check_comparable({"a": pair[0], "b": pair[1]}, outputs=False)
    grams = {}
    if isinstance(kind, Gaussian):
        x = input_moments(pair[0], kind.moments)
        moment = x.second_moment
        means = [hidden_means(layer, x.mean, moment) for layer in pair]
        for i, j in ((0, 0), (0, 1), (1, 1)):
            grams[i, j] = cross_moment(pair[i], pair[j], moment, means[i], means[j])
    else:
        for i, j in ((0, 0), (0, 1), (1, 1)):
            grams[i, j] = pair[i].down @ cross_gram(pair[i], pair[j]) @ pair[j].down.T
    squares = [grams[i, i].diagonal() for i in (0, 1)]
    for name, square in zip("ab", squares, strict=True):
        _check_not_zero(name, square, by_output=True)
    return grams[0, 1] / torch.outer(*(square.sqrt() for square in squares))


def _inner(a: Comparable, b: Comparable, kind: Kind | str, *, by_output: bool, progress: bool) -> Estimate:
    """Return the inner products as an estimate; its last axis runs over outputs, or has size 1 for their sum."""
    table = _table({"a": a, "b": b}, [(0, 1)], kind, by_output=by_output, progress=progress)
    error = None if table.draws is None else standard_error(table.draws[0], 0)
    warnings = table.warnings if table.draws is None else heavy_tails(table.draws[0])
    return Estimate(table.value[0], table.method, float(table.log_scale[0]), error, warnings, table.share, table.choice)


def _similarity(a: Networks, b: Comparable | None, kind: Kind | str, *, by_output: bool, **options: Any) -> Estimate:
    """Return the cosines as an estimate; its last axis runs over outputs, or has size 1 for the whole network."""
    named = name_networks(a, b)
    pairs = covering_pairs(len(named))
    table = _table(named, pairs, kind, by_output=by_output, **options)
    for squares, (i, j) in zip(table.value, pairs, strict=True):
        if i == j:
            _check_not_zero(f"network {list(named)[i]}", squares, by_output=by_output)
    cosine, error = (mirrored(x, pairs, len(named)) for x in cosines(table, pairs))
    if b is not None:
        cosine, error = cosine[0, 1], error[0, 1]
    if table.draws is None:
        return Estimate(cosine, table.method, warnings=table.warnings, share=table.share, choice=table.choice)
    warnings = sorted({text for draws in table.draws for text in heavy_tails(draws)})[:1]
    return Estimate(cosine, table.method, standard_error=error, warnings=tuple(warnings), choice=table.choice)


def _table(
    named: Mapping[str, Comparable],
    pairs: Pairs,
    kind: Kind | str,
    *,
    by_output: bool,
    progress: bool,
    executor: Pool | None = None,
    scratch: Scratch | None = None,
) -> Table:
    """Check the arguments that all functions of this module share, and compute the products of these pairs."""
    kind, progress = as_kind(kind), check_bool("progress", progress)
    check_pool(executor, scratch)
    sequences = over_positions(named)
    if sequences:
        task = Task({}, pairs, by_output, progress, 0)
        if executor is None:
            return sequence_table(sequences, task, kind)
        return distributed_sequences(sequences, task, kind, executor, scratch)
    networks = dict(enumerate(as_networks(named)))
    widest = max(max(layer.rank, *layer.shape) for network in networks.values() for layer in network.layers)
    task = Task({i: as_stack(network) for i, network in networks.items()}, pairs, by_output, progress, widest)
    return kind.compute(task) if executor is None else distributed(networks, task, kind, executor, scratch)


def _check_not_zero(name: str, squares: Tensor, *, by_output: bool) -> None:
    """Raise ValueError if a network's product with itself is not positive; `squares` has shape (out,) or (1,)."""
    dead = (~(squares > 0)).nonzero()
    if len(dead):
        where = f" in output {int(dead[0])}" if by_output else ""
        raise ValueError(f"the similarity is undefined: {name} is zero{where}")


def _without_outputs(found: Estimate) -> Estimate:
    """Return the estimate without its last axis, which has size 1 after a sum over outputs."""
    error = found.standard_error
    return replace(found, value=found.value[..., 0], standard_error=None if error is None else error[..., 0])
