"""What do random changes in training (of images, hidden vectors, weights) do to the eigenvectors of a classifier?

Every change of `--changes` is tried at every noise of `--noises`, and combinations are joined by "+":

- translation (whole pixels), rotation (degrees), blur (standard deviation in pixels): every image by its own amount, up
  to the strength; salt_and_pepper (share of the pixels that become 0 or 1); perlin (amplitude of smooth noise);
- hidden_noise (share of their root mean square) and dropout: of the outputs of the embedding and of the layer;
- weight_decay, which is 0 otherwise.

Noise is Gaussian noise on every pixel, after all other changes. perturbations.csv has one row per model and basis
("embedding": eigenvectors v in the embedding E, as images E^T v; "input": eigenvectors in pixels), with means over
classes and over their ten eigenvectors of largest magnitude:

- test_accuracy, on clean images; effective_rank: (sum |eigenvalue|)^2 / sum eigenvalue^2;
- pixel_participation: (L1 / L2)^2 of an eigenvector's pixels, larger if it is broader; roughness: mean squared
  difference of neighbouring pixels over twice the mean square, 1 for independent pixels and near 0 for smooth images;
- rare_energy: share of its squared norm on pixels active in under 1 % of the clean training images;
  still_rare_energy: the same, with the training images changed before they are counted (not by noise);
- shifted_pairs: of the pairs of eigenvectors of a class with eigenvalues of one sign, the share that show one pattern
  at two places: |cosine| at least 0.7 at the best shift, and at most 0.3 in place. Shifts are whole pixels up to a
  quarter of the height; what leaves the image is lost. shifted_cosine: the mean of the |cosine| at the best shift. Both
  are also given for random vectors with the power spectra of the eigenvectors;
- same_vectors: |cosine| of the most positive eigenvectors, and of the most negative ones, with those of the model
  without changes (same seed and noise); the model without changes is compared with the next seed (the last one with
  seed 0; with one or two seeds, another model is trained for this).

Do effects add? The effect of a change is the difference from the model without changes and noise, seed by seed. Noise
is a change too. For every combination the sum of the effects of its parts is printed beside the effect of all
together; and for each number the slope of the second over the first, over all combinations (1 if effects add).

Figures: eigenvectors by strength for each kind of change, and all numbers. Default: the digits, 3 seeds, 1.5 minutes on
one core. MNIST and Fashion-MNIST take the first 10,000 training images (`--images`); with --full all of them, and 100
epochs. Models are kept in --models, tables are written after every seed, and a stopped run continues.
"""

import argparse
import itertools
from functools import cache
from pathlib import Path

import torch
from matplotlib.figure import Figure
from safetensors.torch import load_file, save
from torch import Tensor
from tqdm import tqdm

from examples.parts.image_job import dataset_of, out_folder, parse, parser
from examples.parts.image_vectors import Shape, roughness, shifted_cosines, surrogates
from examples.parts.regularised import (
    LEADING,
    Row,
    Rows,
    Setting,
    Spectrum,
    add_training,
    bases,
    by_seed,
    check_training,
    draw_eigenvectors,
    first_images,
    fitted,
    in_words,
    of_basis,
    over_seeds,
    print_table,
    short,
    spectra,
    spectral_fields,
    summary,
    to_store,
)
from models import Dataset, write_table
from models.augment import perturbation
from models.tables import read_table
from tensornet_interp.checks import check_int, check_number
from tensornet_interp.concentration import energy_share, rare_inputs
from tensornet_interp.disk import replace_files
from tensornet_interp.plots import dots

NOISES = (0.0, 0.4)
NONE, DECAY = "none", "weight_decay"
OTHERS = ("salt_and_pepper 0.1", "perlin 0.5", "hidden_noise 0.5", "dropout 0.6", "weight_decay 1")
SMALL = ("translation 1", "translation 2", "rotation 15", "rotation 45", "blur 0.5", "blur 1")
LARGE = ("translation 2", "translation 7", "rotation 45", "blur 2")
CHANGES = {
    "digits": (*SMALL, *OTHERS, "translation 1 + rotation 15", "translation 1 + blur 0.5", "rotation 15 + blur 0.5"),
    "mnist": (*LARGE, *OTHERS, "translation 2 + blur 2", "rotation 45 + blur 2"),
}
IMAGES, BATCH = 10_000, 256  # of MNIST and Fashion-MNIST
HIGH, LOW = 0.7, 0.3  # |cosine| of one pattern at two places: at the best shift, in place
FIELDS = (
    *("effective_rank", "pixel_participation", "roughness", "rare_energy", "still_rare_energy", "same_vectors"),
    *("shifted_pairs", "random_shifted_pairs", "shifted_cosine", "random_shifted_cosine"),
)
ADDED = ("test_accuracy", "effective_rank", "pixel_participation", "roughness", "rare_energy")
NUMBERS = ("test_accuracy", *FIELDS[:6], "shifted_pairs")


