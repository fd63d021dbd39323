"""Can masks that fool a classifier be computed from its weights, without a forward pass? Does training prevent it?

The script stacks the top positive eigenvectors of all classes and takes the rows of their pseudoinverse as masks. Each
mask activates one eigenvector and no other. Three variants: one eigenvector per class, ten per class, and ten per class
with small singular values cut. Of ten per class, the masks of the first three eigenvectors are tried, and their effects
are averaged, as in the paper's figure 7. The masks are added to test images at several strengths (norm of the mask over
the mean norm of a training image). They are compared with the eigenvector itself and with the same masks after a random
permutation of their pixels. Edge masks are of one eigenvector per class, and use only pixels that are active in under
1 % (digits: 4 %) of the training images. Training images decide the sign of a mask. With --clip, masked images are
clipped to [0, 1].

The models differ in their training: without regularisation; with weight decay 1 and noise of 0.15 or 0.3, as in the
paper's figure 26; and adversarially, on images that `PGD` changed by up to a fifth of the mean norm of an image,
without decay and noise. For every model the script prints

- its accuracy on all test images, on the first `--images` of them, which get the masks, and on these after PGD changed
  them by as much;
- the effective rank of its classes, in pixels;
- of their ten eigenvectors of largest magnitude: over how many pixels they are spread, (L1/L2)^2, and the share of
  their squared norm on pixels active in under 1 % of the training images.

Expected times: digits 20 seconds. MNIST or Fashion-MNIST about 10 minutes per seed on one free core, half of it for the
adversarial training; --full is 100 epochs and 5 seeds. Every model is trained once and kept.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor
from tqdm import tqdm

from examples.parts.adversarial_masks_figures import effects, eigenvectors, examples, pictures
from examples.parts.image_job import add_batch_size, classifier, dataset_of, out_folder, parse, parser, schedule
from models import BilinearClassifier, Dataset, accuracy
from models.attacks import PGD
from models.runs import trained
from models.tables import read_table, summarise, write_table
from tensornet_interp import BilinearNetwork, SpectralResult, decompose
from tensornet_interp.adversarial import adversarial_masks, baseline_masks, mask_effect, orient, top_positive
from tensornet_interp.checks import check_int
from tensornet_interp.concentration import energy_share, participation, rare_inputs
from tensornet_interp.disk import replace_files

Row = dict[str, object]
STRENGTHS = (0.1, 0.25, 0.5, 1.0)
# radius: how far the attack of the training goes, in mean norms of a training image
SETTINGS = {
    "unregularised": {"weight_decay": 0.0, "noise": 0.0, "radius": 0.0},
    "noise 0.15, decay 1": {"weight_decay": 1.0, "noise": 0.15, "radius": 0.0},
    "noise 0.3, decay 1": {"weight_decay": 1.0, "noise": 0.3, "radius": 0.0},
    "adversarial": {"weight_decay": 0.0, "noise": 0.0, "radius": 0.2},
}
TESTED = 0.2, 20  # radius in mean norms, and steps, of the attack on test images
# variants of masks by pixels: index of the number of eigenvectors per class in SIZES, cutoff of singular values
VARIANTS: dict[str, tuple[tuple[int, float | None], ...]] = {
    "all pixels": ((0, None), (1, None), (1, 0.1)),
    "outer edge": ((0, None),),
}
# few and more eigenvectors per class (the few fit on the edge), and the share below which a pixel is on the edge
SIZES = {"digits": ((1, 4), 0.04), "mnist": ((1, 10), 0.01), "fashion_mnist": ((1, 10), 0.01)}
TRIED = 3  # masks per class that are tried, and permuted masks
SEEDS = {"digits": 3, "mnist": 1, "fashion_mnist": 1}
LEADING = 10  # eigenvectors per class that are measured, largest magnitude first
DRAWN, SHOWN = 3, 6  # class whose first positive eigenvectors are drawn, and their number
MEASURES = ("accuracy", "misclassified")
OF_MODEL = (
    "model_accuracy",
    "unmasked_accuracy",
    "attacked_accuracy",
    "effective_rank",
    "pixel_participation",
    "rare_energy",
)
PLACE = ("setting", "pixels", "strength")


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
    settings = list(dict.fromkeys(str(row["setting"]) for row in rows))
    for pixels in VARIANTS:
        tag = pixels.replace(" ", "_")
        pictures(kept, settings, pixels, shape, name).savefig(out / f"masks_{tag}.png", dpi=120)
        for setting in settings:
            file = f"effects_{tag}_{setting.replace(', ', '_').replace(' ', '_')}.png"
            effects(summary, pixels, setting, name).savefig(out / file, dpi=120)
    examples(kept, settings, shape, name).savefig(out / "examples.png", dpi=120)
    eigenvectors(kept, settings, shape, name).savefig(out / "eigenvectors.png", dpi=120)
    print(f"\ntables and figures: {out}")


def compute(options: argparse.Namespace, out: Path) -> None:
    """Measure all masks and write table.csv; also save the masks of seed 0 and one image.

    The table has one row per setting, seed, pixels, class, kind, draw and strength.
    """
    data = dataset_of(options)
    share = SIZES[data.name][1]
    norm = float(data.train_x.norm(dim=1).mean())
    rows: list[Row] = []
    kept: dict[str, Tensor] = {"image": data.test_x[0].contiguous(), "norm": torch.tensor(norm)}
    kept["class"] = torch.tensor(DRAWN)
    edge = rare_inputs(data.train_x, share)
    everywhere = torch.ones_like(edge)
    print(f"outer edge: the {int(edge.sum())} pixels that are active in under {share:.0%} of the training images")
    seeds = range(options.seeds or (5 if options.full else SEEDS[data.name]))
    for seed, (name, setting) in tqdm([(seed, item) for seed in seeds for item in SETTINGS.items()], unit="model"):
        changes = {"weight_decay": setting["weight_decay"], "noise": setting["noise"]}
        training = schedule(data, options, **({"epochs": 100} if options.full else {}), **changes, seed=seed)
        config = classifier(data)
        # rounded, because the last digits of the norm depend on the number of threads, and the model is kept by it
        attack = PGD(round(norm * setting["radius"], 4)) if setting["radius"] else None
        model = trained(options.models, data, config, training, attack=attack, progress=False)
        network = model.network("input")
        result: SpectralResult = decompose(network[0], "eigen")
        common: Row = {"dataset": data.name, "height": data.shape[0], "width_pixels": data.shape[1]}
        common |= {"setting": name, "width": config.width, "epochs": training.epochs, **setting, "seed": seed}
        common["batch_size"] = training.batch_size
        common |= {"images": len(_test(data, options)[0]), "clipped": int(options.clip)}
        common |= measure_model(model, result, data, options)
        for pixels, allowed in zip(VARIANTS, (everywhere, edge), strict=True):
            here = common | {"pixels": pixels, "allowed": int(allowed.sum())}
            tried = candidates(result, allowed, VARIANTS[pixels], data, seed)
            rows += [here | row for row in measure(network, tried, data, options)]
            if seed == 0:
                kept[f"{name}|{pixels}"] = torch.stack([next(iter(one.values()))[0] for one in tried])  # one a class
        if seed == 0:
            order = result.eigenvalues[DRAWN].argsort(descending=True)[:SHOWN]
            kept[f"values|{name}"] = result.eigenvalues[DRAWN, order]
            kept[f"vectors|{name}"] = orient(top_positive(result, SHOWN), data.train_x)[DRAWN].contiguous()
        write_table(out / "table.csv", rows)
        replace_files([(out / "masks.safetensors", save(kept))])


def measure_model(model: BilinearClassifier, result: SpectralResult, data: Dataset, options: argparse.Namespace) -> Row:
    """Return what is measured of a model without masks, as the columns `OF_MODEL`."""
    x, y = _test(data, options)
    attack = PGD(TESTED[0] * float(data.train_x.norm(dim=1).mean()), TESTED[1])
    leading = result.eigenvectors.mT[:, :LEADING]  # (class, 10, in)
    found = {
        "model_accuracy": accuracy(model, data.test_x, data.test_y),
        "unmasked_accuracy": accuracy(model, x, y),
        "attacked_accuracy": accuracy(model, attack(model, x, y), y),
        "effective_rank": float(result.effective_rank().mean()),
        "pixel_participation": float(participation(leading).mean()),
        "rare_energy": float(energy_share(leading, rare_inputs(data.train_x, SIZES[data.name][1])).mean()),
    }
    return {name: found[name] for name in OF_MODEL}


def candidates(
    result: SpectralResult, allowed: Tensor, variants: Sequence[tuple[int, float | None]], data: Dataset, seed: int
) -> list[dict[str, Tensor]]:
    """Return the masks to try for every class, by kind: (draw, in). They depend on weights and training images only.

    Every kind of mask has its permuted twin. The kind "eigenvector" is the first eigenvector itself, without a
    pseudoinverse.
    """
    tried: list[dict[str, Tensor]] = [{} for _ in data.class_names]
    for size, rtol in variants:
        number = SIZES[data.name][0][size]
        kind = f"{number} a class" + (", cut" if rtol else "")
        vectors = orient(top_positive(result, number), data.train_x)
        masks = adversarial_masks(vectors, allowed=allowed, rtol=rtol)[:, :TRIED]
        for target, (mine, own) in enumerate(zip(masks, vectors * allowed, strict=True)):
            shuffled = [
                baseline_masks(
                    mask, "permuted", TRIED // len(mine), seed=1000 * seed + 100 * place + target, allowed=allowed
                )
                for place, mask in enumerate(mine)
            ]
            tried[target] |= {kind: mine, f"{kind}, permuted": torch.cat(shuffled)}
            if size == 0:
                tried[target]["eigenvector"] = own[:1]
    return tried


def measure(
    network: BilinearNetwork, tried: Sequence[Mapping[str, Tensor]], data: Dataset, options: argparse.Namespace
) -> list[Row]:
    """Measure the effect of every mask on test images at every strength."""
    scale = float(data.train_x.norm(dim=1).mean())
    norms = [scale * strength for strength in STRENGTHS]
    clip = (0.0, 1.0) if options.clip else None
    rows: list[Row] = []
    for target, kinds in enumerate(tried):
        for kind, masks in kinds.items():
            for draw, mask in enumerate(masks):
                records = mask_effect(network, mask, *_test(data, options), target, norms, clip=clip)
                for strength, record in zip(STRENGTHS, records, strict=True):
                    row: Row = {"target": target, "kind": kind, "draw": draw, "length": float(mask.norm())}
                    rows.append(row | {"strength": strength} | {name: record[name] for name in MEASURES})
    return rows


def average(rows: Sequence[Mapping[str, object]]) -> list[Row]:
    """Average over classes and draws, then over seeds, with 95 % intervals.

    With a single seed, the interval is over draws. It then says nothing about other seeds, because all draws share one
    model.
    """
    by = [*PLACE, "kind"]
    fields = [*MEASURES, "length", *OF_MODEL]
    apart = ["seed"] if len({row["seed"] for row in rows}) > 1 else ["draw"]
    classes = summarise(rows, [*by, *apart], fields)
    found = summarise(classes, by, fields)
    names = dict.fromkeys(name for row in found for name in row)  # one seed alone has no interval
    return [{name: row.get(name, "") for name in names} for row in found]


def print_table(summary: Sequence[Mapping[str, object]]) -> None:
    """Print the models, and accuracy and rate of misclassification as the intended class at three strengths."""
    heads = [name.replace("model_", "").replace("_", " ") for name in OF_MODEL]
    print("\nmodels without masks" + "".join(f"{head:>21}" for head in heads))
    for setting, line in {str(line["setting"]): line for line in summary if line["kind"] == "eigenvector"}.items():
        print(f"{setting:<20}" + "".join(f"{_text(line, name):>21}" for name in OF_MODEL))
    shown = (0.25, 0.5, 1.0)
    found = {tuple(line[name] for name in ("setting", "pixels", "kind", "strength")): line for line in summary}
    print("\nmean over classes and masks, at strengths " + ", ".join(map(str, shown)))
    print(f"{'model':<20}{'pixels':<12}{'mask':<27}{'accuracy':<48}misclassified as intended")
    for place in dict.fromkeys(key[:3] for key in found):
        lines = [found[*place, strength] for strength in shown if (*place, strength) in found]
        cells = "".join(f"{_text(line, name):<16}" for name in MEASURES for line in lines)
        print(f"{place[0]:<20}{place[1]:<12}{place[2]:<27}{cells}")


def _text(line: Mapping[str, object], name: str) -> str:
    """Return the mean of a field with half of its interval, if it has one."""
    mean, high = line[name], line.get(f"{name}_high", "")
    digits = 1 if float(str(mean)) > 10 else 3
    return f"{mean:.{digits}f}" + (f" ± {float(str(high)) - float(str(mean)):.{digits}f}" if high != "" else "")


def _test(data: Dataset, options: argparse.Namespace) -> tuple[Tensor, Tensor]:
    return data.test_x[: options.images], data.test_y[: options.images]


def _options(argv: list[str] | None) -> argparse.Namespace:
    made = parser(__doc__, "adversarial_masks")
    made.add_argument("--images", type=int, default=2000, help="number of test images, from the first on")
    add_batch_size(made)
    made.add_argument("--clip", action="store_true", help="clip masked images to [0, 1]")
    options = parse(made, argv)
    check_int("--images", options.images, 1)
    return options


if __name__ == "__main__":
    main()
