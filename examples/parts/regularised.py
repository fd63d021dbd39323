"""Classifiers by noise, weight decay and perturbation: training, spectra, numbers of leading eigenvectors, tables."""

import argparse
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from torch import Tensor

from examples.parts.image_job import add_batch_size, classifier, schedule
from models import BilinearClassifier, Dataset, accuracy
from models.augment import perturbation
from models.runs import trained
from models.tables import interval, summarise
from tensornet_interp import SpectralResult, decompose
from tensornet_interp.checks import check_int
from tensornet_interp.concentration import energy_share, participation, rare_inputs
from tensornet_interp.plots import compared_vectors

BASES = ("embedding", "input")
LEADING = 10  # eigenvectors per class, largest magnitude first
DRAWN = 3  # eigenvectors of each sign in figures
KEYS = ("dataset", "images", "width", "epochs", "gate", "perturbation", "noise", "weight_decay")
ACCURACIES = ("train_accuracy", "test_accuracy", "gap")
SHARES = ("rare_pixels", "never_pixels")
Row = Mapping[str, Any]
Rows = Sequence[Row]


class Setting(NamedTuple):
    """A `Setting` holds what varies between models."""

    noise: float
    weight_decay: float
    perturbation: str = "none"
    gate: str = "none"


class Spectrum(NamedTuple):
    """A `Spectrum` holds the eigenvectors of a model in one basis, and as images (class, rank, h * w)."""

    basis: str
    result: SpectralResult
    images: Tensor


def add_training(made: argparse.ArgumentParser) -> None:
    """Add the options of training that `check_training`, `first_images` and `fitted` read."""
    made.add_argument("--images", type=int, help="training images, from the first on; default: by data set")
    add_batch_size(made)
    made.add_argument("--width", type=int, help="embedding and hidden size; default: by data set")


def check_training(options: argparse.Namespace, images: int | None = None, batch_size: int | None = None) -> None:
    """Check the options of `add_training` and fill in the two numbers, which the digits do not need."""
    for name, usual in (("images", images), ("batch_size", batch_size)):
        given = getattr(options, name)
        if given is not None:
            check_int(f"--{name.replace('_', '-')}", given, 1)
        elif options.dataset != "digits":
            setattr(options, name, usual)


def first_images(data: Dataset, options: argparse.Namespace) -> Dataset:
    """Return the data set with its first `--images` training images, or with all."""
    if options.images is None:
        return data
    count = check_int("--images", options.images, 1, len(data.train_x))
    return replace(data, train_x=data.train_x[:count], train_y=data.train_y[:count])


def fitted(
    options: argparse.Namespace, data: Dataset, setting: Setting, seed: int
) -> tuple[BilinearClassifier, dict[str, Any]]:
    """Return the trained classifier of a setting, and its row: settings and accuracies on clean images.

    With --full a training has 100 epochs, but for the digits.
    """
    config = classifier(data, options.width, gate=setting.gate)
    changes: dict[str, object] = {"epochs": 100} if options.full and data.name != "digits" else {}
    changes |= {"noise": setting.noise, "weight_decay": setting.weight_decay, "seed": seed}
    plan = schedule(data, options, **changes)
    change = perturbation(setting.perturbation, data.shape)
    model = trained(options.models, data, config, plan, perturbation=change, progress=False)
    row = {"dataset": data.name, "images": len(data.train_x), "width": config.width, "epochs": plan.epochs}
    row |= {**setting._asdict(), "seed": seed}
    train, test = (accuracy(model, x, y) for x, y in ((data.train_x, data.train_y), (data.test_x, data.test_y)))
    return model, row | {"train_accuracy": train, "test_accuracy": test, "gap": train - test}


def spectra(model: BilinearClassifier) -> Iterator[Spectrum]:
    """Yield the spectra of a bilinear model with an embedding, in both bases."""
    embedding = model.embedding
    if model.config.gate != "none" or embedding is None:
        return
    for basis in BASES:
        result: SpectralResult = decompose(model.network(basis)[0], "eigen")
        result = result.truncate(min(result.rank, model.config.embedded))  # the rest is 0, by the embedding
        vectors = result.eigenvectors.mT  # (class, rank, in)
        yield Spectrum(basis, result, vectors if basis == "input" else vectors @ embedding.weight.detach())


def spectral_fields(spectrum: Spectrum, x: Tensor) -> dict[str, float]:
    """Return means over classes; pixels are rare or never active in the images x (batch, h * w)."""
    rare, never = rare_inputs(x), ~(x > 0).any(0)
    leading = spectrum.images[:, :LEADING]
    found = {
        "effective_rank": spectrum.result.effective_rank(),
        "pixel_participation": participation(leading),
        "rare_energy": energy_share(leading, rare),
        "never_energy": energy_share(leading, never),
        "rare_pixels": rare.double(),
        "never_pixels": never.double(),
    }
    return {name: float(value.mean()) for name, value in found.items()}


