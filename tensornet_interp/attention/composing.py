"""How heads compose: composition scores, directions pulled back to heads, and MLPs read back through attention."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from tensornet_interp.attention.layer import AttentionLayer
from tensornet_interp.attention.lowrank import LowRank
from tensornet_interp.attention.parts import Norm, Part
from tensornet_interp.attention.sequence import SequenceNetwork
from tensornet_interp.attention.writers import pair_of_parts, writer_vectors
from tensornet_interp.checks import (
    check_alike,
    check_batch,
    check_choice,
    check_int,
    check_kind,
    check_list,
    check_size,
    check_tensor,
)
from tensornet_interp.layer import BilinearMap
from tensornet_interp.numerics import nonzero, without_autocast
from tensornet_interp.store import register_type
from tensornet_interp.tables import Record


@without_autocast
def composition(
    lower: AttentionLayer, upper: AttentionLayer, kind: str, offsets: Sequence[int] = (0,), score: int = 0
) -> Tensor:
    """Return how strongly the heads of a layer read what the heads of a lower layer write: (offset, upper, lower).

    |A OV_lower| / (|A| |OV_lower|) with A = OV_upper ("value"), W_upper ("key") or W_upper^T ("query"), W as in `qk`

    The norms are those of Frobenius. Constant coordinates are left out. For "value", the result does not depend on the
    offset. A layer norm between the two is left out; put its weights into the upper layer. Exact for softmax too: it is
    about logits.
    offsets: of the source from the position, see `AttentionLayer.qk`. score: which score of the upper layer.
    Cost in flops: per offset and pair of heads, of order in * size * channel.
    Source: Elhage et al., 2021.
    """
    for name, layer in (("lower", lower), ("upper", upper)):
        check_kind(name, layer, AttentionLayer)
    check_choice("kind", kind, ("key", "query", "value"))
    listed = check_list("offsets", offsets, "give at least one, such as 0")
    check_size("in", lower=len(lower.down) - lower.constant_out, upper=upper.value.shape[2] - upper.constant_in)
    check_alike(lower=lower.down, upper=upper.down)
    writes = [_plain(lower.ov(head), lower.constant_out, lower.constant_in) for head in range(lower.heads)]
    rows = []
    for offset in listed:
        for head in range(upper.heads):
            if kind == "value":
                reader = _plain(upper.ov(head), upper.constant_out, upper.constant_in)
            else:
                reader = _plain(upper.qk(head, offset, score), upper.constant_in, upper.constant_in)
            if kind == "query":
                reader = LowRank(left=reader.right, right=reader.left)
            rows.append(torch.stack([_product(reader, write).norm() for write in writes]))
    return torch.stack(rows).unflatten(0, (len(listed), upper.heads))


def _plain(matrix: LowRank, rows: bool, columns: bool) -> LowRank:
    """Return a matrix without the constant of its rows and its columns, at norm 1, or zero."""
    sides = (matrix.left[int(rows) :], matrix.right[int(columns) :])
    left, right = (side / nonzero(side.detach().abs().amax()) for side in sides)
    return LowRank(left=left / nonzero(LowRank(left=left, right=right).norm()), right=right)


def _product(a: LowRank, b: LowRank) -> LowRank:
    return LowRank(left=a.left @ (a.right.T @ b.left), right=b.right)


@without_autocast
def pull_back(layer: AttentionLayer, direction: Tensor) -> Tensor:
    """Return the direction that each head reads for an output direction, OV^T v: (..., out) -> (..., head, in).

    v . A(x)_s = sum_head (OV_head^T v) . sum_t pattern[head, s, t] x_t

    A component above attention splits linearly into heads: these are the output directions for the layer below, with
    which a circuit continues downwards. Constant coordinates are included on both sides.
    """
    check_kind("layer", layer, AttentionLayer)
    check_batch("direction", direction, "out")
    check_size("out", layer=len(layer.down), direction=direction.shape[-1])
    check_alike(layer=layer.down, direction=direction)
    value = layer.value.repeat_interleave(layer.heads // layer.shared_heads, 0)
    return torch.einsum("...o,ohc,hci->...hi", direction, layer.down, value)


@register_type("ReadBack")
@dataclass(frozen=True, eq=False)
class ReadBack:
    """A read-back is a form in the output of attention, seen by the heads below: a matrix over pairs of writers.

    direction . f(y_s) = sum_{m, n} z_m^T writers[m]^T matrix writers[n] z_n, z_m = sum_t pattern[m, s, t] x_t

    below, above: the two parts. matrix: the symmetric interaction matrix of the bilinear map for the direction.
    writers: one matrix per head, then the residual, the bias of the attention and the constant, each from what it reads
    to the input of the map. They hold the weights of the norm between; its scale, one number per position, multiplies
    every writer but the constant. All of it is free of positions, and exact for softmax at its own pattern.
    """

    below: Part
    above: Part
    matrix: Tensor
    writers: tuple[LowRank, ...]

    @without_autocast
    def pair(self, first: int, second: int) -> LowRank:
        """Return the form between what two writers read, writers[first]^T matrix writers[second], as a factored matrix.

        -1 is the constant, -2 the bias, -3 the residual.
        """
        count = len(self.writers)
        a, b = (
            self.writers[check_int(name, i, -count, count - 1)] for name, i in (("first", first), ("second", second))
        )
        core = a.left.T @ self.matrix @ b.left
        return LowRank(left=a.right @ core, right=b.right, rows="in1", columns="in2", name=f"{a.name}, {b.name}")

    def norms(self) -> Tensor:
        """Return the Frobenius norms of all pairs, (writer, writer)."""
        count = len(self.writers)
        found = self.matrix.new_zeros(count, count)
        for i in range(count):
            for j in range(i, count):  # the matrix is symmetric
                found[i, j] = found[j, i] = self.pair(i, j).norm()
        return found

    def records(self) -> list[Record]:
        """Return one record per pair of writers, by the larger norm first."""
        norms, names = self.norms().tolist(), [writer.name for writer in self.writers]
        pairs = [(i, j) for i in range(len(names)) for j in range(i, len(names))]
        pairs.sort(key=lambda pair: -norms[pair[0]][pair[1]])
        return [{"first": names[i], "second": names[j], "norm": norms[i][j]} for i, j in pairs]

    @without_autocast
    def contributions(self, x: Tensor) -> Tensor:
        """Return what each pair adds to the output along the direction, (..., position, writer, writer).

        x: ([batch,] position, in), the input of the attention part; see `SequenceNetwork.streams`. The sum over
        both writers is the output of the bilinear map along the direction.
        """
        below, above = SequenceNetwork([self.below, self.above]).given(x)
        vectors = writer_vectors(below, above, x)
        return torch.einsum("...mi,ij,...nj->...mn", vectors, self.matrix, vectors)


@without_autocast
def read_back(network: SequenceNetwork, i: int, direction: Tensor) -> ReadBack:
    """Return what an output direction of the bilinear map in part i sees of the heads of the attention in part i - 1.

    direction: (out,), without the constant coordinate. Cost in flops: of order heads^2 * in * channel * in.
    Raises ValueError if part i is no bilinear map or if the part below it is no attention layer.
    """
    below, layer, above = pair_of_parts(network, i)
    if not isinstance(above.map, BilinearMap):
        raise ValueError(f"part {i} must be a bilinear map, but it is a {type(above.map).__name__}")
    check_tensor("direction", direction, ("out",))
    matrix = above.map.interaction_matrix(direction)
    lifted, norm = int(above.map.constant_in), above.norm or Norm()
    eye = torch.eye(len(matrix) - lifted, dtype=matrix.dtype, device=matrix.device)
    gain = eye if norm.weight is None else norm.weight[:, None] * eye
    gain = pad(gain - gain.mean(1, keepdim=True) if norm.centered else gain, (0, 0, lifted, 0))
    skip, zero = int(layer.constant_out), eye.new_zeros(len(eye))
    heads = [layer.ov(head) for head in range(layer.heads)]
    writers = [replace(ov, left=gain @ ov.left[skip:], name=f"head {head}") for head, ov in enumerate(heads)]
    constant = pad(zero if norm.bias is None else norm.bias, (lifted, 0), value=1.0)
    one = eye.new_ones(1, 1)
    writers += [
        LowRank(left=below.residual * gain, right=eye, name="residual"),
        LowRank(left=(gain @ (zero if below.bias is None else below.bias))[:, None], right=one, name="bias"),
        LowRank(left=constant[:, None], right=one, name="constant"),
    ]
    return ReadBack(below, above, matrix, tuple(writers))
