"""Results whose report holds their relative error, an upper bound on this error, and warnings."""

import math
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from tensornet_interp.balance import balance, times_power, without_names
from tensornet_interp.checks import check_kind, check_number
from tensornet_interp.float64 import needs_float64
from tensornet_interp.inner_products.frobenius import (
    EPS,
    SAFETY,
    Distance,
    Measured,
    aligned,
    distance,
    frobenius,
    unit_sizes,
)
from tensornet_interp.layer import BilinearLayer, BilinearMap
from tensornet_interp.report import Report
from tensornet_interp.results import Result

R = TypeVar("R", bound=Result)

CHUNK_ELEMENTS = 2**24  # entries of a block of outputs that are compared together (128 MB)
ENTRY_FLOPS = 2e11  # entries of two tensors are compared if that costs no more (a few seconds)
FACTORS = 4  # the most arrays that are multiplied in a term of a result; each is rounded once


@needs_float64
def measured(kind: type[R], layer: BilinearLayer, report: Report, known: float | None = None, /, **fields: Any) -> R:
    """Return a result of this type in the dtype of the layer; its report says how accurate the result is.

    layer: what was decomposed. report: as `Report.of` makes it; its relative error, the bound on the error and warnings
    about rounding are filled in. known: the relative squared error that the method computed itself, or None. fields:
    the arrays of the result, in float64 if they are to be rounded only once.

    The reported error includes the rounding of the fields to the dtype. Raises TypeError for arguments of another kind;
    ValueError if the largest number of a field is above the range of the dtype, or if sizes do not fit the layer.
    Cost: 2 * hidden^2 * (4 * in + out) flops for the norm of the layer, and at most 2e11 for 2 * out * in^2 * hidden.
    """
    if not isinstance(kind, type) or not issubclass(kind, Result):
        raise TypeError(f"kind must be a subclass of Result, got {kind!r:.60}")
    check_kind("layer", layer, BilinearLayer)
    check_kind("report", report, Report)
    return with_error(kind, layer, report, None if known is None else check_number("known", known), None, **fields)


def with_error(
    kind: type[R], layer: BilinearLayer, report: Report, known: float | None, norm: Measured | None, /, **fields: Any
) -> R:
    """Return what `measured` returns; norm: that of `balance(layer)`, or None if the method did not need it."""
    exact = kind(report=report, constant_in=layer.constant_in, constant_out=layer.constant_out, **fields)
    if exact.sizes != layer.sizes:
        raise ValueError(f"{', '.join(fields)} make a tensor of sizes {exact.sizes}, the layer has {layer.sizes}")
    exact = exact.to(dtype=torch.float64)
    small = _check_range(exact, layer.down.dtype)
    result = exact.to(dtype=layer.down.dtype)
    found = measure(result, exact, layer, known, norm)
    warnings = (*report.warnings, *small, *_constant_is_off(result))
    report = replace(report, relative_error=found.error, relative_error_bound=found.bound, warnings=warnings)
    return replace(result, report=report)