def drawn(spectrum: Spectrum, label: int) -> tuple[Tensor, Tensor]:
    """Return images (vector, h * w) and eigenvalues of a class: the most positive ones, then the most negative ones."""
    values = spectrum.result.eigenvalues[label]
    order = values.argsort(descending=True)
    picked = order[[*range(DRAWN), *range(-DRAWN, 0)]]
    shown = spectrum.images[label, picked]
    shown = shown * shown.gather(1, shown.abs().argmax(1, keepdim=True)).sign()  # the sign is free
    return shown.contiguous(), values[picked]


def to_store(name: str, spectrum: Spectrum, label: int) -> dict[str, Tensor]:
    """Return what `drawn` returns by the names under which `draw_eigenvectors` finds it; `name` says the setting."""
    return dict(zip(_places(name, spectrum.basis), drawn(spectrum, label), strict=True))


def draw_eigenvectors(stored: Mapping[str, Tensor], names: Mapping[str, str], basis: str, *, title: str) -> Figure:
    """Draw what `to_store` returned, a row per setting. names: {setting: title of its row}."""
    vectors, values = ({title: stored[_places(name, basis)[part]] for name, title in names.items()} for part in (0, 1))
    side = round(next(iter(vectors.values())).shape[1] ** 0.5)  # all data sets have square images
    return compared_vectors(vectors, values, (side, side), title=title)


def _places(name: str, basis: str) -> tuple[str, str]:
    return f"{name}|{basis}|vectors", f"{name}|{basis}|values"


def summary(rows: Rows, by: Sequence[str], fields: Sequence[str]) -> list[Row]:
    """Return means over seeds with 95 % intervals, one row per setting, `by` and basis."""
    keys = [*KEYS, *by, *(["basis"] if "basis" in rows[0] else [])]
    return list(summarise(rows, keys, (*ACCURACIES, *fields, *SHARES)))


def print_table(table: Rows, label: str, fields: Sequence[str]) -> None:
    """Print means of the fields, and half the width of their intervals; `label` is the field that names a row."""
    first = table[0]
    print(
        f"{first['dataset']}, {first['images']:g} images, width {first['width']:g}, {first['epochs']:g} epochs,",
        end=" ",
    )
    print(f"{first['n']:g} seeds: mean ± half of the 95 % interval over seeds")
    wides = {name: max(17, len(short(name))) for name in fields if name in first}
    wide = max(len(str(row[label])) for row in table)
    for basis in bases(table):
        print(f"{basis or 'setting':<{wide}}  " + "  ".join(f"{short(name):>{width}}" for name, width in wides.items()))
        for row in of_basis(table, basis):
            print(
                f"{row[label]!s:<{wide}}  " + "  ".join(f"{cell(row, name):>{width}}" for name, width in wides.items())
            )
    if "rare_pixels" in first:
        print(f"pixels active in under 1 % of images: {first['rare_pixels']:.3f}, in none: {first['never_pixels']:.3f}")


def cell(row: Row, name: str) -> str:
    """Return the mean of a field with half the width of its interval."""
    return in_words(row[name], row.get(f"{name}_high", math.nan) - row[name], "")


def short(name: str) -> str:
    """Return the name of a field as a head of a printed table."""
    words = {"participation": "part.", "activation": "act.", "accuracy": "acc.", "effective": "eff."}
    return " ".join(words.get(word, word) for word in name.split("_"))


def bases(table: Rows) -> list[str]:
    """Return the bases of a table; rows of gated models have none, and their basis is ""."""
    return [str(basis) for basis in dict.fromkeys(row.get("basis", "") for row in table)]


def of_basis(table: Rows, basis: str) -> list[Row]:
    """Return the rows of one basis."""
    return [row for row in table if row.get("basis", "") == basis]


def by_seed(rows: Rows, field: str, **where: object) -> dict[Any, float]:
    """Return {seed: field} of the rows whose fields are those of `where`."""
    return {
        row["seed"]: float(row[field]) for row in rows if all(row.get(name) == value for name, value in where.items())
    }


def over_seeds(signed: Sequence[tuple[int, Mapping[Any, float]]]) -> tuple[float, float]:
    """Return the mean over seeds of the sum of sign * value, and half the width of its interval (nan for one seed)."""
    seeds = set.intersection(*(set(values) for _, values in signed))
    return interval([sum(sign * values[seed] for sign, values in signed) for seed in seeds])


def in_words(mean: float, half: float, sign: str = "+") -> str:
    """Return a mean with half the width of its interval, if it has one."""
    digits = 2 if abs(mean) >= 10 else 4
    return f"{mean:{sign}.{digits}f}" + ("" if math.isnan(half) else f" ± {half:.{digits}f}")
