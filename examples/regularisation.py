"""What do input noise and weight decay do to a bilinear classifier, and what does bilinearity cost?

There are two sections (`--only grid,gates`). Each writes a table of all models, and one of means with 95 % intervals
over seeds (shaded in the figures), to out/regularisation/DATASET:

- grid: every `--noises` with every `--decays`: accuracy, rank, pixels and sparsity, and the differences between the
  largest and the smallest noise and decay. Does noise make the spectrum shorter, and do components activate more
  sparsely under it?
- gates: ReLU and SiLU classifiers of the same size. They are no tensors, so only their accuracy is measured.

Every training sample gets noise, accuracies are on clean images, and gap = train - test accuracy. The other numbers
are given in two bases: "embedding" (eigenvectors v of the interaction matrices in the embedding E, drawn as the images
E^T v) and "input" (eigenvectors in pixels). There is one row per model and basis, with means over classes:

- effective_rank: (sum |eigenvalue|)^2 / sum eigenvalue^2;
- activation_participation: (L1 / L2)^2 of the components' activations eigenvalue (v . x)^2, mean over test images;
  activation_per_rank: the same divided by the effective rank, because a longer spectrum activates more (inputs without
  structure give about a third);
- image_share: (L1 / L2)^2 of one component's activations on all test images, divided by the number of images;
- pixel_participation: (L1 / L2)^2 of an eigenvector's pixels;
- rare_energy: share of its squared norm on pixels active in under 1 % of the training images; never_energy: on pixels
  active in none of them. Compare them with rare_pixels and never_pixels, the shares of such pixels.

The last four are means over the ten eigenvalues of largest magnitude of every class. Default: the digits, 3 seeds, 1
minute. One model of MNIST or Fashion-MNIST takes about 1 minute (20 epochs) or 4 (`--full`: 100 epochs) on one core.
Every seed has 12 models (grid) and 4 more (gates). Models are kept in --models, tables are written after every seed,
and a stopped run continues.
"""

import argparse
import itertools
from pathlib import Path

import torch
from matplotlib.figure import Figure
from safetensors.torch import load_file, save
from scipy import stats
from torch import Tensor
from tqdm import tqdm

