"""What do input noise, weight decay and augmentation do to a bilinear classifier, and what does bilinearity cost?

There are four sections (`--only rows,noise,transforms,gates`). Each writes a table of all models, and one of means with
95 % intervals over seeds (shaded in the figures), to out/regularisation/DATASET:

- rows: input noise 0 or 0.5 with weight decay 0 or 1: accuracy, gap and effective rank;
- noise: accuracy, gap and sparsity against the noise. Do components activate more sparsely under noise?
- transforms: translation, rotation and blur instead of noise;
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
  active in none of them. Compare them with rare_pixels and never_pixels, the shares of such pixels. These pixels are
  counted without the transform, which can make other pixels active.

The last four are means over the ten eigenvalues of largest magnitude of every class. Default: the digits, 3 seeds, 1.5
minutes. One model of MNIST or Fashion-MNIST takes about 1 minute (20 epochs) or 4 (`--full`: 100 epochs) on one core.
Every seed has 4 models (rows), 8 more (noise), 3 more (transforms) and 4 more (gates). Models are kept in --models: the
sections share them, and a stopped run continues.
"""

import argparse
import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from safetensors.torch import load_file, save
from scipy import stats
from torch import Tensor
from tqdm import tqdm

from examples.parts.image_job import classifier, dataset_of, out_folder, parse, parser, schedule
from models import BilinearClassifier, Dataset, accuracy, write_table
from models.augment import augmentation
from models.runs import trained
from models.tables import read_table, summarise
from tensornet_interp import SpectralResult, decompose
from tensornet_interp.checks import check_choice, check_int, check_number
from tensornet_interp.concentration import energy_share, participation, rare_inputs
from tensornet_interp.disk import replace_files
from tensornet_interp.plots import compared_vectors, curves, dots

SECTIONS = ("rows", "noise", "transforms", "gates")
BASES = ("embedding", "input")
NOISES = (0.0, 0.15, 0.3, 0.5, 1.0, 1.5)
DECAYS = (0.0, 1.0)
NOISE = 0.5  # of the four settings
LEADING = 10  # eigenvectors per class, largest magnitude first
DRAWN = 3  # eigenvectors of each sign in figures
STRENGTHS = {  # whole pixels, degrees, standard deviation in pixels
    "digits": {"translation": 1.0, "rotation": 15.0, "blur": 0.5},
    "mnist": {"translation": 2.0, "rotation": 15.0, "blur": 1.0},
    "fashion_mnist": {"translation": 2.0, "rotation": 15.0, "blur": 1.0},
}
KEYS = ("dataset", "width", "epochs", "transform", "strength", "gate", "noise", "weight_decay")
ACCURACIES = ("train_accuracy", "test_accuracy", "gap")
SPECTRAL = (
    *("effective_rank", "activation_participation", "activation_per_rank", "image_share", "pixel_participation"),
    *("rare_energy", "never_energy"),
)
Row = Mapping[str, object]


class Setting(NamedTuple):
    """A `Setting` holds what varies between models: noise, weight decay, transform and gate."""

    noise: float
    weight_decay: float
    transform: str = "none"
    strength: float = 0.0
    gate: str = "none"


def main(argv: list[str] | None = None) -> None:
    """Run the sections of `--only`: train, measure, print tables and draw figures."""
    options = _options(argv)
    out = out_folder(options)
    measure = None if options.replot else _measurements(options)
    for section in options.only:
        if measure is not None:
            seeds = range(options.seeds or (3 if options.dataset == "digits" else 1))
            jobs = list(itertools.product(settings(section, options), seeds))
            rows: list[Row] = []
            images: dict[str, Tensor] = {}
            for setting, seed in tqdm(jobs, desc=section, unit="model"):
                found, vectors = measure(setting, seed)
                plain = [{key: found[0][key] for key in (*KEYS, "seed", *ACCURACIES)}]
                rows += plain if section == "gates" else found  # gated models have nothing else
                if seed == 0 and _is_drawn(section, setting, options):
                    images |= {f"{label(found[0])}|{key}": value.contiguous() for key, value in vectors.items()}
            write_table(out / f"{section}.csv", rows)
            parts = images | {"class": torch.tensor(options.example_class)}
            replace_files([(out / f"{section}.safetensors", save(parts))] if images else [])
        table = summary(read_table(out / f"{section}.csv"))
        write_table(out / f"{section}_summary.csv", table)
        report(section, table)
        for name, figure in figures(section, table, out).items():
            figure.savefig(out / f"{name}.png", dpi=120)
    print(f"\ntables, eigenvectors and figures: {out}")


def _is_drawn(section: str, setting: Setting, options: argparse.Namespace) -> bool:
    return section in ("rows", "transforms") or (section == "noise" and setting.weight_decay == max(options.decays))


