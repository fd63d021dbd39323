"""Fits of one layer: this package on its factors, TensorLy and the dense cosine fit on its dense tensor."""

import math
import time
from collections.abc import Mapping
from typing import Any

import tensorly.decomposition
import torch
from tensorly.cp_tensor import CPTensor
from torch import Tensor

from examples.benchmarks.measure import Checked, Outcome
from models import BilinearClassifier, load_model
from tensornet_interp import BilinearLayer, CPResult, TuckerResult, decompose, similarity
from tensornet_interp.decompositions import HOSVD
from tensornet_interp.results import Result


def load_layer(folder: str) -> BilinearLayer:
    """Return the first layer of a stored classifier, with inputs in the pixel basis."""
    model = load_model(folder)
    if not isinstance(model, BilinearClassifier):
        raise ValueError(f"{folder} holds a {type(model).__name__}, not a BilinearClassifier")
    layer = model.network(basis="input")[0].to_layer()
    return layer.drop_constant()


def dense(layer: BilinearLayer) -> Tensor:
    """Return the dense symmetrized tensor (out, in, in) in the layer's dtype, from which the dense methods start."""
    tensor = layer.to_tensor()
    return (tensor + tensor.mT) / 2


def cosine_to(layer: BilinearLayer, found: Any) -> Checked:
    """Return the cosine between a result and the layer, both symmetrized, and the relative error at the best scale."""
    cosine = float(similarity(layer, found))
    return Checked(cosine, f"relative error {math.sqrt(max(0.0, 1 - cosine**2)):.4f}")


def ours(layer: BilinearLayer, *, method: str, **options: Any) -> Outcome:
    """Run a decomposition of this package."""
    found = decompose(layer, method, **options)
    done = len(found.report.convergence) - 1 if isinstance(found, Result) else 0
    return Outcome(f"{done} iterations" if done > 0 else "direct", found, max(1, done))


def iterations_to(layer: BilinearLayer, rank: int, cosine: float) -> int:
    """Return the fewest iterations with which our `cp`, from its warm start, reaches a cosine."""

    def reached(n: int) -> bool:
        found: CPResult = decompose(layer, "cp", rank=rank, max_iterations=n)
        return cosine_of(found) >= cosine

    n = 1
    while not reached(n):
        n *= 2
        if n > 512:
            raise ValueError(f"cp of rank {rank} does not reach cosine {cosine} in {n // 2} iterations")
    low = n // 2  # not enough, or 0
    while n - low > 1:
        middle = (low + n) // 2
        low, n = (low, middle) if reached(middle) else (middle, n)
    return n


def cosine_of(found: CPResult | TuckerResult) -> float:
    """Return the cosine that belongs to the relative error of a result at the best scale."""
    return math.sqrt(max(0.0, 1 - (found.report.relative_error or 0.0) ** 2))


