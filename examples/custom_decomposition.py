"""How do you write a decomposition and a prior of your own?

Both are compared with the built-in ones on a classifier of scikit-learn's digits. The decomposition rotates the leading
eigenvectors of an output until they are localized, as independent-component analysis does. If V holds the eigenvectors
as columns and U = V R, then M = V l V^T = U (M U)^T for every rotation R, so the error does not change. The prior asks
the factors of `cp` to be localized. The script takes half a minute.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from matplotlib.figure import Figure
from torch import Tensor

from models import ClassifierConfig, TrainingConfig, build_classifier, load_dataset, train
from tensornet_interp import BilinearLayer, BilinearMap, decompose, register_decomposition, relative_error
from tensornet_interp.decompositions import Factors, Prior
from tensornet_interp.fidelity import fidelity
from tensornet_interp.plots import image_cell
from tensornet_interp.sweep import parameters
from tensornet_interp.testing import check_decomposition


# The decomposition: a frozen dataclass whose fields are the options, with a ladder and a call.
@register_decomposition("varimax")
@dataclass(frozen=True)
class Varimax:
    """A `Varimax` decomposes a layer into its leading eigenvectors, rotated by varimax.

    B[out, i, j] = sum_block,r outputs[out, block] u[block, i, r] (M[block] u[block])[j, r]

    u[block] holds the rotated eigenvectors of M[block]. `rank` is the number of eigenpairs per output; None keeps all.
    """

    # what the check tests besides: true of all rotations of the leading eigenvectors
    nested: ClassVar[bool] = True  # the error never rises along the ladder
    fitted: ClassVar[bool] = True  # the best scalar is 1
    odd: ClassVar[bool] = True  # -layer gives minus the result

    rank: int | None = None

    @classmethod
    def ladder(cls, layer: BilinearLayer) -> Sequence["Varimax"]:
        """Return options from one eigenpair per output to all of them, which is exact."""
        return [cls(rank=1), cls()]

    def __call__(self, layer: BilinearLayer) -> BilinearLayer:
        """Rotate the eigenvectors of every output, and return a layer with one term per rotated vector."""
        eigen = decompose(layer, "eigen", rank=self.rank)
        vectors = eigen.eigenvectors  # (block, in, rank)
        rotated = torch.stack([vector @ varimax(vector) for vector in vectors])
        image = vectors @ (eigen.eigenvalues[:, :, None] * (vectors.mT @ rotated))
        left, right = (factor.transpose(0, 1).flatten(1) for factor in (rotated, image))  # (in, block * rank)
        down = eigen.outputs.repeat_interleave(eigen.rank, dim=1)
        history = (*layer.history, repr(self))
        return replace(layer, down=down, left=left, right=right, history=history)


def varimax(vectors: Tensor, steps: int = 100) -> Tensor:
    """Return the orthogonal R (rank, rank) for which the squares of the entries of `vectors @ R` vary most.

    Source: Kaiser, Psychometrika 23, 1958.
    """
    rotation = torch.eye(vectors.shape[1], dtype=vectors.dtype, device=vectors.device)
    for _ in range(steps):
        z = vectors @ rotation
        u, _, vh = torch.linalg.svd(vectors.T @ (z**3 - z * z.square().mean(0)))
        rotation = u @ vh
    return rotation


# The prior: a strength, and a penalty from 0 to 1 that does not change when a component is rescaled.
@dataclass(frozen=True)
class Local(Prior):
    """A `Local` is a prior for factors that occupy a small part of the image.

    penalty = strength * mean over components of the spread of left and right

    The spread of a factor v is the variance of the pixels' places, weighted by v^2.
    """

    shape: tuple[int, int]
    strength: float = 0.1

    def penalty(self, factors: Factors) -> Tensor:
        """Return the mean spread over components and over the two input factors."""
        return (spread(factors.left, self.shape) + spread(factors.right, self.shape)).mean() / 2


def spread(columns: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return the spread of each column, (rank,): 0 for one pixel, 1 for two pixels in opposite corners."""
    height, width = shape
    rows, places = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    place = torch.stack([rows.flatten(), places.flatten()]).to(columns)  # (2, pixel)
    weight = columns.square() / columns.square().sum(0).clamp_min(torch.finfo(columns.dtype).tiny)
    variance = (place.square() @ weight - (place @ weight).square()).sum(0)
    return 4 * variance / ((height - 1) ** 2 + (width - 1) ** 2)


