"""Attention layers whose heads read and write few directions: the singular vectors of O V."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from tensornet_interp.attention.layer import AttentionLayer
from tensornet_interp.checks import check_int, check_kind
from tensornet_interp.float64 import needs_float64
from tensornet_interp.registry import register_decomposition


@register_decomposition("ov_svd")
@dataclass(frozen=True)
class OVSVD:
    """Keep, for each head of an attention layer, the directions with the largest singular values of O V.

    O V[head] = sum_channel write[:, channel] value[channel] read[:, channel]^T

    rank: the number of directions kept per head, at most min(out, channel, in); None keeps that many, which is exact.

    Result: an `AttentionLayer` with the same scores; its channels are the singular directions, largest first. The field
    down holds write times the singular value, the field value holds read. Heads that shared values get values of their
    own. With the same pattern, the error of a head is the norm of the singular values left out.
    Cost in flops: per head, of order (out + in) * channel^2.
    Raises ValueError if rank is above min(out, channel, in).
    """

    rank: int | None = None
    acts_on: ClassVar[type] = AttentionLayer
    nested: ClassVar[bool] = True  # the error never rises along the ladder
    differentiable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.rank is not None:
            check_int("rank", self.rank, 1)

    @classmethod
    def ladder(cls, layer: AttentionLayer) -> Sequence["OVSVD"]:
        """Return decompositions from one direction per head to all; the last is exact."""
        most = _most(check_kind("layer", layer, AttentionLayer))
        return [cls(rank=rank) for rank in sorted({1, (most + 1) // 2, most})]

    @needs_float64
    def __call__(self, layer: AttentionLayer) -> AttentionLayer:
        """Decompose an attention layer in float64; the result has the dtype of the layer."""
        most = _most(check_kind("layer", layer, AttentionLayer))
        why = "min(out, channel, in) of a head"
        rank = most if self.rank is None else check_int("rank", self.rank, 1, most, why)
        found = [layer.ov(head).svd() for head in range(layer.heads)]
        keys = tuple(key.repeat_interleave(layer.heads // layer.shared_heads, 0) for key in layer.keys)
        return replace(
            layer,
            down=torch.stack([svd.left[:, :rank] * svd.values[:rank] for svd in found], 1),
            value=torch.stack([svd.right[:, :rank].T for svd in found]),
            keys=keys,
            history=(*layer.history, repr(self)),
        )


def _most(layer: AttentionLayer) -> int:
    return min(layer.down.shape[0], layer.down.shape[2], layer.value.shape[2])
