"""Adversarial masks from eigenvectors, without a forward pass (Pearce et al. 2025, section 4)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from tensornet_interp.balance import rescale, times_power
from tensornet_interp.checks import (
    check_alike,
    check_choice,
    check_int,
    check_labels,
    check_number,
    check_share,
    check_size,
    check_tensor,
)
from tensornet_interp.layer import TensorNetwork
from tensornet_interp.network import as_network
from tensornet_interp.numerics import row_noise, unit_columns
from tensornet_interp.spectral import SpectralResult

__all__ = ["BASELINES", "adversarial_masks", "baseline_masks", "mask_effect", "orient", "top_positive"]

BASELINES = ("gaussian", "permuted")


def top_positive(result: SpectralResult, count: int) -> Tensor:
    """Return the eigenvectors of the `count` most positive eigenvalues of every block: (block, k, in), largest first.

    The constant coordinate of a lifted input is left out. Raises ValueError if a block has fewer positive eigenvalues.
    """
    if not isinstance(result, SpectralResult):
        raise TypeError(f"result must be a SpectralResult, got {type(result).__name__}")
    count = check_int("count", count, 1, result.rank, f"eigenpairs per block: {result.rank}")
    positive = (result.eigenvalues > 0).sum(1)
    if int(positive.min()) < count:
        block = int(positive.argmin())
        raise ValueError(f"block {block} has {int(positive[block])} positive eigenvalues, count={count} asks for more")
    order = result.eigenvalues.argsort(dim=1, descending=True)[:, :count]  # (block, k)
    vectors = result.eigenvectors.mT  # (block, rank, in)
    chosen = vectors.gather(1, order[:, :, None].expand(-1, -1, vectors.shape[2]))
    return chosen[:, :, 1:] if result.constant_in else chosen


def orient(vectors: Tensor, x: Tensor | None = None) -> Tensor:
    """Choose the sign of every eigenvector so that its mean product with the inputs is positive.

    s[block, k] V[block, k, in], s = sign of the mean over samples of V . x[sample], or of sum_in V without x

    An activation eigenvalue (v . x)^2 does not depend on the sign of v, but a mask that is added to images does: if
    v . x is positive the mask adds to it, if it is negative the mask first takes it away. x: (sample, in), training
    images, never those on which masks are tested. Without x, all entries of images count as equal and positive.
    """
    check_tensor("vectors", vectors, ("block", "k", "in"))
    if x is None:
        products = vectors.sum(2)
    else:
        check_tensor("x", x, ("sample", "in"))
        check_size("in", vectors=vectors.shape[2], x=x.shape[1])
        check_alike(vectors=vectors, x=x)
        products = vectors @ x.mean(0)
    return torch.where(products < 0, -1.0, 1.0).to(vectors.dtype)[:, :, None] * vectors


def adversarial_masks(vectors: Tensor, *, allowed: Tensor | None = None, rtol: float | None = None) -> Tensor:
    """Return one mask per eigenvector that activates this eigenvector and no other: (block, k, in).

    M = pinv(V)^T, the smallest masks with M_i . V_j = [i = j] over all blocks and k

    Adding a M_i to x changes V_i . x by a and leaves all other products unchanged. vectors: (block, k, in), from
    `top_positive` and `orient`; they need not be orthogonal between blocks. allowed: (in,), boolean; masks are exactly
    0 elsewhere, and the smallest of all such masks. Work in float64.

    A mask of norm 1 moves its product by 1 / |M_i|. If vectors are nearly dependent, masks are long, and a mask of
    given norm does almost nothing: compare several counts. rtol cuts singular values of V below rtol times the largest:
    masks get shorter but move other products too (the least-squares solution).

    Raises ValueError if, without an rtol, the vectors on the allowed entries are dependent up to the rounding of their
    dtype: then no mask moves one alone. Cost: an SVD of (block k, in), O((block k)^2 in).
    """
    check_tensor("vectors", vectors, ("block", "k", "in"))
    blocks, count, size = vectors.shape
    kept = _allowed(allowed, vectors)
    rows, exponent = rescale(vectors[:, :, kept].flatten(0, 1))  # (block k, allowed)
    u, s, vh = torch.linalg.svd(rows, full_matrices=False)
    share = row_noise(rows, vectors.dtype)
    if rtol is not None:
        share = check_share("rtol", rtol, low_open=True, high_open=True)
    cut = s > share * s[0]
    if rtol is not None and not bool(cut.any()):
        raise ValueError("vectors are zero on the entries that masks may use")
    independent = int(cut.sum())
    if rtol is None and independent < len(rows):
        raise ValueError(
            f"only {independent} of the {blocks} x {count} vectors are independent on the {rows.shape[1]} of {size} "
            "entries that masks may use, so no mask moves one alone; take fewer vectors, more entries, or an rtol"
        )
    masks = vectors.new_zeros(blocks * count, size)
    inverse = (u[:, cut] / s[cut]) @ vh[cut]  # the pseudoinverse, transposed
    masks[:, kept] = times_power(inverse, -exponent).to(vectors.dtype)
    return masks.unflatten(0, (blocks, count))


def baseline_masks(mask: Tensor, kind: str, draws: int, *, seed: int, allowed: Tensor | None = None) -> Tensor:
    """Draw random masks of the same norm, (draw, in), with which to compare a mask (in,).

    kind: "gaussian" draws independent normal entries; "permuted" shuffles the entries of the mask. If `allowed` is
    given, masks are zero elsewhere, and a `mask` that is not zero there is an error.
    The draws come from `seed` on the CPU, so they are the same on every device.
    """
    check_tensor("mask", mask, ("in",))
    check_choice("kind", kind, BASELINES)
    draws, seed = check_int("draws", draws, 1), check_int("seed", seed, 0)
    kept = _allowed(allowed, mask)
    if bool((mask[~kept] != 0).any()):
        raise ValueError("mask is not zero outside of the allowed entries; make it with the same `allowed`")
    generator = torch.Generator().manual_seed(seed)
    entries, size = mask[kept], int(kept.sum())
    if kind == "gaussian":
        wide = torch.randn(draws, size, generator=generator, dtype=torch.float64).to(mask.device)
        _, norm = unit_columns(entries.to(torch.float64)[:, None])
        drawn = (unit_columns(wide.T)[0].T * norm).to(mask)
    else:
        orders = torch.stack([torch.randperm(size, generator=generator) for _ in range(draws)])
        drawn = entries[orders.to(mask.device)]
    made = mask.new_zeros(draws, len(mask))
    made[:, kept] = drawn
    return made


def mask_effect(
    network: TensorNetwork,
    mask: Tensor,
    x: Tensor,
    labels: Tensor,
    target: int,
    norms: Sequence[float],
    *,
    clip: tuple[float, float] | None = None,
) -> list[dict[str, float]]:
    """Measure the decisions on x + norm mask / |mask| for every norm.

    Returns one record per norm: norm, accuracy (over all samples) and misclassified (the share of the samples of other
    classes that are decided as `target`). mask: (in,), x: (sample, in), labels: (sample,). clip=(low, high) clamps the
    masked images, so the mask is then smaller than its norm says; by default nothing is clamped.
    Raises ValueError for a zero mask, a bad norm or clip, or if all samples are of class `target`.
    Cost: one evaluation of the network per norm.
    """
    check_tensor("mask", mask, ("in",))
    check_tensor("x", x, ("sample", "in"))
    check_size("in", x=x.shape[1], mask=len(mask))
    check_alike(x=x, mask=mask)
    network = as_network(network)
    classes = network.sizes["out"]
    check_labels("labels", labels, samples=len(x), classes=classes)
    target = check_int("target", target, 0, classes - 1, "an output of the network")
    unit = unit_columns(mask.to(torch.float64)[:, None])[0][:, 0].to(mask.dtype)
    if not bool(unit.any()):
        raise ValueError("mask is zero: it has no direction to give a norm to")
    if clip is not None and not clip[0] < clip[1]:
        raise ValueError(f"clip must be (low, high) with low < high, got {clip}")
    for norm in norms:
        check_number("norms", norm, 0)
    others = labels != target
    if not bool(others.any()):
        raise ValueError(f"all samples are of class target={target}: none can be misclassified as it")
    records = []
    with torch.no_grad():
        for norm in norms:
            masked = x + unit * norm
            guess = network(masked if clip is None else masked.clamp(*clip)).argmax(-1)
            right = float((guess == labels).double().mean())
            wrong = float((guess[others] == target).double().mean())
            records.append({"norm": float(norm), "accuracy": right, "misclassified": wrong})
    return records


def _allowed(allowed: Tensor | None, like: Tensor) -> Tensor:
    size = like.shape[-1]
    if allowed is None:
        return torch.ones(size, dtype=torch.bool, device=like.device)
    if not isinstance(allowed, Tensor) or allowed.dtype != torch.bool:
        raise TypeError("allowed must be a boolean tensor (in,)")
    if allowed.shape != (size,) or not bool(allowed.any()):
        raise ValueError(f"allowed must have shape ({size},) and an entry that is true, got {tuple(allowed.shape)}")
    return allowed.to(like.device)