def dense_cosine_fit(
    layer: BilinearLayer,
    *,
    rank: int,
    cosine: float,
    lr: float,
    inputs_first: bool = False,
    steps: int = 200,
    max_iterations: int | None = None,
) -> Outcome:
    """Fit factors with Muon on 1 - cosine between the dense target and their dense tensor, both symmetrized.

    Each step rebuilds the tensor from outputs * left (out, in, rank), or with `inputs_first` from left * right (in, in,
    rank). Factors start from randn, the momentum is 0.95, and the rate falls linearly to zero at `steps`. The fit stops
    when it reaches `cosine`.
    """
    if not hasattr(torch.optim, "Muon"):
        raise RuntimeError(f"torch {torch.__version__} has no torch.optim.Muon, which came with 2.9")
    target = dense(layer)
    target = target / target.square().sum().sqrt()  # norm() of so many float32 numbers is off by 5e-4
    generator = torch.Generator().manual_seed(0)
    factors = [torch.randn(n, rank, generator=generator, dtype=target.dtype).requires_grad_() for n in target.shape]
    optimizer = torch.optim.Muon(factors, lr=lr, momentum=0.95, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    best = 0.0
    for step in range(steps if max_iterations is None else max_iterations):
        down, left, right = factors
        if inputs_first:
            rebuilt = torch.einsum("or,ijr->oij", down, torch.einsum("ir,jr->ijr", left, right))
        else:
            rebuilt = torch.einsum("oir,jr->oij", torch.einsum("or,ir->oir", down, left), right)
        rebuilt = (rebuilt + rebuilt.mT) / 2
        reached = (rebuilt * target).sum() / rebuilt.square().sum().sqrt()
        best = max(best, float(reached.detach()))
        if best >= cosine:
            return Outcome(f"{step} steps", _layer_of(factors), max(1, step))
        optimizer.zero_grad()
        (1 - reached).backward()
        optimizer.step()
        schedule.step()
    return Outcome(f"{steps} steps", _layer_of(factors), steps, complete=False)


def _layer_of(factors: list[Tensor]) -> BilinearLayer:
    down, left, right = (factor.detach() for factor in factors)
    return BilinearLayer(down=down, left=left, right=right)


def tensorly_parafac(
    layer: BilinearLayer, *, rank: int, cosine: float, init: str, cap: float, max_iterations: int = 10_000
) -> Outcome:
    """Run TensorLy's alternating least squares on the dense tensor until it reaches the error that belongs to a cosine.

    It is stopped after `cap` seconds.
    """
    # tol=-1: it never stops by itself; with tol=0 it gives its callback no error
    start, error, count = time.perf_counter(), math.sqrt(1 - cosine**2), -1
    reached = False

    def stop(_: Any, relative: Any) -> bool:
        nonlocal count, reached
        count += 1  # the first call is before the first iteration
        reached = bool(relative <= error)
        return reached or time.perf_counter() - start > cap

    found = tensorly.decomposition.parafac(
        dense(layer), rank, n_iter_max=max_iterations, init=init, tol=-1, random_state=0, callback=stop
    )
    return Outcome(f"{count} iterations", _from_tensorly(found), max(1, count), complete=reached)


def _from_tensorly(found: CPTensor) -> BilinearLayer:
    return BilinearLayer.from_cp(found)


def tensorly_hosvd(layer: BilinearLayer, *, ranks: tuple[int, int], dtype: str) -> Outcome:
    """Run TensorLy's Tucker decomposition without iterations on the dense tensor."""
    tensor = dense(layer.to(dtype=getattr(torch, dtype)))
    n_out, n_in = ranks
    found = tensorly.decomposition.tucker(tensor, [n_out, n_in, n_in], n_iter_max=0)
    return Outcome("direct", (found[0], list(found[1])))


def same_subspaces(layer: BilinearLayer, found: Any) -> Checked:
    """Return the share of the layer's norm in the core, and how far the projectors differ from those of `hosvd`.

    The share is the cosine to the layer.
    """
    core, (outputs, first, second) = found
    mine = HOSVD(ranks=(outputs.shape[1], first.shape[1]))(layer.to(dtype=torch.float64))
    pairs = ((mine.outputs, outputs), (mine.inputs, first), (mine.inputs, second))
    distances = [projector_distance(a, b.double()) for a, b in pairs]
    kept = float(core.double().norm() / dense(layer).double().norm())
    return Checked(kept, f"projectors differ by {max(distances):.1e} (spectral norm)")


def projector_distance(a: Tensor, b: Tensor) -> float:
    """Return ||A A^T - B B^T||_2 for orthonormal columns: the sine of the largest angle between the subspaces.

    It is computed as ||(I - A A^T) B||_2.
    """
    return float(torch.linalg.matrix_norm(b - a @ (a.T @ b), 2))


def random_layer(inputs: int, hidden: int, outputs: int) -> BilinearLayer:
    """Return a layer with independent normal weights."""
    generator = torch.Generator().manual_seed(0)
    sizes: Mapping[str, int] = {"down": outputs, "left": inputs, "right": inputs}
    return BilinearLayer(**{name: torch.randn(n, hidden, generator=generator) / n**0.5 for name, n in sizes.items()})