def main(argv: list[str] | None = None) -> None:
    """Train and measure the models, print tables and draw figures."""
    options = _options(argv)
    out = out_folder(options)
    if not options.replot:
        compute(options, out)
    rows = read_table(out / "perturbations.csv")
    table = [{**row, "setting": label(row)} for row in summary(rows, ("change",), FIELDS)]
    write_table(out / "perturbations_summary.csv", table)
    print_table(table, "setting", ("train_accuracy", "test_accuracy", *FIELDS))
    print_sums(rows)
    for name, figure in figures(table, load_file(out / "perturbations.safetensors")).items():
        figure.savefig(out / f"{name}.png", dpi=120)
    print(f"\ntables, eigenvectors and figures: {out}")


def compute(options: argparse.Namespace, out: Path) -> None:
    """Train and measure all models; the table is written after every seed, and images after seed 0."""
    data = first_images(dataset_of(options), options)
    check_int("--example-class", options.example_class, 0, len(data.class_names) - 1)
    changes = list(dict.fromkeys(setting_of(change, data.shape) for change in (NONE, *options.changes)))

    @cache
    def reference(noise: float, seed: int) -> list[Tensor]:
        model, _ = fitted(options, data, Setting(noise, 0.0), seed)
        return [ends(spectrum) for spectrum in spectra(model)]

    rare = {change: rare_inputs(changed_images(data, change)) for _, change in changes}
    rows: list[Row] = []
    for seed in range(options.seeds):
        images = {"class": torch.tensor(options.example_class)}
        for noise, (decay, change) in tqdm(
            list(itertools.product(options.noises, changes)), desc=f"seed {seed}", unit="model"
        ):
            model, row = fitted(options, data, Setting(noise, decay, change), seed)
            row["change"] = name_of(decay, change)
            others = reference(noise, (seed + 1) % max(3, options.seeds) if row["change"] == NONE else seed)
            for spectrum, other in zip(spectra(model), others, strict=True):
                found = row | {"basis": spectrum.basis} | spectral_fields(spectrum, data.train_x)
                found |= vector_fields(spectrum, data.shape, rare[change], seed)
                found["same_vectors"] = float(torch.cosine_similarity(ends(spectrum), other, dim=-1).abs().mean())
                rows.append(found)
                images |= to_store(label(row), spectrum, options.example_class)
        write_table(out / "perturbations.csv", rows)
        if seed == 0:
            replace_files([(out / "perturbations.safetensors", save(images))])


def setting_of(text: str, shape: Shape) -> tuple[float, str]:
    """Return the weight decay and the perturbation of a change, such as "blur 1 + weight_decay 1"."""
    parts = [part.strip() for part in text.split("+")]
    decays = [part for part in parts if part.split(" ")[0] == DECAY]
    try:
        decay = sum(float(part.removeprefix(DECAY)) for part in decays)
    except ValueError:
        raise ValueError(f"the strength of {DECAY} in --changes must be a number, got {text!r}") from None
    rest = " + ".join(part for part in parts if part not in decays)
    return check_number(DECAY, decay, 0.0), perturbation(rest, shape).name or NONE


def name_of(decay: float, change: str) -> str:
    """Return the name of a weight decay and a perturbation, in the words of `--changes`."""
    parts = [*([] if change == NONE else [change]), *([f"{DECAY} {decay:g}"] if decay else [])]
    return " + ".join(parts) or NONE


def changed_images(data: Dataset, change: str) -> Tensor:
    """Return training images as a training sees them, without noise."""
    transform = perturbation(change, data.shape).images
    x = data.train_x
    return x if transform is None else transform(x, torch.Generator(x.device).manual_seed(0))


