"""Which components of a classifier would come back: in this layer, from other starts, from other training seeds?

Classifiers of images are trained from several seeds and kept. `choose_rank` fits `cp` to the first at several ranks.
For each component the script then asks three questions: does this layer determine it (standard error below 1/3), do the
other near-best starts of the fit find it (congruence above 0.9), and do fits to the models of other seeds have it,
beside a null of recombined components? It also says how far the eigenvectors of the classes are determined, and
compares their spectrum with that of shuffled weights.

`--planted` first shows the same numbers where the answer is known: a planted sum of components with noise.
"""

import argparse
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import median

import torch
from tqdm import tqdm

from examples.parts.image_job import NOISE, WEIGHT_DECAY, classifier, dataset_of, out_folder, parse, parser, schedule
from models import Dataset
from models.runs import trained
from tensornet_interp import BilinearLayer, CPResult
from tensornet_interp.checks import check_int
from tensornet_interp.compare import DETERMINED, ComponentTrust, choose_rank, component_trust, null
from tensornet_interp.decompositions import CP, Eigen
from tensornet_interp.plots import components, curves, outputs_map, spectrum
from tensornet_interp.tables import Record, write_csv
from tensornet_interp.testing import random_layer

RANKS = {"digits": (4, 8, 16), "mnist": (4, 8, 12, 16), "fashion_mnist": (4, 8, 12, 16)}
EIGENPAIRS = 8  # per class
OTHER_STARTS = 3  # of the fits to the models of other seeds


def main(argv: list[str] | None = None) -> None:
    """Train or read the models, fit all ranks, print tables and draw figures."""
    options = _options(argv)
    out = out_folder(options)
    if options.planted:
        planted(options.starts)
    data = dataset_of(options)
    layers = [layer_of(data, seed, options) for seed in tqdm(range(options.seeds), desc="models", unit="model")]
    choice = choose_rank(layers[0], "cp", options.ranks, starts=options.starts)
    write_csv(choice, out / "ranks.csv")
    rows: list[Record] = []
    fits: dict[int, tuple[CPResult, ComponentTrust]] = {}
    for rank, result in zip(tqdm(choice.ranks, desc="other seeds", unit="rank"), choice.results, strict=True):
        if not isinstance(result, CPResult):
            continue
        runs = [CP(rank=rank, starts=OTHER_STARTS)(layer) for layer in layers[1:]]
        fits[rank] = result, component_trust(result, layers[0], runs or None)
        rows += [{"rank": rank, "error": result.relative_error} | record for record in fits[rank][1].records()]
    write_csv(rows, out / "components.csv")
    print_components(fits)
    print(f"\nchoose_rank: {choice.rank} of {list(choice.ranks)}")
    write_csv(print_eigenvectors(layers[0]), out / "eigenvectors.csv")
    draw(fits, layers[0], out)
    print(f"\nfigures and tables: {out}")


def layer_of(data: Dataset, seed: int, options: argparse.Namespace) -> BilinearLayer:
    """Return the layer of the classifier of one training seed, as a function of the pixels."""
    settings = {"noise": NOISE, "weight_decay": WEIGHT_DECAY, "seed": seed}
    model = trained(options.models, data, classifier(data), schedule(data, options, **settings), progress=False)
    return replace(model.network("input")[0].to_layer(), name=f"{data.name}, seed {seed}")


def planted(starts: int) -> None:
    """Print the three numbers of fits of rank 2, 3 and 4 to three planted components with 10 % noise."""
    truth = random_layer(8, 14, 3, seed=0)
    layers = [with_noise(truth, 0.1, seed) for seed in (1, 2)]
    print("planted: 3 components, noise 10 %; largest error, lowest congruence of starts, of another draw of the noise")
    for rank in (2, 3, 4):
        result, other = (CP(rank=rank, starts=starts)(layer) for layer in layers)
        trust = component_trust(result, layers[0], [other])
        print(f"rank {rank}: {_number(trust.standard_error.max())} {_lowest(trust.start_agreement)}", end=" ")
        print(f"{_lowest(trust.seed_agreement)}  {'; '.join(trust.flags)}")
    print(f"choose_rank: {choose_rank(layers[0], 'cp', (1, 2, 3, 4), starts=starts).rank}\n")


def with_noise(layer: BilinearLayer, share: float, seed: int) -> BilinearLayer:
    """Return the layer with white noise of this share of its norm."""
    dense = layer.symmetrize().to_tensor()
    noise = torch.randn(dense.shape, generator=torch.Generator().manual_seed(seed), dtype=dense.dtype)
    noise = (noise + noise.mT) / 2
    return BilinearLayer.from_tensor(dense + share * float(dense.norm() / noise.norm()) * noise, name="planted")


