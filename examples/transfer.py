"""Do classifiers of two sets of handwritten digits have the same interaction matrices, and does one work on the other?

With `--dataset mnist`, the sets are MNIST and scikit-learn's digits, drawn larger: 8 x 8 pixels become 20 x 20
(bilinear) in the middle of 28 x 28, where MNIST has its digits. Without MNIST, the sets are the two halves of the
training images of the digits: how far do two samples of one set agree? A classifier of each set is trained once per
seed (noise 0.5, weight decay 1) and kept. Seed s of one set is compared with seed s + 1 of the other, because models of
one seed start from the same weights.

Printed are accuracies on both test sets, and the cosine of the interaction matrices of every class of one set with
every class of the other, in pixels and in the moments of the training images of the first set (`output_similarity`):
the mean over the same class, and over different classes. The same for two seeds of the first set stands beside them.
Means are over seeds, with 95 % intervals.

Expected times on one core: 20 seconds; MNIST 20 seconds and 1 minute of training per seed, three seeds.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import tqdm

from examples.parts.image_job import (
    NOISE,
    PRESETS,
    WEIGHT_DECAY,
    classifier,
    dataset_of,
    out_folder,
    parse,
    parser,
    schedule,
)
from models import BilinearClassifier, Dataset, accuracy, load_dataset
from models.runs import trained
from models.tables import read_table, summarise, write_table
from tensornet_interp import Moments
from tensornet_interp.checks import check_int
from tensornet_interp.inner_products import Gaussian, output_similarity
from tensornet_interp.plots import similarity_matrix

Row = dict[str, object]
INNER = 20  # pixels of a digit in an image of MNIST
ACCURACIES = ("first on first", "first on second", "second on second", "second on first")
COSINES = tuple(
    f"{pair}, {kind}, {which}"
    for pair in ("sets", "seeds")
    for kind in ("pixels", "data")
    for which in ("same", "other")
)


def main(argv: list[str] | None = None) -> None:
    """Train the models or read them, compare them, print the table and draw the cosines."""
    options = _options(argv)
    out = out_folder(options)
    if not options.replot:
        compute(options, out)
    rows = read_table(out / "transfer.csv")
    print_table(rows)
    matrices = read_table(out / "classes.csv")
    draw(matrices).savefig(out / "classes.png", dpi=120)
    print(f"\ntables and figure: {out}")


def compute(options: argparse.Namespace, out: Path) -> None:
    """Measure all models, and write both tables."""
    first, second = sets_of(options)
    models = [[train(data, options, seed) for seed in range(options.seeds)] for data in (first, second)]
    moments = Moments.of(first.train_x)
    rows: list[Row] = []
    tables: list[Tensor] = []
    for seed in tqdm(range(options.seeds), desc="compare", unit="seed"):
        mine, theirs = models[0][seed], models[1][(seed + 1) % options.seeds]
        again = models[0][(seed + 1) % options.seeds]
        row: Row = {"dataset": options.dataset, "seed": seed}
        pairs = ((mine, first), (mine, second), (theirs, second), (theirs, first))
        for name, (model, data) in zip(ACCURACIES, pairs, strict=True):
            row[name] = accuracy(model, data.test_x, data.test_y)
        for name, other in (("sets", theirs), ("seeds", again)):
            a, b = mine.network("input"), other.network("input")
            for kind, found in (
                ("pixels", output_similarity(a, b)),
                ("data", output_similarity(a, b, kind=Gaussian(moments))),
            ):
                same = found.diagonal()
                row[f"{name}, {kind}, same"] = float(same.mean())
                row[f"{name}, {kind}, other"] = float((found.sum() - same.sum()) / (found.numel() - len(same)))
                if (name, kind) == ("sets", "pixels"):
                    tables.append(found)
        rows.append(row)
    mean = torch.stack(tables).mean(0).tolist()
    names = first.class_names
    write_table(out / "transfer.csv", rows)
    write_table(
        out / "classes.csv",
        [
            {"class": f"class {name}"} | dict(zip(names, line, strict=True))
            for name, line in zip(names, mean, strict=True)
        ],
    )


def sets_of(options: argparse.Namespace) -> tuple[Dataset, Dataset]:
    """Return both sets, with images of one shape."""
    data = dataset_of(options)
    if data.name == "digits":
        halves = [replace(data, train_x=data.train_x[k::2], train_y=data.train_y[k::2]) for k in (0, 1)]
        return halves[0], halves[1]
    digits = load_dataset("digits", device=options.device)
    train_x, test_x = (enlarge(x, digits.shape, data.shape) for x in (digits.train_x, digits.test_x))
    source = f"{digits.source}, enlarged"
    return data, replace(digits, train_x=train_x, test_x=test_x, shape=data.shape, source=source)


def enlarge(x: Tensor, shape: tuple[int, int], wanted: tuple[int, int]) -> Tensor:
    """Return images (sample, h * w) with INNER pixels on a side in the middle of a larger, empty image."""
    images = x.unflatten(1, (1, *shape))
    inner = torch.nn.functional.interpolate(images, (INNER, INNER), mode="bilinear", align_corners=False)
    down, right = ((side - INNER) // 2 for side in wanted)
    pad = (right, wanted[1] - INNER - right, down, wanted[0] - INNER - down)
    return torch.nn.functional.pad(inner, pad).flatten(1)


def train(data: Dataset, options: argparse.Namespace, seed: int) -> BilinearClassifier:
    """Return the classifier of one set and seed, with the width of the first set."""
    training = schedule(data, options, noise=NOISE, weight_decay=WEIGHT_DECAY, seed=seed)
    config = classifier(data, int(PRESETS[options.dataset]["width"]))
    return trained(options.models, data, config, training, progress=False)


def print_table(rows: list[dict[str, float | str]]) -> None:
    """Print accuracies and cosines, means over seeds with 95 % intervals."""
    (line,) = summarise(rows, ["dataset"], [*ACCURACIES, *COSINES])
    sets = "two halves of digits" if line["dataset"] == "digits" else f"{line['dataset']} and enlarged digits"
    print(f"\n{sets}, {line['n']} seeds: mean [95 % interval]")
    print("accuracy of a model of one set on the test images of another, and cosines of interaction matrices")
    for name in (*ACCURACIES, *COSINES):
        print(f"  {name:<24}{line[name]:+.3f} [{line[f'{name}_low']:+.3f}, {line[f'{name}_high']:+.3f}]")


def draw(rows: list[dict[str, float | str]]) -> Figure:
    """Draw the cosines of every class of one set with every class of the other."""
    names = [name for name in rows[0] if name != "class"]
    matrix = torch.tensor([[float(row[name]) for name in names] for row in rows])
    return similarity_matrix(matrix, names, "cosines of interaction matrices; rows: the first set")


def _options(argv: list[str] | None) -> argparse.Namespace:
    options = parse(parser(__doc__, "transfer"), argv)
    if options.dataset == "fashion_mnist":
        raise ValueError("--dataset must be a set of digits: digits or mnist, got 'fashion_mnist'")
    options.seeds = 3 if options.seeds is None else options.seeds
    check_int("--seeds", options.seeds, 2, why="a model is compared with one of another seed")
    return options


if __name__ == "__main__":
    main()
