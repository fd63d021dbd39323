"""How small can a bilinear classifier of digits be made, and what do its components look like, with and without priors?

The script fits every decomposition at several sizes, prints errors, accuracy and cross-entropy, and draws components.
Every fit is kept in records.jsonl, so a stopped run continues from there. Default: scikit-learn's bundled digits, about
a minute; `--dataset mnist --data-root DIR` takes about 6 minutes on two cores.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from models import (
    BilinearClassifier,
    ClassifierConfig,
    Dataset,
    TrainingConfig,
    build_classifier,
    load_dataset,
    load_model,
    save_model,
    train,
)
from tensornet_interp import BilinearMap, decompose
from tensornet_interp.decompositions import Factors, NonNegative, Prior, Smooth, Sparse
from tensornet_interp.fidelity import fidelity
from tensornet_interp.plots import components, curves, outputs_map, pareto
from tensornet_interp.sweep import sweep
from tensornet_interp.tables import write_csv

Record = dict[str, Any]

# by size of the data set: training, sizes, and the rank of fits with priors
PRESETS: dict[str, dict[str, Any]] = {
    "digits": {
        "training": {"lr": 5e-3, "batch_size": 128, "epochs": 40},
        "hidden": 64,
        "ranks": (4, 8, 16, 32),
        "blocks": ((5, 2), (10, 2), (10, 3), (10, 4), (10, 6)),
        "inputs": (4, 8, 16, 32),
        "rank": 16,
    },
    "mnist": {
        "training": {"lr": 1e-3, "batch_size": 2048, "epochs": 20},
        "hidden": 256,
        "ranks": (16, 32, 64, 128),
        "blocks": ((5, 4), (10, 4), (10, 8), (10, 16), (10, 24)),
        "inputs": (16, 32, 64, 128),
        "rank": 64,
    },
}
PRESETS["fashion_mnist"] = PRESETS["mnist"]
STRENGTHS = {"sparse": (0.001, 0.003, 0.01, 0.03, 0.1, 0.3), "smooth": (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)}
FORMATS = {
    "parameters": "d",
    "relative_error": ".4f",
    "cosine": ".5f",
    "accuracy": ".4f",
    "cross_entropy": ".4f",
    "specialisation": ".3f",
    "roughness": ".3f",
    "seconds": ".1f",
}


def main(argv: list[str] | None = None) -> None:
    """Run all fits, print tables and draw figures."""
    options = _options(argv)
    preset = PRESETS[options.dataset]
    out = Path(options.out or f"out/{options.dataset}/decompositions")
    out.mkdir(parents=True, exist_ok=True)
    data = load_dataset(options.dataset, options.data_root, device=options.device)
    layer = classifier(data, preset, options, out).network(basis="input")[0]
    job = Job(layer, data, preset, out, options.steps)
    print(f"\n{layer}\ntest accuracy {job.whole['accuracy']:.4f}, cross-entropy {job.whole['cross_entropy']:.4f}")
    records = compare(job)
    records += with_strength(job, "sparse", "specialisation", records)
    records += with_strength(job, "smooth", "roughness", records)
    records += non_negative(job, records)
    records += truncated_output_svd(job)
    draw(job, "plain", [])
    write_csv([record | {"options": label(record)} for record in records], out / "records.csv")
    print(f"\nfigures, tables and records: {out}")


@dataclass(frozen=True, eq=False)
class Job:
    """A `Job` holds the layer, the images it is measured on, the sizes, and the folder of the results."""

    layer: BilinearMap
    data: Dataset
    preset: dict[str, Any]
    out: Path
    steps: int | None = None  # iterations of fits with priors

    @cached_property
    def whole(self) -> dict[str, float]:
        """Accuracy and cross-entropy of the whole layer, and the mean squares of its outputs on images and pairs."""
        zero = replace(self.layer.to_layer(), down=0 * self.layer.to_layer().down)
        nothing = fidelity(zero, self.layer, self.data.test_x, self.data.test_y)
        return {
            "accuracy": nothing.reference_accuracy or 0.0,
            "cross_entropy": nothing.reference_cross_entropy or 0.0,
            "square": nothing.mse,
            "square_independent": nothing.mse_independent or 1.0,
        }

    def prior(self, name: str, strength: float) -> Prior:
        """Return the prior "sparse" or "smooth" with this strength."""
        return Sparse("outputs", strength) if name == "sparse" else Smooth(self.data.shape, strength)

    def options(self, rank: int, priors: Sequence[Prior]) -> dict[str, object]:
        """Return options of `cp` for this rank and these priors."""
        chosen: dict[str, object] = {"rank": rank}
        if priors:
            chosen["priors"] = list(priors)
            if self.steps is not None:
                chosen["max_iterations"] = self.steps
        return chosen

    def fit(self, method: str, grid: Mapping[str, Sequence[object]] | Sequence[Mapping[str, object]]) -> list[Record]:
        """Fit the grid and return its records; fits of an earlier run are read from disk."""
        return sweep(self.layer, method, grid, path=self.out / "records.jsonl", measure=self.measure, errors="raise")

    def measure(self, result: BilinearMap) -> dict[str, float]:
        """Measure a result as a classifier, and measure the shape of its factors."""
        found = fidelity(result, self.layer, self.data.test_x, self.data.test_y)
        factors = result.to_layer()
        return {
            "accuracy": found.accuracy or 0.0,
            "cross_entropy": found.cross_entropy or 0.0,
            "mse_share": found.mse / self.whole["square"],
            "mse_independent_share": (found.mse_independent or 0.0) / self.whole["square_independent"],
            "specialisation": specialisation(factors.down),
            "roughness": float(Smooth(self.data.shape).penalty(Factors(factors.down, factors.left, factors.right))),
        }


def specialisation(outputs: Tensor) -> float:
    """Return the mean over components of max |outputs| / sum |outputs|: 1 if every component has one output."""
    size = outputs.abs()
    return float((size.amax(0) / size.sum(0))[size.sum(0) > 0].mean())


def compare(job: Job) -> list[Record]:
    """Fit every method at its sizes; print a table, and draw the error against the number of parameters."""
    ranks = {"rank": job.preset["ranks"]}
    blocks = [{"blocks": b, "rank": r} for b, r in job.preset["blocks"]]
    records = []
    grids: dict[str, Any] = {
        "cp": [*({"rank": r} for r in job.preset["ranks"]), {"rank": job.preset["ranks"][0], "starts": 5}],
        "symmetric_cp": ranks,
        "block_term": blocks,
        "output_svd": blocks,
        "eigen": {"rank": [r for b, r in job.preset["blocks"] if b == len(job.data.class_names)]},
        "hosvd": {"ranks": [(len(job.data.class_names), n) for n in job.preset["inputs"]]},
        "tucker": {"ranks": [(len(job.data.class_names), n) for n in job.preset["inputs"]]},
        "random_components": ranks,
    }
    for method, grid in grids.items():
        records += job.fit(method, grid)
    show("every method: errors to the symmetrized layer, the rest on test images", records)
    pareto(records).savefig(job.out / "pareto.png", dpi=120)

    pairs = zip(*([r for r in records if r["method"] == name] for name in ("block_term", "output_svd")), strict=True)
    print(f"\n{'at equal size':<22} {'parameters':>10} {'block_term':>10} {'output_svd':>10}  relative error")
    for ours, start in pairs:
        verdict = "smaller" if ours["relative_error"] <= start["relative_error"] else "LARGER"
        print(
            f"{label(ours):<22} {ours['parameters']:>10d} {ours['relative_error']:>10.5f}"
            f" {start['relative_error']:>10.5f}  {verdict}"
        )
    return records


def with_strength(job: Job, name: str, seen: str, records: Sequence[Record]) -> list[Record]:
    """Fit `cp` at several strengths of a prior; print a table, draw curves and the components at a middle strength."""
    strengths = STRENGTHS[name]
    grid = [job.options(job.preset["rank"], [job.prior(name, strength)]) for strength in strengths]
    found = [r | {"strength": s} for r, s in zip(job.fit("cp", grid), strengths, strict=True)]
    plain = next(r for r in records if r["method"] == "cp" and r["options"] == {"rank": job.preset["rank"]})
    show(f"cp of rank {job.preset['rank']}, {name}: {seen} and fit; the first row is without it", [plain, *found])
    whole = job.whole | {key: plain[key] for key in ("cosine", seen)}
    figure = curves(found, "strength", ["cosine", "accuracy", "cross_entropy", seen], whole=whole)
    figure.suptitle(f"cp of rank {job.preset['rank']}, prior: {name}; dashed: without the prior, or the whole layer")
    figure.savefig(job.out / f"prior_{name}.png", dpi=120)
    draw(job, name, [job.prior(name, strengths[len(strengths) // 2])])
    return found


def non_negative(job: Job, records: Sequence[Record]) -> list[Record]:
    """Fit `cp` with non-negative input factors at several ranks, and draw it beside the fit without this prior."""
    found = job.fit("cp", [job.options(rank, [NonNegative("inputs")]) for rank in job.preset["ranks"]])
    free = [r for r in records if r["method"] == "cp" and list(r["options"]) == ["rank"]]
    show("cp with non-negative inputs", found)
    both = [r | {"inputs": "free"} for r in free] + [r | {"inputs": "non-negative"} for r in found]
    figure = curves(both, "rank", ["cosine", "accuracy", "cross_entropy"], by="inputs", whole=job.whole)
    figure.savefig(job.out / "prior_non_negative.png", dpi=120)
    draw(job, "non_negative", [NonNegative("inputs")])
    return found


def truncated_output_svd(job: Job) -> list[Record]:
    """Measure how well the layer cut to its largest singular values still approximates the function."""
    found = job.fit("output_svd", {"blocks": range(1, len(job.data.class_names) + 1)})
    columns = ("accuracy", "cross_entropy", "mse_share", "mse_independent_share", "relative_error")
    show("output_svd with the first singular values; mse: share of the mean square of the outputs", found, columns)
    reference = {name: job.whole[name] for name in ("accuracy", "cross_entropy")}
    figure = curves(found, "blocks", columns[:4], whole=reference)
    figure.suptitle("output_svd: number of singular values kept")
    figure.savefig(job.out / "output_svd.png", dpi=120)
    half = next(r for r in found if r["mse_share"] < 0.5)
    close = next(r for r in found if r["accuracy"] >= job.whole["accuracy"] - 0.01)
    k = close["options"]["blocks"]
    print(
        f"{half['options']['blocks']} singular values hold half of the mean square of the outputs, with accuracy"
        f" {half['accuracy']:.4f}; an accuracy within 0.01 of that with all {len(found)} needs {k}"
        + (f" ({k - 1}: {found[k - 2]['accuracy']:.4f})." if k > 1 else ".")
        + f" With {k} the error is {close['mse_share']:.3f} of the mean square on images,"
        f" {close['mse_independent_share']:.3f} on pairs of images, {close['relative_error'] ** 2:.3f} of the tensor."
    )
    return found


def draw(job: Job, name: str, priors: Sequence[Prior]) -> None:
    """Draw the components of one fit as images, and its outputs."""
    result = decompose(job.layer, "cp", **job.options(job.preset["rank"], priors))
    figure = components(result, job.data.shape, job.data.class_names, count=min(8, result.rank))
    figure.savefig(job.out / f"components_{name}.png", dpi=120)
    outputs_map(result, job.data.class_names).savefig(job.out / f"outputs_{name}.png", dpi=120)


def show(title: str, records: Sequence[Record], columns: Sequence[str] = tuple(FORMATS)) -> None:
    """Print the records as a table."""
    print(f"\n{title}\n{'':<38} " + " ".join(f"{name.replace('independent_share', 'x1, x2'):>14}" for name in columns))
    for record in records:
        numbers = " ".join(f"{record[name]:>14{FORMATS.get(name, '.4f')}}" for name in columns)
        print(f"{record['method'] + ' ' + label(record):<38} {numbers}")


def label(record: Record) -> str:
    """Return the options of a record, in one or two words each."""
    words = []
    for name, value in record["options"].items():
        if name == "priors":
            for prior in value:  # a class is described by its full name
                rest = [str(v) for key, v in prior.items() if key != "class" and not isinstance(v, list)]
                words.append(" ".join([prior["class"].rpartition(".")[2], *rest]))
        else:
            words.append(f"{name} {value}")
    return ", ".join(words)


def classifier(data: Dataset, preset: Mapping[str, Any], options: argparse.Namespace, out: Path) -> BilinearClassifier:
    """Return the stored model, or train a new one and save it."""
    if options.model is not None:
        model = load_model(options.model, device=options.device)
        if not isinstance(model, BilinearClassifier):
            raise TypeError(f"{options.model} holds a {type(model).__name__}, not a BilinearClassifier")
        return model
    hidden = preset["hidden"]
    model = build_classifier(
        ClassifierConfig(data.train_x.shape[1], hidden, hidden), options.seed, device=options.device
    )
    training = dict(preset["training"]) | ({} if options.epochs is None else {"epochs": options.epochs})
    train(model, data, TrainingConfig(**training, weight_decay=0.5, noise=0.4, seed=options.seed))
    save_model(model, out / "model", extra={"dataset": data.name})
    return model


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", choices=sorted(PRESETS), default="digits")
    parser.add_argument("--data-root", help="folder that holds MNIST/raw or FashionMNIST/raw")
    parser.add_argument("--model", help="folder of a stored model, from examples/digits.py; default: train one")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--epochs", type=int, help="default: 40 for digits, 20 otherwise")
    parser.add_argument("--steps", type=int, help="largest number of iterations of fits with priors; default: 600")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--out", help="folder of the results; default: out/DATASET/decompositions")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
