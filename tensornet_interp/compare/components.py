"""Match the components of two results, whatever their order, signs, scales and swaps of left and right."""

from dataclasses import dataclass, replace

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from tensornet_interp.balance import balance, times_power
from tensornet_interp.checks import check_bool, check_size
from tensornet_interp.decompositions.canonical import congruence
from tensornet_interp.factored import CPResult
from tensornet_interp.float64 import needs_float64
from tensornet_interp.layer import BilinearLayer, TensorNetwork
from tensornet_interp.network import BilinearNetwork, check_network, wide_layer
from tensornet_interp.numerics import nonzero, unit_columns
from tensornet_interp.report import Report
from tensornet_interp.results import Result
from tensornet_interp.spectral import SpectralResult
from tensornet_interp.store import register_type
from tensornet_interp.tables import Record


@register_type("Matching")
@dataclass(frozen=True, eq=False)
class Matching:
    """A matching pairs components of a with components of b and says how similar the components of each pair are.

    `aligned` computes the same function as b. Its first components are the partners in `pairs`, in the order of a, with
    left, right and signs chosen as in a. The components of b without a partner come last. The components are not sorted
    by weight, and weights may be negative.
    """

    pairs: tuple[tuple[int, int], ...]  # in the order of a
    congruence: Tensor  # (pair,), float64, from 0 to 1
    matrix: Tensor  # (component of a, component of b), float64
    aligned: CPResult | SpectralResult

    @property
    def mean(self) -> float:
        """Return the mean congruence of the pairs."""
        return float(self.congruence.mean())

    def records(self) -> list[Record]:
        """Return one record per pair: its components of a and of b, and their congruence."""
        return [
            {"a": a, "b": b, "congruence": value}
            for (a, b), value in zip(self.pairs, self.congruence.tolist(), strict=True)
        ]

    def __repr__(self) -> str:
        lowest = float(self.congruence.min())
        return f"Matching({len(self.pairs)} pairs, congruence mean {self.mean:.4f}, lowest {lowest:.4f})"


@needs_float64
@torch.no_grad()
def match(a: TensorNetwork, b: TensorNetwork, *, blocks: bool = False) -> Matching:
    """Return the one-to-one pairing of the components of a and b with the largest sum of congruences.

    congruence = |c . c'| max(|l . l'| |r . r'|, |l . r'| |r . l'|)

    c, l, r are the output, left and right vectors of a component of a, scaled to unit norm; primes mark b. A component
    is one rank-one term of the CP tensor of a layer or result. a and b must have the same inputs and outputs. The
    number of pairs is min(rank of a, rank of b). A zero component has congruence 0.
    blocks: if True, whole blocks (output vector times symmetric matrix M) of two `SpectralResult`s are paired instead
    of components, with congruence |c . c'| |<M, M'>| / (||M|| ||M'||). Use blocks if eigenvalues are degenerate, and
    for block-term decompositions.

    A high congruence says that factors agree, not that they are right: if a CP decomposition is not unique, other fits
    are equally good. Raises ValueError if sizes, constant coordinates or devices differ. Raises TypeError if `blocks`
    is True and a or b is not a `SpectralResult`. Cost: 2 * rank * rank' * (4 * in + out) flops, where
    rank and rank' are the numbers of components, plus the assignment.

    Example:
    >>> layer = BilinearLayer(down=torch.eye(2), left=torch.eye(2), right=torch.eye(2).flip(1))
    >>> swapped = BilinearLayer(down=-2 * layer.down.flip(1), left=layer.right.flip(1), right=layer.left.flip(1))
    >>> match(layer, swapped).pairs, match(layer, swapped).mean
    (((0, 1), (1, 0)), 1.0)
    """
    check_bool("blocks", blocks)
    a, b = single_part("a", a), single_part("b", b)
    one, two = wide_layer("a", a), wide_layer("b", b)
    for mode, axis in (("out", 0), ("in", 1)):
        check_size(mode, a=one.shape[axis], b=two.shape[axis])
    if (one.constant_in, one.constant_out) != (two.constant_in, two.constant_out):
        raise ValueError("only one of the two has a constant coordinate; lift both or neither")
    if one.down.device != two.down.device:
        raise ValueError(f"tensors must share one device; got a {one.down.device}, b {two.down.device}")
    if not blocks:
        return _match_components(one, two, _reference(a, one), _report(b, two), b.terms()[0].data.dtype)
    if not (isinstance(a, SpectralResult) and isinstance(b, SpectralResult)):
        raise TypeError(f"blocks=True compares SpectralResults, got {type(a).__name__} and {type(b).__name__}")
    return _match_blocks(a, b)


