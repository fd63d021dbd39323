"""Inner products and cosines of layers and networks, computed from their weights."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from tensornet_interp.balance import balance, balance_rows
from tensornet_interp.checks import check_bool
from tensornet_interp.inner_products.estimate import Estimate
from tensornet_interp.inner_products.kinds import Gaussian, Kind, Tree, as_kind
from tensornet_interp.inner_products.operands import (
    Networks,
    as_networks,
    check_comparable,
    name_networks,
)
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
from tensornet_interp.layer import TensorNetwork
from tensornet_interp.moments import cross_gram, cross_moment, hidden_means, input_moments
from tensornet_interp.network import check_network


def inner(a: TensorNetwork, b: TensorNetwork, *, kind: Kind | str = "tree", progress: bool = True) -> Estimate:
    """Return the inner product <a, b> of two layers, decompositions or networks, computed from their weights.

    <a, b> = sum_out <A[out], B[out]> for `Tree()` and `Symmetric()`, E[a(x) . b(x)] for `Gaussian()`.
    a, b: of one depth, with the same inputs and outputs. The constant coordinate of a lifted input counts like any
    other in `Tree` and `Symmetric`; the constant coordinate of a lifted output is dropped.
    kind: one of these objects, or its name ("tree", "symmetric", "gaussian") for the default options.
    progress: whether work of more than a second shows a bar.
    `float(result)` or `result.to_tensor()` is the number; `result.value` alone lacks the factor exp(log_scale).
    `result.method` says if the number is exact, a closure or sampled. Cost: see the kinds.

    Example:
    >>> layer = BilinearLayer.from_weights(left=torch.eye(2), right=torch.eye(2), down=torch.ones(1, 2))
    >>> [round(float(inner(layer, layer, kind=kind)), 12) for kind in ("tree", "gaussian")]
    [2.0, 8.0]
    """
    return _without_outputs(_inner(a, b, kind, by_output=False, progress=progress))


def inner_by_output(
    a: TensorNetwork, b: TensorNetwork, *, kind: Kind | str = "tree", progress: bool = True
) -> Estimate:
    """Return the inner product of each output of a with the same output of b: `value` has shape (out,).

    Arguments, errors and cost as in `inner`, whose number is the sum of these.
    """
    return _inner(a, b, kind, by_output=True, progress=progress)


def similarity(
    a: Networks, b: TensorNetwork | None = None, *, kind: Kind | str = "tree", progress: bool = True
) -> Estimate:
    """Return the cosine of two networks, or the (n, n) matrix of cosines of a list of n networks.

    cosine = <a, b> / sqrt(<a, a> <b, b>), uncentred, with `inner` for <., .> and its arguments.
    A list shares work: each pair is computed once, and so is what belongs to one network. If the products are sampled,
    all share their draws; a ratio of averages is biased, and its standard error is that of first order in their
    deviations. Memory then: pairs * samples.
    Raises ValueError if a network is zero.

    Example:
    >>> layer = BilinearLayer.from_weights(left=torch.eye(2), right=torch.eye(2), down=torch.ones(1, 2))
    >>> round(float(similarity(layer, layer)), 12)
    1.0
    """
    return _without_outputs(_similarity(a, b, kind, by_output=False, progress=progress))


def similarity_by_output(
    a: Networks, b: TensorNetwork | None = None, *, kind: Kind | str = "tree", progress: bool = True
) -> Estimate:
    """Return the cosine of each output of a with the same output of b: `value` has shape (out,), or (n, n, out).

    Arguments and cost as in `similarity`. Raises ValueError if a network is zero in one of its outputs.
    """
    return _similarity(a, b, kind, by_output=True, progress=progress)


def output_similarity(a: TensorNetwork, b: TensorNetwork, *, kind: Kind | str = "symmetric") -> Tensor:
    """Return the cosine of every output of one layer with every output of another, (out, out'), float64.

    cosine[out, out'] = <A[out], B[out']> / (||A[out]|| ||B[out']||), signed: two outputs can be opposed.
    The layers share their inputs; their outputs may belong to two tasks. kind: as in `inner`; it is always exact here,
    and for single layers `Tree` and `Symmetric` are one. Raises ValueError if an output is zero.
    Cost: O(rank rank' (in + out + out')), and rank in^2 more for `Gaussian`.

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
        layer = check_network(name, part).to_layer().drop_constant()
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


def _inner(a: TensorNetwork, b: TensorNetwork, kind: Kind | str, *, by_output: bool, progress: bool) -> Estimate:
    table = _table({"a": a, "b": b}, [(0, 1)], kind, by_output=by_output, progress=progress)
    error = None if table.draws is None else standard_error(table.draws[0], 0)
    warnings = () if table.draws is None else heavy_tails(table.draws[0])
    return Estimate(table.value[0], table.method, float(table.log_scale[0]), error, warnings)


def _similarity(a: Networks, b: TensorNetwork | None, kind: Kind | str, *, by_output: bool, progress: bool) -> Estimate:
    named = name_networks(a, b)
    pairs = covering_pairs(len(named))
    table = _table(named, pairs, kind, by_output=by_output, progress=progress)
    for squares, (i, j) in zip(table.value, pairs, strict=True):
        if i == j:
            _check_not_zero(f"network {list(named)[i]}", squares, by_output=by_output)
    cosine, error = (mirrored(x, pairs, len(named)) for x in cosines(table, pairs))
    if b is not None:
        cosine, error = cosine[0, 1], error[0, 1]
    if table.draws is None:
        return Estimate(cosine, table.method)
    warnings = sorted({text for draws in table.draws for text in heavy_tails(draws)})[:1]
    return Estimate(cosine, table.method, standard_error=error, warnings=tuple(warnings))


def _table(
    named: Mapping[str, TensorNetwork], pairs: Pairs, kind: Kind | str, *, by_output: bool, progress: bool
) -> Table:
    """Check the arguments that all verbs share and compute the products of the pairs."""
    kind, progress = as_kind(kind), check_bool("progress", progress)
    stacks = [as_stack(network) for network in as_networks(named)]
    return kind.compute(Task(stacks, pairs, by_output, progress))


def _check_not_zero(name: str, squares: Tensor, *, by_output: bool) -> None:
    """Raise if one of the products of a network with itself, (out or 1,), is not positive."""
    dead = (~(squares > 0)).nonzero()
    if len(dead):
        where = f" in output {int(dead[0])}" if by_output else ""
        raise ValueError(f"the similarity is undefined: {name} is zero{where}")


def _without_outputs(found: Estimate) -> Estimate:
    """Drop the last axis, of size 1, of sums over outputs."""
    error = found.standard_error
    return replace(found, value=found.value[..., 0], standard_error=None if error is None else error[..., 0])
