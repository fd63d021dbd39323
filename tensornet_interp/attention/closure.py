"""Gaussian moments through stacks over positions: exact for one nonlinear part, and a closure for more.

Every part takes its inputs as Gaussian, with the mean and the covariance over positions that the parts below give.
"""

import functools
import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from tensornet_interp.attention.gaussian import covariance, first_moments, needed_elements
from tensornet_interp.attention.layer import AttentionLayer
from tensornet_interp.attention.parts import Part
from tensornet_interp.attention.sequence import SequenceNetwork, part_sizes
from tensornet_interp.attention.wick import Stream
from tensornet_interp.attention.writers import adjoint, scaled
from tensornet_interp.checks import DEFAULT_MAX_ELEMENTS, check_kind, check_number, check_size
from tensornet_interp.contraction import Term, contract
from tensornet_interp.layer import BilinearLayer, TensorNetwork
from tensornet_interp.moments import Moments, cross_gram, hidden_slopes

# measured on random models of width 2 to 16; the second holds if attention with scores follows attention with scores
LARGE_SHARES = 0.02, 0.002  # above them, cosines of closures were off by more than 0.001


class Known(NamedTuple):
    """What the closure of one network says about one part, whatever it is compared with."""

    part: Part
    map: AttentionLayer | BilinearLayer | Tensor  # float64; a matrix (out, in) for a linear map
    stream: Stream  # the input of the part
    read: Stream  # the input of its map, after the norm
    update: Tensor  # E[map], (position, out)
    slope: Tensor  # E[d map / d stream], (position, out, position, in)


class Closure:
    """The closure of one network: what is known of its parts, and its output; covariances are computed when needed."""

    def __init__(
        self,
        name: str,
        network: SequenceNetwork,
        moments: Moments,
        *,
        diagonal: bool,
        max_elements: float = DEFAULT_MAX_ELEMENTS,
        progress: bool = False,
    ) -> None:
        """name: that of the network in errors. diagonal: whether of the output, only E[y_s y_s^T] is needed."""
        stream = _checked(name, network, moments, check_number("max_elements", max_elements, 1))
        self.parts: list[Known] = []
        self._progress, self._own = progress, dict[int, tuple[Tensor, Tensor]]()
        mixing = [i for i, part in enumerate(network) if isinstance(part.map, AttentionLayer)]
        self._alone_from = max(mixing, default=0) if diagonal else len(network)
        for i, part in enumerate(network):
            known = _known(part, stream)
            self.parts.append(known)
            mean = known.update + part.residual * stream.mean if part.residual else known.update
            mean = mean if part.bias is None else mean + part.bias.to(torch.float64)
            stream = Stream(mean, functools.partial(self._spread, i))
        self.output = stream

    def step(self, i: int, other: "Closure", between: Tensor) -> tuple[Tensor, Tensor]:
        """Return the covariances of the maps and of the outputs of part i of two networks, from that of the inputs."""
        alone = i >= self._alone_from
        found = _between(self.parts[i], other.parts[i], between, diagonal=alone, progress=self._progress)
        if not all(bool(spread.isfinite().all()) for spread in found):
            raise ValueError(
                f"the moments of the outputs of part {i} are beyond the range of float64; scale its weights or the"
                " moments of the inputs"
            )
        return found

    def own(self, i: int) -> tuple[Tensor, Tensor]:
        """Return the covariances of the map and of the output of part i, (position, out, position, out)."""
        if i not in self._own:
            self._own[i] = self.step(i, self, self.parts[i].stream.spread)
        return self._own[i]

    def _spread(self, i: int) -> Tensor:
        return self.own(i)[1]

    def share_of(self, i: int) -> float:
        """Return E|map|^2 / E|x|^2 of part i, summed over positions; for x = 0, infinity, or 0 if the map is 0 too."""
        known = self.parts[i]
        update, size = _size(self.own(i)[0], known.update), _size(known.stream.spread, known.stream.mean)
        return update / size if size else math.inf if update else 0.0

    @property
    def share(self) -> float | None:
        """Return the largest share of a nonlinear part, or None if there are less than two, so that all is exact."""
        nonlinear = [i for i, known in enumerate(self.parts) if is_nonlinear(known.part.map)]
        return max(map(self.share_of, nonlinear)) if len(nonlinear) > 1 else None

    @property
    def large_share(self) -> float:
        """Return the share above which the closure is in doubt."""
        mixing = [known for known in self.parts if isinstance(known.map, AttentionLayer) and known.map.queries]
        return LARGE_SHARES[len(mixing) > 1]

    def product(self, other: "Closure") -> Tensor:
        """Return E[y_s[out] y'_s[out]] of two networks at every position, (position, out), for the same inputs."""
        if other is self:
            spread = self.output.spread
        else:
            spread = self.parts[0].stream.spread
            for i in range(len(self.parts)):
                spread = self.step(i, other, spread)[1]
        return _own_variances(spread) + self.output.mean * other.output.mean


