"""How many components does a class need: to keep the accuracy, to explain a decision, to prove it?

Classifiers of several sizes (embedding and hidden width) and seeds are trained once and kept. The first components of
each class are kept, ranked by magnitude, activation or ablation, or with refitted coefficients; in the pixel and in the
embedding basis. The first 5,000 training images rank the components. The first 10,000, with the noise of the training,
fit the coefficients. Every number is on test images. A refit to the outputs of the model shows how well the kept
components can imitate the model. A refit to labels shows how well they can classify, which may be better than the
model.

There are two certificates. One is the share of test images on which the model cut to k eigenpairs per class provably
makes the same decision as the full model. The other is the share on which k eigenpairs of every difference of two
classes prove the decision of the full model.

Expected times on one core: digits 1 minute. MNIST or Fashion-MNIST with trained models: sizes 30 and 100, 5 seeds, 10
minutes; --full (30 to 1000) 2 hours. The work can be done in parts, such as `--full --sizes 300`; each call draws all
finished parts. --magnitude-only leaves out the other rankings, the refits and the certificates, which take most of the
time.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from examples.parts.image_job import (
    NOISE,
    WEIGHT_DECAY,
    add_batch_size,
    add_sizes,
    classifier,
    dataset_of,
    out_folder,
    parse,
    parser,
    schedule,
)
from examples.parts.truncation_report import explanations, figures, print_tables
from models import Dataset, write_table
from models.bilinear import BilinearClassifier
from models.runs import trained
from models.tables import read_table
from tensornet_interp import BilinearLayer, SpectralResult, decompose, load, save
from tensornet_interp.fidelity import (
    COMPONENT_RANKINGS,
    certificate,
    component_ranking,
    difference_certificate,
    fidelity,
    keep_first,
    refit,
    truncation_curve,
)
from tensornet_interp.keys import digest

SEEDS = {"digits": 3, "mnist": 5, "fashion_mnist": 5}
COUNTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
EVERY = 64  # up to here every number of components is measured, to find the smallest that suffices
REFITTED = 64  # largest number of components per class in a refit
RANK_ON, FIT_ON = 5000, 10000  # training images that rank components, and that fit coefficients
EXAMPLES = "examples.safetensors"
TABLES = ("curves", "certificates", "shares")
Row = dict[str, object]


def main(argv: list[str] | None = None) -> None:
    """Train and measure the missing models, print tables and draw figures."""
    options = _options(argv)
    out = out_folder(options)
    if not options.replot:
        data = dataset_of(options)
        settings: Row = {"noise": NOISE, "weight_decay": WEIGHT_DECAY}
        images = f"data-{digest(data.train_x, data.train_y, data.test_x, data.test_y)}"  # a word: no digits alone
        jobs = [(size, seed) for size in options.sizes for seed in range(options.seeds)]
        for size, seed in tqdm(jobs, desc=f"truncate {data.name}", unit="model"):
            training = schedule(data, options, **settings, seed=seed)
            head: Row = {"dataset": data.name, "size": size, "seed": seed, "epochs": training.epochs}
            head |= {"batch_size": training.batch_size, "data": images} | settings
            place = out / "models" / "-".join(str(value) for value in head.values())
            wanted = TABLES[:1] if options.magnitude_only else TABLES
            if options.train_only or not all((place / f"{name}.csv").is_file() for name in wanted):
                model = trained(options.models, data, classifier(data, size), training, progress=False)
                if not options.train_only:
                    measure(model, data, head, place, magnitude_only=options.magnitude_only)
        if options.train_only:
            return
        training = schedule(data, options)
        common: Row = {"dataset": data.name, "epochs": training.epochs, "batch_size": training.batch_size}
        common["data"] = images
        gather(out, common | settings)
        save_examples(options, data, out)
    tables = {name: read_table(out / f"{name}.csv") for name in TABLES}
    summary = print_tables(tables)
    write_table(out / "needed.csv", summary)
    kept = load(out / EXAMPLES)
    drawn = figures(tables, kept["size"]) | explanations(kept)
    for name, figure in drawn.items():
        figure.savefig(out / f"{name}.png", dpi=120)
    print(f"\nfigures and tables: {out}")


def measure(model: BilinearClassifier, data: Dataset, head: Row, place: Path, *, magnitude_only: bool = False) -> None:
    """Measure one model and write its tables to `place`; with `magnitude_only` only the curves by this ranking."""
    tables: dict[str, list[Row]] = {name: [] for name in TABLES}
    with torch.no_grad():
        inputs = {"pixel": (data.train_x, data.test_x)}
        inputs["embedding"] = (model.embed(data.train_x), model.embed(data.test_x))
    for basis, (train_x, test_x) in inputs.items():
        layer = model.network("input" if basis == "pixel" else basis)[0].to_layer()
        result: SpectralResult = decompose(layer, "eigen")
        whole = fidelity(layer, layer, test_x, data.test_y)
        start = {**head, "basis": basis, "full_accuracy": whole.accuracy, "full_cross_entropy": whole.cross_entropy}
        rank_on = train_x[:RANK_ON], data.train_y[:RANK_ON]
        counts = sorted({*range(1, min(EVERY, result.rank) + 1), *(k for k in COUNTS if k <= result.rank), result.rank})
        for by in ("magnitude",) if magnitude_only else COMPONENT_RANKINGS:
            rows = truncation_curve(result, layer, test_x, data.test_y, counts, by=by, rank_on=rank_on)
            tables["curves"] += [{**start, **row} for row in rows]
        if magnitude_only:
            continue
        if basis == "pixel":
            tables["curves"] += [{**start, **row} for row in refits(result, layer, data, int(str(head["seed"])))]
            tables["shares"] += [{**start, **row} for row in logit_shares(result, test_x, data.test_y)]
        proven = [k for k in COUNTS if k <= result.rank]
        by_differences = difference_certificate(layer, proven, test_x)
        for row, k in zip(by_differences, proven, strict=True):
            shares = {"class": certificate(result, k, test_x), "class difference": row >= 0}
            for kind, mask in shares.items():
                share = float(mask.double().mean())
                tables["certificates"].append({**start, "eigenpairs of": kind, "components": k, "proven": share})
    place.mkdir(parents=True, exist_ok=True)
    for name, rows_of in tables.items():
        if rows_of:
            write_table(place / f"{name}.csv", rows_of)


def refits(result: SpectralResult, layer: BilinearLayer, data: Dataset, seed: int) -> Iterator[Row]:
    """Yield rows for the first k components by magnitude, refitted to outputs and to labels on noisy images."""
    x, labels = data.train_x[:FIT_ON], data.train_y[:FIT_ON]
    draw = torch.Generator(device=x.device).manual_seed(seed)
    x = x + NOISE * torch.randn(x.shape, generator=draw, device=x.device, dtype=x.dtype)
    ranking = component_ranking(result, "magnitude")
    targets = {"magnitude, refit to outputs": layer(x), "magnitude, refit to labels": labels}
    for name, target in targets.items():
        for k in COUNTS:
            if k <= min(result.rank, REFITTED):
                fitted = refit(result, keep_first(ranking, k), x, target, max_iterations=100)
                kept = fidelity(fitted, layer, data.test_x, data.test_y)
                found = {"accuracy": kept.accuracy, "cross_entropy": kept.cross_entropy, "kl": kept.kl, "mse": kept.mse}
                yield {"ranking": name, "components": k, **found}


def logit_shares(result: SpectralResult, x: Tensor, labels: Tensor) -> Iterator[Row]:
    """Yield the share of the winning output, and of its margin, that the first k components of each class add up to.

    A share is a sum over images divided by another, so an image with a small output does not count more than others.
    There are rows for right and for wrong decisions.
    """
    outputs = result(x)
    first, second = outputs.topk(2).indices.T
    right = first == labels
    counts = [k for k in COUNTS if k <= result.rank]
    partial = torch.cat([result.activations(part).cumsum(-1)[..., [k - 1 for k in counts]] for part in x.split(512)])
    winner, next_one = (partial.take_along_dim(index[:, None, None], 1)[:, 0] for index in (first, second))
    for name, mask in (("right", right), ("wrong", ~right)):
        whole = outputs[mask].double().topk(2).values.sum(0)  # (2,): largest and second largest output
        logit, margin = winner[mask].double().sum(0), (winner - next_one)[mask].double().sum(0)
        for column, k in enumerate(counts):
            if bool(mask.any()):
                shares = {"logit": logit[column] / whole[0], "margin": margin[column] / (whole[0] - whole[1])}
                of = {f"share of {part}": share.item() for part, share in shares.items()}
                yield {"decision": name, "images": int(mask.sum()), "components": k, **of}


def gather(out: Path, common: Row) -> None:
    """Join the tables of all measured models with the settings `common`, sorted by size and seed.

    Models of other settings, such as an earlier call with other --epochs, are left out, and those of tables that do not
    name all settings.
    """
    for name in TABLES:
        rows = [row for place in sorted(out.glob(f"models/*/{name}.csv")) for row in read_table(place)]
        rows = [row for row in rows if all(row.get(key) == value for key, value in common.items())]
        rows.sort(key=lambda row: (float(row["size"]), float(row["seed"])))
        write_table(out / f"{name}.csv", rows)


def save_examples(options: argparse.Namespace, data: Dataset, out: Path) -> None:
    """Save the layer of the largest model of seed 0, and one test image that it decides right and one wrong.

    The wrong decision is one whose label came second.
    """
    size = max(options.sizes)
    training = schedule(data, options, noise=NOISE, weight_decay=WEIGHT_DECAY, seed=0)
    model = trained(options.models, data, classifier(data, size), training, progress=False)
    layer = model.network("input")[0].to_layer()
    first, second = layer(data.test_x).topk(2).indices.T
    images = {}
    masks = {"right": first == data.test_y, "wrong": (first != data.test_y) & (second == data.test_y)}
    for name, mask in masks.items():
        if bool(mask.any()):
            index = int(mask.nonzero()[0])
            images[name] = {"image": data.test_x[index], "label": int(data.test_y[index])}
    about = {"size": size, "shape": data.shape, "names": data.class_names}
    save({"layer": layer, "images": images, **about}, out / EXAMPLES)


def _options(argv: list[str] | None) -> argparse.Namespace:
    made = parser(__doc__, "truncation")
    add_sizes(made)
    add_batch_size(made)
    made.add_argument(
        "--magnitude-only", action="store_true", help="only the curves by magnitude: no refits, no proofs"
    )
    options = parse(made, argv)
    options.seeds = SEEDS[options.dataset] if options.seeds is None else options.seeds
    return options


if __name__ == "__main__":
    main()