from examples.parts.image_job import dataset_of, out_folder, parse, parser
from examples.parts.regularised import (
    ACCURACIES,
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
from models import BilinearClassifier, Dataset, write_table
from models.tables import read_table
from tensornet_interp.checks import check_choice, check_int, check_number
from tensornet_interp.concentration import participation
from tensornet_interp.disk import replace_files
from tensornet_interp.plots import curves, dots

SECTIONS = ("grid", "gates")
NOISES = (0.0, 0.15, 0.3, 0.5, 1.0, 1.5)
DECAYS = (0.0, 1.0)
NOISE = 0.5  # of the section gates
SPARSITY = ("activation_participation", "activation_per_rank", "image_share")
FIELDS = ("effective_rank", *SPARSITY, "pixel_participation", "rare_energy", "never_energy")


def main(argv: list[str] | None = None) -> None:
    """Run the sections of `--only`: train, measure, print tables and draw figures."""
    options = _options(argv)
    out = out_folder(options)
    data = None if options.replot else first_images(dataset_of(options), options)
    if data is not None:
        check_int("--example-class", options.example_class, 0, len(data.class_names) - 1)
    for section in options.only:
        if data is not None:
            compute(section, data, options, out)
        rows = read_table(out / f"{section}.csv")
        table = [{**row, "setting": label(row)} for row in summary(rows, (), FIELDS)]
        write_table(out / f"{section}_summary.csv", table)
        print(f"\n{section}:", end=" ")
        print_table(table, "setting", (*ACCURACIES, *FIELDS))
        if section == "grid":
            print_differences(rows)
            print_correlations(table)
        for name, figure in figures(section, table, out).items():
            figure.savefig(out / f"{name}.png", dpi=120)
    print(f"\ntables, eigenvectors and figures: {out}")


def settings(section: str, options: argparse.Namespace) -> list[Setting]:
    """Return the settings of a section; gates have the largest weight decay."""
    if section == "grid":
        return [Setting(noise, decay) for decay in options.decays for noise in options.noises]
    decay = max(options.decays)
    return [Setting(noise, decay, gate=gate) for gate in ("none", "relu", "silu") for noise in (0.0, NOISE)]


def compute(section: str, data: Dataset, options: argparse.Namespace, out: Path) -> None:
    """Train and measure the models of a section; the table is written after every seed, and images after seed 0."""
    rows: list[Row] = []
    for seed in range(options.seeds or (3 if data.name == "digits" else 1)):
        images = {"class": torch.tensor(options.example_class)}
        for setting in tqdm(settings(section, options), desc=f"{section}, seed {seed}", unit="model"):
            model, row = fitted(options, data, setting, seed)
            if section == "gates":  # gated models have no spectra
                rows.append(row)
                continue
            for spectrum in spectra(model):
                found = row | {"basis": spectrum.basis} | spectral_fields(spectrum, data.train_x)
                rows.append(found | sparsity(spectrum, model, data.test_x))
                images |= to_store(label(found), spectrum, options.example_class)
        write_table(out / f"{section}.csv", rows)
        if seed == 0 and section == "grid":
            replace_files([(out / f"{section}.safetensors", save(images))])


@torch.no_grad()
def sparsity(spectrum: Spectrum, model: BilinearClassifier, x: Tensor) -> dict[str, float]:
    """Return how sparsely components activate on the images x (batch, h * w): means over classes."""
    inputs = x if spectrum.basis == "input" else model.embed(x)
    result = spectrum.result
    active = torch.cat([result.activation_participation(part) for part in inputs.split(512)])  # (image, class)
    share = participation(result.truncate(min(LEADING, result.rank)).activations(inputs), 0) / len(x)
    found = (active, active / result.effective_rank(), share)
    return {name: float(value.mean()) for name, value in zip(SPARSITY, found, strict=True)}


def label(row: Row) -> str:
    """Return the setting of a row in words."""
    gate = "" if "basis" in row else str(row["gate"]).replace("none", "bilinear") + ", "
    return f"{gate}noise {row['noise']:g}, decay {row['weight_decay']:g}"


def print_differences(rows: Rows) -> None:
    """Print what the largest noise and the largest weight decay change, at each level of the other, paired by seed."""
    names = ("test_accuracy", "effective_rank", "pixel_participation", "rare_energy")
    print("differences, paired by seed")
    for basis, (changed, fixed) in itertools.product(
        bases(rows), (("noise", "weight_decay"), ("weight_decay", "noise"))
    ):
        own = of_basis(rows, basis)
        low, high = (pick(row[changed] for row in own) for pick in (min, max))
        for level in dict.fromkeys(row[fixed] for row in own) if low < high else ():
            ends = [{name: by_seed(own, name, **{changed: end, fixed: level}) for name in names} for end in (low, high)]
            cells = [
                f"{short(name)} {in_words(*over_seeds([(1, ends[1][name]), (-1, ends[0][name])]))}" for name in names
            ]
            words = f"{short(changed)} {low:g} to {high:g} at {short(fixed)} {level:g}"
            print(f"  {basis}, {words}: {', '.join(cells)}")


def print_correlations(table: Rows) -> None:
    """Print rank correlations of sparsity with noise and with accuracy, over the noises of a weight decay."""
    print("rank correlation over noises (Spearman), of")
    for basis, decay in itertools.product(bases(table), dict.fromkeys(row["weight_decay"] for row in table)):
        rows = [row for row in of_basis(table, basis) if row["weight_decay"] == decay]
        for name in SPARSITY if len(rows) > 2 else ():
            found = [
                stats.spearmanr([row[name] for row in rows], [row[other] for row in rows]).statistic
                for other in ("noise", "test_accuracy")
            ]
            print(
                f"  {basis}, decay {decay:g}, {name}: with noise {found[0]:+.2f}, with test accuracy {found[1]:+.2f}"
                f" ({len(rows)} settings)"
            )


def figures(section: str, table: Rows, out: Path) -> dict[str, Figure]:
    """Draw the figures of a section from the files in `out`, and return them by name."""
    first = table[0]
    where = f"{first['dataset']}, {first['epochs']:g} epochs, mean of {first['n']:g} seeds"
    accuracies = ("test_accuracy", "gap", "effective_rank", "rare_energy")
    if section == "gates":
        return {"gates_accuracy": dots(table, accuracies[:2], "setting", title=where)}
    stored = load_file(out / "grid.safetensors")
    made: dict[str, Figure] = {}
    for basis in bases(table):
        rows = of_basis(table, basis)
        for name, fields in (("accuracy", accuracies), ("sparsity", (*SPARSITY, "pixel_participation"))):
            bands = {field: (f"{field}_low", f"{field}_high") for field in fields}
            figure = made[f"grid_{name}_{basis}"] = curves(rows, "noise", fields, "weight_decay", bands=bands)
            figure.suptitle(f"{where}, eigenvectors in the {basis} basis", fontsize=10)
        names = {str(row["setting"]): str(row["setting"]) for row in rows}
        title = f"{first['dataset']}, class {stored['class']:d}, seed 0, {basis} basis: most positive and most negative"
        made[f"grid_eigenvectors_{basis}"] = draw_eigenvectors(stored, names, basis, title=title)
    return made


def _options(argv: list[str] | None) -> argparse.Namespace:
    options = parser(__doc__, "regularisation")
    options.add_argument("--only", default=",".join(SECTIONS), help="sections, separated by commas")
    options.add_argument("--noises", type=float, nargs="+", default=NOISES, help="noises of the grid")
    options.add_argument("--decays", type=float, nargs="+", default=DECAYS, help="of the grid; gates use the largest")
    add_training(options)
    options.add_argument("--example-class", type=int, default=5, help="class whose eigenvectors are drawn")
    chosen = parse(options, argv)
    check_training(chosen)
    for name in ("noises", "decays"):  # each once: a repeated setting would count as more seeds
        setattr(chosen, name, list(dict.fromkeys(check_number(f"--{name}", v, 0.0) for v in getattr(chosen, name))))
    chosen.only = [check_choice("--only", name, SECTIONS) for name in chosen.only.split(",")]
    return chosen


if __name__ == "__main__":
    main()
