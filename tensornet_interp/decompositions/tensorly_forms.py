"""TensorLy's tensors as fields of our result types, and as results."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from tensorly.cp_tensor import CPTensor
from tensorly.tt_tensor import TTTensor
from tensorly.tucker_tensor import TuckerTensor
from torch import Tensor

from tensornet_interp.checks import check_alike, check_kind, check_list, check_size, check_tensor
from tensornet_interp.decompositions.canonical import canonical_cp
from tensornet_interp.decompositions.eigen import fix_signs
from tensornet_interp.decompositions.errors import R, measured
from tensornet_interp.decompositions.tensor_train import TensorTrainResult
from tensornet_interp.factored import CPResult, TuckerResult
from tensornet_interp.float64 import needs_float64
from tensornet_interp.layer import AS_GIVEN, BilinearLayer
from tensornet_interp.numerics import unit_columns
from tensornet_interp.report import Report
from tensornet_interp.results import Result
from tensornet_interp.spectral import SpectralResult


@needs_float64
def from_tensorly(tensor: Any, kind: type[R], layer: BilinearLayer | None = None) -> R:
    """Return a tensor of TensorLy, over the modes (out, in1, in2), as a result.

    kind: `CPResult` or, if the two input factors are equal, `SpectralResult`, for a TensorLy `CPTensor`; `TuckerResult`
    for a `TuckerTensor`; `TensorTrainResult` for a `TTTensor`. Factors are brought into the form of the type: unit or
    orthonormal columns, with the scale in weights, eigenvalues or core. In a `SpectralResult`, neighbouring terms with
    one output factor and orthogonal input factors make one block.
    layer: what the tensor approximates. The result then has its name, history, basis, constants, dtype, and a report
    with the relative error; without a layer the error is not measured.

    Raises TypeError for another tensor than the type needs or arrays that are not of torch; ValueError if modes or
    sizes do not fit each other or the layer.
    """
    fields = fields_of(tensor, kind)
    method = f"TensorLy's {type(tensor).__name__}"
    if layer is not None:
        check_alike(layer=check_kind("layer", layer, BilinearLayer).down, tensor=fields["outputs"])
        return measured(kind, layer, Report.of(layer, method), **fields)
    report = Report(method=method, layer="", history=(), basis=AS_GIVEN, relative_error=None)
    return kind(report=report, **fields)


def fields_of(tensor: Any, kind: type[Result]) -> dict[str, Any]:
    """Return a tensor of TensorLy as the fields of a result of this type."""
    forms: dict[type, dict[type, Callable[..., dict[str, Any]]]] = {
        CPTensor: {CPResult: _cp_fields, SpectralResult: _spectral_fields},
        TuckerTensor: {TuckerResult: _tucker_fields},
        TTTensor: {TensorTrainResult: _train_fields},
    }
    known = forms.get(type(tensor))
    if known is None:
        raise TypeError(f"tensor must be a CPTensor, TuckerTensor or TTTensor of TensorLy, got {type(tensor).__name__}")
    if not isinstance(kind, type) or kind not in known:
        names = " or a ".join(form.__name__ for form in known)
        raise TypeError(
            f"kind: a {type(tensor).__name__} makes a {names}, got {getattr(kind, '__name__', repr(kind)):.60}"
        )
    return known[kind](tensor)


def _cp_fields(tensor: CPTensor) -> dict[str, Any]:
    """Return the fields of a `CPResult`."""
    return canonical_cp(BilinearLayer.from_cp(tensor))


def _spectral_fields(tensor: CPTensor) -> dict[str, Any]:
    """Return the fields of a `SpectralResult`; blocks of fewer terms than the largest are filled up with zeros."""
    layer = BilinearLayer.from_cp(tensor)
    (vectors, norms), (other, norms2) = unit_columns(layer.left), unit_columns(layer.right)
    signs = (vectors * other).sum(0).sign()
    tolerance = torch.finfo(vectors.dtype).eps ** 0.5
    off = float((vectors - signs * other).norm(dim=0).max())
    if off > tolerance:
        raise ValueError(
            f"a SpectralResult has equal input factors; columns of the two of `tensor` differ by {off:.3g}"
        )
    outputs = tensor.factors[0]
    weights = torch.ones_like(norms) if tensor.weights is None else tensor.weights
    values = weights * signs * norms * norms2
    blocks: list[list[int]] = []
    for term in range(layer.rank):
        block = blocks[-1] if blocks else []
        same = bool(block) and torch.equal(outputs[:, term], outputs[:, block[0]])
        if same and float((vectors[:, block].T @ vectors[:, term]).abs().max()) <= tolerance:
            block.append(term)
        else:
            blocks.append([term])
    rank = max(map(len, blocks))
    eigenvalues = values.new_zeros(len(blocks), rank)
    eigenvectors = values.new_zeros(len(blocks), len(vectors), rank)
    for number, block in enumerate(blocks):
        order = [block[i] for i in values[block].abs().argsort(descending=True, stable=True).tolist()]
        eigenvalues[number, : len(order)] = values[order]
        eigenvectors[number, :, : len(order)] = vectors[:, order]
    firsts = [block[0] for block in blocks]
    return {"outputs": outputs[:, firsts], "eigenvalues": eigenvalues, "eigenvectors": fix_signs(eigenvectors)}


def _tucker_fields(tensor: TuckerTensor) -> dict[str, Any]:
    """Return the fields of a `TuckerResult` for a Tucker tensor with two input factors; nothing is lost.

    The one input factor is an orthonormal basis of both given factors, and the core is transformed to this basis.
    Orthonormal factors stay as they are if the two of the inputs are equal.
    """
    core, factors = tensor
    check_tensor("core", core, ("a", "b", "c"))
    outputs, first, second = _three(factors)
    check_size("in", in1=first.shape[0], in2=second.shape[0])
    if torch.equal(first, second) and _orthonormal(outputs) and _orthonormal(first):
        return {"core": BilinearLayer.from_tensor(core, basis="Tucker factors"), "outputs": outputs, "inputs": first}
    (outputs, r), (first, r1), (second, r2) = (torch.linalg.qr(factor) for factor in (outputs, first, second))
    both = torch.cat([first, second], 1)  # (in, b + c)
    basis, values, _ = torch.linalg.svd(both, full_matrices=False)
    basis = basis[:, values > max(both.shape) * torch.finfo(both.dtype).eps * values[0]]
    core = torch.einsum("abc,xa,yb,zc->xyz", core, r, basis.T @ first @ r1, basis.T @ second @ r2)
    return {"core": BilinearLayer.from_tensor(core, basis="Tucker factors"), "outputs": outputs, "inputs": basis}


def _train_fields(tensor: TTTensor) -> dict[str, Any]:
    """Return the fields of a `TensorTrainResult`."""
    first, middle, last = tensor.factors
    return {"outputs": first[0], "middle": middle, "inputs": last[:, :, 0].T}


def _three(factors: Sequence[Tensor]) -> list[Tensor]:
    """Return the factors, checked, of the modes (out, in1, in2)."""
    listed = check_list("factors of tensor", factors)
    if len(listed) != 3:
        raise ValueError(f"tensor must have 3 modes (out, in1, in2), got {len(listed)} factors")
    return [check_tensor(f"factor {i} of tensor", factor, ("size", "rank")) for i, factor in enumerate(listed)]


def _orthonormal(factor: Tensor) -> bool:
    """Return True if the columns are orthonormal up to 100 roundings."""
    wide = factor.to(torch.float64)
    off = wide.T @ wide - torch.eye(wide.shape[1], dtype=wide.dtype, device=wide.device)
    return float(off.abs().max()) <= 100 * torch.finfo(factor.dtype).eps
