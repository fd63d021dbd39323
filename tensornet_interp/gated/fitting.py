"""How near the gate of every hidden unit is to a line."""

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from tensornet_interp.affine import lift_vectors
from tensornet_interp.checks import check_alike, check_bool, check_int, check_kind, check_size, check_tensor
from tensornet_interp.float64 import needs_float64
from tensornet_interp.gated.gates import gate_function
from tensornet_interp.gated.layer import GatedLayer
from tensornet_interp.gated.lines import GaussianUnits, Sums
from tensornet_interp.moments import Moments, batches
from tensornet_interp.numerics import without_autocast
from tensornet_interp.store import register_type
from tensornet_interp.tables import Record

_CHUNK_ELEMENTS = 2**22  # entries of a block of rows that is held at once (32 MB)
_FEW = 10  # moments of fewer inputs per coordinate than this give a warning
_COLUMNS = ("offsets", "slopes", "residuals")


@register_type("GateFit")
@dataclass(frozen=True, eq=False)
class GateFit:
    """A gate fit holds the line that stands for the gate of every hidden unit, and the share that the line leaves.

    gate(u) ~ offsets[rank] + slopes[rank] u
    residuals[rank] = E[(gate(u) - offset - slope u)^2 v^2] / E[gate(u)^2 v^2], from 0 (a line) to 1

    u and v are the halves of a unit; without weights v counts as 1. silent: the units whose product gate(u) v is zero
    on all inputs. count: the number of inputs, None for Gaussian moments.
    """

    offsets: Tensor  # (rank,)
    slopes: Tensor  # (rank,)
    residuals: Tensor  # (rank,)
    silent: tuple[int, ...] = ()
    count: int | None = None

    def __post_init__(self) -> None:
        arrays = {name: check_tensor(name, getattr(self, name), ("rank",)) for name in _COLUMNS}
        check_size("rank", **{name: len(array) for name, array in arrays.items()})
        check_alike(**arrays)
        units = tuple(check_int("silent", unit, 0, len(self.offsets) - 1) for unit in self.silent)
        object.__setattr__(self, "silent", units)
        if self.count is not None:
            check_int("count", self.count, 1)

    def records(self) -> list[Record]:
        """Return one record per hidden unit: unit, offset, slope, residual, silent."""
        columns = (getattr(self, name).tolist() for name in _COLUMNS)
        silent = set(self.silent)
        return [
            {"unit": unit, "offset": offset, "slope": slope, "residual": residual, "silent": unit in silent}
            for unit, (offset, slope, residual) in enumerate(zip(*columns, strict=True))
        ]

    def __repr__(self) -> str:
        ordered = self.residuals.sort().values.tolist()
        shares = f"residuals {ordered[0]:.3g} to {ordered[-1]:.3g}, median {ordered[len(ordered) // 2]:.3g}"
        source = "Gaussian moments" if self.count is None else f"{self.count} inputs"
        return f"GateFit({len(ordered)} units, {shares}, {len(self.silent)} silent, from {source})"


@needs_float64
@without_autocast
@torch.no_grad()
def gate_fit(gated: GatedLayer, inputs: Tensor | Iterable[Tensor] | Moments, *, weighted: bool = True) -> GateFit:
    """Return the line that is nearest to the gate of every hidden unit, by weighted least squares.

    min over offset, slope of E[(gate(u) - offset - slope u)^2 v^2],  u = left x + left_bias, v = right x + right_bias

    inputs: (batch, in); a stream of batches, which is read once; or `Moments`: then x is Gaussian with these moments,
    and the means over u are integrals over one number, exact to rounding if the gate is smooth on both sides of u = 0.
    weighted: if False, without the factor v^2. A unit whose u is the same for all inputs gets slope 0.
    A UserWarning names moments of fewer than ten inputs per coordinate. Works in float64. Raises ValueError for fewer
    than two inputs, if sizes or devices differ, and for entries that are not finite. Cost in flops: 4 batch rank in;
    from moments 6 rank in^2.

    Example:
    >>> layer = GatedLayer.from_weights(left=torch.eye(2), right=torch.eye(2), down=torch.ones(1, 2), gate="relu")
    >>> gate_fit(layer, Moments.standard(2), weighted=False).slopes  # E[relu'(u)]
    tensor([0.5000, 0.5000], dtype=torch.float64)
    """
    check_kind("gated", gated, GatedLayer)
    check_bool("weighted", weighted)
    wide = gated.to(dtype=torch.float64)
    if isinstance(inputs, Moments):
        size = len(inputs.mean)
        if inputs.count is not None and inputs.count < _FEW * size:
            warnings.warn(
                f"the moments come from {inputs.count} inputs in {size} dimensions, which determine them to about "
                f"{(size / inputs.count) ** 0.5:.0%}; use more inputs",
                stacklevel=4,
            )
        units = GaussianUnits(wide, gaussian(gated, inputs))
        weights = units.density * units.squares_of_v() if weighted else units.density
        return GateFit(*Sums.of(units.u, units.g, weights).line())
    sums, silent, count = None, None, 0
    for x in rows("inputs", wide, inputs):
        u, v = wide.halves(x)
        found = gate_function(wide.gate)(u)
        part = Sums.of(u, found, v.square() if weighted else torch.ones_like(v))
        zero = (found * v == 0).all(0)
        sums, silent = (part, zero) if sums is None or silent is None else (sums.merged(part), silent & zero)
        count += len(x)
    if sums is None or silent is None or count < 2:
        raise ValueError(f"a line needs at least 2 inputs, got {count}")
    return GateFit(*sums.line(), tuple(silent.nonzero()[:, 0].tolist()), count)


def gaussian(gated: GatedLayer, moments: Moments) -> Moments:
    """Return the moments if they fit the layer."""
    check_size("in", gated=len(gated.left), inputs=len(moments.mean))
    check_alike(gated=gated.down.new_zeros((), dtype=torch.float64), inputs=moments.mean)
    return moments


def rows(name: str, wide: GatedLayer, inputs: object) -> Iterator[Tensor]:
    """Yield checked inputs in blocks in float64, from a tensor or a stream of batches."""
    step = max(1, _CHUNK_ELEMENTS // max(wide.rank, len(wide.left)))
    for title, batch in batches(name, inputs):
        check_tensor(title, batch, ("batch", "in"))
        for block in batch.detach().to(torch.float64).split(step):
            yield lift_vectors(title, block, len(wide.left), constant=False, like=wide.left)