@torch.no_grad()
def measure(
    result: BilinearMap,
    exact: BilinearMap,
    layer: BilinearLayer,
    known: float | None = None,
    norm: Measured | None = None,
) -> Distance:
    """Return the relative error of a result that was rounded to a narrower dtype, and an upper bound on this error.

    ||symmetrized layer - result|| / ||symmetrized layer||

    exact: the result in float64, before rounding. known: the relative squared error of `exact`, or None. The error is
    the root of `known` if rounding is negligible beside it. Otherwise the entries of both tensors are compared, some
    outputs at a time, if that costs at most 2e11 flops. Above this limit, the error is computed from the factors:
    `distance` measures it if `known` is None, else the error is `known` combined with the rounding. The error of a zero
    layer is 0, because its result is zero.
    """
    (core,), exponent = balance(without_names(layer))
    if not core.down.any():
        return Distance(0.0, 0.0)
    whole = frobenius(core) if norm is None else norm
    size, least = float(whole.value), float(whole.value) - whole.rounding
    if not least > 0:  # nothing but rounding is left of the layer
        least = 0.0
    (made,), power = balance(exact.to_layer())
    own, of_result = float(unit_sizes(core).sum()), math.ldexp(float(unit_sizes(made).sum()), power - exponent)
    slack = SAFETY * EPS * (own + of_result)
    rounding = 0.0 if layer.down.dtype == torch.float64 else FACTORS * torch.finfo(layer.down.dtype).eps / 2 * of_result

    def between(error: float, more: float) -> Distance:
        if not size:  # hidden units cancel to the last digit: zero is right as far as float64 can see
            return Distance(math.inf if error else 0.0, math.inf)
        return Distance(error / size, (error + more) / least if least else math.inf)

    share = max(0.0, known or 0.0)
    known_error, known_bound = share**0.5 * size, (share * size**2 + SAFETY * EPS * (own + of_result) ** 2) ** 0.5
    dtype = torch.finfo(layer.down.dtype)
    underflows = math.ldexp(size * dtype.eps, exponent) < dtype.tiny
    if known is not None and share > 1e-8 and known_error > 1e2 * rounding and not underflows:
        return between(known_error, known_bound - known_error + rounding)
    n_out, n_in, _ = core.shape
    wide = result.to(dtype=torch.float64)
    if 2.0 * n_out * n_in**2 * core.rank <= ENTRY_FLOPS:
        return between(_by_entries(wide, core, exponent), slack)
    if known is None:
        return distance(wide.to_layer(), layer)
    pair, power = balance(exact.to_layer(), wide.to_layer())
    lost = math.ldexp(float(frobenius(aligned(*pair)).value), power - exponent)
    return between(math.hypot(known_error, lost), known_bound - known_error + lost + slack)


def _by_entries(result: BilinearMap, core: BilinearLayer, exponent: int) -> float:
    """Return ||core - result / 2^exponent|| over all entries, computed for some outputs at a time."""
    n_out, n_in, _ = core.shape
    lost = core.down.new_zeros(())
    outputs = torch.eye(n_out, dtype=core.down.dtype, device=core.down.device)
    for rows in outputs.split(max(1, CHUNK_ELEMENTS // n_in**2)):
        made = times_power(result.interaction_matrix(rows), -exponent)
        lost = torch.hypot(lost, torch.linalg.vector_norm(core.interaction_matrix(rows) - made))
    return float(lost)


def _check_range(exact: Result, dtype: torch.dtype) -> list[str]:
    """Return a list with one warning for each array whose numbers are all too small for the dtype.

    Raises ValueError if a number is too large for the dtype.
    """
    warnings = []
    for data, modes in exact.terms():
        largest = float(data.detach().abs().max())
        if not largest <= torch.finfo(dtype).max:
            raise ValueError(
                f"the result does not fit {dtype}: the largest entry of its array over {modes} is {largest:.3g}, more"
                f" than {torch.finfo(dtype).max:.3g}; decompose layer.to(dtype=torch.float64), or rescale the layer"
            )
        if 0 < largest < torch.finfo(dtype).tiny:
            warnings.append(
                f"the largest entry of the array over {modes} is {largest:.3g}, below the normal numbers of {dtype}"
            )
    return warnings


def _constant_is_off(result: Result) -> list[str]:
    """Return a list with one warning if the constant output of a lifted result is not 1 for every input; else []."""
    if not result.constant_out or not result.constant_in:
        return []
    first = torch.zeros_like(result.outputs[:, 0])
    first[0] = 1
    made = result.interaction_matrix(first).detach().double()
    made[0, 0] -= 1
    off = float(torch.linalg.matrix_norm(made))
    if off <= 1e2 * torch.finfo(result.outputs.dtype).eps:
        return []
    return [f"truncation makes the constant coordinate of the output wrong by at most {off:.3g} |[1, x]|^2"]


def cut_warning(values: Tensor, kept: int, what: str, floor: float) -> list[str]:
    """Return a list with one warning if rounding decides which values a cut keeps; otherwise an empty list.

    This happens if the two values next to the cut are nearly equal. There is no warning if the first dropped value is
    at most the floor, because it is then only rounding error.
    values: sorted, largest magnitude first; the cut is after the first `kept` of them. what: the name of the cut in the
    warning. floor: the rounding error of the values, as a share of the largest magnitude.
    """
    if not 0 < kept < len(values):
        return []
    above, below, largest = (float(values[at].detach().abs()) for at in (kept - 1, kept, 0))
    if below <= floor * largest or above - below > 1e2 * floor * largest:
        return []
    return [
        f"{what}: the cut after {kept} separates two nearly equal values ({above:.6g} and {below:.6g}), so rounding"
        " decides which directions are kept"
    ]
