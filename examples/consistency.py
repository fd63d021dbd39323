"""Do models that differ only in their seed find the same eigenvectors, and does a larger size help?

Classifiers of several sizes (embedding and hidden width) and seeds are trained once and kept. For every pair of
different seeds, the script compares the eigenvectors of each class: by place in a ranking (most positive, most
negative, largest magnitude), matched one to one, as subspaces, and, for contrast, with another class. It compares the
same places between sizes (other seeds, in pixels), whole functions, and every class of one data set with every class of
another (--other). Vectors are compared as images, in two bases. "pixel": eigenvectors of E^T M E, where M is the
interaction matrix in the embedding E. "projected": eigenvectors of M, times E^T.

Expected times on one idle core: digits under a minute; MNIST or Fashion-MNIST 5 minutes (sizes 30, 100), --full (30 to
1000) 40 minutes, twice that with --other. The work can be done in parts: `--full --sizes 1000 --train-only` trains only
that size (25 minutes). A last call without these two options reads all models and compares them.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, combinations_with_replacement
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor
from tqdm import tqdm

from examples.parts.consistency_report import figures, print_tables
from examples.parts.image_job import (
    NOISE,
    PRESETS,
    WEIGHT_DECAY,
    add_sizes,
    classifier,
    dataset_of,
    out_folder,
    parse,
    parser,
    schedule,
    sizes_of,
)
from models import BilinearClassifier, Dataset, accuracy, load_dataset, write_table
from models.runs import trained
from models.tables import read_table
from tensornet_interp import Moments, SpectralResult, decompose, similarity
from tensornet_interp.checks import check_int
from tensornet_interp.compare import EIGENVALUE_RANKINGS, jackknife, matched_similarity, ordered_similarity
from tensornet_interp.disk import replace_files
from tensornet_interp.inner_products import Gaussian, Symmetric, output_similarity

COUNT = 10  # places of the ranking
TABLES = ("runs", "ordered", "between", "classes", "functions", "outputs")
Row = dict[str, object]


def main(argv: list[str] | None = None) -> None:
    """Train the missing models, compare all models, print tables and draw figures."""
    options = _options(argv)
    out = out_folder(options)
    if not options.replot:
        data = dataset_of(options)
        other = None
        if options.other:
            other = load_dataset(options.other, options.other_root, device=options.device, download=options.download)
            if other.train_x.shape[1] != data.train_x.shape[1]:
                raise ValueError(
                    f"--other {other.name} has images of {other.shape}, {data.name} of {data.shape}: both need the same"
                    " number of pixels, because interaction matrices are compared in pixels"
                )
        models = {size: train_all(data, size, options) for size in options.sizes}
        others = {size: train_all(other, size, options) for size in options.other_sizes} if other else {}
        if options.train_only:
            print(f"trained or read: sizes {', '.join(map(str, models))} of {data.name}, {options.seeds} seeds each")
            return
        measure(models, others, data, other, options, out)
    tables = {name: read_table(out / f"{name}.csv") for name in TABLES}
    print_tables(tables)
    for name, figure in figures(tables, out).items():
        figure.savefig(out / f"{name}.png", dpi=120)
    print(f"\nfigures and tables: {out}")


def train_all(data: Dataset, size: int, options: argparse.Namespace) -> list[BilinearClassifier]:
    """Return one trained classifier per seed."""
    config = classifier(data, size)
    settings = {"noise": NOISE, "weight_decay": WEIGHT_DECAY}
    return [
        trained(options.models, data, config, schedule(data, options, **settings, seed=seed), progress=False)
        for seed in tqdm(range(options.seeds), desc=f"{data.name} size {size}", unit="model")
    ]


def measure(
    models: dict[int, list[BilinearClassifier]],
    others: dict[int, list[BilinearClassifier]],
    data: Dataset,
    other: Dataset | None,
    options: argparse.Namespace,
    out: Path,
) -> None:
    """Compare the models, and write all tables and the leading eigenvectors of one class."""
    tables: dict[str, list[Row]] = {name: [] for name in TABLES}
    images: dict[str, Tensor] = {}
    pixel: dict[int, list[SpectralResult]] = {}
    epochs = schedule(data, options).epochs
    head: Row = {"dataset": data.name, "epochs": epochs, "noise": NOISE, "weight_decay": WEIGHT_DECAY}
    for size, runs in tqdm(models.items(), desc="compare", unit="size"):
        place: Row = {**head, "size": size, "seeds": len(runs)}
        for seed, model in enumerate(runs):
            row = head | {"size": size, "seed": seed, "accuracy": accuracy(model, data.test_x, data.test_y)}
            tables["runs"].append(row)
        for basis in ("pixel", "projected"):
            results = [eigen(model, basis) for model in runs]
            ordered, classes = ordered_rows(results, place | {"basis": basis}, data.class_names)
            tables["ordered"] += ordered
            tables["classes"] += classes
            if basis == "pixel":
                pixel[size] = results
                values, vectors = leading(results, options.example_class)
                images |= {f"{size}/eigenvalues": values, f"{size}/eigenvectors": vectors}
        tables["functions"] += function_rows(runs, data, place)
        for second, theirs in ((data, {size: runs}), (other, others)):
            if second is not None and size in theirs:
                rows = output_rows(runs, theirs[size], data.class_names, second.class_names)
                tables["outputs"] += [{**place, "other": second.name} | row for row in rows]
    for size, other_size in combinations_with_replacement(sorted(pixel), 2):
        tables["between"] += between_rows(pixel[size], pixel[other_size], head | {"size": size, "other": other_size})
    for name, rows in tables.items():
        write_table(out / f"{name}.csv", rows)
    about = {
        "class": data.class_names[options.example_class],
        "height": str(data.shape[0]),
        "width": str(data.shape[1]),
    }
    replace_files([(out / "eigenvectors.safetensors", save(images))])
    write_table(out / "images.csv", [about])


def eigen(model: BilinearClassifier, basis: str) -> SpectralResult:
    """Return the eigenvectors of every class as images: those of E^T M E, or those of M pulled back through E."""
    if basis == "pixel":
        result: SpectralResult = decompose(model.network("input")[0], "eigen")
        return result
    embedded: SpectralResult = decompose(model.network("embedding")[0], "eigen")
    embedding = model.embedding
    if embedding is None:
        raise ValueError("the projected basis needs a model with an embedding")
    return embedded.change_basis(embedding.weight.detach(), basis="pixels")


def ordered_rows(results: list[SpectralResult], head: Row, names: Sequence[str]) -> tuple[list[Row], list[Row]]:
    """Return one row per ranking and place (means over classes), and one row per ranking and class (first place)."""
    count = min(COUNT, *(result.rank for result in results))
    # run i with its classes shifted by i: every pair compares two different classes, so at most one run per class
    turned = [
        replace(r, eigenvalues=r.eigenvalues.roll(i, 0), eigenvectors=r.eigenvectors.roll(i, 0))
        for i, r in enumerate(results[: len(names)])
    ]
    rows: list[Row] = []
    classes: list[Row] = []
    for by in EIGENVALUE_RANKINGS:
        found, contrast = (ordered_similarity(runs, by, count) for runs in (results, turned))
        mean = jackknife(found.values.nanmean(1), found.pairs)
        subspace = jackknife(found.subspaces.nanmean(1), found.pairs)
        for i in range(count):
            row = {**head, "ranking": by, "position": i + 1, "similarity": float(mean.mean[i])}
            row |= {"low": float(mean.low[i]), "high": float(mean.high[i])}
            row["with_self_pairs"] = float(found.with_self_pairs[:, i].nanmean())
            row["other_class"] = float(contrast.values[:, :, i].nanmean())
            row["subspace"] = float(subspace.mean[i])
            row["gap"] = float(found.gaps[:, :, i].median())
            row["degenerate"] = int(found.degenerate[:, :, i].sum())
            rows.append(row)
        by_class = jackknife(found.values[:, :, 0], found.pairs)
        for c, name in enumerate(names):
            ends = {"low": float(by_class.low[c]), "high": float(by_class.high[c])}
            classes.append({**head, "ranking": by, "class": name, "similarity": float(by_class.mean[c])} | ends)
    matched = jackknife(matched_similarity(results, count).mean(1), list(combinations(range(len(results)), 2)))
    for i in range(count):
        row = {**head, "ranking": "matched", "position": i + 1, "similarity": float(matched.mean[i])}
        rows.append(row | {"low": float(matched.low[i]), "high": float(matched.high[i])})
    return rows, classes


def between_rows(first: list[SpectralResult], second: list[SpectralResult], head: Row) -> list[Row]:
    """Return one row per sign and place: |cosine| of the eigenvectors of two sizes, means over classes."""
    count = min(COUNT, *(result.rank for result in (*first, *second)))
    pairs = list(combinations(range(len(first)), 2))
    rows: list[Row] = []
    for by in ("positive", "negative"):
        # both ways: seed i of the first size with j of the second, and j with i
        values = [
            torch.stack([ordered_similarity([first[a], second[b]], by, count).values[0].nanmean(0) for a, b in both])
            for both in ([(i, j), (j, i)] for i, j in pairs)
        ]
        found = jackknife(torch.stack(values).mean(1), pairs)
        for i in range(count):
            row = {**head, "ranking": by, "position": i + 1, "similarity": float(found.mean[i])}
            rows.append(row | {"low": float(found.low[i]), "high": float(found.high[i])})
    return rows


def function_rows(runs: list[BilinearClassifier], data: Dataset, head: Row) -> list[Row]:
    """Return cosines of whole models: of tensors, and of outputs for standard normal or image-like Gaussian inputs."""
    kinds: dict[str, Symmetric | Gaussian] = {
        "symmetric": Symmetric(),
        "gaussian, standard normal": Gaussian(),
        "gaussian, moments of images": Gaussian(Moments.of(data.train_x)),
    }
    networks = [model.network("input") for model in runs]
    pairs = list(combinations(range(len(runs)), 2))
    rows = []
    for name, kind in kinds.items():
        table = similarity(networks, kind=kind, progress=False).to_tensor()
        found = jackknife(torch.stack([table[pair] for pair in pairs]), pairs)
        ends = {"low": float(found.low), "high": float(found.high), "with_self_pairs": float(table.mean())}
        rows.append({**head, "kind": name, "similarity": float(found.mean)} | ends)
    return rows


def output_rows(
    runs: list[BilinearClassifier], theirs: list[BilinearClassifier], names: Sequence[str], columns: Sequence[str]
) -> list[Row]:
    """Return cosines of the interaction matrices of every two classes, between models of different seeds.

    Models of equal seeds start from the same weights, so they are not compared.
    """
    a, b = ([model.network("input") for model in side] for side in (runs, theirs))
    pairs = list(combinations(range(len(runs)), 2))
    # both ways: seed i of the first with j of the second, and j with i
    tables = [(output_similarity(a[i], b[j]) + output_similarity(a[j], b[i])) / 2 for i, j in pairs]
    found = jackknife(torch.stack(tables), pairs)
    return [
        {
            "row": names[i],
            "column": columns[j],
            "similarity": float(found.mean[i, j]),
            "low": float(found.low[i, j]),
            "high": float(found.high[i, j]),
        }
        for i in range(len(names))
        for j in range(len(columns))
    ]


def leading(results: list[SpectralResult], block: int, count: int = 2) -> tuple[Tensor, Tensor]:
    """Return the most positive and most negative eigenvalues of a class, (run, 2 count), and their vectors.

    The sign of each vector is chosen to agree with run 0.
    """
    values: list[Tensor] = []
    vectors: list[Tensor] = []
    for result in results:
        order = result.eigenvalues[block].argsort(descending=True)
        picks = torch.cat([order[:count], order[-count:]])
        vector = result.eigenvectors[block][:, picks]
        if vectors:
            vector = vector * torch.where((vector * vectors[0]).sum(0) < 0, -1.0, 1.0)
        values.append(result.eigenvalues[block, picks])
        vectors.append(vector)
    return torch.stack(values).cpu(), torch.stack(vectors).contiguous().cpu()


def _options(argv: list[str] | None) -> argparse.Namespace:
    made = parser(__doc__, "consistency")
    add_sizes(made)
    made.add_argument("--other", choices=sorted(PRESETS), help="a second data set; its classes are compared with these")
    made.add_argument("--other-sizes", help="sizes of its models, some of --sizes; default: all of them")
    made.add_argument("--other-root", help="folder of the second data set; default: --data-root")
    made.add_argument("--example-class", type=int, default=5, help="class whose eigenvectors are drawn")
    options = parse(made, argv)
    others = options.other_sizes
    options.other_sizes = options.sizes if others is None else sizes_of("--other-sizes", others)
    if not set(options.other_sizes) <= set(options.sizes):
        raise ValueError(f"--other-sizes must be some of the sizes {options.sizes}, got {options.other_sizes}")
    options.seeds = (4 if options.dataset == "digits" else 5) if options.seeds is None else options.seeds
    check_int("--seeds", options.seeds, 3, why="seeds are compared in pairs, and the interval leaves one out")
    check_int("--example-class", options.example_class, 0, 9)
    if options.other == options.dataset:
        raise ValueError(f"--other {options.other} is the data set itself; its classes are always compared")
    options.other_root = options.other_root or options.data_root
    return options


if __name__ == "__main__":
    main()
