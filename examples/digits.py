"""What does a bilinear classifier of handwritten digits look at, and how accurate are a few eigenvectors?

The script trains a classifier, decomposes it in the pixel basis, prints tables and writes tables and figures.
Default: scikit-learn's bundled digits, under a minute; MNIST or Fashion-MNIST with `--dataset mnist --data-root DIR`.
"""

import argparse
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from examples.parts.image_job import PRESETS
from models import (
    ClassifierConfig,
    Dataset,
    TrainingConfig,
    accuracy,
    build_classifier,
    load_dataset,
    save_model,
    train,
    write_table,
)
from tensornet_interp import BilinearNetwork, SpectralResult, decompose
from tensornet_interp.checks import check_int
from tensornet_interp.fidelity import COMPONENT_RANKINGS, certificate, fidelity, truncation_curve
from tensornet_interp.plots import (
    activations,
    compared_vectors,
    eigenvectors,
    explanation,
    output_directions,
    spectrum,
    truncation_curves,
)

COUNTS = (1, 2, 4, 8, 16, 32)


def main(argv: list[str] | None = None) -> None:
    """Train and decompose the classifier, print tables and draw figures."""
    options = _options(argv)
    preset = PRESETS[options.dataset]
    out = Path(options.out or f"out/{options.dataset}")
    out.mkdir(parents=True, exist_ok=True)
    data = load_dataset(options.dataset, options.data_root, device=options.device, download=options.download)
    for name, picked in (("--example-class", [options.example_class]), ("--classes", options.classes)):
        for number in picked:
            check_int(name, number, 0, len(data.class_names) - 1)
    config = ClassifierConfig(inputs=data.train_x.shape[1], width=int(preset["width"]), hidden=int(preset["width"]))
    model = build_classifier(config, options.seed, device=options.device)
    training = TrainingConfig(
        epochs=int(preset["epochs"]) if options.epochs is None else options.epochs,
        lr=preset["lr"],
        batch_size=int(preset["batch_size"]),
        weight_decay=options.weight_decay,
        noise=options.noise,
        noise_probability=options.noise_probability,
        seed=options.seed,
    )
    history = train(model, data, training)
    history.to_csv(out / "history.csv")
    save_model(model, out / "model", extra={"dataset": data.name, "training": vars(training)})
    network = model.network(basis="input")
    print(f"\n{data.name}: {len(data.train_x)} training images, {len(data.test_x)} test images; {training}")
    print(f"test accuracy {accuracy(model, data.test_x, data.test_y):.4f}")
    seconds = sum(float(record["seconds"]) for record in history.records)
    share = sum(float(record["data_seconds"]) for record in history.records) / seconds
    print(f"training {seconds / len(history.records):.3f} s per epoch, {share:.0%} of it for batches and noise")

    result: SpectralResult = decompose(network[0], "eigen")
    print_spectra(result, data)
    records = print_truncation(result, network, data)
    write_table(out / "truncation.csv", records)
    shared: SpectralResult = decompose(network[0], "output_svd")
    write_table(out / "output_svd.csv", print_directions(shared, data))
    drawn = figures(result, network, data, records, options.example_class)
    drawn["leading"] = leading(result, options.classes, data)
    drawn["output_svd"] = output_directions(shared, data.shape, data.class_names)
    for name, figure in drawn.items():
        figure.savefig(out / f"{name}.png", dpi=120)
    print(f"\nfigures, tables and the model: {out}")


def print_spectra(result: SpectralResult, data: Dataset) -> None:
    """Print the leading eigenvalues and the effective rank of every class."""
    print(f"\n{result}\n\n{'class':<12} {'leading positive':>24} {'leading negative':>24} {'effective rank':>15}")
    for name, values, rank in zip(data.class_names, result.eigenvalues, result.effective_rank().tolist(), strict=True):
        ordered = values.sort(descending=True).values
        positive = " ".join(f"{value:+7.3f}" for value in ordered[:3].tolist())
        negative = " ".join(f"{value:+7.3f}" for value in ordered.flip(0)[:3].tolist())
        print(f"{name:<12} {positive:>24} {negative:>24} {rank:>15.1f}")
    print(
        f"effective rank, mean over classes: {float(result.effective_rank().mean()):.1f} (basis: {result.report.basis})"
    )


def print_directions(result: SpectralResult, data: Dataset) -> list[dict[str, object]]:
    """Print the output directions that classes share, by singular value, with their part in every class.

    Returns the rows of the table.
    """
    if result.singular_values is None:
        raise ValueError("result must come from output_svd")
    squared = result.singular_values.square()
    names = data.class_names
    print("\noutput directions by singular value: share of the squared norm, leading eigenvalues, part in every class")
    heads = f"{'':>3} {'singular':>9} {'share':>6} {'eigenvalues':>15} {'eff. rank':>9}"
    print(heads + "".join(f"{name[:6]:>7}" for name in names))
    rows: list[dict[str, object]] = []
    for block, (values, rank) in enumerate(zip(result.eigenvalues, result.effective_rank().tolist(), strict=True)):
        high, low = float(values.max()), float(values.min())
        parts = result.outputs[:, block].tolist()
        share = float(squared[block] / squared.sum())
        numbers = {"direction": block + 1, "singular_value": float(squared[block] ** 0.5), "share": share}
        rows.append(
            numbers | {"largest": high, "smallest": low, "effective_rank": rank} | dict(zip(names, parts, strict=True))
        )
        print(
            f"{block + 1:>3} {float(squared[block] ** 0.5):>9.3f} {share:>6.1%} {high:>+7.3f} {low:>+7.3f} {rank:>9.1f}"
            + "".join(f"{part:>+7.2f}" for part in parts)
        )
    return rows


