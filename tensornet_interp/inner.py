"""Inner products of layers and networks from their weights, and what follows: similarity, error, difference.

Each inner product has a name of its own, because from two layers on they differ:

- "tree": the Frobenius product of the networks as trees, every layer symmetrized; it depends on how a function is
  written, but costs O(rank^3) a layer.
- "gaussian": E[f(x) . g(x)] for a Gaussian input.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tensornet_interp.checks import check_alike, check_choice, check_size
from tensornet_interp.contraction import TensorNetwork
from tensornet_interp.layer import BilinearLayer, as_layer
from tensornet_interp.moments import Moments, cross_gram, input_moments, propagate
from tensornet_interp.network import BilinearNetwork

_DENSE_DIFFERENCE = 2**25  # entries of a compressed dense difference that are still cheap (256 MB)


@dataclass(frozen=True, eq=False)
class Estimate:
    """A number, or one an output, times exp(log_scale), and how it was come by: "exact", "closure" or "sampled"."""

    value: Tensor  # float64, () or (out,)
    method: str
    log_scale: float = 0.0
    standard_error: Tensor | None = None  # of value, where it was sampled

    def to_tensor(self) -> Tensor:
        """The numbers themselves, value * exp(log_scale), float64: () or (out,)."""
        return self.value * math.exp(self.log_scale)

    def __float__(self) -> float:
        if self.value.numel() != 1:
            raise TypeError(f"{self.value.numel()} numbers, one an output: use to_tensor()")
        try:
            return float(self.value) * math.exp(self.log_scale)
        except OverflowError:
            raise OverflowError(f"{self!r} does not fit in a float; use its value and log_scale") from None

    def __repr__(self) -> str:
        error = "" if self.standard_error is None else f" +- {self.standard_error.tolist()}"
        scale = f" * exp({self.log_scale:.6g})" if self.log_scale else ""
        return f"Estimate({self.value.tolist()}{error}{scale}, {self.method})"


def inner(
    a: TensorNetwork,
    b: TensorNetwork,
    *,
    kind: str = "tree",
    mean: Tensor | None = None,
    covariance: Tensor | None = None,
    per_output: bool = False,
) -> Estimate:
    """<a, b>: "tree" sum_out <A[out], B[out]> of the symmetrized tensors, or "gaussian" E[a(x) . b(x)].

    a, b: layers, decompositions or networks of one depth, with the same inputs and outputs; a constant coordinate of
    a lifted input counts in "tree" like any other, that of a lifted output is dropped.
    mean (in,), covariance (in, in): of the plain Gaussian input, by default 0 and the identity; "gaussian" only.
    per_output: one number an output. float() or `to_tensor()` of the result is the number; its `value` alone lacks
    the factor exp(log_scale), which is kept apart so that deep networks do not overflow.
    "gaussian" is exact for one layer, bias and residual included, and a closure for more (activations taken as
    Gaussian layer by layer): `Estimate.method` says which. Cost: O(rank^2 (in + out)) a layer.
    """
    check_choice("kind", kind, _KINDS)
    if not isinstance(per_output, bool):
        raise TypeError(f"per_output must be True or False, got {per_output!r}")
    return _KINDS[kind](*_networks(a, b), mean, covariance, per_output)


def similarity(
    a: TensorNetwork,
    b: TensorNetwork,
    *,
    kind: str = "tree",
    mean: Tensor | None = None,
    covariance: Tensor | None = None,
    per_output: bool = False,
) -> Estimate:
    """Cosine <a, b> / sqrt(<a, a> <b, b>), uncentred. Arguments as in `inner`; an error where a network is zero.

    Example:
    >>> layer = BilinearLayer.from_weights(left=torch.eye(2), right=torch.eye(2), down=torch.ones(1, 2))
    >>> round(float(similarity(layer, layer)), 12)
    1.0
    """
    ab, aa, bb = (
        inner(x, y, kind=kind, mean=mean, covariance=covariance, per_output=per_output)
        for x, y in ((a, b), (a, a), (b, b))
    )
    for name, norm in (("a", aa), ("b", bb)):
        if not bool(torch.isfinite(norm.value).all()):
            raise ValueError(f"the norm of network {name} overflows float64: scale its weights down")
        if not bool((norm.value > 0).all()):
            raise ValueError(f"the similarity is undefined: network {name} is zero, or zero in one of its outputs")
    cosine = ab.value / (aa.value.sqrt() * bb.value.sqrt())
    return Estimate(cosine * math.exp(ab.log_scale - (aa.log_scale + bb.log_scale) / 2), ab.method)


def norm(layer: TensorNetwork) -> Tensor:
    """Frobenius norm of the symmetrized tensor of a layer, float64. Cost: O(rank^2 (in + out))."""
    layer = as_layer(layer).to(dtype=torch.float64)
    return ((layer.down.T @ layer.down) * cross_gram(layer, layer)).sum().clamp_min(0).sqrt()


def relative_error(approximation: TensorNetwork, reference: TensorNetwork) -> float:
    """||A - B|| / ||B|| between the symmetrized tensors of two layers, B the reference.

    Exact to rounding where the difference fits in memory in compressed coordinates (r = min(in, total rank x 2),
    out r^2 <= 2^25 entries); beyond, from `difference` by inner products, which sees no less than 1e-8 unless the
    two layers are aligned. Cost: out rank r^2.
    """
    approx, ref = (layer.to(dtype=torch.float64) for layer in _layers(approximation, reference))
    scale = norm(ref)
    if not scale > 0:
        raise ValueError(f"the relative error is undefined: the reference is zero: {ref!r}")
    delta = _difference(ref, approx)
    n_out, n_in, _ = delta.shape
    width = min(n_in, 2 * (approx.rank + ref.rank))
    if n_out * width**2 > _DENSE_DIFFERENCE:
        return float(norm(delta) / scale)
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
    return BilinearLayer(down, left, right, name, history, old.constant_in, old.constant_out)


def _tree(
    a: BilinearNetwork, b: BilinearNetwork, mean: Tensor | None, covariance: Tensor | None, per_output: bool
) -> Estimate:
    if mean is not None or covariance is not None:
        raise ValueError("mean and covariance belong to kind='gaussian'; kind 'tree' has no input distribution")
    moment: Tensor | None = None  # X_l, (out of a's layer, out of b's layer); None is the identity
    log_scale = 0.0
    for layer_a, layer_b in zip(_layers64(a), _layers64(b), strict=True):
        product = cross_gram(layer_a, layer_b, moment)
        moment = layer_a.down @ product @ layer_b.down.T
        scale = _scale(moment)
        moment, log_scale = moment / scale, 2 * log_scale + float(scale.log())
    return _finish(moment, "exact", log_scale, per_output)


def _gaussian(
    a: BilinearNetwork, b: BilinearNetwork, mean: Tensor | None, covariance: Tensor | None, per_output: bool
) -> Estimate:
    mean, moment = input_moments(a, mean, covariance)
    state = Moments(mean, mean, moment, moment, moment)
    log_scale = 0.0
    for layer_a, layer_b in zip(_layers64(a), _layers64(b), strict=True):
        state = propagate(layer_a, layer_b, state)
        scale_f, scale_g = _scale(state.ff).sqrt(), _scale(state.gg).sqrt()
        state = Moments(
            state.mean_f / scale_f,
            state.mean_g / scale_g,
            state.ff / scale_f**2,
            state.gg / scale_g**2,
            state.fg / (scale_f * scale_g),
        )
        log_scale = 2 * log_scale + float((scale_f * scale_g).log())
    return _finish(state.fg, "exact" if len(a) == 1 else "closure", log_scale, per_output)


def _finish(moment: Tensor | None, method: str, log_scale: float, per_output: bool) -> Estimate:
    if moment is None:
        raise ValueError("a network needs at least one part")
    diagonal = moment.diagonal()
    return Estimate(diagonal if per_output else diagonal.sum(), method, log_scale)


def _scale(moment: Tensor) -> Tensor:
    """Largest entry, or 1 for a zero matrix: powers of it are carried as a logarithm so that nothing overflows."""
    largest = moment.detach().abs().max()
    return torch.where(largest > 0, largest, torch.ones_like(largest))


def _layers64(network: BilinearNetwork) -> tuple[BilinearLayer, ...]:
    return tuple(layer.to(dtype=torch.float64) for layer in network.layers)


def _networks(a: TensorNetwork, b: TensorNetwork) -> tuple[BilinearNetwork, BilinearNetwork]:
    """Both as networks of one depth, with the same inputs and outputs."""
    f, g = (part if isinstance(part, BilinearNetwork) else BilinearNetwork([as_layer(part)]) for part in (a, b))
    if len(f) != len(g):
        raise ValueError(f"networks must have the same depth, got {len(f)} and {len(g)} layers")
    _check_comparable(f.layers[0], g.layers[0], inputs=True)
    _check_comparable(f.layers[-1], g.layers[-1], outputs=True)
    return f, g


def _layers(a: TensorNetwork, b: TensorNetwork) -> tuple[BilinearLayer, BilinearLayer]:
    """Both as single layers with the same inputs and outputs; a network of one layer is taken as its layer."""
    pair = []
    for part in (a, b):
        if isinstance(part, BilinearNetwork) and len(part) > 1:
            raise ValueError(f"expected a single layer, got a network of {len(part)}; compare its parts one by one")
        pair.append(part.layers[0] if isinstance(part, BilinearNetwork) else as_layer(part))
    _check_comparable(*pair, inputs=True, outputs=True)
    return pair[0], pair[1]


def _check_comparable(a: BilinearLayer, b: BilinearLayer, *, inputs: bool = False, outputs: bool = False) -> None:
    sides = [("in", inputs, "constant_in", 1), ("out", outputs, "constant_out", 0)]
    for mode, wanted, constant, axis in sides:
        if not wanted:
            continue
        check_size(mode, a=a.shape[axis], b=b.shape[axis])
        if getattr(a, constant) != getattr(b, constant):
            raise ValueError(f"only one of the two has a constant coordinate in mode '{mode}'; lift both or neither")
    if a.down.device != b.down.device:
        raise ValueError(f"tensors must share one device; got a {a.down.device}, b {b.down.device}")


_KINDS: dict[str, Callable[..., Estimate]] = {"tree": _tree, "gaussian": _gaussian}
