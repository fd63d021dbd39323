"""Matrices in factored form, as the circuits of an attention head are."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from tensornet_interp.checks import DEFAULT_MAX_ELEMENTS, check_alike, check_int, check_size, check_tensor, check_text
from tensornet_interp.contraction import Modes, Term, contract
from tensornet_interp.float64 import needs_float64
from tensornet_interp.layer import TensorNetwork
from tensornet_interp.numerics import at_largest, unit_columns, without_autocast
from tensornet_interp.places import move
from tensornet_interp.store import register_type


@register_type("SVD")
class SVD(NamedTuple):
    """Singular values and vectors of a factored matrix, largest first: M = left diag(values) right^T."""

    left: Tensor  # (row, rank)
    values: Tensor  # (rank,)
    right: Tensor  # (column, rank)


@register_type("Entry")
class Entry(NamedTuple):
    """An entry of a matrix: its row, its column and its value."""

    row: int
    column: int
    value: float


@register_type("LowRank")
@dataclass(frozen=True, eq=False, kw_only=True)
class LowRank(TensorNetwork):
    """A low-rank matrix is the product of two thin factors; the full matrix is never formed.

    M[row, column] = sum_rank left[row, rank] right[column, rank]

    left: (row, rank). right: (column, rank). rows, columns: the names of the two modes. name: whose matrix it is.
    Raises ValueError if sizes, dtypes or devices differ, or if entries are not finite.
    """

    left: Tensor
    right: Tensor
    rows: str = "out"
    columns: str = "in1"
    name: str = ""

    def __post_init__(self) -> None:
        check_tensor("left", self.left, ("row", "rank"))
        check_tensor("right", self.right, ("column", "rank"))
        check_size("rank", left=self.left.shape[1], right=self.right.shape[1])
        check_alike(left=self.left, right=self.right)
        for field in ("rows", "columns"):
            check_text(field, getattr(self, field))
        if self.rows == self.columns or "rank" in (self.rows, self.columns):
            raise ValueError(f"rows and columns must be two different names, not 'rank', got {self.modes}")
        check_text("name", self.name, empty=True)

    @property
    def modes(self) -> Modes:
        """Return the names of the rows and of the columns."""
        return (self.rows, self.columns)

    def terms(self) -> tuple[Term, ...]:
        """Return two terms that share the mode "rank"."""
        return (Term(self.left, (self.rows, "rank")), Term(self.right, (self.columns, "rank")))

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "LowRank":
        """Return the matrix on a device and in a dtype."""
        left, right = (move(side, getattr(self, side), device, dtype) for side in ("left", "right"))
        return replace(self, left=left, right=right)

    def __repr__(self) -> str:
        sizes = f"{self.rows}={len(self.left)}, {self.columns}={len(self.right)}, rank={self.left.shape[1]}"
        return f"LowRank({self.name!r}, {sizes}, {str(self.left.dtype)[6:]})"

    @without_autocast
    def change_basis(self, *, rows: Tensor | None = None, columns: Tensor | None = None) -> "LowRank":
        """Return the matrix between vectors: rows^T M columns, still factored.

        rows: (row, k) and columns: (column, k), one vector per column, such as a decoder, the transpose of an embedding
        or that of an unembedding. None leaves a side as it is. The constant coordinate of a lifted layer comes first:
        for tokens, put a row of ones above the embedding; for directions, a row of zeros.
        """
        left, right = self.left, self.right
        for side, vectors, factor in (("rows", rows, left), ("columns", columns, right)):
            if vectors is not None:
                check_tensor(side, vectors, (side.removesuffix("s"), "vector"))
                check_size(side.removesuffix("s"), matrix=len(factor), **{side: len(vectors)})
                check_alike(matrix=left, **{side: vectors})
        left = left if rows is None else rows.T @ left
        return replace(self, left=left, right=right if columns is None else columns.T @ right)

    def entries(
        self,
        rows: Tensor | None = None,
        columns: Tensor | None = None,
        *,
        max_elements: float = DEFAULT_MAX_ELEMENTS,
    ) -> Tensor:
        """Return the dense matrix rows^T M columns; arguments and errors are those of `change_basis`."""
        return contract(self.change_basis(rows=rows, columns=columns), max_elements=max_elements)

    @torch.no_grad()
    @without_autocast
    def top(self, n: int, *, chunk: int = 1024) -> list[Entry]:
        """Return the n entries of largest magnitude, largest first; `chunk` rows are formed at a time.

        For vectors on both sides, call `change_basis` first. Cost: 2 rows columns rank flops.
        """
        total = len(self.left) * len(self.right)
        n, step = check_int("n", n, 1, total, "the entries of the matrix"), check_int("chunk", chunk, 1)
        places = torch.empty(0, dtype=torch.int64, device=self.left.device)
        values = self.left.new_empty(0)
        for start in range(0, len(self.left), step):
            block = (self.left[start : start + step] @ self.right.T).flatten()
            block, index = at_largest(n, block.abs(), block, torch.arange(len(block), device=block.device))
            values, places = torch.cat([values, block]), torch.cat([places, index + start * len(self.right)])
            values, places = at_largest(n, values.abs(), values, places)
        return [
            Entry(*divmod(int(place), len(self.right)), float(value))
            for place, value in zip(places, values, strict=True)
        ]

    @needs_float64
    def svd(self) -> SVD:
        """Return the singular values and vectors, from two thin QR decompositions in float64.

        The sign makes the entry of largest magnitude of every left vector positive. Cost: of order (row + column) *
        rank^2 flops.
        """
        (left, upper), (right, lower) = (torch.linalg.qr(side.to(torch.float64)) for side in (self.left, self.right))
        u, values, v = torch.linalg.svd(upper @ lower.T)
        u, v = left @ u[:, : len(values)], right @ v.mT[:, : len(values)]
        sign = u.gather(0, u.abs().argmax(0, keepdim=True)).sign()
        return SVD(*(array.to(self.left.dtype) for array in (u * sign, values, v * sign)))

    def norm(self) -> Tensor:
        """Return the Frobenius norm."""
        return unit_columns(self.svd().values[:, None])[1][0]

    @needs_float64
    def eigenvalues(self) -> Tensor:
        """Return the eigenvalues of a square matrix that are not zero for its rank, complex, largest magnitude first.

        Raises ValueError for a matrix that is not square.
        """
        if len(self.left) != len(self.right):
            raise ValueError(
                f"a matrix with eigenvalues is square, got {len(self.left)} rows, {len(self.right)} columns"
            )
        small = self.right.to(torch.float64).T @ self.left.to(torch.float64)  # (rank, rank), the same nonzero ones
        values = torch.linalg.eigvals(small)
        return values[values.abs().argsort(descending=True)]

    @needs_float64
    def truncate(self, rank: int) -> "LowRank":
        """Return the nearest matrix of this rank, in the Frobenius norm."""
        most = min(*self.left.shape, len(self.right))
        kept = check_int("rank", rank, 1, most, "the rank of the matrix")
        left, values, right = self.svd()
        return replace(self, left=left[:, :kept] * values[:kept], right=right[:, :kept])
