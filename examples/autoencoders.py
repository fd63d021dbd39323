"""How good are autoencoders at each layer of a language model, and what does longer training of one of them give?

By layer: the script trains an autoencoder behind each MLP ("mlp-out") and in the stream before it ("resid-mid"). On
held-out text it puts the reconstructions in the place of the vectors, one autoencoder at a time, and measures by which
share the loss of the model rises. By training length: it trains a wide autoencoder behind the MLP of one layer, keeps
it at five lengths, each twice the one before, and correlates the activation of each feature from its two leading
eigenvectors with the true one, where the feature is active. It tests if these correlations have more than one mode, and
whether they depend on how often a feature fires. Several models, for example seeds, give intervals. Every finished
autoencoder is kept in --out and not trained again.

    python examples/autoencoders.py --models out/language_model/none-0
    python examples/autoencoders.py --models out/language_model/none-{0,1,2} --parts layers
"""

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
from matplotlib.figure import Figure
from scipy import stats
from scipy.ndimage import gaussian_filter1d

from examples.parts.circuit_job import Job, check_settings, correlation, quality, train
from examples.parts.circuit_statistics import BIMODAL, bimodality, rank_correlation
from examples.parts.circuit_tables import ABOVE, FEWEST, correlation_summary, print_rows
from examples.parts.language_job import interval
from models.quality import evaluate
from models.sae import autoencoder_at
from models.tables import summarise, write_table
from tensornet_interp.plots import curves
from tensornet_interp.weights import save_dictionary

DRAWS = 200  # samples per test of one mode
CELLS = 2048  # of a density
LAYER_COLUMNS = {
    "added_share": "loss added / loss",
    "ablated_share": "loss added by the mean",
    "loss_recovered": "loss recovered",
    "nmse": "normalised MSE",
}
LENGTH_COLUMNS = {
    "mean_correlation": "mean correlation",
    "share_above": f"share above {ABOVE}",
    "nmse": "normalised MSE",
    "loss_recovered": "loss recovered",
    "sarle": "Sarle's coefficient",
    "with_frequency": "rank correlation with the frequency",
    "left_out": f"share with fewer than {FEWEST} tokens",
}
Row = dict[str, Any]
J = TypeVar("J", bound=Job)


@dataclass(frozen=True)
class LayersJob(Job):
    """A `LayersJob` has one autoencoder at each place of a model, of any gate."""

    kept: ClassVar[tuple[str, ...]] = ("text_tokens", "held_out_tokens")
    points: ClassVar[tuple[str, ...]] = ("mlp-out", "resid-mid")
    lengths: ClassVar[tuple[int, ...]] = (1,)

    def check_model(self) -> None:
        """Accept every gate: the weights of the MLP are not read."""


@dataclass(frozen=True)
class LengthsJob(Job):
    """A `LengthsJob` has the autoencoders of five lengths behind one bilinear MLP."""

    kept: ClassVar[tuple[str, ...]] = LayersJob.kept
    points: ClassVar[tuple[str, ...]] = ("mlp-out",)
    lengths: ClassVar[tuple[int, ...]] = (16, 8, 4, 2, 1)


def by_layer(job: LayersJob) -> list[Row]:
    """Return one row per layer and point; every row is kept as soon as it is measured."""
    rows: list[Row] = []
    for layer in range(job.model.config.n_layers):
        for point in job.points:
            kept = job.table(f"{layer}-{point}", partial(measured, job, layer, point))
            rows += [row | {"layer": layer} for row in kept]  # an integer
    return rows


def measured(job: LayersJob, layer: int, point: str) -> list[Row]:
    """Train the autoencoder at one place, save it and measure it on held-out text: one row.

    added_share = (L_patch - L_clean) / L_clean, and ablated_share is the same with the mean in place of the vectors
    """
    config = job.config()
    made, _ = autoencoder_at(job.model, job.text["train"], layer, point, config, progress=job.options.progress)
    save_dictionary(made, job.place(config.steps))
    found = evaluate(made, job.model, layer, point, job.held_rows)
    shares = {
        "added_share": found.loss_added / found.loss,
        "ablated_share": (found.ablated - found.loss) / found.loss,
    }
    return [{"point": point, "layer": layer} | shares | found.record()]