def settings(section: str, options: argparse.Namespace) -> list[Setting]:
    """Return the settings of a section; transforms and gates have the largest weight decay."""
    decay = max(options.decays)
    if section == "rows":
        return [Setting(noise, decay) for noise in (0.0, NOISE) for decay in options.decays]
    if section == "noise":
        return [Setting(noise, decay) for decay in options.decays for noise in options.noises]
    if section == "gates":
        return [Setting(noise, decay, gate=gate) for gate in ("none", "relu", "silu") for noise in (0.0, NOISE)]
    changed = [Setting(0.0, decay, name, strength) for name, strength in STRENGTHS[options.dataset].items()]
    return [Setting(0.0, decay), *changed, Setting(NOISE, decay)]


def _measurements(
    options: argparse.Namespace,
) -> Callable[[Setting, int], tuple[list[Row], dict[str, Tensor]]]:
    """Return a function (setting, seed) -> rows, one per basis, and images; it trains and measures each pair once."""
    data = dataset_of(options)
    check_int("--example-class", options.example_class, 0, len(data.class_names) - 1)
    known: dict[tuple[Setting, int], tuple[list[Row], dict[str, Tensor]]] = {}

    def measure(setting: Setting, seed: int) -> tuple[list[Row], dict[str, Tensor]]:
        if (setting, seed) not in known:
            config = classifier(data, options.width, gate=setting.gate)
            longer = {"epochs": 100} if options.full and data.name != "digits" else {}
            training = schedule(
                data, options, noise=setting.noise, weight_decay=setting.weight_decay, seed=seed, **longer
            )
            change, name = None, ""
            if setting.transform != "none":
                change = augmentation(setting.transform, data.shape, setting.strength)
                name = f"{setting.transform} {setting.strength:g}"
            model = trained(
                options.models, data, config, training, transform=change, transform_name=name, progress=False
            )
            train, test = (accuracy(model, x, y) for x, y in ((data.train_x, data.train_y), (data.test_x, data.test_y)))
            row = {"dataset": data.name, "width": config.width, "epochs": training.epochs, **setting._asdict()}
            row |= {"seed": seed, "train_accuracy": train, "test_accuracy": test, "gap": train - test}
            known[setting, seed] = spectral_rows(row, model, data, options.example_class)
        return known[setting, seed]

    return measure


@torch.no_grad()
def spectral_rows(
    row: Row, model: BilinearClassifier, data: Dataset, drawn: int
) -> tuple[list[Row], dict[str, Tensor]]:
    """Return one row per basis (a gated model: one row), and the leading eigenvectors of class `drawn` as images."""
    if model.config.gate != "none" or model.embedding is None:
        return [row], {}
    rare = rare_inputs(data.train_x)
    never = ~(data.train_x > 0).any(0)
    shares = {"rare_pixels": float(rare.double().mean()), "never_pixels": float(never.double().mean())}
    rows: list[Row] = []
    images: dict[str, Tensor] = {}
    for basis in BASES:
        network = model.network(basis)
        result: SpectralResult = decompose(network[0], "eigen")
        result = result.truncate(min(result.rank, model.config.embedded))  # the rest is 0, by the embedding
        x = data.test_x if basis == "input" else model.embed(data.test_x)
        vectors = result.eigenvectors.mT  # (class, rank, in)
        pixels = vectors if basis == "input" else vectors @ model.embedding.weight  # (class, rank, h * w)
        leading = pixels[:, :LEADING]
        active = torch.cat([result.activation_participation(part) for part in x.split(512)])  # (image, class)
        effective = result.effective_rank()
        measured = {
            "effective_rank": effective,
            "activation_participation": active,
            "activation_per_rank": active / effective,
            "image_share": participation(result.truncate(min(LEADING, result.rank)).activations(x), 0) / len(x),
            "pixel_participation": participation(leading),
            "rare_energy": energy_share(leading, rare),
            "never_energy": energy_share(leading, never),
        }
        rows.append({**row, "basis": basis, **{key: float(value.mean()) for key, value in measured.items()}, **shares})
        order = result.eigenvalues[drawn].argsort(descending=True)
        picked = torch.cat([order[:DRAWN], order[-DRAWN:]])
        shown = pixels[drawn, picked]  # (vector, h * w); the sign is free
        shown = shown * shown.gather(1, shown.abs().argmax(1, keepdim=True)).sign()
        images |= {f"{basis}|vectors": shown, f"{basis}|values": result.eigenvalues[drawn, picked]}
    return rows, images


def label(row: Row) -> str:
    """Return the setting of a row in words."""
    changes = [f"{row['transform']} {row['strength']:g}"] if row["transform"] != "none" else []
    if "basis" not in row:  # in the section gates
        changes.append("bilinear" if row["gate"] == "none" else str(row["gate"]))
    return ", ".join([*changes, f"noise {row['noise']:g}", f"decay {row['weight_decay']:g}"])


def summary(rows: list[dict[str, float | str]]) -> list[Row]:
    """Return means over seeds with 95 % intervals, one row per setting and basis."""
    by = [*KEYS, *(["basis"] if "basis" in rows[0] else [])]
    shares = ("rare_pixels", "never_pixels")
    return [{**row, "setting": label(row)} for row in summarise(rows, by, (*ACCURACIES, *SPECTRAL, *shares))]


