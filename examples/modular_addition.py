"""When a bilinear layer learns modular addition, do its eigenvectors become waves, and is that before it generalises?

The task is (a, b) -> (a + b) mod p, with a and b as one-hot vectors, one after the other (2p inputs). A classifier of
one bilinear layer without biases is trained on a share of the p^2 pairs: one batch, cross-entropy, AdamW, with and
without weight decay. The other pairs are held out. Grokking means that their accuracy rises long after that of the
training pairs is 1 (Power et al., 2022).

The script follows the interaction matrices of the answers, minus their mean over answers, which changes no decision. An
eigenvector has a half for a and a half for b. In the Fourier basis of both halves, its energy is split by frequency:
0 (constants), 1, ..., (p - 1) / 2 (cosines and sines). Means over answers, and over eigenvectors with weights
eigenvalue^2:

- fourier_share: the largest share of an eigenvector's energy at one frequency;
- random_share: the same in one random orthogonal basis, whose vectors are grouped like those of the Fourier basis;
- same_frequency: share of the squared entries of the matrices, in the Fourier basis, between waves of one frequency.
  It does not depend on eigenvectors, which mix frequencies if eigenvalues are nearly equal;
- effective_rank: (sum |eigenvalue|)^2 / sum eigenvalue^2;
- frequencies: the same formula for the energy of all eigenvectors per frequency: how many frequencies the layer uses;
- unreached: share of the squared entries of the matrices that no pair reaches (two different a, or two different b).

Expected times on one core: see examples/README.md. Every model is trained once and kept in --models with its curve.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot
from tqdm import tqdm

from examples.parts.image_job import decays_of, sizes_of
from examples.parts.modular_addition_report import curves, events, print_table, spectra
from models import BilinearClassifier, ClassifierConfig, Dataset, TrainingConfig, build_classifier, train, write_table
from models.storage import load_model, save_model
from models.tables import read_table
from tensornet_interp import SpectralResult, decompose
from tensornet_interp.checks import check_int, check_number, check_share
from tensornet_interp.concentration import participation
from tensornet_interp.disk import replace_files
from tensornet_interp.keys import digest

POINTS = 60  # steps at which a training is measured, evenly on a logarithmic axis
LEADING = 24  # eigenvectors in the figure of the spectrum
MEASURES = (
    *("train_loss", "train_accuracy", "test_loss", "test_accuracy"),
    *("fourier_share", "random_share", "same_frequency", "effective_rank", "frequencies", "unreached", "squared_norm"),
)
Row = dict[str, object]


def main(argv: list[str] | None = None) -> None:
    """Train the missing models, print the tables and draw the figures."""
    options = _options(argv)
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    if not options.replot:
        compute(options, out)
    rows, kept = read_table(out / "curves.csv"), load_file(out / "spectra.safetensors")
    found = events(rows)
    write_table(out / "events.csv", found)
    print_table(found)
    curves(rows).savefig(out / "curves.png", dpi=120)
    spectra(kept).savefig(out / "spectra.png", dpi=120)
    print(f"\ntables and figures: {out}")


def compute(options: argparse.Namespace, out: Path) -> None:
    """Follow every training; write all curves, and spectra of the last one of seed 0."""
    rows: list[Row] = []
    jobs = [(p, decay, seed) for p in options.moduli for decay in options.decays for seed in range(options.seeds)]
    for p, decay, seed in tqdm(jobs, unit="model"):
        data = pairs(p, options.share, seed, options.device)
        model, curve = followed(data, decay, seed, options)
        head: Row = {"p": p, "weight_decay": decay, "seed": seed, "share": options.share, "width": options.width}
        rows += [head | {"steps": options.steps, "lr": options.lr} | dict(row) for row in curve]
        write_table(out / "curves.csv", rows)
        if seed == 0:
            start = build_classifier(model.config, seed, device=options.device)
            kept = {"modulus": torch.tensor(p), "weight_decay": torch.tensor(decay)}
            for name, one in (("start", start), ("end", model)):
                result = spectrum(one)
                energy = by_frequency(result.eigenvectors[:1, :, :LEADING], fourier(p))[0]
                kept |= {f"{name}.eigenvalues": result.eigenvalues[0], f"{name}.energy": energy}
                kept |= {f"{name}.leading": result.eigenvectors[0, :, 0]}
            replace_files([(out / "spectra.safetensors", save({k: v.cpu().contiguous() for k, v in kept.items()}))])


def pairs(p: int, share: float, seed: int, device: str = "cpu") -> Dataset:
    """Return all pairs (a, b) as one-hot vectors with their answers; `share` of them, drawn by `seed`, are to train."""
    a, b = torch.cartesian_prod(torch.arange(p), torch.arange(p)).T
    x = torch.cat([one_hot(a, p), one_hot(b, p)], 1).to(device, torch.float32)
    y = ((a + b) % p).to(device)
    order = torch.randperm(p * p, generator=torch.Generator().manual_seed(seed)).to(device)
    mine, held = order.tensor_split([round(share * p * p)])
    names = tuple(str(answer) for answer in range(p))
    return Dataset(f"modular_{p}", x[mine], y[mine], x[held], y[held], (2, p), names, source="all pairs of one-hots")


def followed(
    data: Dataset, decay: float, seed: int, options: argparse.Namespace
) -> tuple[BilinearClassifier, Sequence[Mapping[str, object]]]:
    """Return the trained model and its measures over the steps; both are read from --models if they are there."""
    config = ClassifierConfig(inputs=data.train_x.shape[1], width=None, hidden=options.width, classes=data.shape[1])
    training = TrainingConfig(
        epochs=options.steps, lr=options.lr, weight_decay=decay, batch_size=len(data.train_x), noise=0.0, seed=seed
    )
    settings = {"dataset": data.name, "training": asdict(training), "points": POINTS, "measures": list(MEASURES)}
    settings["data"] = digest(data.train_x, data.train_y, data.test_x, data.test_y)
    place = Path(options.models) / f"{data.name}-{digest(settings, asdict(config))}"
    if not (place / "curve.csv").exists():
        model = build_classifier(config, seed, device=options.device)
        rows = [measure(0, model, data)]
        steps = measured_steps(options.steps)

        def follow(step: int, model: torch.nn.Module) -> None:
            if step in steps:
                rows.append(measure(step, model, data))

        train(model, data, training, progress=False, callback=follow)  # one batch: an epoch is a step
        save_model(model, place, extra=settings)
        write_table(place / "curve.csv", rows)  # last: it says that the model is there too
    found = load_model(place, device=options.device)
    if not isinstance(found, BilinearClassifier):
        raise ValueError(f"{place} holds a {type(found).__name__}, not a BilinearClassifier; remove it")
    return found, read_table(place / "curve.csv")


def measured_steps(steps: int) -> set[int]:
    """Return at most POINTS steps from 1 to `steps`, the last included, evenly on a logarithmic axis."""
    return {round(steps ** (point / (POINTS - 1))) for point in range(POINTS)}


def measure(step: int, model: torch.nn.Module, data: Dataset) -> Row:
    """Return losses, accuracies and what the eigenvectors look like at one step."""
    if not isinstance(model, BilinearClassifier):
        raise TypeError(f"model must be a BilinearClassifier, got {type(model).__name__}")
    row: Row = {"step": step}
    for name, x, y in (("train", data.train_x, data.train_y), ("test", data.test_x, data.test_y)):
        with torch.no_grad():
            logits = model(x)
        row[f"{name}_loss"] = float(cross_entropy(logits, y))
        row[f"{name}_accuracy"] = float((logits.argmax(1) == y).double().mean())
    p = data.shape[1]
    result = spectrum(model)
    weights = result.eigenvalues.square()  # (answer, rank)
    total = weights.sum(1)
    energy = by_frequency(result.eigenvectors, fourier(p).to(weights.device))  # (answer, frequency, rank)
    random = by_frequency(result.eigenvectors, random_basis(2 * p).to(weights.device))
    for name, split in (("fourier_share", energy), ("random_share", random)):
        row[name] = float(((split.amax(1) * weights).sum(1) / total).mean())
    row["effective_rank"] = float(result.effective_rank().mean())
    row["frequencies"] = float(participation((energy * weights[:, None]).sum((0, 2))))
    matrices = (result.eigenvectors * result.eigenvalues[:, None]) @ result.eigenvectors.mT
    squares = matrices.square().sum()
    row["same_frequency"] = same_frequency(matrices) / float(squares)
    row["unreached"] = float(matrices[:, ~reached(p).to(weights.device)].square().sum() / squares)
    row["squared_norm"] = float(torch.stack([weight.detach().square().sum() for weight in model.parameters()]).sum())
    return row


def spectrum(model: BilinearClassifier) -> SpectralResult:
    """Return the eigenpairs of every answer minus the mean over answers, in float64."""
    layer = model.network("input")[0].to_layer().to(dtype=torch.float64)
    answers = torch.eye(len(layer.down), dtype=torch.float64, device=layer.down.device)
    centred = layer.change_basis(outputs=answers - 1 / len(answers), note="minus the mean over answers")
    result: SpectralResult = decompose(centred, "eigen")
    return result


def fourier(p: int) -> Tensor:
    """Return the orthonormal basis (2p, 2p) of waves on a, then on b: per half a constant, cos 1, sin 1, cos 2, ..."""
    angles = 2 * torch.pi * torch.arange(p, dtype=torch.float64)[:, None] * torch.arange(1, (p + 1) // 2) / p
    waves = torch.stack([angles.cos(), angles.sin()], 2).flatten(1) * (2 / p) ** 0.5  # cos 1, sin 1, cos 2, ...
    half = torch.cat([torch.full((p, 1), p**-0.5, dtype=torch.float64), waves], 1)
    return torch.block_diag(half, half)


def random_basis(size: int) -> Tensor:
    """Return one random orthonormal basis (size, size), always the same."""
    generator = torch.Generator().manual_seed(0)
    return torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64)).Q


def by_frequency(vectors: Tensor, basis: Tensor) -> Tensor:
    """Return the energy of unit vectors (answer, 2p, rank) per frequency: (answer, (p + 1) / 2, rank), sum 1."""
    p = len(basis) // 2
    coordinates = (basis.to(vectors.device).T @ vectors).square().unflatten(1, (2, p)).sum(1)  # of both halves
    waves = coordinates[:, 1:].unflatten(1, (-1, 2)).sum(2)  # cosine and sine
    return torch.cat([coordinates[:, :1], waves], 1)


def same_frequency(matrices: Tensor) -> float:
    """Return the sum of squared entries of matrices (answer, 2p, 2p) between waves of one frequency."""
    p = matrices.shape[-1] // 2
    basis = fourier(p).to(matrices.device)
    number = ((torch.arange(p, device=matrices.device) + 1) // 2).repeat(2)  # the frequency of every wave
    entries = (basis.T @ matrices @ basis).square().sum(0)
    return float(entries[number[:, None] == number].sum())


def reached(p: int) -> Tensor:
    """Return True for the entries (2p, 2p) of an interaction matrix that some pair reaches: a with b, and itself."""
    half = torch.eye(p, dtype=torch.bool)
    both = torch.ones(p, p, dtype=torch.bool)
    return torch.cat([torch.cat([half, both], 1), torch.cat([both, half], 1)])


def _options(argv: list[str] | None) -> argparse.Namespace:
    made = argparse.ArgumentParser(
        prog="modular_addition.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--moduli", default="23,31,59", help="odd numbers p, separated by commas, as 23,31,59")
    made.add_argument("--decays", default="0,3", help="weight decays, separated by commas")
    made.add_argument("--share", type=float, default=0.6, help="share of the pairs that is trained on")
    made.add_argument("--width", type=int, default=64, help="hidden units")
    made.add_argument("--steps", type=int, default=1500, help="steps of training, each with all training pairs")
    made.add_argument("--lr", type=float, default=0.01, help="learning rate, which falls to 0")
    made.add_argument("--seeds", type=int, default=3, help="number of seeds, from 0 on; they decide weights and pairs")
    made.add_argument("--device", default="cpu")
    made.add_argument("--replot", action="store_true", help="draw the figures again from the tables on disk")
    made.add_argument("--models", default="out/models", help="folder where trained models are saved and read")
    made.add_argument("--out", default="out/modular_addition", help="folder of tables and figures")
    options = made.parse_args(argv)
    options.moduli = sizes_of("--moduli", options.moduli)
    for p in options.moduli:
        if check_int("--moduli", p, 3) % 2 == 0:
            raise ValueError(f"--moduli must be odd numbers, whose waves come in pairs; got {p}")
    options.decays = decays_of(options.decays)
    check_share("--share", options.share, low_open=True, high_open=True)
    for p in options.moduli:
        check_int("--share times p^2", round(options.share * p * p), 1, p * p - 1, "pairs to train on, and to hold out")
    for name, low in (("width", 1), ("steps", 1), ("seeds", 1)):
        check_int(f"--{name}", getattr(options, name), low)
    check_number("--lr", options.lr, 0.0)
    return options


if __name__ == "__main__":
    main()