def by_length(job: LengthsJob) -> list[Row]:
    """Return one row per training length, over the features with at least `FEWEST` active held-out tokens."""
    if not job.options.replot:
        train(job)
    graded = {row["steps"]: row for row in job.table("quality", lambda: quality(job))}
    records = job.table("correlation", lambda: correlation(job, (2,)))
    rows = []
    for summary in correlation_summary(records, FEWEST):
        values, active = kept_features(records, summary["steps"])
        every = sum(row["steps"] == summary["steps"] for row in records)
        row = summary | {name: graded[summary["steps"]][name] for name in ("nmse", "loss_recovered")}
        row |= {"one_mode": one_mode(values, seed=job.options.seed), "sarle": bimodality(values)}
        row |= {"with_frequency": float(stats.spearmanr(values, active).statistic)}
        rows.append(row | {"left_out": 1 - len(values) / every})
    return rows


def kept_features(records: Sequence[Row], steps: int) -> tuple[list[float], list[float]]:
    """Return correlation and number of active tokens of the features that are active often enough, at one length."""
    kept = [row for row in records if row["steps"] == steps and row["active"] >= FEWEST]
    kept = [row for row in kept if math.isfinite(float(row["active_correlation"]))]
    return [float(row["active_correlation"]) for row in kept], [float(row["active"]) for row in kept]


def one_mode(values: Sequence[float], *, seed: int = 0) -> float:
    """Return the p-value of one mode in the central 90 % of the values: small if there are more (Silverman 1981).

    The null is the Gaussian kernel estimate with the smallest bandwidth that has one mode there (Hall and York 2001: a
    few values in a long tail are modes too). The p-value is the share of samples from it, scaled to the variance of the
    values, whose own estimate with that bandwidth has more modes.
    """
    x = np.asarray(values)
    within = np.quantile(x, (0.05, 0.95))
    low, high = 0.0, float(np.ptp(x))
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if count_modes(x, middle, within) > 1 else (low, middle)
    draw = np.random.default_rng(seed)
    more = 0
    for _ in range(DRAWS):
        sample = draw.choice(x, len(x)) + high * draw.standard_normal(len(x))
        sample = x.mean() + (sample - x.mean()) / math.sqrt(1 + high**2 / x.var())
        more += count_modes(sample, high, within) > 1
    return more / DRAWS


def count_modes(x: np.ndarray, bandwidth: float, within: Sequence[float] | np.ndarray) -> int:
    """Return the number of modes, between two ends, of the Gaussian kernel estimate of the density of x."""
    ends = float(x.min()) - 4 * bandwidth, float(x.max()) + 4 * bandwidth
    counts, edges = np.histogram(x, CELLS, ends)
    density = gaussian_filter1d(counts.astype(float), bandwidth / (edges[1] - edges[0]), mode="constant", truncate=6)
    slope = np.diff(density)
    steep = np.abs(slope) > 1e-9 * density.max()  # without rounding where the density is flat
    slope, place = slope[steep], edges[1:-1][steep]
    peaks = place[1:][(slope[:-1] > 0) & (slope[1:] < 0)]
    return int(((peaks >= within[0]) & (peaks <= within[1])).sum())


def report_layers(rows: Sequence[Row], out: Path) -> None:
    """Print and draw the measurements by layer, as means over the models."""
    found: list[Row] = list(summarise(rows, ("point", "layer"), tuple(LAYER_COLUMNS)))
    write_table(out / "layers.csv", rows)
    models = len({row["model"] for row in rows})
    title = f"autoencoders by layer, {models} model{'s' * (models > 1)}, {rows[0]['tokens']:,.0f} held-out tokens"
    cells = [{"point": row["point"], "layer": row["layer"]} | named(row, LAYER_COLUMNS) for row in found]
    print_rows(f"{title}; loss added / loss = (L_patch - L_clean) / L_clean", cells)
    points = [row | {title: row[name] for name, title in LAYER_COLUMNS.items()} for row in found]
    bands = {title: (f"{name}_low", f"{name}_high") for name, title in LAYER_COLUMNS.items()}
    figure = curves(points, "layer", list(LAYER_COLUMNS.values()), by="point", bands=bands)
    figure.suptitle(title, fontsize=10)
    figure.savefig(out / "layers.png", dpi=130)


