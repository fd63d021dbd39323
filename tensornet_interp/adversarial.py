"""Adversarial masks computed from eigenvectors, without a forward pass (Pearce et al. 2025, section 4)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from tensornet_interp.balance import rescale, times_power
from tensornet_interp.checks import (
    check_alike,
    check_choice,
    check_int,
    check_iterations,
    check_kind,
    check_labels,
    check_list,
    check_mask,
    check_number,
    check_seed,
    check_share,
    check_size,
    check_tensor,
)
from tensornet_interp.float64 import needs_float64
from tensornet_interp.layer import TensorNetwork
from tensornet_interp.network import as_network
from tensornet_interp.numerics import row_noise, unit_columns, without_autocast
from tensornet_interp.spectral import SpectralResult

__all__ = ["BASELINES", "adversarial_masks", "baseline_masks", "mask_effect", "orient", "top_positive"]

BASELINES = ("gaussian", "permuted")


def top_positive(result: SpectralResult, count: int) -> Tensor:
    """Return the eigenvectors of the `count` largest positive eigenvalues per block, (block, k, in), largest first.

    k is `count`. The constant coordinate of a lifted input is left out. Raises ValueError if a block has fewer positive
    eigenvalues.
    """
    check_kind("result", result, SpectralResult)
    count = check_int("count", count, 1, result.rank, f"eigenpairs per block: {result.rank}")
    positive = (result.eigenvalues > 0).sum(1)
    if int(positive.min()) < count:
        block = int(positive.argmin())
        raise ValueError(f"count={count} is too large: block {block} has {int(positive[block])} positive eigenvalues")
    order = result.eigenvalues.argsort(dim=1, descending=True)[:, :count]  # (block, k)
    vectors = result.eigenvectors.mT  # (block, rank, in)
    chosen = vectors.gather(1, order[:, :, None].expand(-1, -1, vectors.shape[2]))
    return chosen[:, :, 1:] if result.constant_in else chosen


@without_autocast
def orient(vectors: Tensor, x: Tensor | None = None) -> Tensor:
    """Return the eigenvectors with signs such that their mean product with the inputs is positive.

    s[block, k] V[block, k, in], where s is the sign of the mean over samples of V . x[sample]; without x, of sum_in V

    The activation (v . x)^2 of an eigenvector does not depend on its sign, but the effect of a mask does: if v . x is
    positive, a mask along v increases (v . x)^2; if v . x is negative, the mask first decreases it. vectors: (block, k,
    in). x: (sample, in), training images, never the images on which masks are tested. Without x, the sign makes the sum
    of the entries of each vector positive, as if all pixels of an image were equal and positive.
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


@needs_float64
def adversarial_masks(vectors: Tensor, *, allowed: Tensor | None = None, rtol: float | None = None) -> Tensor:
    """Return one mask per eigenvector, (block, k, in), which changes the product with this eigenvector only.

    M = pinv(V)^T, the smallest masks with M_i . V_j = 1 if i = j, else 0, over all blocks and k

    Adding a * M_i to x changes V_i . x by a and leaves the products with all other vectors unchanged. vectors: (block,
    k, in), from `top_positive` and `orient`; vectors of different blocks need not be orthogonal. allowed: (in,),
    boolean; masks are exactly 0 elsewhere, and they are the smallest such masks. The work is done in float64.

    A mask that is scaled to norm 1 changes its product by 1 / |M_i|. If vectors are nearly dependent, their masks are
    long, and a mask of a given norm has almost no effect; so compare several values of k. rtol: if given, singular
    values of V below rtol times the largest are removed; masks get shorter but also change other products
    (least-squares solution).

    Raises ValueError if rtol is None and the vectors, on the allowed entries, are dependent up to the rounding of their
    dtype, because then no mask changes one product alone. Cost: a singular value decomposition of a matrix (blocks * k,
    in), about (blocks * k)^2 * in flops.
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
            "entries that masks may use, so no mask changes one product alone; use fewer vectors, more entries or rtol"
        )
    masks = vectors.new_zeros(blocks * count, size)
    inverse = (u[:, cut] / s[cut]) @ vh[cut]  # the pseudoinverse, transposed
    masks[:, kept] = times_power(inverse, -exponent).to(vectors.dtype)
    return masks.unflatten(0, (blocks, count))


@needs_float64
def baseline_masks(mask: Tensor, kind: str, draws: int, *, seed: int, allowed: Tensor | None = None) -> Tensor:
    """Return random masks (draw, in) with the same norm as a given mask (in,), for comparison with it.

    kind: "gaussian" draws independent normal entries and scales them to the norm; "permuted" shuffles the entries of
    the mask. draws: the number of masks. allowed: (in,), boolean; the random masks are zero elsewhere, and the given
    mask must be zero there too (ValueError). The random numbers are drawn on the CPU from `seed`, so they are the same
    on every device.
    """
    check_tensor("mask", mask, ("in",))
    check_choice("kind", kind, BASELINES)
    draws, seed = check_iterations("draws", draws), check_seed("seed", seed)
    kept = _allowed(allowed, mask)
    if bool((mask[~kept] != 0).any()):
        raise ValueError("mask must be zero outside of the allowed entries; make the mask with the same `allowed`")
    generator = torch.Generator().manual_seed(seed)
    entries, size = mask[kept], int(kept.sum())
    if kind == "gaussian":
        wide = torch.randn(draws, size, generator=generator, dtype=torch.float64, device="cpu").to(mask.device)
        _, norm = unit_columns(entries.to(torch.float64)[:, None])
        drawn = (unit_columns(wide.T)[0].T * norm).to(mask)
    else:
        orders = torch.stack([torch.randperm(size, generator=generator, device="cpu") for _ in range(draws)])
        drawn = entries[orders.to(mask.device)]
    made = mask.new_zeros(draws, len(mask))
    made[:, kept] = drawn
    return made


@needs_float64
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
    """Return how a network classifies images to which a mask was added, as one record per norm of the mask.

    The network receives x + norm * mask / |mask|. A record has "norm", "accuracy" (over all samples) and
    "misclassified" (the share of the samples of other classes that are classified as `target`). mask: (in,). x:
    (sample, in). labels: (sample,). clip: if it is (low, high), the masked images are clamped to this range, which
    makes the change smaller than the norm; by default nothing is clamped.
    Raises ValueError for a zero mask, for a bad norm or clip, or if all samples have the class `target`. Cost: one
    evaluation of the network on x per norm.
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
        raise ValueError("mask is zero, so it cannot be scaled to a norm")
    if clip is not None and (not isinstance(clip, tuple | list) or len(clip) != 2):
        raise TypeError(f"clip must be (low, high), got {clip!r:.60}")
    if clip is not None and not check_number("clip", clip[0]) < check_number("clip", clip[1]):
        raise ValueError(f"clip must be (low, high) with low < high, got {clip}")
    for norm in check_list("norms", norms, "give the norms to try"):
        check_number("norms", norm, 0)
    others = labels != target
    if not bool(others.any()):
        raise ValueError(f"all samples have the class target={target}, so none can be misclassified as it")
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
    if not bool(check_mask("allowed", allowed, ("in",), (size,)).any()):
        raise ValueError("allowed must have an entry that is true")
    return allowed.to(like.device)