def _match_components(
    a: BilinearLayer, b: BilinearLayer, reference: tuple[Tensor, Tensor, Tensor], report: Report, dtype: torch.dtype
) -> Matching:
    """Match rank-one components and return b's components aligned with a's.

    The partners take the signs of the factors in `reference`, which belong to a.
    """
    matrix, crossed = congruence(a, b)  # (rank of a, rank of b)
    pairs, order = _assign(matrix)
    mine, theirs = (torch.tensor(side, device=matrix.device) for side in zip(*pairs, strict=True))
    factors, weights = _units(b)
    outputs, left, right = (factor[:, order] for factor in factors)
    weights, count = weights[order], len(pairs)
    swap = torch.zeros(len(order), dtype=torch.bool, device=matrix.device)
    swap[:count] = crossed[mine, theirs]
    left, right = torch.where(swap, right, left), torch.where(swap, left, right)
    aligned = []
    for factor, like in zip((outputs, left, right), reference, strict=True):
        sign = torch.ones_like(weights)
        sign[:count] = torch.where((factor[:, :count] * like[:, mine]).sum(0) < 0, -1.0, 1.0)
        aligned.append((factor * sign).to(dtype))
        weights = weights * sign
    result = CPResult(
        report=report,
        constant_in=b.constant_in,
        constant_out=b.constant_out,
        weights=weights.to(dtype),
        outputs=aligned[0],
        left=aligned[1],
        right=aligned[2],
    )
    return Matching(pairs, matrix[mine, theirs], matrix, result)


def _match_blocks(a: SpectralResult, b: SpectralResult) -> Matching:
    """Match the blocks of two spectral results and return b's blocks aligned with a's."""
    (c, va, wa), (c2, vb, wb) = (_block_units(result) for result in (a, b))
    # <M, M'> = sum of w w' (v . v')^2, one block of a at a time: (block of b, rank of a, rank of b)
    inner = [torch.einsum("brs,r,bs->b", (v.T @ vb).square(), w, wb) for v, w in zip(va, wa, strict=True)]
    matrix = (c.T @ c2).abs() * torch.stack(inner).abs()
    pairs, order = _assign(matrix)
    mine, theirs = (torch.tensor(side, device=matrix.device) for side in zip(*pairs, strict=True))
    sign = torch.ones(len(order), dtype=b.outputs.dtype, device=b.outputs.device)
    sign[: len(pairs)] = torch.where((c.T @ c2)[mine, theirs] < 0, -1.0, 1.0).to(sign)
    aligned = replace(
        b,
        outputs=b.outputs[:, order] * sign,
        eigenvalues=b.eigenvalues[order] * sign[:, None],
        eigenvectors=b.eigenvectors[order],
        directions=None if b.directions is None else b.directions[order] * sign[:, None],
        report=_report(b, b.to_layer()),
    )
    return Matching(pairs, matrix[mine, theirs], matrix, aligned)


def _reference(part: TensorNetwork, layer: BilinearLayer) -> tuple[Tensor, Tensor, Tensor]:
    """Return the factors (outputs, left, right) of a, whose signs the partners take.

    The factors of a result do not contain the sign of a term; its weight does.
    """
    outputs = layer.down
    if isinstance(part, CPResult):
        outputs = part.outputs
    elif isinstance(part, SpectralResult):
        outputs = part.outputs.repeat_interleave(part.rank, dim=1)
    return outputs.double(), layer.left.double(), layer.right.double()


def _units(layer: BilinearLayer) -> tuple[list[Tensor], Tensor]:
    """Return outputs, left and right with columns of unit norm, and the products of the norms, in float64."""
    (core,), exponent = balance(layer)
    units = [unit_columns(factor) for factor in (core.down, core.left, core.right)]
    return [columns for columns, _ in units], times_power(units[0][1] * units[1][1] * units[2][1], exponent)


def _block_units(result: SpectralResult) -> tuple[Tensor, Tensor, Tensor]:
    """Return unit outputs (out, block), unit eigenvectors (block, in, rank) and the eigenvalues of blocks of unit norm.

    The norm of a block is the Frobenius norm of its matrix.
    """
    outputs, _ = unit_columns(result.outputs.to(torch.float64))
    vectors, lengths = unit_columns(result.eigenvectors.to(torch.float64).transpose(0, 1))
    vectors = vectors.transpose(0, 1)  # (block, in, rank)
    roots = result.eigenvalues.to(torch.float64).abs().sqrt() * lengths  # (block, rank), of what a term counts
    values = result.eigenvalues.sign() * (roots / nonzero(roots.amax(1, keepdim=True))).square()
    gram = (vectors.mT @ vectors).square()  # eigenvectors of a block need not be orthonormal
    norms = torch.einsum("brs,br,bs->b", gram, values, values).clamp_min(0).sqrt()
    return outputs, vectors, values / nonzero(norms)[:, None]


def _assign(matrix: Tensor) -> tuple[tuple[tuple[int, int], ...], list[int]]:
    """Return the one-to-one pairs (row, column) with the largest sum of entries, and an order of all columns.

    The pairs are in the order of the rows. The order starts with the columns of the pairs.
    """
    rows, columns = (side.tolist() for side in linear_sum_assignment(matrix.cpu().numpy(), maximize=True))
    rest = sorted(set(range(matrix.shape[1])) - set(columns))
    return tuple(zip(rows, columns, strict=True)), [*columns, *rest]


def single_part(name: str, part: TensorNetwork) -> TensorNetwork:
    """Return the part of a network of one part, because its type and report matter; return other objects unchanged."""
    check_network(name, part)
    return part[0] if isinstance(part, BilinearNetwork) and len(part) == 1 else part


def _report(part: TensorNetwork, layer: BilinearLayer) -> Report:
    """Return the report of the aligned result."""
    if isinstance(part, Result):
        return replace(part.report, method=f"{part.report.method}, aligned")
    return Report.of(layer, "aligned", 0.0)
