"""Leading eigenpairs of output features: how well a few predict the output, and which features need only two."""

from collections.abc import Sequence

import torch
from torch import Tensor

from tensornet_interp.balance import balance, balance_rows, rescale, times_power
from tensornet_interp.checks import (
    check_alike,
    check_int,
    check_list,
    check_mask,
    check_number,
    check_size,
    check_tensor,
)
from tensornet_interp.decompositions.eigen import compress_inputs, eigenpairs
from tensornet_interp.features.basis import stated_basis
from tensornet_interp.float64 import needs_float64
from tensornet_interp.layer import BilinearLayer, TensorNetwork
from tensornet_interp.network import check_network, wide_layer
from tensornet_interp.numerics import EPS, nonzero

_CHUNK_ELEMENTS = 2**24  # entries worked on at once (128 MB)

Record = dict[str, int | float | bool | str]


@needs_float64
@torch.no_grad()
def low_rank_correlation(
    layer: TensorNetwork,
    directions: Tensor,
    x: Tensor,
    ks: Sequence[int] | None = None,
    *,
    basis: str | None = None,
    bias: Tensor | None = None,
    active: float | Tensor = 0.0,
) -> list[Record]:
    """Return, per direction and k, the correlation over tokens of the first k eigenpairs with the true output.

    corr(sum_{rank < k} eigenvalue (v . x)^2, direction . layer(x))

    directions: (feature, out), such as encoder rows. For a lifted output, each direction includes the constant
    coordinate. x: (token, in), inputs without a constant coordinate. basis: the coordinates of x, as for
    `feature_interactions`. Neither side of the correlation contains the nonlinearity of the dictionary.
    ks: the numbers of eigenpairs to try. The default is all of 1, 2, 4, 8, 16, 32 that are at most min(in, 2 * hidden),
    where hidden is the number of hidden units.
    active: the tokens on which a feature is active, as a boolean tensor (token, feature), for example from a TopK
    dictionary. If `active` is a number, a feature is active if `direction . layer(x) + bias` is above this number.
    bias: (feature,), the encoder bias, which is used only for this comparison.
    Returns one record per feature and k: "feature", "k", "correlation" (over all tokens), "active_correlation" (over
    active tokens), "tokens", "active" (the number of active tokens), "basis". A correlation is NaN if it is undefined:
    if there are fewer than two tokens, or if a side has no variance above rounding. Raises ValueError if sizes differ
    or if a k is above min(in, 2 * hidden).
    Cost: the eigenpairs of every direction, and 2 * tokens * features * in * max(ks) flops.
    """
    part = check_network("layer", layer).to_layer()
    basis = stated_basis(part, basis)
    count = _check_directions(part, directions)
    check_tensor("x", x, ("token", "in"))
    full = min(part.shape[1], 2 * part.rank)
    if ks is None:
        ks = [k for k in (1, 2, 4, 8, 16, 32) if k <= full]
    check_list("ks", ks, "give the numbers of eigenpairs to try, as (1, 2, 4)")
    ks = [check_int("k", k, 1, full, f"min(in={part.shape[1]}, 2 hidden={2 * part.rank})") for k in ks]
    if bias is not None:
        check_tensor("bias", bias, ("feature",))
        check_size("feature", directions=count, bias=bias.shape[0])
        check_alike(directions=directions, bias=bias)
    active = _check_active(active, (len(x), count))
    # all scales are near 1: a correlation does not depend on them, and its squares neither over- nor underflow
    (wide,), exponent = balance(wide_layer("layer", layer))
    inputs, of_inputs = rescale(part.lift_input("x", x))  # (token, in)
    scaled, powers = balance_rows(directions)
    powers = powers + exponent + 2 * of_inputs  # of the outputs along each direction
    rows = max(1, _CHUNK_ELEMENTS // (4 * part.rank))
    outputs = torch.cat([wide.multilinear(chunk) for chunk in inputs.split(rows)])  # (token, out)
    records: list[Record] = []
    step = max(1, _CHUNK_ELEMENTS // (max(ks) * max(len(x), part.shape[1])))
    for start in range(0, count, step):
        chunk = scaled[start : start + step]
        truth = outputs @ chunk.T  # (token, chunk)
        values, vectors = eigenpairs(wide, chunk, max(ks))
        projected = inputs @ vectors.permute(1, 0, 2).flatten(1)  # (token, chunk * k)
        parts = values * projected.unflatten(1, values.shape).square()
        sums = parts.cumsum(-1)[..., [k - 1 for k in ks]]  # (token, chunk, len(ks))
        if isinstance(active, Tensor):
            mask = active[:, start : start + step].to(truth.device)
        else:
            shift = torch.zeros_like(truth[0]) if bias is None else bias[start : start + step].to(torch.float64)
            mask = truth > times_power(active - shift, -powers[start : start + step])
        everywhere = _correlation(sums, truth, torch.ones_like(mask)).tolist()
        where_active = _correlation(sums, truth, mask).tolist()
        counts = mask.sum(0).tolist()
        records += [
            {
                "feature": start + at,
                "k": k,
                "correlation": everywhere[at][column],
                "active_correlation": where_active[at][column],
                "tokens": len(x),
                "active": counts[at],
                "basis": basis,
            }
            for at in range(len(chunk))
            for column, k in enumerate(ks)
        ]
    return records


@needs_float64
@torch.no_grad()
def rank_by_structure(layer: TensorNetwork, directions: Tensor) -> list[Record]:
    """Return one record per output direction; the direction with the simplest interaction matrix comes first.

    share = (eigenvalue1^2 + eigenvalue2^2) / sum eigenvalue^2

    The larger this share of the two leading eigenvalues, the simpler is the matrix; among equal shares, the lower
    feature index comes first. Only the weights are used. A product of two input directions, sym(a b^T), has share 1 and
    two eigenvalues of opposite sign; the record then has "opposite": True. A single square has share 1 and "opposite":
    False. A zero matrix has share 0. The share depends on the coordinates of the inputs, which "basis" reports, but not
    on the length of the direction.
    directions: (feature, out). For a lifted output, each direction includes the constant coordinate.
    A record has "place" (from 1), "feature" (the index), "share", "opposite", "first" and "second" (the two leading
    eigenvalues, largest magnitude first), "norm" (the Frobenius norm), "effective_rank" ((sum |eigenvalue|)^2 / sum
    eigenvalue^2) and "basis".
    Raises ValueError if sizes differ.
    Cost in flops: features * r^2 * (2 * hidden + 4 * r / 3) with r = min(in, 2 * hidden), where hidden is the number of
    hidden units. Memory: chunks of 2^24 entries.
    """
    part = check_network("layer", layer).to_layer()
    count = _check_directions(part, directions)
    (balanced,), exponent = balance(wide_layer("layer", layer))
    core, _ = compress_inputs(balanced, count)
    size = core.shape[1]
    step = max(1, _CHUNK_ELEMENTS // (size * max(size, core.rank)))
    scaled, powers = balance_rows(directions)
    leading, others = [], []
    for rows in scaled.split(step):
        values = torch.linalg.eigvalsh(core.interaction_matrix(rows))  # (chunk, size)
        order = values.abs().argsort(dim=-1, descending=True, stable=True)[:, :2]
        leading.append(values.gather(-1, order))
        others.append(torch.stack([values.square().sum(1), values.abs().sum(1).square()], 1))
    first_two, sums = torch.cat(leading), torch.cat(others)  # (feature, 2 or 1), (feature, 2)
    squared = nonzero(sums[:, 0])
    share, effective = first_two.square().sum(1) / squared, sums[:, 1] / squared
    first_two = times_power(first_two.T, powers + exponent).T
    norms = times_power(sums[:, 0].sqrt(), powers + exponent)
    records: list[Record] = []
    for place, feature in enumerate(share.argsort(descending=True, stable=True).tolist(), start=1):
        first, second = [*first_two[feature].tolist(), 0.0][:2]
        records.append(
            {
                "place": place,
                "feature": feature,
                "share": float(share[feature]),
                "opposite": min(first, second) < 0 < max(first, second),
                "first": first,
                "second": second,
                "norm": float(norms[feature]),
                "effective_rank": float(effective[feature]),
                "basis": part.basis,
            }
        )
    return records


def _check_directions(layer: BilinearLayer, directions: Tensor) -> int:
    check_tensor("directions", directions, ("feature", "out"))
    check_size("out", layer=layer.shape[0], directions=directions.shape[1])
    check_alike(layer=layer.down, directions=directions)
    return len(directions)


def _check_active(active: float | Tensor, shape: tuple[int, int]) -> float | Tensor:
    if isinstance(active, Tensor):
        return check_mask("active", active, ("token", "feature"), shape)
    return check_number("active, if no boolean tensor (token, feature),", active)


def _correlation(a: Tensor, b: Tensor, mask: Tensor) -> Tensor:
    """Return the Pearson correlation over the tokens of the mask, (feature, k).

    a: (token, feature, k). b and mask: (token, feature).
    """
    weight = mask.to(a.dtype)[..., None]
    count = weight.sum(0).clamp(min=1)
    sides = []
    for side in (a, b[..., None]):
        centred = (side - (weight * side).sum(0) / count) * weight
        norm = centred.square().sum(0).sqrt()
        # a constant minus its mean is rounding, not variance
        rounding = 8 * EPS * (weight * side).square().sum(0).sqrt()
        sides.append((centred, torch.where(norm > rounding, norm, torch.nan)))
    (left, left_norm), (right, right_norm) = sides
    return (left * right).sum(0) / (left_norm * right_norm)