def vector_fields(spectrum: Spectrum, shape: Shape, rare: Tensor, seed: int) -> dict[str, float]:
    """Return how rough the leading eigenvectors are, and how often two of them show one pattern at two places.

    `rare` says which pixels are rarely active in the changed training images.
    """
    leading = spectrum.images[:, :LEADING].double()
    draw = torch.Generator().manual_seed(seed)
    random = torch.stack([surrogates(vector, shape, 1, draw)[0] for vector in leading.flatten(0, 1)])
    found = {
        "roughness": roughness(leading, shape),
        "still_rare_energy": energy_share(leading, rare),
    }
    positive = spectrum.result.eigenvalues[:, :LEADING] > 0
    pairs = (positive[:, :, None] == positive[:, None]).triu(1)  # (class, vector, vector): each pair once
    for name, vectors in (("", leading), ("random_", random.reshape(leading.shape))):
        in_place, shifted = shifted_cosines(vectors, shape, shape[0] // 4)
        found[f"{name}shifted_pairs"] = ((shifted >= HIGH) & (in_place <= LOW))[pairs].double()
        found[f"{name}shifted_cosine"] = shifted[pairs]
    return {name: float(value.mean()) for name, value in found.items()}


def ends(spectrum: Spectrum) -> Tensor:
    """Return images (class, 2, h * w) of the most positive and of the most negative eigenvector of every class."""
    values = spectrum.result.eigenvalues
    picked = torch.stack([values.argmax(1), values.argmin(1)], 1)
    return spectrum.images.gather(1, picked[:, :, None].expand(-1, -1, spectrum.images.shape[2]))


def label(row: Row) -> str:
    """Return the setting of a row in words."""
    return f"{row['change']}, noise {row['noise']:g}"


def print_sums(rows: Rows) -> None:
    """Print the effect of every combination beside the sum of the effects of its parts, in the embedding basis."""
    models = of_basis(rows, "embedding")
    known = dict.fromkeys((row["change"], row["noise"]) for row in models)
    split = {cell: parts(*cell) for cell in known}
    combined = {cell: own for cell, own in split.items() if len(own) > 1 and {*own, (NONE, 0)} <= set(known)}
    print("\neffects in the embedding basis, paired by seed: sum of the parts; all together; together minus sum")
    points: dict[str, list[tuple[float, float]]] = {name: [] for name in ADDED}
    for cell in combined:
        texts = []
        for name in ADDED:
            values = {(change, noise): by_seed(models, name, change=change, noise=noise) for change, noise in known}
            base = values[NONE, 0]
            added = [(sign, value) for part in combined[cell] for sign, value in ((1, values[part]), (-1, base))]
            together = [(1, values[cell]), (-1, base)]
            rest = [*together, *((-sign, value) for sign, value in added)]
            means = [over_seeds(signed)[0] for signed in (added, together)]
            points[name].append((means[0], means[1]))
            texts.append(f"{short(name)} {means[0]:+.3f}; {means[1]:+.3f}; {in_words(*over_seeds(rest))}")
        print(f"  {label({'change': cell[0], 'noise': cell[1]})}: " + " | ".join(texts))
    for name, pairs in points.items():
        if squares := sum(a * a for a, _ in pairs):
            slope = sum(a * b for a, b in pairs) / squares
            print(f"{short(name)}: slope of all together over the sum {slope:.2f}, over {len(pairs)} combinations")


def parts(change: str, noise: float) -> list[tuple[str, float]]:
    """Return the changes without noise, and the noise without change, that a setting combines."""
    alone = [] if change == NONE else [(part, 0.0) for part in change.split(" + ")]
    return alone + ([(NONE, noise)] if noise else [])


def figures(table: Rows, stored: dict[str, Tensor]) -> dict[str, Figure]:
    """Draw all numbers by basis, and the eigenvectors of each kind of change by strength, and return them by name."""
    first = table[0]
    where = f"{first['dataset']}, {first['images']:g} images"
    made = {
        f"numbers_{basis}": dots(of_basis(table, basis), NUMBERS, "setting", title=f"{where}, {basis} basis")
        for basis in bases(table)
    }
    rows = of_basis(table, "embedding")
    kinds = dict.fromkeys(kind(str(row["change"])) for row in rows if row["change"] != NONE)
    for name in kinds:
        shown = [
            row
            for noise in dict.fromkeys(row["noise"] for row in rows)
            for row in rows
            if row["noise"] == noise and (row["change"] == NONE or kind(str(row["change"])) == name)
        ]
        titles = {label(row): f"{label(row)}: {row['test_accuracy']:.3f}" for row in shown}
        title = f"{where}, class {stored['class']:d}, seed 0: most positive and most negative; accuracy"
        made[f"{name}_eigenvectors"] = draw_eigenvectors(stored, titles, "embedding", title=title)
    return made


def kind(change: str) -> str:
    """Return the figure in which a change is drawn: its name, if figures show it at several strengths."""
    name = change.split(" ")[0]
    return "combined" if "+" in change else name if name in ("translation", "rotation", "blur") else "others"


def _options(argv: list[str] | None) -> argparse.Namespace:
    options = parser(__doc__, "perturbations")
    options.add_argument("--changes", nargs="+", help='as "translation 7" "blur 1 + dropout 0.5"; default: by data set')
    options.add_argument("--noises", type=float, nargs="+", default=NOISES, help="noises, each with every change")
    add_training(options)
    options.add_argument("--example-class", type=int, default=5, help="class whose eigenvectors are drawn")
    chosen = parse(options, argv)
    check_training(chosen, *(() if chosen.full else (IMAGES, BATCH)))
    chosen.changes = chosen.changes or CHANGES["digits" if chosen.dataset == "digits" else "mnist"]
    chosen.seeds = chosen.seeds or 3
    chosen.noises = list(dict.fromkeys(check_number("--noises", noise, 0.0) for noise in chosen.noises))
    return chosen


if __name__ == "__main__":
    main()
