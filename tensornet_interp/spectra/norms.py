"""What is known of interaction matrices without their eigenvectors: traces, norms and bounds on effective ranks."""

from dataclasses import dataclass

import torch
from torch import Tensor

from tensornet_interp.balance import times_power
from tensornet_interp.float64 import needs_float64
from tensornet_interp.layer import BilinearLayer
from tensornet_interp.numerics import nonzero, without_autocast
from tensornet_interp.spectra.matrices import rounding_share, squared_norms
from tensornet_interp.spectra.scaled import Scaled, check_directions
from tensornet_interp.store import register_type
from tensornet_interp.tables import Record, indexed


@register_type("Invariants")
@dataclass(frozen=True, eq=False, kw_only=True)
class Invariants:
    """Invariants hold the trace and the Frobenius norm of the interaction matrix of every direction.

    They also hold bounds on its effective rank (sum |eigenvalue|)^2 / sum eigenvalue^2, which include rounding. A
    matrix of zeros has effective rank 0.
    """

    trace: Tensor  # (block,), float64, like the others
    norm: Tensor  # (block,)
    rank_low: Tensor  # (block,)
    rank_high: Tensor  # (block,)

    def records(self) -> list[Record]:
        """Return one record per direction."""
        return indexed(("block",), **vars(self))

    def __repr__(self) -> str:
        low, high = float(self.rank_low.mean()), float(self.rank_high.mean())
        return f"Invariants(block={len(self.trace)}, effective rank between {low:.1f} and {high:.1f} on average)"


@needs_float64
@torch.no_grad()
@without_autocast
def invariants(layer: BilinearLayer, directions: Tensor) -> Invariants:
    """Return trace, Frobenius norm and bounds on the effective rank of the interaction matrix M_u of every direction u.

    M_u = sum_out u[out] B[out] = sum_h w_h (l_h r_h^T + r_h l_h^T) / 2, w = down^T u
    trace = sum_h w_h <l_h, r_h>, ||M_u||_F^2 = w^T C w
    trace^2 / ||M_u||_F^2 <= effective rank <= min(in, 2 hidden, (sum_h |w_h| ||l_h|| ||r_h|| / ||M_u||_F)^2)

    directions: (block, out), one nonzero u per row. C is the Gram matrix of the hidden units (`moments.cross_gram`).
    The bounds hold because |trace| and the sum of the norms bound the sum of the magnitudes of all eigenvalues. The
    effective rank is also at least 1. A norm below about 1e-8 times the sum of the norms of the units is rounding.
    Raises ValueError for a zero direction or different sizes, and TypeError if `layer` is not a `BilinearLayer`.
    Cost: 4 * hidden^2 * in flops per call, plus hidden^2 per direction; no matrix is formed.

    Example:
    >>> eye = torch.eye(3)
    >>> layer = BilinearLayer(down=torch.tensor([[3.0, 1.0, 0.0]]), left=eye, right=eye)
    >>> found = invariants(layer, torch.ones(1, 1))
    >>> [round(value, 6) for value in found.records()[0].values()]
    [0, 4.0, 3.162278, 1.6, 1.6]
    """
    check_directions(layer, directions)
    scaled = Scaled.of(layer, directions)
    return known(scaled, squared_norms(scaled.core, scaled.matrices.weights))


def known(scaled: Scaled, squares: Tensor) -> Invariants:
    """Return the invariants of scaled matrices with these squared norms (block,)."""
    left, right, weights = scaled.matrices
    share, scales = rounding_share(*left.shape), scaled.scales
    error = share * scales + scaled.weights_noise
    trace = weights @ (left * right).sum(0)
    squares = squares.clamp_min(0)
    noise = error * (2 * scales + error)
    low = ((trace.abs() - error).clamp_min(0).square() / nonzero(squares + noise)).clamp_min(1)
    most = torch.full_like(scales, min(scaled.core.shape[1], 2 * scaled.core.rank))
    least = squares - noise  # where this is not positive, the norm says nothing
    high = torch.where(least > 0, (scales + error).square() / nonzero(least), most).minimum(most)
    empty = scales == 0
    return Invariants(
        trace=times_power(trace, scaled.powers),
        norm=times_power(squares.sqrt(), scaled.powers),
        rank_low=low.minimum(most).masked_fill(empty, 0),
        rank_high=high.masked_fill(empty, 0),
    )
