"""Compute leading eigenpairs of the interaction matrices of many output directions, with bounds on their errors."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from tqdm import tqdm

from tensornet_interp.balance import times_power
from tensornet_interp.checks import (
    check_bool,
    check_choice,
    check_int,
    check_kind,
    check_number,
    check_seed,
)
from tensornet_interp.decompositions.eigen import eigen_flops, eigenpairs, fix_signs, invert_directions
from tensornet_interp.float64 import needs_float64
from tensornet_interp.formats import owned
from tensornet_interp.layer import BilinearLayer
from tensornet_interp.numerics import without_autocast
from tensornet_interp.report import Report
from tensornet_interp.spectra.bounds import Problem
from tensornet_interp.spectra.krylov import leading
from tensornet_interp.spectra.matrices import Matrices, rounding_share, squared_norms
from tensornet_interp.spectra.scaled import Scaled, check_directions
from tensornet_interp.spectra.search import Leading
from tensornet_interp.spectra.shared import Narrow
from tensornet_interp.spectral import SpectralResult
from tensornet_interp.store import register_type
from tensornet_interp.tables import Record, indexed

CHUNK_ELEMENTS = 2**25  # 256 MB


@register_type("Spectra")
@dataclass(frozen=True, eq=False, kw_only=True)
class Spectra:
    """Spectra hold the k eigenvalues of largest magnitude per direction, their eigenvectors, and error bounds.

    bounds: for every i, the matrix has an eigenvalue within bounds[:, i] of eigenvalues[:, i]; rounding is included. If
    a direction is `proven`, no larger eigenvalue was missed: the i-th largest magnitude of all eigenvalues of the
    matrix is also within bounds[:, i] of the magnitude of eigenvalues[:, i]. If a direction is not proven, the matrix
    may have a larger eigenvalue outside the searched subspace. This is unlikely; use `method="dense"` on this direction
    to find out.
    residuals: ||M v - eigenvalue v|| of every eigenvector v, with rounding, before v is rounded to the layer's dtype.
    The error of an eigenvector is about its residual divided by the gap to the next eigenvalue. This error is often
    much larger than the bound on the eigenvalue, because that bound is quadratic in the residual if the direction is
    proven.
    """

    eigenvalues: Tensor  # (block, k), largest magnitude first, sign kept
    eigenvectors: Tensor  # (block, in, k), unit columns
    bounds: Tensor  # (block, k), float64
    residuals: Tensor  # (block, k), float64
    proven: Tensor  # (block,), boolean
    steps: Tensor  # (block,), number of vectors in the subspace; 0 for a direct method
    method: str  # "krylov", "dense" or "thin"
    tolerance: float
    directions: Tensor  # (block, out)
    report: Report
    constant_in: bool = False
    constant_out: bool = False

    @property
    @needs_float64
    def converged(self) -> Tensor:
        """Return True (block,) for directions whose bounds are all at most tolerance * |eigenvalue|.

        An eigenvalue of 0 passes only if its bound is 0.
        """
        return (self.bounds <= self.tolerance * self.eigenvalues.abs().to(torch.float64)).all(1)

    @needs_float64
    def records(self) -> list[Record]:
        """Return one record per eigenpair: its eigenvalue with the bound, and how its direction was searched."""
        parts = {"eigenvalue": self.eigenvalues, "bound": self.bounds, "residual": self.residuals}
        rows = indexed(("block", "component"), **parts)
        proven, steps = self.proven.tolist(), self.steps.tolist()
        return [row | {"proven": proven[row["block"]], "steps": steps[row["block"]]} for row in rows]

    def __repr__(self) -> str:
        blocks, k = self.eigenvalues.shape
        return (
            f"Spectra(block={blocks}, in={self.eigenvectors.shape[1]}, k={k}, {self.method}, of {self.report.layer!r},"
            f" {int(self.converged.sum())} within {self.tolerance:g}, {int(self.proven.sum())} proven leading)"
        )

    @needs_float64
    def to_result(self) -> SpectralResult:
        """Return the eigenpairs as one bilinear map, with one block per direction.

        Its outputs (out, block) are the pseudoinverse of the directions. If the directions span the layer's outputs,
        the map is the layer's tensor without the eigenpairs that were not computed. Raises ValueError for a layer with
        a constant output.
        """
        if self.constant_out:
            raise ValueError("the constant output of a lifted layer needs its own direction; use layer.drop_constant()")
        return SpectralResult(
            report=self.report,
            constant_in=self.constant_in,
            outputs=invert_directions(self.directions).to(self.directions.dtype),
            eigenvalues=self.eigenvalues,
            eigenvectors=self.eigenvectors,
            directions=self.directions,
        )


@needs_float64
@torch.no_grad()
@without_autocast
def spectra(
    layer: BilinearLayer,
    directions: Tensor,
    k: int = 2,
    *,
    tolerance: float = 1e-3,
    max_steps: int | None = None,
    method: str = "auto",
    seed: int = 0,
    max_elements: int = CHUNK_ELEMENTS,
    progress: bool = True,
) -> Spectra:
    """Return the k eigenpairs of largest magnitude of the interaction matrix M_u of every output direction u.

    M_u v = eigenvalue v, M_u = sum_out u[out] B[out]

    directions: (block, out), one nonzero u per row. Directions and eigenvectors include the constant coordinates of a
    lifted layer.
    k: at most min(in, 2 * hidden), where hidden is the layer's rank.
    tolerance: the search stops at this error relative to each eigenvalue, or at the rounding error if that is larger.
    max_steps: the maximum number of vectors in the subspace of a direction; default 64 + 16 * k, and at most the
    input size. A direction that needs more vectors keeps the bounds that it has reached.
    method: "krylov" never forms M_u. "dense" decomposes M_u and always proves its result; if 2 * hidden < in, it works
    in the span of the weights, which is cheaper and is reported as "thin". "auto" takes the method that needs fewer
    flops.
    max_elements: the most float64 numbers in memory for one chunk of directions, in which the search works.

    Bounds are computed in float64, even if the subspaces are searched in float32 (if tolerance >= 1e-4). The bounds
    include the worst-case rounding of float64, and the rounding of the eigenvalues to the layer's dtype. The result is
    not differentiable.
    Raises ValueError for a zero direction, for different sizes, or for a tolerance below rounding; TypeError if `layer`
    is not a `BilinearLayer`.

    Cost of "krylov" in flops: 8 * in * hidden per step and direction, and once per call 4 * hidden^2 * in for the
    Frobenius norms that the proofs need, so pass many directions in one call. Decaying spectra take 4 to 20 steps, and
    all directions in a chunk share matrix products. A subspace of up to 32 vectors that all matrices share gives start
    vectors and bounds; it costs about 1,100 * hidden flops per direction. Memory: about `max_elements`, by default
    256 MB, plus the layer in float64 and in float32, the weights (block, hidden) and the result.

    Example: `spectra(layer, dictionary.encoder, k=2).eigenvalues`
    """
    check_bool("progress", progress)
    check_seed("seed", seed)
    check_int("max_elements", max_elements, 1)
    check_spectra(layer, directions, k, tolerance)
    scaled = Scaled.of(layer, directions)
    return searched(layer, directions, scaled, k, tolerance, max_steps, method, seed, max_elements, None, progress)


def searched(
    layer: BilinearLayer,
    directions: Tensor,
    scaled: Scaled,
    k: int,
    tolerance: float,
    max_steps: int | None,
    method: str,
    seed: int,
    max_elements: int,
    squares: Tensor | None,
    progress: bool,
) -> Spectra:
    """Return the spectra of checked directions.

    squares: ||M||_F^2 of the scaled matrices if they are known; if not, the Krylov method computes them.
    """
    core, basis, matrices, wide, powers, scales, _ = scaled
    n_in, hidden, blocks, size = layer.shape[1], layer.rank, len(directions), core.shape[1]
    steps = min(64 + 16 * k if max_steps is None else check_int("max_steps", max_steps, k), n_in)
    if check_choice("method", method, ("auto", "dense", "krylov")) == "auto":
        flops = eigen_flops(n_in, hidden, blocks)
        method = "krylov" if krylov_flops(n_in, hidden, blocks, steps) < min(flops.values()) else "dense"
    if method == "krylov":
        norms = squared_norms(core, matrices.weights) if squares is None else squares
        problem = Problem.of(matrices, norms, scales)
        narrow = Narrow.of(matrices, tolerance, seed, max_elements // 8)
        chunk = max_elements // (8 * (size + hidden))  # products, and the vectors in them
    else:
        chunk, method = max_elements // (2 * size**2), "dense" if basis is None else "thin"
    parts: list[Leading] = []
    with tqdm(total=blocks, desc=f"{method} spectra", leave=False, delay=2, disable=not progress) as bar:
        for start in range(0, blocks, max(1, chunk)):
            rows = slice(start, start + max(1, chunk))
            if method == "krylov":
                parts.append(leading(problem.at(rows), narrow, k, tolerance, steps, seed, max_elements // 4))
            else:
                parts.append(_direct(matrices._replace(weights=matrices.weights[rows]), core, wide[rows], k))
            bar.update(len(parts[-1].values))
    found = Leading(*(torch.cat(part) for part in zip(*parts, strict=True)))
    vectors = found.vectors.mT if basis is None else basis @ found.vectors.mT  # (block, in, k)
    exact = times_power(found.values.T, powers).T  # at the scale of the layer and of each direction
    values = exact.to(layer.down.dtype)
    if not bool(torch.isfinite(values).all()):
        raise ValueError(f"the eigenvalues overflow {layer.down.dtype}: scale the weights or the directions down")
    # bounds also include the rounding of the weights, which are sums over out, and of the values to the layer's dtype
    added = times_power(scaled.weights_noise, powers)[:, None] + (values.to(torch.float64) - exact).abs()
    options = f"spectra(k={k}, tolerance={tolerance:g}, max_steps={steps}, method={method!r})"
    return Spectra(
        eigenvalues=values,
        eigenvectors=fix_signs(vectors).to(values.dtype),
        bounds=times_power(found.bounds.T, powers).T + added,
        residuals=times_power(found.residuals.T, powers).T + added,
        proven=found.proven,
        steps=found.steps,
        method=method,
        tolerance=tolerance,
        directions=owned(directions),
        report=replace(Report.of(layer, None, None, seed=seed), method=options),
        constant_in=layer.constant_in,
        constant_out=layer.constant_out,
    )


def krylov_flops(n_in: int, hidden: int, blocks: int, steps: int) -> float:
    """Return the flops of `spectra` with method "krylov" if the subspace of every direction has `steps` vectors.

    n_in: input coordinates; hidden: rank of the layer; blocks: number of directions. The flops of the Frobenius norms
    count too.
    """
    for name, number in {"n_in": n_in, "hidden": hidden, "blocks": blocks, "steps": steps}.items():
        check_number(name, number, 1)
    size = min(n_in, 2 * hidden)
    each = 8.0 * size * hidden * steps + 4.0 * size * steps**2 + 2.0 * hidden**2
    return blocks * each + 4.0 * hidden**2 * size


def _direct(matrices: Matrices, core: BilinearLayer, directions: Tensor, k: int) -> Leading:
    """Return the eigenpairs of dense matrices; all are proven, because all eigenvalues are known up to rounding."""
    values, vectors = eigenpairs(core, directions, k)
    rows = vectors.mT  # (block, k, in)
    rounding = rounding_share(*core.left.shape) * matrices.scales()
    residuals = torch.linalg.vector_norm(matrices(rows) - values[..., None] * rows, dim=2) + rounding[:, None]
    steps = torch.zeros(len(values), dtype=torch.int64, device=values.device)
    return Leading(values, rows, residuals, residuals, steps == 0, steps)


def check_spectra(layer: BilinearLayer, directions: Tensor, k: int, tolerance: float) -> None:
    """Raise TypeError or ValueError unless `spectra` can compute k eigenpairs of these directions of the layer."""
    check_kind("layer", layer, BilinearLayer, "; a result has to_layer()")
    check_directions(layer, directions)
    n_in, hidden = layer.shape[1], layer.rank
    check_int("k", k, 1, min(n_in, 2 * hidden), f"the rank is at most min(in={n_in}, 2 hidden={2 * hidden})")
    tolerance = check_number("tolerance", tolerance)
    floor = rounding_share(*layer.left.shape)
    if not floor <= tolerance < 1:
        raise ValueError(
            f"tolerance must be from {floor:.1e}, the rounding of float64 at in={n_in} and hidden={hidden}, to below 1;"
            f" got {tolerance:g}"
        )