def _own_variances(spread: Tensor) -> Tensor:
    """Return Cov(x_s[i], x'_s[i]), (position, in)."""
    return spread.diagonal(dim1=0, dim2=2).diagonal(dim1=0, dim2=1)


def _size(spread: Tensor, mean: Tensor) -> float:
    """Return the sum over positions of E|x|^2."""
    return float(_own_variances(spread).sum() + mean.square().sum())


def check_comparable(networks: dict[str, SequenceNetwork]) -> None:
    """Raise ValueError unless networks have the same sizes and as many parts, of which no two differ in kind."""
    (first, reference), *others = networks.items()
    for name, network in others:
        if len(reference) != len(network):
            raise ValueError(f"networks must have equally many parts, got {len(reference)} and {len(network)}")
        for mode, at, end in (("in", 0, 0), ("out", -1, 1)):
            check_size(mode, **{first: part_sizes(reference[at])[end], name: part_sizes(network[at])[end]})
        for i, parts in enumerate(zip(reference, network, strict=True)):
            attention = [isinstance(part.map, AttentionLayer) for part in parts]
            if len(set(attention)) > 1 and all(is_nonlinear(part.map) for part in parts):
                kinds = [type(part.map).__name__ for part in parts]
                raise ValueError(
                    f"part {i} must be attention in both of {first} and {name}, or a map at every position in both, got"
                    f" {kinds[0]} and {kinds[1]}"
                )


def is_nonlinear(map: TensorNetwork) -> bool:
    """Return True for a bilinear map, and for attention with scores."""
    return bool(map.queries) if isinstance(map, AttentionLayer) else not _linear(map)


def _linear(map: TensorNetwork) -> bool:
    return map.modes == ("out", "in1")


def _checked(name: str, network: SequenceNetwork, moments: Moments, limit: float) -> Stream:
    """Return the inputs as a stream, after checks of the network, of sizes and of memory."""
    check_kind("moments", moments, Moments)
    for i, part in enumerate(network):
        place = f"part {i} of {name}" if len(network) > 1 else name
        if isinstance(part.map, AttentionLayer):
            if part.map.softmax:
                raise ValueError(
                    f"{place} has softmax, whose moments are no polynomials; layer.given(pattern) and network.given(x)"
                    " have moments, and inner and similarity of kind Gaussian(method='sampled') take any network"
                )
            if part.map.mask.ndim == 4:
                raise ValueError(f"{place} has one mask per sample; its moments need one mask for all")
        if part.norm is not None and part.norm.scale is None:
            raise ValueError(
                f"{place} has a norm, which is no polynomial; norm.given(x) and network.given(x) have fixed scales, and"
                " inner and similarity of kind Gaussian(method='sampled') take any network"
            )
        if part.norm is not None and part.norm.scale is not None and part.norm.scale.ndim > 1:
            raise ValueError(f"{place} has a norm with one scale per sample; its moments need one for all")
    size, most = part_sizes(network[0])[0], network.positions
    layers = [part.map for part in network if isinstance(part.map, AttentionLayer)]
    positions, rest = divmod(len(moments.mean), size)
    if rest or not positions or (most is not None and positions > most):
        longest = "whole" if most is None else f"1 to {most}"
        raise ValueError(
            f"moments must be those of {longest} positions of {size} inputs, flattened, got {len(moments.mean)} inputs"
        )
    needed = max([(positions * part_sizes(part)[0]) ** 2 for part in network])
    needed = max([needed, *(needed_elements(layer, layer, positions) for layer in layers)])
    if needed > limit:
        raise ValueError(
            f"the moments of {name} at {positions} positions need {needed:.1e} numbers at once, more than"
            f" max_elements={limit:.0e}; take fewer positions, or Gaussian(method='sampled')"
        )
    spread = moments.covariance.reshape(positions, size, positions, size)
    return Stream(moments.mean.unflatten(0, (positions, size)), lambda: spread)