def main(argv: list[str] | None = None) -> None:
    """Check the decomposition, compare it and the prior with the built-in methods, print and draw."""
    options = _options(argv)
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    print(check_decomposition("varimax"))
    data = load_dataset("digits")
    model = build_classifier(ClassifierConfig(inputs=64, width=64, hidden=64), options.seed)
    training = TrainingConfig(
        epochs=options.epochs, lr=5e-3, batch_size=128, weight_decay=0.5, noise=0.4, seed=options.seed
    )
    train(model, data, training)
    layer = model.network(basis="input")[0]
    fits: dict[str, tuple[str, dict[str, Any]]] = {
        "eigen": ("eigen", {"rank": options.rank}),
        "varimax": ("varimax", {"rank": options.rank}),
        "cp": ("cp", {"rank": options.cp_rank}),
    }
    for strength in options.strengths:
        prior = {"rank": options.cp_rank, "priors": [Local(data.shape, strength)], "max_iterations": options.steps}
        fits[f"cp, Local {strength:g}"] = ("cp", prior)
    results = {title: decompose(layer, method, **fit) for title, (method, fit) in fits.items()}
    print(f"\n{'':<16} {'parameters':>10} {'relative error':>14} {'accuracy':>9}  spread of left, right")
    for title, result in results.items():
        found, terms = fidelity(result, layer, data.test_x, data.test_y), result.to_layer()
        wide = [float(spread(factor, data.shape).mean()) for factor in (terms.left, terms.right)]
        print(
            f"{title:<16} {parameters(result):>10} {relative_error(result, layer):>14.4f} {found.accuracy:>9.4f}"
            f" {wide[0]:>15.3f} {wide[1]:>6.3f}"
        )
    print("spread: mean over factors, 0 for one pixel, 0.43 for a constant image of 8 x 8")
    figure(results, data.shape).savefig(out / "custom_decomposition.png", dpi=120)
    print(f"\nfigure: {out / 'custom_decomposition.png'}")


def figure(results: dict[str, BilinearMap], shape: tuple[int, int], count: int = 10) -> Figure:
    """Draw one row per result: the left factors of its `count` largest terms, with their spread."""
    drawn = Figure(figsize=(1.1 * count + 1.2, 1.35 * len(results)), layout="constrained")
    for row, (title, result) in zip(drawn.subplots(len(results), count, squeeze=False), results.items(), strict=True):
        terms = result.to_layer()
        size = terms.down.norm(dim=0) * terms.left.norm(dim=0) * terms.right.norm(dim=0)
        for axes, index in zip(row, size.topk(min(count, len(size))).indices.tolist(), strict=False):
            vector = terms.left[:, index]
            image_cell(axes, vector, shape, f"{float(spread(vector[:, None], shape)):.2f}")
        row[0].set_ylabel(title.replace(", ", "\n"), fontsize=8)
    drawn.suptitle("Left factors of the largest terms, with the spread of each above it", fontsize=10)
    return drawn


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rank", type=int, default=8, help="eigenpairs per output, for eigen and varimax")
    parser.add_argument("--cp-rank", type=int, default=16, help="components of cp")
    parser.add_argument("--strengths", type=float, nargs="+", default=(0.1, 1.0), help="strengths of the prior")
    parser.add_argument("--steps", type=int, default=600, help="largest number of iterations of fits with the prior")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--out", default="out/digits")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