def report_lengths(rows: Sequence[Row], jobs: Sequence[LengthsJob], out: Path) -> None:
    """Print and draw the measurements by training length, as means over the models, and the first one's histograms."""
    found: list[Row] = list(summarise(rows, ("steps", "trained"), tuple(LENGTH_COLUMNS)))
    write_table(out / "lengths.csv", rows)
    job, models = jobs[0], len(jobs)

    def p_values(mean: Row) -> str:
        return ", ".join(f"{row['one_mode']:.3f}" for row in rows if row["steps"] == mean["steps"])

    about = f"mlp-out of layer {job.index}, expansion {job.options.expansion}, {models} model{'s' * (models > 1)}"
    cells = [
        {"tokens of training": row["trained"]} | named(row, LENGTH_COLUMNS) | {"p of one mode, by model": p_values(row)}
        for row in found
    ]
    print_rows(f"{about}: two eigenvectors, features with at least {FEWEST} active held-out tokens", cells)
    print(f"one mode: {DRAWS} samples; Sarle's coefficient is {BIMODAL:.3f} if uniform, 0.333 if normal")
    records = job.table("correlation", list)
    values, active = kept_features(records, int(found[-1]["steps"]))
    print(f"rank correlation with the frequency, {job.out.name}, longest training: {rank_correlation(values, active)}")
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for row in found:
        here = kept_features(records, int(row["steps"]))[0]
        left.hist(here, np.linspace(-1, 1, 61).tolist(), histtype="step", label=f"{row['trained']:,.0f} tokens")
    left.set(xlabel="correlation on active tokens, two eigenvectors", ylabel="features")
    left.legend(fontsize=8)
    right.semilogx(active, values, ".", markersize=3)
    right.set(xlabel="held-out tokens on which the feature is active", ylabel="correlation, longest training")
    figure.suptitle(f"mlp-out of layer {job.index}, expansion {job.options.expansion}; {job.out.name}", fontsize=10)
    figure.savefig(out / "lengths.png", dpi=130)


def named(row: Row, columns: dict[str, str]) -> Row:
    """Return the means of the columns, with the ends of their intervals, under their titles."""
    return {title: interval(row, name) for name, title in columns.items()}


def jobs(kind: type[J], part: str, options: argparse.Namespace) -> list[J]:
    """Return one job per model, if the part is asked for."""
    found = []
    for folder in options.models if part in options.parts else []:
        place = Path(folder).resolve()
        given = argparse.Namespace(**vars(options) | {"model": folder})
        found.append(kind(given, options.out / part / f"{place.parent.name}-{place.name}"))
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Check all models, then train and measure what is missing, and report."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument(
        "--models", nargs="+", required=True, help="folders of language models of examples/language_model.py"
    )
    made.add_argument("--parts", nargs="+", choices=("layers", "lengths"), default=["layers", "lengths"])
    made.add_argument("--text", help="training text: UTF-8 stories or .npy; default: train.npy above each model")
    made.add_argument("--held-out", help="text that nothing was trained on; default: held_out.npy above each model")
    made.add_argument("--text-tokens", type=int, help="number of tokens of --text to use; default: all")
    made.add_argument("--held-out-tokens", type=int, default=15_000)
    made.add_argument("--expansion", type=int, default=4, help="features divided by the width, by layer")
    made.add_argument("--steps", type=int, default=400, help="steps of the autoencoders by layer")
    made.add_argument("--layer", type=int, help="layer of the autoencoder of five lengths; default: the middle one")
    made.add_argument("--long-expansion", type=int, default=16, help="features divided by the width, by length")
    made.add_argument("--long-steps", type=int, default=800, help="steps of the longest training, by length")
    made.add_argument("--k", type=int, default=16, help="active features per token")
    made.add_argument("--lr", type=float, default=1e-3)
    made.add_argument("--batch-size", type=int, default=1024, help="tokens per batch")
    made.add_argument("--buffer", type=int, default=2**15, help="vectors that are shuffled together")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--device", default="cpu")
    made.add_argument("--no-progress", dest="progress", action="store_false")
    made.add_argument("--replot", action="store_true", help="only print and draw from the tables on disk")
    made.add_argument("--out", type=Path, default=Path("out/autoencoders"))
    options = made.parse_args(argv)
    layers = jobs(LayersJob, "layers", options)
    longer = {"steps": options.long_steps, "expansion": options.long_expansion}
    lengths = jobs(LengthsJob, "lengths", argparse.Namespace(**vars(options) | longer))
    for job in (*layers, *lengths):
        job.out.mkdir(parents=True, exist_ok=True)
        check_settings(job)
    if layers:
        report_layers([{"model": job.out.name} | row for job in layers for row in by_layer(job)], options.out)
    if lengths:
        report_lengths(
            [{"model": job.out.name} | row for job in lengths for row in by_length(job)], lengths, options.out
        )
    print(f"\ntables, figures and autoencoders: {options.out}")


if __name__ == "__main__":
    main()