def report(section: str, table: list[Row]) -> None:
    """Print the table; for the section noise also rank correlations of sparsity with noise and with accuracy."""
    first = table[0]
    print(f"\n{section}: {first['dataset']}, width {first['width']:g}, {first['epochs']:g} epochs, {first['n']} seeds")
    names = [*ACCURACIES, *(name for name in SPECTRAL if name in first)]
    heads = [name.replace("_", " ").replace("participation", "part.").replace("activation", "act.") for name in names]
    heads = [f"{head.replace('accuracy', 'acc.'):>10}" for head in heads]
    print(f"{'basis':<10} {'setting':<32}" + "  ".join(heads))
    for basis in _bases(table):
        for row in table:
            if row.get("basis", "") == basis:
                cells = (f"{row[name]:>{len(head)}.4f}" for name, head in zip(names, heads, strict=True))
                print(f"{basis:<10} {row['setting']:<32}" + "  ".join(cells))
    if "basis" in first:
        print(f"pixels active in under 1 % of images: {first['rare_pixels']:.3f}, in none: {first['never_pixels']:.3f}")
    if section != "noise":
        return
    print("rank correlation over settings (Spearman), of")
    for basis, decay in itertools.product(_bases(table), dict.fromkeys(row["weight_decay"] for row in table)):
        rows = [row for row in table if row["basis"] == basis and row["weight_decay"] == decay]
        for name in ("activation_participation", "activation_per_rank", "image_share"):
            found = [
                stats.spearmanr([row[name] for row in rows], [row[other] for row in rows]).statistic
                for other in ("noise", "test_accuracy")
            ]
            print(
                f"  {basis}, decay {decay:g}, {name}: with noise {found[0]:+.2f}, with test accuracy {found[1]:+.2f}"
                f" ({len(rows)} settings)"
            )


def figures(section: str, table: list[Row], out: Path) -> dict[str, Figure]:
    """Draw the figures of a section from the files in `out`, and return them by name."""
    first = table[0]
    where = f"{first['dataset']}, {first['epochs']:g} epochs, mean of {first['n']} seeds"
    accuracies = ("test_accuracy", "gap", "effective_rank", "rare_energy")
    sparsity = ("activation_participation", "activation_per_rank", "image_share", "pixel_participation")
    made: dict[str, Figure] = {}
    for basis in _bases(table):
        rows = [row for row in table if row.get("basis", "") == basis]
        fields: tuple[str, ...]
        ending, title = (f"_{basis}", f"{where}, eigenvectors in the {basis} basis") if basis else ("", where)
        if section in ("rows", "noise"):
            for name, fields in (("accuracy", accuracies), ("sparsity", sparsity)):
                bands = {field: (f"{field}_low", f"{field}_high") for field in fields}
                figure = made[f"{section}_{name}{ending}"] = curves(rows, "noise", fields, "weight_decay", bands=bands)
                figure.suptitle(title, fontsize=10)
        else:
            fields = tuple(field for field in accuracies if field in rows[0])
            made[f"{section}_accuracy{ending}"] = dots(rows, fields, "setting", title=title)
        if basis:
            stored = load_file(out / f"{section}.safetensors")
            names = [str(row["setting"]) for row in rows if f"{row['setting']}|{basis}|vectors" in stored]
            vectors, values = (
                {name: stored[f"{name}|{basis}|{part}"] for name in names} for part in ("vectors", "values")
            )
            side = round(vectors[names[0]].shape[1] ** 0.5)  # all data sets have square images
            title = (
                f"{first['dataset']}, class {stored['class']:d}, seed 0, {basis} basis: most positive and most negative"
            )
            made[f"{section}_eigenvectors{ending}"] = compared_vectors(vectors, values, (side, side), title=title)
    return made


def _bases(table: list[Row]) -> list[str]:
    return [str(basis) for basis in dict.fromkeys(row.get("basis", "") for row in table)]


def _options(argv: list[str] | None) -> argparse.Namespace:
    options = parser(__doc__, "regularisation")
    options.add_argument("--only", default=",".join(SECTIONS), help="sections, separated by commas")
    options.add_argument("--noises", type=float, nargs="+", default=NOISES, help="noises of the section noise")
    options.add_argument("--decays", type=float, nargs="+", default=DECAYS, help="transforms and gates use the largest")
    options.add_argument("--width", type=int, help="embedding and hidden size; default: by data set")
    options.add_argument("--example-class", type=int, default=5, help="class whose eigenvectors are drawn")
    chosen = parse(options, argv)
    for name in ("noises", "decays"):  # each once: a repeated setting would count as more seeds
        setattr(chosen, name, list(dict.fromkeys(check_number(f"--{name}", v, 0.0) for v in getattr(chosen, name))))
    chosen.only = [check_choice("--only", name, SECTIONS) for name in chosen.only.split(",")]
    return chosen


if __name__ == "__main__":
    main()
