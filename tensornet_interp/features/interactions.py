"""How pairs of input features act on one output direction; the matrix of all pairs is never formed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from tensornet_interp.checks import (
    check_alike,
    check_batch,
    check_choice,
    check_int,
    check_list,
    check_names,
    check_size,
    check_tensor,
    check_whole,
)
from tensornet_interp.decompositions.eigen import eigenpairs
from tensornet_interp.features.basis import stated_basis
from tensornet_interp.features.factored import FactoredMatrix, score
from tensornet_interp.features.statistics import Statistics, summarize
from tensornet_interp.float64 import needs_float64
from tensornet_interp.layer import TensorNetwork
from tensornet_interp.network import check_network, wide_layer
from tensornet_interp.store import register_type
from tensornet_interp.tables import Record, indexed

_PAIRS = ("all", "cross", "self")
_RANKINGS = ("magnitude", "negative", "positive")


@register_type("Interaction")
class Interaction(NamedTuple):
    """An interaction is one entry Q[first, second] of the matrix Q of `FeatureInteractions`, with first <= second.

    If first != second, it contributes twice, because the entry Q[second, first] is equal.
    """

    first: int
    second: int
    value: float


@register_type("Submatrix")
class Submatrix(NamedTuple):
    """A submatrix holds the indices of some features, and the float64 matrix Q of the interactions between them."""

    features: tuple[int, ...]
    matrix: Tensor  # (feature, feature)


@register_type("FeatureInteractions")
@dataclass(frozen=True, eq=False)
class FeatureInteractions:
    """Feature interactions hold the matrix Q of all pairs of input features along one output direction, as factors.

    Q[feature1, feature2] = sum_rank factors[feature1, rank] signs[rank] factors[feature2, rank]

    Q itself is never formed. Calling the object on codes returns the output along the direction, `codes Q codes +
    linear codes + offset`, for the inputs x = decoder @ codes + bias. factors[feature, rank] is the inner product of
    the feature's decoder column with an eigenvector, times |eigenvalue|^(1/2), so |Q[i, j]| <= |factors[i]|
    |factors[j]|. signs holds the signs of the eigenvalues. All arrays are float64. `basis` states the coordinates of
    the inputs and of the decoder columns.
    Memory: features * rank numbers, and a few tiles of at most max_elements entries at once.
    """

    factors: Tensor  # (feature, rank)
    signs: Tensor  # (rank,)
    linear: Tensor  # (feature,)
    offset: float
    basis: str
    layer: str = ""
    max_elements: int = 2**20  # entries of a tile: 8 MB

    def __repr__(self) -> str:
        size, rank = self.factors.shape
        return f"FeatureInteractions(features={size}, rank={rank}, of {self.layer!r}, basis={self.basis!r})"

    def __len__(self) -> int:
        return len(self.factors)

    @needs_float64
    def __call__(self, codes: Tensor) -> Tensor:
        """Return the output along the direction, float64: (..., feature) -> (...).

        Cost: 2 * features * rank flops per sample.
        """
        check_batch("codes", codes, "feature")
        check_size("feature", decoder=len(self), codes=codes.shape[-1])
        wide = codes.to(torch.float64)
        return (wide @ self.factors).square() @ self.signs + wide @ self.linear + self.offset

    def diagonal(self) -> Tensor:
        """Return the interaction Q[feature, feature] of each feature with itself, (feature,)."""
        return self.factors.square() @ self.signs

    def records(self) -> list[Record]:
        """Return one record per feature: Q[feature, feature], its linear term, and the norm of its factors.

        |Q[i, j]| <= norm[i] norm[j]. The pairs are too many for a table; `to_frame` and `write_csv` also take the
        list that `top` returns.
        """
        return indexed(("feature",), self=self.diagonal(), linear=self.linear, norm=self.factors.norm(dim=1))

    def block(self, rows: Sequence[int] | Tensor, columns: Sequence[int] | Tensor) -> Tensor:
        """Return Q[rows, columns] for two lists of features; raise ValueError for more than max_elements entries."""
        picks = [_indices(name, value, self.factors) for name, value in (("rows", rows), ("columns", columns))]
        if len(picks[0]) * len(picks[1]) > self.max_elements:
            raise ValueError(
                f"a block of {len(picks[0])} rows and {len(picks[1])} columns has more than"
                f" max_elements={self.max_elements} entries; ask for smaller blocks, or increase max_elements"
            )
        return self._matrix.tile(*picks)

    def top(self, n: int, *, pairs: str = "all", by: str = "magnitude") -> list[Interaction]:
        """Return the n strongest interactions exactly, strongest first; every symmetric pair appears once.

        pairs: "all", "self" (a feature with itself) or "cross" (two different features). by: "magnitude", "positive"
        (largest value first) or "negative" (smallest value first). Q is searched tile by tile. Features are sorted by
        the norm of their factors, and a tile is skipped if its Cauchy-Schwarz bound is below the n-th best value so
        far. It is not defined which of several equal values are returned.
        Cost: at most 2 * features^2 * rank flops; memory: a few tiles, and 2 * n entries.
        """
        size = len(self)
        check_choice("pairs", pairs, _PAIRS)
        check_choice("by", by, _RANKINGS)
        available = {"all": size * (size + 1) // 2, "cross": size * (size - 1) // 2, "self": size}[pairs]
        n = check_int("n", n, 1, available, f"there are {available} {pairs} interactions of {size} features")
        if pairs == "self":
            values, index = self.diagonal(), torch.arange(size, device=self.factors.device) * (size + 1)
        else:
            values, index = self._matrix.best(n, by, cross=pairs == "cross")
        best = score(values, by).topk(n).indices
        return [
            Interaction(min(divmod(at, size)), max(divmod(at, size)), value)
            for at, value in zip(index[best].tolist(), values[best].tolist(), strict=True)
        ]

    def smallest_submatrix(self, n: int, *, pairs: str = "all", by: str = "magnitude") -> Submatrix:
        """Return the part of Q for all features that take part in one of the n strongest interactions.

        There are at most 2 * n such features, in the order in which `top` names them.
        """
        named = [feature for entry in self.top(n, pairs=pairs, by=by) for feature in (entry.first, entry.second)]
        features = tuple(dict.fromkeys(named))
        return Submatrix(features, self._matrix.tile(*[torch.tensor(features, device=self.factors.device)] * 2))

    def statistics(
        self, *, z: float = 5.0, quantiles: Sequence[float] = (0.01, 0.25, 0.5, 0.75, 0.99)
    ) -> dict[str, Statistics]:
        """Return statistics of the interactions: "self" for i = j, and "cross" for i < j.

        z: outliers are more than z standard deviations away from the mean. quantiles: shares from 0 to 1. Cost: at most
        4 * features^2 * rank flops, in two passes over all tiles. Raises ValueError if there is only one feature.
        """
        if len(self) < 2:
            raise ValueError("cross interactions need at least 2 features, got 1")
        parts = {"self": lambda: iter([self.diagonal()]), "cross": self._matrix.cross}
        return {name: summarize(part, z, quantiles) for name, part in parts.items()}

    def table(self, n: int, names: Sequence[str] | None = None, *, pairs: str = "all", by: str = "magnitude") -> str:
        """Return the n strongest interactions as text, one per line.

        A line has the value, the share of |Q|^2 of all interactions up to this line, and the names of the two features.
        """
        names = _names(names, len(self))
        total = self._matrix.norm()
        lines, so_far = [f"{'':>4}  {'value':>11}  share of |Q|^2  features (basis: {self.basis})"], 0.0
        for place, (first, second, value) in enumerate(self.top(n, pairs=pairs, by=by), start=1):
            so_far += (value / (total or 1)) ** 2 * (1 if first == second else 2)
            pair = names[first] if first == second else f"{names[first]} x {names[second]}"
            lines.append(f"{place:>4}  {value:>+11.4g}  {so_far:>14.4f}  {pair}")
        return "\n".join(lines)

    @property
    def _matrix(self) -> FactoredMatrix:
        return FactoredMatrix(self.factors, self.signs, self.max_elements)

    def squared_norm(self) -> float:
        """Return the sum of all Q[i, j]^2, computed from the factors. Cost: 2 * features * rank^2 flops."""
        norm = self._matrix.norm()
        return norm * norm


@needs_float64
@torch.no_grad()
def feature_interactions(
    layer: TensorNetwork,
    direction: Tensor,
    decoder: Tensor,
    *,
    basis: str | None = None,
    bias: Tensor | None = None,
    rank: int | None = None,
    max_elements: int = 2**20,
) -> FeatureInteractions:
    """Return how every pair of input features acts on the output along one direction.

    Q[feature1, feature2] = sum decoder[in1, feature1] M[in1, in2] decoder[in2, feature2]

    M is the interaction matrix of the direction. layer: a layer or a decomposition of a layer. direction: (out,), such
    as a row of the encoder of the dictionary after the layer; it includes the constant coordinate of a lifted output.
    decoder: (in, feature), whose columns are the input features, without a constant coordinate. bias: (in,), the vector
    that the input dictionary adds to every input; this bias and the constant of a lifted layer determine the linear
    terms and the offset.
    basis: the coordinates of inputs and decoder, such as "residual stream after the norm"; not needed if the layer
    states it. A decoder that was trained before a norm does not describe inputs after this norm.
    rank: the number of leading eigenpairs of M to use; None uses all min(in, 2 * hidden), where hidden is the number of
    hidden units, which is exact.
    max_elements: the largest number of entries of Q that are computed at once.
    Raises ValueError if sizes differ, if neither the layer nor `basis` states the basis, or if the two differ.
    Cost: one eigendecomposition, and 2 * in * features * rank flops. Memory: features * (in + rank) numbers.

    Example:
    >>> layer = BilinearLayer(down=torch.ones(1, 1), left=torch.eye(2)[:, :1], right=torch.eye(2)[:, 1:])
    >>> q = feature_interactions(layer, torch.ones(1), torch.eye(2), basis="plane")
    >>> [(i, j, round(value, 6)) for i, j, value in q.top(1)]
    [(0, 1, 0.5)]
    """
    part = check_network("layer", layer).to_layer()
    basis = stated_basis(part, basis)
    check_tensor("direction", direction, ("out",))
    check_tensor("decoder", decoder, ("in", "feature"))
    check_size("out", layer=part.shape[0], direction=direction.shape[0])
    plain = part.shape[1] - part.constant_in
    check_size("in", layer=plain, decoder=decoder.shape[0])
    check_alike(layer=part.down, direction=direction, decoder=decoder)
    if bias is not None:
        check_tensor("bias", bias, ("in",))
        check_size("in", layer=plain, bias=bias.shape[0])
        check_alike(layer=part.down, bias=bias)
    full = min(part.shape[1], 2 * part.rank)
    if rank is not None:
        check_int("rank", rank, 1, full, f"min(in={part.shape[1]}, 2 hidden={2 * part.rank})")
    check_int("max_elements", max_elements, 1)
    wide = wide_layer("layer", layer)
    values, vectors = eigenpairs(wide, direction.to(torch.float64)[None], rank or full)
    roots, signs = vectors[0] * values[0].abs().sqrt(), values[0].sign()  # (in, rank), (rank,)
    rooted = roots[1:] if part.constant_in else roots
    factors = decoder.T.to(torch.float64) @ rooted  # (feature, rank)
    constant = roots.new_zeros(roots.shape[1]) if bias is None else bias.to(torch.float64) @ rooted
    constant = constant + roots[0] if part.constant_in else constant
    offset = float(constant.square() @ signs)
    linear = 2 * factors @ (signs * constant)
    return FeatureInteractions(factors, signs, linear, offset, basis, part.name, max_elements)


def _names(names: Sequence[str] | None, size: int) -> Sequence[str]:
    return [str(at) for at in range(size)] if names is None else check_names("names", names, size, "feature")


def _indices(name: str, value: Sequence[int] | Tensor, like: Tensor) -> Tensor:
    if not isinstance(value, Tensor):
        numbers = [check_int(name, item, 0, len(like) - 1) for item in check_list(name, value)]
        value = torch.tensor(numbers, device="cpu")
    if not value.numel():
        raise ValueError(f"{name} is empty: give numbers of features")
    return check_whole(name, value, "feature", len(like)).to(like.device)
