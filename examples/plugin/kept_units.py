"""A decomposition of one's own: the largest hidden units of a layer, with a result type that says which they are."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from tensornet_interp import BilinearLayer, Report, Result, Term, inner, register_type
from tensornet_interp.checks import check_int
from tensornet_interp.decompositions import measured

__all__ = ["KeptUnits", "UnitsResult"]


@register_type("UnitsResult")
@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class UnitsResult(Result):
    """A units result holds some hidden units of a layer.

    B[out, in1, in2] = sum_rank outputs[out, rank] left[in1, rank] right[in2, rank]
    """

    outputs: Tensor  # (out, rank)
    left: Tensor  # (in, rank)
    right: Tensor  # (in, rank)
    units: tuple[int, ...]  # the numbers of the hidden units, largest first

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_arrays(outputs=("out", "rank"), left=("in", "rank"), right=("in", "rank"))

    def terms(self) -> tuple[Term, ...]:
        """Return three terms, like a layer."""
        return (
            Term(self.outputs, ("out", "rank")),
            Term(self.left, ("in1", "rank")),
            Term(self.right, ("in2", "rank")),
        )

    def to_layer(self) -> BilinearLayer:
        """Return the layer of these hidden units."""
        return self.made_layer(down=self.outputs, left=self.left, right=self.right)


@dataclass(frozen=True)
class KeptUnits:
    """Keep the hidden units with the largest norms, times the scalar that fits the layer best.

    rank: the number of units; None keeps all, which is exact.
    """

    rank: int | None = None
    fitted: ClassVar[bool] = True  # no scalar times the result fits the layer better
    odd: ClassVar[bool] = True  # -layer gives minus the result

    def __post_init__(self) -> None:
        if self.rank is not None:
            check_int("rank", self.rank, 1)

    @classmethod
    def ladder(cls, layer: BilinearLayer) -> Sequence["KeptUnits"]:
        """Return the steps from one unit to all, which is exact."""
        return [cls(rank=rank) for rank in sorted({1, (layer.rank + 1) // 2, layer.rank})]

    @torch.no_grad()
    def __call__(self, layer: BilinearLayer) -> UnitsResult:
        """Decompose a layer. The work is done in float64, and the result has the layer's dtype."""
        rank = layer.rank if self.rank is None else check_int("rank", self.rank, 1, layer.rank, "the hidden units")
        wide = layer.to(dtype=torch.float64)
        sizes = wide.down.norm(dim=0) * wide.left.norm(dim=0) * wide.right.norm(dim=0)
        units = sizes.argsort(descending=True, stable=True)[:rank]
        kept = replace(wide, down=wide.down[:, units], left=wide.left[:, units], right=wide.right[:, units])
        squared = float(inner(kept, kept))
        scale = float(inner(kept, wide)) / squared if squared > 0 else 1.0
        return measured(
            UnitsResult,
            layer,
            Report.of(layer, self),
            outputs=kept.down * scale,
            left=kept.left,
            right=kept.right,
            units=tuple(units.tolist()),
        )
