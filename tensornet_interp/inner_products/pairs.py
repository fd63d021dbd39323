"""Inner products of layers and networks from their weights, and what follows: similarity, error, difference.

Each inner product has a name of its own, because from two layers on they differ:

- "tree": the Frobenius product of the networks as trees, every layer symmetrized; it depends on how a function is
  written, but costs O(rank^3) a layer.
- "symmetric": the Frobenius product of the tensors symmetrized over all inputs: one number for one function.
- "gaussian": E[f(x) . g(x)] for a Gaussian input: the same.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from tensornet_interp.checks import check_alike, check_choice, check_size
from tensornet_interp.contraction import TensorNetwork
from tensornet_interp.inner_products.estimate import Estimate
from tensornet_interp.inner_products.products import How, cosines, covering_pairs, mirrored, products
from tensornet_interp.inner_products.sampling import standard_error
from tensornet_interp.inner_products.stack import as_stack, common_exponents, factor_exponents, rescale
from tensornet_interp.layer import BilinearLayer, as_layer
from tensornet_interp.moments import cross_gram, cross_moment, hidden_means, input_gaussian
from tensornet_interp.network import BilinearNetwork

_DENSE_DIFFERENCE = 2**25  # entries of a compressed dense difference that are still cheap (256 MB)


def inner(
    a: TensorNetwork,
    b: TensorNetwork,
    *,
    kind: str = "tree",
    method: str = "auto",
    mean: Tensor | None = None,
    covariance: Tensor | None = None,
    per_output: bool = False,
    samples: int = 10_000,
    seed: int = 0,
    progress: bool = True,
) -> Estimate:
    """<a, b>: sum_out <A[out], B[out]> of the tensors ("tree", "symmetric"), or E[a(x) . b(x)] ("gaussian").

    a, b: layers, decompositions or networks of one depth, with the same inputs and outputs; the constant coordinate
    of a lifted input counts in "tree" and "symmetric" like any other, that of a lifted output is dropped.
    method: "exact" ("tree", and the others up to two layers), "closure" ("gaussian", activations taken as Gaussian
    layer by layer: no bound on its error; of three layers, <a, a> is 10 % too small in a trained classifier of many
    inputs, and can be orders of magnitude too small, cosines 0.3 off, with few inputs), or
    "sampled" ("symmetric" and "gaussian": unbiased, with a standard error,
    `samples` random inputs drawn with `seed`; a draw on the sphere deviates by 2 to 3 times the norms, more with
    depth; Gaussian draws of high degree have heavy tails, and the standard error of too few comes out too small).
    "auto": exact up to two layers; beyond, "symmetric" is sampled and "gaussian" a closure, as it is for two layers
    where exact products cost more than 1e12 flops in the call. `Estimate.method` says which it was.
    mean (in,), covariance (in, in): of the plain Gaussian input, by default 0 and the identity; "gaussian" only.
    per_output: one number an output. progress: a bar where it takes more than a second.
    float() or `to_tensor()` of the result is the number; its `value` alone lacks the factor exp(log_scale).
    Cost: "tree" and closure O(rank^2 (in + out)) a layer; exact products of two layers 4 rank rank' r^3 over the ranks
    of the second layers, r = min(in, 2 (rank + rank')) of the first; sampled as many forward passes.
    """
    how = How(kind, method, mean, covariance, per_output, samples, seed, progress)
    stacks = [as_stack(network) for network in _networks({"a": a, "b": b})]
    found = products(stacks, [(0, 1)], how)
    error = None if found.draws is None else standard_error(found.draws[0], 0)
    return Estimate(
        found.value[0] if per_output else found.value[0, 0],
        found.method,
        float(found.log_scale[0]),
        error if error is None or per_output else error[0],
    )


def similarity(
    a: TensorNetwork | Sequence[TensorNetwork],
    b: TensorNetwork | None = None,
    *,
    kind: str = "tree",
    method: str = "auto",
    mean: Tensor | None = None,
    covariance: Tensor | None = None,
    per_output: bool = False,
    samples: int = 10_000,
    seed: int = 0,
    progress: bool = True,
) -> Estimate:
    """Cosine <a, b> / sqrt(<a, a> <b, b>), uncentred; of a list of n networks the (n, n) or (n, n, out) matrix.

    Arguments as in `inner`; an error where a network is zero. A list shares work: each pair is computed once, and
    what belongs to one network once. Sampled, all products share their draws; the ratio of averages is not unbiased,
    and its standard error is that of first order in their deviations. Memory there: pairs * samples.

    Example:
    >>> layer = BilinearLayer.from_weights(left=torch.eye(2), right=torch.eye(2), down=torch.ones(1, 2))
    >>> round(float(similarity(layer, layer)), 12)
    1.0
    """
    how = How(kind, method, mean, covariance, per_output, samples, seed, progress)
    named = _named(a, b)
    stacks = [as_stack(network) for network in _networks(named)]
    pairs = covering_pairs(len(stacks))
    found = products(stacks, pairs, how)
    for at, (i, j) in enumerate(pairs):
        if i == j and not bool((found.value[at] > 0).all()):
            name = list(named)[i]
            raise ValueError(f"the similarity is undefined: network {name} is zero, or zero in one of its outputs")
    cosine, error = (mirrored(x, pairs, len(stacks), per_output) for x in cosines(found, pairs))
    if b is not None:
        cosine, error = cosine[0, 1], error[0, 1]
    return Estimate(cosine, found.method, standard_error=error if found.method == "sampled" else None)


def output_similarity(
    a: TensorNetwork,
    b: TensorNetwork,
    *,
    kind: str = "symmetric",
    mean: Tensor | None = None,
    covariance: Tensor | None = None,
) -> Tensor:
    """Cosine <A[out], B[out']> of every output of one layer with every output of another, (out, out'), float64.

    kind: "symmetric", of the interaction matrices, or "gaussian", E[a(x)[out] b(x)[out']] with mean and covariance as
    in `inner`. The layers share their inputs; their outputs may be of two tasks. Signed: two outputs can be opposed.
    Raises ValueError for an output that is zero. Cost: O(rank rank' (in + out + out')), and "gaussian" rank in^2.

    Example:
    >>> layer = BilinearLayer.from_weights(left=torch.eye(2), right=torch.eye(2), down=torch.tensor([[1.0, 0], [1, 1]]))
    >>> output_similarity(layer, layer).round(decimals=4).tolist()
    [[1.0, 0.7071], [0.7071, 1.0]]
    """
    check_choice("kind", kind, ("symmetric", "gaussian"))
    pair = []
    for part in (a, b):
        if isinstance(part, BilinearNetwork) and len(part) > 1:
            raise ValueError(f"expected a single layer, got a network of {len(part)}")
        layer = (part.layers[0] if isinstance(part, BilinearNetwork) else as_layer(part)).drop_constant()
        pair.append(rescale(layer, factor_exponents(layer)))
    _check_comparable({"a": pair[0], "b": pair[1]}, inputs=True)
    grams = {}
    if kind == "symmetric":
        if mean is not None or covariance is not None:
            raise ValueError(
                "mean and covariance belong to kind='gaussian'; kind 'symmetric' has no input distribution"
            )
        for i, j in ((0, 0), (0, 1), (1, 1)):
            grams[i, j] = pair[i].down @ cross_gram(pair[i], pair[j]) @ pair[j].down.T
    else:
        x = input_gaussian(pair[0], mean, covariance)
        means = [hidden_means(layer, x.mean, x.moment) for layer in pair]
        for i, j in ((0, 0), (0, 1), (1, 1)):
            grams[i, j] = cross_moment(pair[i], pair[j], x.moment, means[i], means[j])
    norms = [grams[i, i].diagonal().clamp_min(0).sqrt() for i in (0, 1)]
    for name, size in zip("ab", norms, strict=True):
        if not bool((size > 0).all()):
            raise ValueError(f"the similarity is undefined: {name} is zero in output {int((size <= 0).nonzero()[0])}")
    return grams[0, 1] / torch.outer(*norms)


def norm(layer: TensorNetwork) -> Tensor:
    """Frobenius norm of the symmetrized tensor of a layer, float64; it need only fit itself, not its square.

    Cost: O(rank^2 (in + out)).
    """
    layer = as_layer(layer)
    exponents = factor_exponents(layer)
    scale = torch.tensor(float(sum(exponents)), dtype=torch.float64, device=layer.down.device).exp2()
    return _norm(rescale(layer, exponents)) * scale


def _norm(layer: BilinearLayer) -> Tensor:
    return ((layer.down.T @ layer.down) * cross_gram(layer, layer)).sum().clamp_min(0).sqrt()


def relative_error(approximation: TensorNetwork, reference: TensorNetwork) -> float:
    """||A - B|| / ||B|| between the symmetrized tensors of two layers, B the reference.

    Exact to rounding where the difference fits in memory in compressed coordinates (r = min(in, total rank x 2),
    out r^2 <= 2^25 entries); beyond, from `difference` by inner products, which sees no less than 1e-8 unless the
    two layers are aligned. Cost: out rank r^2.
    """
    layers = _layers(approximation, reference)
    own = factor_exponents(layers[1])
    size = _norm(rescale(layers[1], own))
    if not size > 0:
        raise ValueError(f"the relative error is undefined: the reference is zero: {layers[1]!r}")
    if not all(bool(term.data.any()) for term in layers[0].terms()):
        return 1.0
    exponents = common_exponents(*layers)
    approx, ref = (rescale(layer, e) for layer, e in zip(layers, exponents, strict=True))
    scale = math.ldexp(float(size), sum(own) - sum(exponents[1]))  # of ref, which may be too small to be squared
    delta = _difference(ref, approx)
    n_out, n_in, _ = delta.shape
    width = min(n_in, 2 * (approx.rank + ref.rank))
    if n_out * width**2 > _DENSE_DIFFERENCE:
        return float(_norm(delta) / scale)
    down = torch.cat([approx.down, -ref.down], 1)
    left, right = torch.cat([approx.left, ref.left], 1), torch.cat([approx.right, ref.right], 1)
    if width < n_in:
        core = torch.linalg.qr(torch.cat([left, right], 1), mode="r").R  # one basis for both layers
        left, right = core[:, : left.shape[1]], core[:, left.shape[1] :]
    squared = torch.zeros((), dtype=torch.float64, device=down.device)
    for row in down:
        matrix = (left * row) @ right.T
        squared = squared + ((matrix + matrix.T) / 2).square().sum()
    return float(squared.sqrt() / scale)


def difference(before: TensorNetwork, after: TensorNetwork) -> BilinearLayer:
    """The layer after - before: what changed between two checkpoints, itself a layer to decompose.

    Hidden units are concatenated. For layers of one rank they are ([P' - P, P', P'], [W; W' - W; W'], [V; V; V' - V])
    with primes for `after`, which keeps every digit of a small change of aligned weights. The constant output of
    lifted layers, whose difference is 0 and not 1, is dropped.
    """
    old, new = _layers(before, after)
    check_alike(before=old.down, after=new.down)
    return _difference(old, new).drop_constant()


def _difference(old: BilinearLayer, new: BilinearLayer) -> BilinearLayer:
    """new - old over all coordinates, the constant output included."""
    if old.rank == new.rank:
        down = torch.cat([new.down - old.down, new.down, new.down], 1)
        left = torch.cat([old.left, new.left - old.left, new.left], 1)
        right = torch.cat([old.right, old.right, new.right - old.right], 1)
    else:
        down = torch.cat([new.down, -old.down], 1)
        left, right = torch.cat([new.left, old.left], 1), torch.cat([new.right, old.right], 1)
    name = f"{new.name or 'after'} - {old.name or 'before'}"
    history = (*new.history, "difference of two layers")
    return BilinearLayer(
        down=down,
        left=left,
        right=right,
        name=name,
        history=history,
        constant_in=old.constant_in,
        constant_out=old.constant_out,
    )


def _named(a: TensorNetwork | Sequence[TensorNetwork], b: TensorNetwork | None) -> dict[str, TensorNetwork]:
    """The networks to compare by the names that errors call them."""
    if b is not None:
        if not isinstance(a, TensorNetwork):
            raise TypeError(f"similarity takes two networks, or one list of them; got {type(a).__name__} and a second")
        return {"a": a, "b": b}
    if isinstance(a, TensorNetwork) or not isinstance(a, Sequence) or isinstance(a, str):
        raise TypeError(f"similarity takes two networks, or one list of them; got one {type(a).__name__}")
    if not a:
        raise ValueError("similarity of an empty list: it takes at least one network")
    return {str(i): part for i, part in enumerate(a)}


def _networks(named: dict[str, TensorNetwork]) -> list[BilinearNetwork]:
    """All as networks of one depth, with the same inputs and outputs."""
    networks = [
        part if isinstance(part, BilinearNetwork) else BilinearNetwork([as_layer(part)]) for part in named.values()
    ]
    names = list(named)
    for name, network in zip(names, networks, strict=True):
        if len(network) != len(networks[0]):
            raise ValueError(f"networks must have the same depth, got {len(networks[0])} and {len(network)} layers")
        _check_comparable({names[0]: networks[0].layers[0], name: network.layers[0]}, inputs=True)
        _check_comparable({names[0]: networks[0].layers[-1], name: network.layers[-1]}, outputs=True)
    return networks


def _layers(a: TensorNetwork, b: TensorNetwork) -> tuple[BilinearLayer, BilinearLayer]:
    """Both as single layers with the same inputs and outputs; a network of one layer is taken as its layer."""
    pair = []
    for part in (a, b):
        if isinstance(part, BilinearNetwork) and len(part) > 1:
            raise ValueError(f"expected a single layer, got a network of {len(part)}; compare its parts one by one")
        pair.append(part.layers[0] if isinstance(part, BilinearNetwork) else as_layer(part))
    _check_comparable({"a": pair[0], "b": pair[1]}, inputs=True, outputs=True)
    return pair[0], pair[1]


def _check_comparable(layers: dict[str, BilinearLayer], *, inputs: bool = False, outputs: bool = False) -> None:
    sides = [("in", inputs, "constant_in", 1), ("out", outputs, "constant_out", 0)]
    for mode, wanted, constant, axis in sides:
        if not wanted:
            continue
        check_size(mode, **{name: layer.shape[axis] for name, layer in layers.items()})
        if len({getattr(layer, constant) for layer in layers.values()}) > 1:
            raise ValueError(f"only one of the two has a constant coordinate in mode '{mode}'; lift both or neither")
    devices = {name: layer.down.device for name, layer in layers.items()}
    if len(set(devices.values())) > 1:
        listing = ", ".join(f"{name} {device}" for name, device in devices.items())
        raise ValueError(f"tensors must share one device; got {listing}")