def print_truncation(result: SpectralResult, network: BilinearNetwork, data: Dataset) -> list[dict[str, float | str]]:
    """Print accuracy, cross-entropy and share of proven decisions with k eigenvectors per class, on test images.

    Returns the records of all rankings.
    """
    counts = [k for k in COUNTS if k <= result.rank]
    rank_on = (data.train_x[:2000], data.train_y[:2000])
    records: list[dict[str, float | str]] = []
    for by in COMPONENT_RANKINGS:
        records += truncation_curve(result, network, data.test_x, data.test_y, counts, by=by, rank_on=rank_on)
    print("\nwith the k largest-magnitude eigenvectors per class, on test images; mse x1, x2: on pairs of images;")
    print("share proven: images on which the truncated model provably makes the same decision as the full model")
    heads = f"{'k':>4} {'accuracy':>10} {'cross-entropy':>14} {'KL':>9}   {'mse':>10} {'mse x1, x2':>11}"
    print(f"{heads} {'share proven':>13}")
    for k, record in zip(counts, records, strict=False):
        cut = fidelity(result.truncate(k), network[0], data.test_x, data.test_y)
        record["proven"] = float(certificate(result, k, data.test_x).double().mean())
        print(
            f"{k:>4} {record['accuracy']:>10.4f} {record['cross_entropy']:>14.4f} {record['kl']:>9.4f}"
            f"   {cut.mse:>10.4g} {cut.mse_independent:>11.4g} {record['proven']:>13.4f}"
        )
    whole = fidelity(result, network[0], data.test_x, data.test_y)
    print(f" all {whole.accuracy:>9.4f} {whole.cross_entropy:>14.4f} {whole.kl:>9.4f}   {whole.mse:>10.2g}")
    return records


def figures(
    result: SpectralResult,
    network: BilinearNetwork,
    data: Dataset,
    records: list[dict[str, float | str]],
    example: int,
) -> dict[str, Figure]:
    """Draw the figures and return them by name."""
    whole = fidelity(result, network[0], data.test_x, data.test_y)
    guess = network(data.test_x).argmax(-1)
    chosen = {"right": guess == data.test_y, "wrong": guess != data.test_y}
    names = data.class_names
    best = int(result.eigenvalues[example].argmax())
    vector, value = result.eigenvectors[example, :, best], float(result.eigenvalues[example, best])
    drawn = {
        "spectrum": spectrum(result, example, data.shape, name=names[example]),
        "eigenvectors": eigenvectors(result, data.shape, names),
        "truncation": truncation_curves(
            records, accuracy=whole.reference_accuracy or 0.0, loss=whole.reference_cross_entropy or 0.0
        ),
        "activation": activations(value, vector, strokes(vector, data.shape), data.shape),
    }
    for name, mask in chosen.items():
        if bool(mask.any()):
            index = int(mask.nonzero()[0])
            label = int(data.test_y[index])
            drawn[f"explanation_{name}"] = explanation(result, data.test_x[index], data.shape, names, label=label)
    return drawn


def leading(result: SpectralResult, classes: list[int], data: Dataset) -> Figure:
    """Draw the two most positive and the two most negative eigenvectors of a few classes, one row per class."""
    vectors, values = {}, {}
    for block in classes:
        order = result.eigenvalues[block].argsort(descending=True)
        picks = order[[0, 1, -2, -1]]
        name = f"class {data.class_names[block]}"
        vectors[name], values[name] = result.eigenvectors[block].mT[picks], result.eigenvalues[block][picks]
    title = f"{data.name}: most positive and most negative eigenvectors"
    return compared_vectors(vectors, values, data.shape, title=title)


def strokes(vector: Tensor, shape: tuple[int, int]) -> dict[str, Tensor]:
    """Make four inputs from an eigenvector: a stroke, its upper half, a shifted stroke, and one that covers both signs.

    The stroke is the brightest tenth of the pixels, for the sign of the vector with the larger sum.
    """
    side = vector if vector.clamp_min(0).sum() >= (-vector).clamp_min(0).sum() else -vector
    count = max(4, len(vector) // 10)

    def brightest(values: Tensor) -> Tensor:
        return torch.zeros_like(values).index_fill_(0, values.topk(count).indices, 1.0)

    stroke, opposite = brightest(side), brightest(-side)
    rows = stroke.reshape(shape).sum(1).cumsum(0)
    upper = stroke.reshape(shape) * (rows <= float(rows[-1]) / 2)[:, None]
    shifted = stroke.reshape(shape).roll(max(2, shape[1] // 6), dims=1)
    balance = (side @ stroke) / -(side @ opposite)  # the two signs cancel
    larger = max(1.0, float(balance))
    return {
        "a stroke that matches": stroke,
        "a shorter one": upper.flatten(),
        "a shifted one": shifted.flatten(),
        "one that meets both signs": (stroke + balance * opposite) / larger,
    }


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", choices=sorted(PRESETS), default="digits")
    parser.add_argument("--data-root", help="folder that holds MNIST/raw or FashionMNIST/raw")
    parser.add_argument("--download", action="store_true", help="download the data set if it is missing")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--epochs", type=int, help="default: 40 for digits, 20 otherwise")
    parser.add_argument("--noise", type=float, default=0.4, help="standard deviation of the input noise")
    parser.add_argument("--noise-probability", type=float, default=0.5, help="share of samples that get noise")
    parser.add_argument("--weight-decay", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--example-class", type=int, default=5, help="class of the spectrum and the activation figure")
    parser.add_argument("--classes", type=int, nargs="+", default=[0, 5], help="classes of the figure leading.png")
    parser.add_argument("--out", help="folder of the results; default: out/DATASET")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
