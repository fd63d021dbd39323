"""Moments of the streams of a network over positions, and inner products of parts, for Gaussian inputs."""

from typing import NamedTuple

import torch
from torch import Tensor

from tensornet_interp.attention.closure import Closure, check_comparable
from tensornet_interp.attention.parts import Part
from tensornet_interp.attention.sequence import SequenceNetwork
from tensornet_interp.attention.wick import Stream
from tensornet_interp.checks import DEFAULT_MAX_ELEMENTS, check_bool, check_kind
from tensornet_interp.float64 import needs_float64
from tensornet_interp.layer import TensorNetwork
from tensornet_interp.moments import Moments
from tensornet_interp.numerics import EPS, without_autocast
from tensornet_interp.store import register_type


@register_type("StreamMoments")
class StreamMoments(NamedTuple):
    """The moments of the inputs of every part, then of the output, and the share of the update of every part.

    streams: flattened, (position * in,). shares: E|map|^2 / E|x|^2, without bias and residual; `update_share` says how
    far the moments above a nonlinear part can be trusted.
    """

    streams: tuple[Moments, ...]
    shares: tuple[float, ...]


@needs_float64
@without_autocast
def stream_moments(
    network: SequenceNetwork, moments: Moments, *, max_elements: float = DEFAULT_MAX_ELEMENTS, progress: bool = True
) -> StreamMoments:
    """Return the moments of the streams of a network for Gaussian inputs, by a closure.

    y_s = residual x_s + map(norm(x))_s + bias

    Every part takes its inputs as Gaussian. The mean and the covariance over positions of its outputs are then exact;
    so all is exact up to the output of the first nonlinear part (an attention layer with scores, or a bilinear map).
    network: of attention layers without softmax, bilinear and linear maps, and norms at fixed scales; see
    `SequenceNetwork.given`. moments: of all positions, flattened: mean (position * in,) and covariance (position * in,
    position * in); the first positions of the masks are used.
    Cost in flops for attention with two scores: about 600 size^3 per pair of heads and pair of (position, source), for
    all pairs of positions. Memory: the covariances of all features, (positions * heads * (channel + 2 size per
    score))^2 numbers.
    Raises ValueError for softmax, for free norms, if sizes do not match, and if more than `max_elements` numbers would
    be in memory at once.
    """
    check_kind("network", network, SequenceNetwork)
    shown = check_bool("progress", progress)
    found = Closure("network", network, moments, diagonal=False, max_elements=max_elements, progress=shown)
    above = [*(known.stream for known in found.parts[1:]), found.output]
    streams = [_flat(stream, f"Gaussian closure of {i} parts: {moments.note}") for i, stream in enumerate(above, 1)]
    return StreamMoments((moments, *streams), tuple(found.share_of(i) for i in range(len(network))))


def _flat(stream: Stream, note: str) -> Moments:
    """Return the moments of a stream, flattened; of outputs that hardly vary, no variance is below 0 by rounding."""
    mean, size = stream.mean.flatten(), stream.mean.numel()
    matrix = stream.spread.reshape(size, size)
    matrix = (matrix + matrix.T) / 2  # a difference of second moments and of products of means
    values, vectors = torch.linalg.eigh(matrix)
    if -100 * size * EPS * float(mean.abs().max()) ** 2 < float(values[0]) < 0:
        matrix = (vectors * values.clamp(min=0)) @ vectors.T
        matrix = (matrix + matrix.T) / 2
    return Moments(mean, matrix, None, note)


@needs_float64
@without_autocast
def output_moments(
    part: Part | TensorNetwork, moments: Moments, *, max_elements: float = DEFAULT_MAX_ELEMENTS
) -> Moments:
    """Return the exact moments of the outputs of one part at all positions, for Gaussian inputs: mean and covariance.

    part: an attention layer or another map, alone or as a `Part`. Arguments, errors and cost are those of
    `stream_moments`; the result is flattened alike, (position * out,).
    Variances are differences of second moments and squared means, so rounding adds about 1e-16 of the latter to them.
    """
    found = Closure("part", SequenceNetwork([part]), moments, diagonal=False, max_elements=max_elements)
    return _flat(found.output, "of outputs, exact for Gaussian inputs")


@needs_float64
@without_autocast
def position_inner(
    a: Part | TensorNetwork, b: Part | TensorNetwork, moments: Moments, *, max_elements: float = DEFAULT_MAX_ELEMENTS
) -> Tensor:
    """Return E[y_s . y'_s] of two parts at every position s, exactly, for Gaussian inputs: (position,).

    Its sum over positions is `inner` of kind `Gaussian(moments)`. Arguments, errors and cost are those of
    `output_moments`, but each position is paired only with itself. Raises ValueError if the parts differ in inputs or
    outputs, or if one is attention and the other a bilinear map.
    """
    networks = {"a": SequenceNetwork([a]), "b": SequenceNetwork([b])}
    check_comparable(networks)
    ours = Closure("a", networks["a"], moments, diagonal=True, max_elements=max_elements)
    theirs = ours if a is b else Closure("b", networks["b"], moments, diagonal=True, max_elements=max_elements)
    return ours.product(theirs).sum(1)


@needs_float64
@without_autocast
def update_share(part: Part | TensorNetwork, moments: Moments) -> float:
    """Return E|map(x)|^2 / E|x|^2, the share of the update of a part in its input, for Gaussian inputs.

    A closure takes the outputs of every layer as Gaussian, which is good if the share is small: for attention below a
    bilinear map, cosines of random models were off by about 0.0001 at a share of 0.008, by 0.001 at 0.03 and by 0.01 at
    0.07; for attention below attention by 0.001 to 0.03 at 0.008, and by 0.2 and more at 0.03. Bias and residual of the
    part are left out. If the input is zero, the share is infinite, or 0 if the map is zero too.
    """
    return Closure("part", SequenceNetwork([part]), moments, diagonal=True).share_of(0)