def _known(part: Part, stream: Stream) -> Known:
    """Return what holds of a part alone for Gaussian inputs."""
    part = part._replace(norm=part.norm and part.norm.to(dtype=torch.float64))
    read = stream
    if part.norm is not None:
        read = Stream(part.norm(stream.mean), lambda: _normed(part, part, stream.spread))
    map: AttentionLayer | BilinearLayer | Tensor
    if isinstance(part.map, AttentionLayer):
        map = part.map.drop_constant().up_to(len(stream.mean)).to(dtype=torch.float64)
        update, slope = first_moments(map, read)
    elif _linear(part.map):
        map = contract([Term(term.data.to(torch.float64), term.modes) for term in part.map.terms()], ("out", "in1"))
        constant = bool(getattr(part.map, "constant_in", False))
        update = pad(read.mean, (int(constant), 0), value=1.0) @ map.T
        map = map[:, int(constant) :]
        slope = _at_each(map.expand(len(update), -1, -1))
    else:
        map = part.map.to_layer().drop_constant().to(dtype=torch.float64)
        mean, own = read.mean, read.spread.diagonal(dim1=0, dim2=2).permute(2, 0, 1)  # (position, in, in)
        if map.constant_in:
            mean, own = pad(mean, (1, 0), value=1.0), pad(own, (1, 0, 1, 0))
        expected, slopes = hidden_slopes(map, mean, own)
        update = expected @ map.down.T
        slope = _at_each(map.down @ slopes[..., int(map.constant_in) :])
    return Known(part, map, stream, read, update, adjoint(part.norm, slope))


def _at_each(slopes: Tensor) -> Tensor:
    """Return the slope of a map at every position, (position, out, in), as (position, out, position, in)."""
    eye = torch.eye(len(slopes), dtype=slopes.dtype, device=slopes.device)
    return torch.einsum("soi,st->soti", slopes, eye)


def _normed(a: Part, b: Part, between: Tensor) -> Tensor:
    """Return the covariance of two streams after the norms of two parts."""
    rows = scaled(b.norm, between).permute(2, 3, 0, 1)
    return scaled(a.norm, rows).permute(2, 3, 0, 1)


def _between(a: Known, b: Known, between: Tensor, *, diagonal: bool, progress: bool) -> tuple[Tensor, Tensor]:
    """Return the covariances of the maps and of the outputs of two parts, from that of their inputs.

    Between a position and another one, the result is right only if not `diagonal`.
    """
    attention = all(isinstance(known.map, AttentionLayer) and is_nonlinear(known.map) for known in (a, b))
    ours = theirs = between
    if b.part.residual or not attention:
        ours = torch.einsum("soti,tiuj->souj", a.slope, between)  # Cov(map, x')
    if a.part.residual:
        theirs = torch.einsum("tiuj,vpuj->tivp", between, b.slope)  # Cov(x, map')
    if isinstance(a.map, AttentionLayer) and isinstance(b.map, AttentionLayer) and attention:
        read, means = _normed(a.part, b.part, between), (a.update, b.update)
        maps = covariance(a.map, b.map, (a.read, b.read), read, means, diagonal=diagonal, progress=progress)
    else:
        maps = torch.einsum("souj,vpuj->sovp", ours, b.slope)
        if isinstance(a.map, BilinearLayer) and isinstance(b.map, BilinearLayer):
            maps = maps + _quadratic(a.map, b.map, _normed(a.part, b.part, between), diagonal=diagonal)
    result = maps
    if b.part.residual:
        result = result + b.part.residual * ours
    if a.part.residual:
        result = result + a.part.residual * theirs
    if a.part.residual and b.part.residual:
        result = result + a.part.residual * b.part.residual * between
    return maps, result


def _quadratic(a: BilinearLayer, b: BilinearLayer, between: Tensor, *, diagonal: bool) -> Tensor:
    """Return what the quadratic parts of two layers add to the covariance of their outputs."""
    between = pad(between, (int(b.constant_in), 0, 0, 0, int(a.constant_in), 0)).transpose(1, 2)
    positions = range(len(between))
    result = between.new_zeros(len(positions), len(a.down), len(positions), len(b.down))
    for s in positions:
        for t in [s] if diagonal else positions:
            result[s, :, t] = 2 * a.down @ cross_gram(a, b, between[s, t]) @ b.down.T
    return result
