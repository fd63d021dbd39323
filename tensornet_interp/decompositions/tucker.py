"""Tucker decompositions whose two input modes share one factor: the higher-order SVD, and its improvement."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from tensornet_interp.checks import check_int, check_iterations, check_kind, check_share
from tensornet_interp.decompositions.compress import Compressed, compress, unfolding
from tensornet_interp.decompositions.errors import cut_warning, with_error
from tensornet_interp.factored import TuckerResult
from tensornet_interp.float64 import needs_float64
from tensornet_interp.inner_products.distance import norm
from tensornet_interp.layer import BilinearLayer
from tensornet_interp.moments import input_gram
from tensornet_interp.report import Report


@dataclass(frozen=True)
class HOSVD:
    """Project outputs and inputs onto their leading singular vectors (higher-order singular value decomposition).

    B[out, in1, in2] ~ sum_a,b,c core[a, b, c] U[out, a] Q[in1, b] Q[in2, c]

    The symmetrized tensor is unfolded to a matrix (out, in1 * in2), whose left singular vectors are U, and to a matrix
    (in1, out * in2), whose left singular vectors are Q. U and Q have orthonormal columns. The core is a layer with as
    many hidden units as the decomposed layer: U^T down, Q^T left, Q^T right. Give at most one of the three options;
    without any, all vectors are kept whose singular value is above rounding.
    ranks: the pair (output rank, input rank); fewer vectors are kept if an unfolding has fewer singular values.
    energy: a share in (0, 1]. Each unfolding keeps the smallest number of vectors whose squared singular values reach
    this share of their sum.
    error: a relative error in [0, 1). The smallest number of vectors is kept that guarantees this error: each of the
    three modes may lose error^2 / 3.

    Result: a `TuckerResult` with all singular values. Those below `report.floor` times the largest one are rounding
    errors. Differentiable if no cut separates equal singular values.
    Cost in flops: 4 * hidden^2 * (4 * in + out) to compress the layer to r input coordinates, at most min(in, 2 *
    hidden), and to measure the error, where hidden is the number of hidden units; at full ranks half as much again.
    Both unfoldings together then cost about 2 * out * r^2 * (2 * hidden + r + min(out, r^2)). If the compressed tensor
    has more than 2^25 entries (out * r^2), Gram matrices replace the unfoldings, for about 4 * hidden^2 * (5 * r +
    out).
    Raises ValueError if two options are given or if a rank is above the size of its mode, TypeError if ranks is not a
    pair.
    Source: De Lathauwer, De Moor and Vandewalle, SIAM J. Matrix Anal. Appl. 21(4), 2000, pages 1253-1278.
    """

    ranks: tuple[int, int] | None = None
    energy: float | None = None
    error: float | None = None
    nested: ClassVar[bool] = True  # the error never rises along the ladder
    fitted: ClassVar[bool] = True  # the best scalar is 1
    odd: ClassVar[bool] = True  # -layer gives minus the result
    differentiable: ClassVar[bool] = True  # the result keeps the graph of gradients of a layer that has one

    def __post_init__(self) -> None:
        _check_options(self.ranks, self.energy, self.error)

    @classmethod
    def ladder(cls, layer: BilinearLayer) -> Sequence["HOSVD"]:
        """Return decompositions from ranks (1, 1) to full ranks; the last is exact."""
        return [cls(ranks=ranks) for ranks in _ranks_ladder(layer)]

    @needs_float64
    def __call__(self, layer: BilinearLayer) -> TuckerResult:
        """Decompose a layer in float64; the result has the dtype of the layer."""
        check_kind("layer", layer, BilinearLayer, "; decompose() takes results and networks")
        _check_ranks(self.ranks, layer)
        state = compress(layer)
        outputs, inputs, spectra, floor = _higher_order_svd(state.core, self.ranks, self.energy, self.error)
        return _result(layer, self, state, outputs, inputs, spectra, floor)


@dataclass(frozen=True)
class Tucker:
    """Improve the factors of the HOSVD by alternation (higher-order orthogonal iteration, HOOI).

    B[out, in1, in2] ~ sum_a,b,c core[a, b, c] U[out, a] Q[in1, b] Q[in2, c]

    An iteration updates U from the tensor whose inputs are projected onto Q, and then Q from the tensor whose outputs
    are projected onto U. Both input modes share the factor Q, so an update of Q can raise the error; it is then damped
    until it does not.
    ranks, energy, error: as in `HOSVD`, which is the starting point and determines the ranks.
    max_iterations: the maximum number of iterations. tolerance: the iteration stops if it gains less than this share of
    the squared norm of the tensor.

    Result: a `TuckerResult`; its report holds the error of the HOSVD and the error after each iteration. Not
    differentiable.
    Cost in flops: that of `HOSVD`, plus about 20 * hidden^2 * r + 9 * r^3 and one unfolding of the projected tensor per
    iteration. hidden is the number of hidden units, and r is at most min(in, 2 * hidden).
    Raises the same errors as `HOSVD`.
    Source: De Lathauwer, De Moor and Vandewalle, SIAM J. Matrix Anal. Appl. 21(4), 2000, pages 1324-1342.
    """

    ranks: tuple[int, int] | None = None
    energy: float | None = None
    error: float | None = None
    max_iterations: int = 100
    tolerance: float = 1e-10
    fitted: ClassVar[bool] = True  # the best scalar is 1
    odd: ClassVar[bool] = True  # -layer gives minus the result

    def __post_init__(self) -> None:
        _check_options(self.ranks, self.energy, self.error)
        check_iterations("max_iterations", self.max_iterations)
        check_share("tolerance", self.tolerance, low_open=False, high_open=True)

    @classmethod
    def ladder(cls, layer: BilinearLayer) -> Sequence["Tucker"]:
        """Return decompositions from ranks (1, 1) to full ranks; the last is exact."""
        return [cls(ranks=ranks) for ranks in _ranks_ladder(layer)]

    @needs_float64
    @torch.no_grad()
    def __call__(self, layer: BilinearLayer) -> TuckerResult:
        """Decompose a layer in float64; the result has the dtype of the layer."""
        check_kind("layer", layer, BilinearLayer, "; decompose() takes results and networks")
        _check_ranks(self.ranks, layer)
        state = compress(layer)
        outputs, inputs, spectra, floor = _higher_order_svd(state.core, self.ranks, self.energy, self.error)
        full = outputs.shape[1] == outputs.shape[0] and inputs.shape[1] == inputs.shape[0]
        history: list[float] = []
        stop = "nothing to improve: all ranks are full"
        if not full:
            outputs, inputs, history, stop = self._iterate(state.core, outputs, inputs)
        return _result(layer, self, state, outputs, inputs, spectra, floor, tuple(history), stop)

    def _iterate(self, core: BilinearLayer, outputs: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor, list[float], str]:
        total = float(norm(core)) ** 2
        kept = _kept(core, outputs, inputs)
        history = [max(0.0, total - kept) ** 0.5]
        shift = 0.0
        for _ in range(self.max_iterations):
            narrow = replace(core, left=inputs.T @ core.left, right=inputs.T @ core.right)
            new_outputs = unfolding(narrow, "out")[0][:, : outputs.shape[1]]
            projected = replace(core, down=new_outputs.T @ core.down)
            # a step along the gradient of <P, A(P)> with P the projector; the shift makes the form convex
            gram = input_gram(projected, inputs @ inputs.T)
            new_inputs = torch.linalg.eigh(gram + shift * inputs @ inputs.T).eigenvectors.flip(1)[:, : inputs.shape[1]]
            gained = _kept(core, new_outputs, new_inputs) - kept
            if gained < 0 and shift < 1e3 * total:
                shift = max(4 * shift, 0.1 * total)
                continue
            if gained > 0:
                outputs, inputs, kept = new_outputs, new_inputs, kept + gained
                history.append(max(0.0, total - kept) ** 0.5)
            if gained <= self.tolerance * total:
                return outputs, inputs, history, "converged: the gain is below the tolerance"
        return outputs, inputs, history, f"not converged in {self.max_iterations} iterations"


def _kept(core: BilinearLayer, outputs: Tensor, inputs: Tensor) -> float:
    projected = replace(core, down=outputs.T @ core.down, left=inputs.T @ core.left, right=inputs.T @ core.right)
    return float(norm(projected).detach()) ** 2


def _higher_order_svd(
    core: BilinearLayer, ranks: tuple[int, int] | None, energy: float | None, error: float | None
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor], float]:
    """Return the factors (out, a) and (in, b), the singular values of both unfoldings, and the larger floor."""
    factors, spectra, floors = zip(*(unfolding(core, mode) for mode in ("out", "in")), strict=True)
    kept = []
    for number, (values, floor) in enumerate(zip(spectra, floors, strict=True)):
        squares = values.detach().square()
        sums = squares.flip(0).cumsum(0).flip(0)  # smallest first: what is small keeps its digits
        total, tails = sums[0], sums[1:]  # what is lost with the first 1, 2, ... vectors
        if ranks is not None:
            rank = min(ranks[number], len(values))
        elif energy is not None and energy < 1:
            rank = 1 + int((tails > (1 - energy) * total).sum())
        elif error:
            rank = 1 + int((tails > error**2 / 3 * total).sum())
        else:
            rank = max(1, int((values > floor * values[0]).sum()))
        kept.append(min(rank, len(values)))
    return factors[0][:, : kept[0]], factors[1][:, : kept[1]], (spectra[0], spectra[1]), max(floors)


def _result(
    layer: BilinearLayer,
    method: HOSVD | Tucker,
    state: Compressed,
    outputs: Tensor,
    inputs: Tensor,
    spectra: tuple[Tensor, Tensor],
    floor: float,
    convergence: tuple[float, ...] = (),
    stop: str = "direct",
) -> TuckerResult:
    core = BilinearLayer(
        down=state.scale * (outputs.T @ state.core.down),
        left=inputs.T @ state.core.left,
        right=inputs.T @ state.core.right,
        name=f"{layer.name} core".strip(),
        history=(*layer.history, "in the coordinates of Tucker factors"),
        basis="Tucker factors",
    )
    left_out = 1 - _kept(state.core, outputs, inputs)
    warnings = [
        *cut_warning(spectra[0], outputs.shape[1], "output rank", floor),
        *cut_warning(spectra[1], inputs.shape[1], "input rank", floor),
    ]
    return with_error(
        TuckerResult,
        layer,
        Report.of(layer, method, convergence=convergence, stop_reason=stop, floor=floor, warnings=warnings),
        left_out,
        state.norm,
        outputs=outputs,
        inputs=state.expand(inputs),
        core=core,
        singular_values=(state.scale * spectra[0], state.scale * spectra[1]),
    )


def _check_options(ranks: object, energy: float | None, error: float | None) -> None:
    given = [name for name, value in (("ranks", ranks), ("energy", energy), ("error", error)) if value is not None]
    if len(given) > 1:
        raise ValueError(f"give one of ranks, energy and error, got {' and '.join(given)}")
    if ranks is not None:
        if not isinstance(ranks, tuple | list) or len(ranks) != 2:
            raise TypeError(
                f"ranks must be a pair (output rank, input rank), got {ranks!r}; both input modes share one factor"
            )
        for name, rank in zip(("output rank", "input rank"), ranks, strict=True):
            check_int(name, rank, 1)
    if energy is not None:
        check_share("energy", energy, low_open=True, high_open=False)
    if error is not None:
        check_share("error", error, low_open=False, high_open=True)


def _check_ranks(ranks: tuple[int, int] | None, layer: BilinearLayer) -> None:
    if ranks is not None:
        n_out, n_in, _ = layer.shape
        check_int("output rank", ranks[0], 1, n_out, f"mode 'out' has size {n_out}")
        check_int("input rank", ranks[1], 1, n_in, f"modes 'in1' and 'in2' have size {n_in}")


def _ranks_ladder(layer: BilinearLayer) -> list[tuple[int, int]]:
    n_out, n_in, _ = layer.shape
    middle = ((n_out + 1) // 2, (n_in + 1) // 2)
    return sorted({(1, 1), (1, middle[1]), middle, (n_out, middle[1]), (n_out, n_in)})
