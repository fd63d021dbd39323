"""Can masks that fool a classifier be computed from its weights, without a forward pass?

The script stacks the top positive eigenvectors of all classes and takes the rows of their pseudoinverse as masks. Each
mask activates one eigenvector and no other. Three variants: one eigenvector per class, ten per class, and ten per class
with small singular values cut. The masks are added to test images at several strengths (norm of the mask over the mean
norm of a training image). They are compared with the eigenvector itself and with random masks of the same norm:
Gaussian, or the mask with its pixels shuffled. Edge masks use only pixels that are active in under 1 % of the training
images. All masks are tried on a model without regularisation and on regularised ones. Training images decide the sign
of a mask, and which of the ten masks of a class is used. Masked images are measured unclipped and clipped to [0, 1].

Expected times: digits 1 minute. MNIST or Fashion-MNIST about 4 minutes per model on one free core, with 3 models per
seed; --full (100 epochs, 5 seeds) about 8 minutes per model. Every model is trained once and kept.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor
from tqdm import tqdm

from examples.parts.adversarial_masks_figures import effects, examples, pictures
from examples.parts.image_job import classifier, dataset_of, out_folder, parse, parser, schedule
from models import Dataset, accuracy
from models.runs import trained
from models.tables import read_table, summarise, write_table
from tensornet_interp import BilinearNetwork, SpectralResult, decompose
from tensornet_interp.adversarial import (
    BASELINES,
    adversarial_masks,
    baseline_masks,
    mask_effect,
    orient,
    top_positive,
)
from tensornet_interp.checks import check_int
from tensornet_interp.disk import replace_files

Row = dict[str, object]
STRENGTHS = (0.1, 0.25, 0.5, 0.75, 1.0, 1.5)
CHOSEN_AT = 0.5  # strength at which training images choose the mask of a class
SETTINGS = {
    "unregularised": {"weight_decay": 0.0, "noise": 0.0},
    "noise 0.15, decay 1": {"weight_decay": 1.0, "noise": 0.15},
    "noise 0.5, decay 1": {"weight_decay": 1.0, "noise": 0.5},
}
PIXELS = ("all pixels", "outer edge")
# variants of masks: index of the number of eigenvectors per class in SIZES, cutoff of singular values
VARIANTS = ((0, None), (1, None), (1, 0.1))
# few and more eigenvectors per class (together fewer than pixels), and the share below which a pixel is on the edge
SIZES = {"digits": ((1, 4), 0.04), "mnist": ((1, 10), 0.01), "fashion_mnist": ((1, 10), 0.01)}
DRAWS = 5  # random masks of each kind
SEEDS = {"digits": 3, "mnist": 1, "fashion_mnist": 1}
MEASURES = ("accuracy", "misclassified")
PLACE = ("setting", "pixels", "clipped", "strength")


def main(argv: list[str] | None = None) -> None:
    """Train the models or read them, measure their masks, print tables and draw figures."""
    options = _options(argv)
    out = out_folder(options)
    if not options.replot:
        compute(options, out)
    rows, kept = read_table(out / "table.csv"), load_file(out / "masks.safetensors")
    summary = average(rows)
    write_table(out / "summary.csv", summary)
    print_table(summary)
    name = str(rows[0]["dataset"])
    shape = (int(rows[0]["height"]), int(rows[0]["width_pixels"]))
    for pixels in PIXELS:
        tag = pixels.replace(" ", "_")
        pictures(kept, list(SETTINGS), pixels, shape, name).savefig(out / f"masks_{tag}.png", dpi=120)
        for setting in SETTINGS:
            file = f"effects_{tag}_{setting.replace(', ', '_').replace(' ', '_')}.png"
            effects(summary, pixels, setting, name).savefig(out / file, dpi=120)
    examples(kept, list(SETTINGS), shape, name).savefig(out / "examples.png", dpi=120)
    print(f"\ntables and figures: {out}")


def compute(options: argparse.Namespace, out: Path) -> None:
    """Measure all masks and write table.csv; also save the masks of seed 0 and one image.

    The table has one row per setting, seed, pixels, class, kind, draw, clipping and strength.
    """
    data = dataset_of(options)
    share = SIZES[data.name][1]
    rows: list[Row] = []
    kept: dict[str, Tensor] = {"image": data.test_x[0].contiguous(), "norm": data.train_x.norm(dim=1).mean()}
    edge = (data.train_x > 0).to(torch.float64).mean(0) < share
    everywhere = torch.ones_like(edge)
    print(f"outer edge: the {int(edge.sum())} pixels that are active in under {share:.0%} of the training images")
    seeds = range(options.seeds or (5 if options.full else SEEDS[data.name]))
    for seed, (name, setting) in tqdm([(seed, item) for seed in seeds for item in SETTINGS.items()], unit="model"):
        epochs = {"epochs": 100} if options.full else {}
        training = schedule(data, options, **epochs, **setting, seed=seed)
        config = classifier(data)
        model = trained(options.models, data, config, training, progress=False)
        network = model.network("input")
        result = decompose(network[0], "eigen")
        common: Row = {"dataset": data.name, "height": data.shape[0], "width_pixels": data.shape[1]}
        common |= {"setting": name, "width": config.width, "epochs": training.epochs, **setting, "seed": seed}
        common |= {"images": len(_test(data, options)[0]), "model_accuracy": accuracy(model, *_test(data, options))}
        for pixels, allowed in zip(PIXELS, (everywhere, edge), strict=True):
            here = common | {"pixels": pixels, "allowed": int(allowed.sum())}
            tried = candidates(network, result, allowed, data, seed)
            rows += [here | row for row in measure(network, tried, data, options)]
            if seed == 0:
                kept[f"{name}|{pixels}"] = torch.stack([next(iter(one.values()))[0] for one in tried])  # one a class
        write_table(out / "table.csv", rows)
        replace_files([(out / "masks.safetensors", save(kept))])


def candidates(
    network: BilinearNetwork, result: SpectralResult, allowed: Tensor, data: Dataset, seed: int
) -> list[dict[str, Tensor]]:
    """Return the masks to try for every class, by kind: (draw, in). They depend on weights and training images only.

    If a class has several masks, the chosen one makes the model take most training images for that class at strength
    `CHOSEN_AT`. Random masks imitate the mask of one eigenvector per class. The kind "eigenvector" is this eigenvector
    itself, without a pseudoinverse.
    """
    train = (data.train_x[:500], data.train_y[:500])
    norm = CHOSEN_AT * float(data.train_x.norm(dim=1).mean())
    classes = len(data.class_names)
    tried: list[dict[str, Tensor]] = [{} for _ in range(classes)]
    for size, rtol in VARIANTS:
        number = SIZES[data.name][0][size]
        kind = f"{number} a class" + (", cut" if rtol else "")
        if rtol is None and number * classes > int(allowed.sum()):
            continue  # more vectors than pixels: no mask can activate one alone
        vectors = orient(top_positive(result, number), data.train_x)
        masks = adversarial_masks(vectors, allowed=allowed, rtol=rtol)
        for target, (mine, own) in enumerate(zip(masks, vectors * allowed, strict=True)):
            hits = [mask_effect(network, mask, *train, target, [norm])[0]["misclassified"] for mask in mine]
            tried[target][kind] = mine[max(range(number), key=hits.__getitem__)][None]
            if size == 0:
                tried[target]["eigenvector"] = own[:1]
                for random in BASELINES:
                    drawn = baseline_masks(mine[0], random, DRAWS, seed=1000 * seed + target, allowed=allowed)
                    tried[target][random] = drawn
    return tried


def measure(
    network: BilinearNetwork, tried: Sequence[Mapping[str, Tensor]], data: Dataset, options: argparse.Namespace
) -> list[Row]:
    """Measure the effect of every mask on test images at every strength, unclipped and clipped."""
    scale = float(data.train_x.norm(dim=1).mean())
    norms = [scale * strength for strength in STRENGTHS]
    rows: list[Row] = []
    for target, kinds in enumerate(tried):
        for kind, masks in kinds.items():
            for draw, mask in enumerate(masks):
                for clip in (None, (0.0, 1.0)):
                    records = mask_effect(network, mask, *_test(data, options), target, norms, clip=clip)
                    for strength, record in zip(STRENGTHS, records, strict=True):
                        row: Row = {"target": target, "kind": kind, "draw": draw, "clipped": int(clip is not None)}
                        row |= {"length": float(mask.norm()), "strength": strength}
                        rows.append(row | {name: record[name] for name in MEASURES})
    return rows


def average(rows: Sequence[Mapping[str, object]]) -> list[Row]:
    """Average over classes and draws, then over seeds, with 95 % intervals.

    With a single seed, the interval is over draws. It then says nothing about other seeds, because all draws share one
    model.
    """
    by = [*PLACE, "kind"]
    fields = [*MEASURES, "length", "model_accuracy"]
    apart = ["seed"] if len({row["seed"] for row in rows}) > 1 else ["draw"]
    classes = summarise(rows, [*by, *apart], fields)
    found = summarise(classes, by, fields)
    names = dict.fromkeys(name for row in found for name in row)  # one seed alone has no interval
    return [{name: row.get(name, "") for name in names} for row in found]


def print_table(summary: Sequence[Mapping[str, object]]) -> None:
    """Print accuracy and rate of misclassification as the intended class at three strengths, unclipped and clipped."""
    shown = (0.25, 0.5, 1.0)
    kinds = list(dict.fromkeys(str(line["kind"]) for line in summary))
    head = "".join(f"{kind:>17}" for kind in kinds)
    for measure_name, label in zip(MEASURES, ("accuracy", "misclassified as intended"), strict=True):
        print(f"\n{label + ', mean over classes':<50}{head}")
        found = {tuple(line[name] for name in (*PLACE, "kind")): line[measure_name] for line in summary}
        for place in dict.fromkeys(tuple(line[name] for name in PLACE) for line in summary):
            setting, pixels, clipped, strength = place
            if strength in shown:
                where = f"{setting:<21}{pixels:<12}{strength:<6}{'clipped' if clipped else '':<8}"
                values = [found.get((*place, kind)) for kind in kinds]
                print(f"{where:<50}" + "".join(f"{'-' if v is None else f'{v:.3f}':>17}" for v in values))
    accuracies = {str(line["setting"]): f"{line['model_accuracy']:.4f}" for line in summary}
    print("\naccuracy without a mask: " + ", ".join(f"{name} {value}" for name, value in accuracies.items()))


def _test(data: Dataset, options: argparse.Namespace) -> tuple[Tensor, Tensor]:
    return data.test_x[: options.images], data.test_y[: options.images]


def _options(argv: list[str] | None) -> argparse.Namespace:
    made = parser(__doc__, "adversarial_masks")
    made.add_argument("--images", type=int, default=2000, help="number of test images, from the first on")
    options = parse(made, argv)
    check_int("--images", options.images, 1)
    return options


if __name__ == "__main__":
    main()
