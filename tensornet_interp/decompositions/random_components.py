"""Random components of a layer: a baseline that every decomposition of the same size should beat."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from tensornet_interp.balance import balance, times_power
from tensornet_interp.checks import check_choice, check_int, check_kind, check_seed
from tensornet_interp.decompositions.canonical import canonical_cp
from tensornet_interp.decompositions.eigen import Eigen
from tensornet_interp.decompositions.errors import measured
from tensornet_interp.factored import CPResult
from tensornet_interp.float64 import needs_float64
from tensornet_interp.layer import BilinearLayer
from tensornet_interp.moments import cross_gram
from tensornet_interp.report import Report

SOURCES = ("hidden", "eigen")
REFITS = ("outputs", "scalar")


@dataclass(frozen=True)
class RandomComponents:
    """Draw components of the layer at random, and fit only how much each component counts.

    B[out, in1, in2] ~ sum_rank weights[rank] outputs[out, rank] left[in1, rank] right[in2, rank]

    rank: the number of components, drawn without replacement. With one seed, the components of a smaller rank are among
    those of a larger rank.
    source: the set to draw from. "hidden": the hidden units of the layer. "eigen": the eigenpairs of the interaction
    matrices of all outputs.
    refit: what is fitted by least squares. "outputs": all output factors. "scalar": one number that multiplies the
    whole sum.
    seed: the seed of the draw.

    Result: a `CPResult`. Not differentiable.
    Cost in flops: 8 * rank * units * in for inner products, and a pseudoinverse of a matrix (rank, rank). units is the
    number of hidden units, or out * min(in, 2 * hidden) with source "eigen", which also costs as much as `Eigen`.
    Raises ValueError if rank is above the number of components of the source, or if source or refit is unknown.
    Source: none; the method is a plain baseline.

    Example:
    >>> layer = BilinearLayer.from_weights(left=torch.eye(2), right=torch.eye(2), down=torch.tensor([[3.0, 4.0]]))
    >>> RandomComponents(rank=2)(layer).weights
    tensor([4., 3.])
    """

    rank: int
    source: str = "hidden"
    refit: str = "outputs"
    seed: int = 0
    nested: ClassVar[bool] = True  # the error never rises along the ladder
    fitted: ClassVar[bool] = True  # the best scalar is 1
    odd: ClassVar[bool] = True  # -layer gives minus the result

    def __post_init__(self) -> None:
        check_int("rank", self.rank, 1)
        check_choice("source", self.source, SOURCES)
        check_choice("refit", self.refit, REFITS)
        check_seed("seed", self.seed)

    @classmethod
    def ladder(cls, layer: BilinearLayer) -> Sequence["RandomComponents"]:
        """Return decompositions with one, half and all of the hidden units; the last is exact."""
        return [cls(rank=rank) for rank in sorted({1, (layer.rank + 1) // 2, layer.rank})]

    @needs_float64
    @torch.no_grad()
    def __call__(self, layer: BilinearLayer) -> CPResult:
        """Draw components of a layer and refit them in float64; the result has the dtype of the layer."""
        check_kind("layer", layer, BilinearLayer, "; decompose() takes results and networks")
        (wide,), exponent = balance(layer)
        units = Eigen()(wide).to_layer() if self.source == "eigen" else wide
        rank = check_int("rank", self.rank, 1, units.rank, f"the components of source '{self.source}'")
        generator = torch.Generator(device="cpu").manual_seed(self.seed)
        order = torch.randperm(units.rank, generator=generator, device="cpu").to(wide.down.device)
        fitted = self._refit(_pick(units, order[:rank]), _pick(units, order[rank:]) if rank < units.rank else None)
        fields = canonical_cp(replace(fitted, down=times_power(fitted.down, exponent)))
        return measured(
            CPResult,
            layer,
            Report.of(layer, self, seed=self.seed),
            None,
            **fields,
        )

    def _refit(self, drawn: BilinearLayer, rest: BilinearLayer | None) -> BilinearLayer:
        """Return the drawn components with new outputs, which add the best approximation of the components not drawn.

        Only the components that were not drawn are approximated, so the drawn ones keep all their digits.
        """
        if rest is None:
            return drawn
        gram, cross = cross_gram(drawn, drawn), cross_gram(rest, drawn)  # (rank, rank), (others, rank)
        if self.refit == "outputs":
            return replace(drawn, down=drawn.down + (rest.down @ cross) @ torch.linalg.pinv(gram, hermitian=True))
        squared = ((drawn.down.T @ drawn.down) * gram).sum()
        product = ((rest.down.T @ drawn.down) * cross).sum()
        return replace(drawn, down=drawn.down * (1 + (product / squared if squared > 0 else 0)))


def _pick(units: BilinearLayer, order: torch.Tensor) -> BilinearLayer:
    return replace(units, down=units.down[:, order], left=units.left[:, order], right=units.right[:, order])