def print_components(fits: dict[int, tuple[CPResult, ComponentTrust]]) -> None:
    """Print one line per rank: how many components pass each question, and the numbers behind it."""
    print("\nrank  error   determined  median, largest error  agree between starts  near  lowest", end="")
    print("  return between seeds  mean (null)")
    for rank, (result, trust) in fits.items():
        errors, words = trust.standard_error.tolist(), trust.verdicts
        counts = [sum(word in said for said in words) for word in ("locally", "agrees", "returns")]
        mean = "-" if trust.seed_agreement is None else f"{float(trust.seed_agreement.mean()):.2f}"
        chance = "" if trust.seed_null is None else f" ({float(trust.seed_null.mean()):.2f})"
        print(f"{rank:4}  {result.relative_error:.4f}  {counts[0]:3} of {rank:3}", end="")
        print(f"  {median(errors):6.3f}, {max(errors):12.3f}  {counts[1]:13} of {rank:3}", end="")
        print(f"  {trust.near_best:4}  {_lowest(trust.start_agreement):>6}  {counts[2]:13} of {rank:3}  {mean}{chance}")
    for rank, (_, trust) in fits.items():
        for flag in trust.flags:
            print(f"rank {rank}: {flag}")


def print_eigenvectors(layer: BilinearLayer) -> list[Record]:
    """Print the standard errors of leading eigenvectors, and their spectrum beside that of shuffled weights."""
    strategy = Eigen(rank=EIGENPAIRS)
    trust = component_trust(strategy(layer), layer)
    share = (trust.standard_error < DETERMINED).double().mean(0)
    print(f"\neigenvectors: share of classes in which the k-th of {EIGENPAIRS} is determined")
    print("  ".join(f"{float(value):.2f}" for value in share))
    control = null(layer, strategy, lambda result: result.eigenvalues.abs().mean(0), "shuffled", n=10)
    low, high = control.band()
    print("mean |eigenvalue| by place, and the 95 % band of shuffled weights")
    for observed, bottom, top in zip(control.observed.tolist(), low.tolist(), high.tolist(), strict=True):
        print(f"  {observed:.4g} ({bottom:.4g} to {top:.4g})")
    return trust.records()


def draw(fits: dict[int, tuple[CPResult, ComponentTrust]], layer: BilinearLayer, out: Path) -> None:
    """Draw the components of the smallest rank, weights of the largest, one spectrum, and agreement against rank."""
    small, large = min(fits), max(fits)
    components(fits[small][0], trust=fits[small][1]).savefig(out / "components.png", dpi=120)
    outputs_map(fits[large][0], trust=fits[large][1]).savefig(out / "outputs.png", dpi=120)
    result = Eigen(rank=EIGENPAIRS)(layer)
    spectrum(result, 0, trust=component_trust(result, layer)).savefig(out / "spectrum.png", dpi=120)
    records = []
    for rank, (_, trust) in fits.items():
        row: Record = {"rank": rank, "determined": float((trust.standard_error < DETERMINED).double().mean())}
        for name in ("start_agreement", "seed_agreement"):
            value = getattr(trust, name)
            row[name] = None if value is None else float(value.mean())
        records.append(row)
    known = [name for name in records[0] if name != "rank" and any(row[name] is not None for row in records)]
    curves(records, "rank", known).savefig(out / "agreement.png", dpi=120)


def _lowest(values: torch.Tensor | None) -> str:
    return "-" if values is None else f"{float(values.min()):.2f}"


def _number(value: torch.Tensor) -> str:
    return f"{float(value):.3f}"


def _options(argv: list[str] | None) -> argparse.Namespace:
    made = parser(__doc__, "trust")
    made.add_argument("--ranks", type=int, nargs="+", help="increasing; default: by data set")
    made.add_argument("--starts", type=int, default=10, help="fits per rank of the first model")
    made.add_argument("--planted", action="store_true", help="show the numbers for planted components first")
    options = parse(made, argv)
    options.ranks = tuple(options.ranks or RANKS[options.dataset])
    for rank in options.ranks:
        check_int("--ranks", rank, 1)
    if any(a >= b for a, b in pairwise(options.ranks)):
        raise ValueError(f"--ranks must increase, got {list(options.ranks)}")
    check_int("--starts", options.starts, 1)
    options.seeds = 3 if options.seeds is None else options.seeds
    return options


if __name__ == "__main__":
    main()
