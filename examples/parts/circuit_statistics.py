"""What is usual among the features of an MLP: sizes of interactions, spectra, opposites, correlations.

Every output feature that fires on held-out text has a row. "Self" and "cross" are the interactions of one input feature
with itself, and of two. An eigenvalue is outside if its magnitude is larger than those of 20 random symmetric matrices,
whose entries are normal with the mean and the deviation of the interaction matrix, on the diagonal and off it. The
opposite of a feature is the one whose decoder column has the most negative cosine with its own.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy import stats
from torch import Tensor

from examples.parts.circuit_job import POINTS, Job
from examples.parts.circuit_tables import ABOVE, FEWEST, Names, print_rows
from tensornet_interp.features import Dictionary, FeatureInteractions, feature_interactions
from tensornet_interp.plots import to_numpy

DRAWS = 20  # random matrices
OPPOSING = -0.9  # features with a cosine below this oppose each other
ACTIVITY = ("mean_activation", "largest_activation", "frequency")
BIMODAL = 5 / 9  # Sarle's coefficient of a uniform distribution
Row = Mapping[str, Any]


def statistics(job: Job) -> list[dict[str, Any]]:
    """Return one row per output feature that fires on held-out text."""
    inputs, outputs = (job.dictionary(job.config().steps, point) for point in POINTS)
    names = Names.read(job.out, "mlp-out")
    decoder = inputs.decoder[:, sorted(Names.read(job.out, "mlp-in").tokens)]
    cosines = decoder_cosines(outputs)
    draw = torch.Generator().manual_seed(job.options.seed)
    rows = []
    for feature, active in activities(job).items():
        row: dict[str, Any] = {"feature": feature, "token": names[feature]} | active
        found = feature_interactions(job.layer, outputs.encoder[feature], decoder, bias=inputs.decoder_bias)
        row |= interaction_sizes(found)
        values, random = spectra(job.layer.interaction_matrix(outputs.encoder[feature][None])[0], draw)
        outside = values[values.abs() > random.abs().max()]
        row |= {
            "outside": len(outside),
            "outside_positive": int((outside > 0).sum()),
            "edge": float(random.abs().max()),
        }
        row |= {"most_positive": float(values[-1]), "most_negative": float(values[0])}
        opposite = int(cosines[feature].argmin())
        rows.append(row | {"opposite": opposite, "cosine": float(cosines[feature, opposite])})
    return rows


def interaction_sizes(found: FeatureInteractions) -> dict[str, float]:
    """Return how the interactions of a feature with itself ("self"), and those of two ("cross"), are spread."""
    row: dict[str, float] = {}
    for part, summary in found.statistics().items():
        row |= {f"{part}_mean": summary.mean, f"{part}_std": summary.std, f"{part}_kurtosis": summary.kurtosis}
        row |= {f"{part}_largest": max(abs(summary.minimum), abs(summary.maximum))}
    return row


def activities(job: Job) -> dict[int, dict[str, Any]]:
    """Return how often and how strongly each output feature fires on held-out text; silent ones are left out."""
    outputs = job.dictionary(job.config().steps, "mlp-out")
    codes = torch.cat([outputs.encode(part) for part in job.layer(job.held_x).split(4096)])
    found: dict[int, dict[str, Any]] = {}
    for feature in (codes > 0).any(0).nonzero()[:, 0].tolist():
        values = codes[codes[:, feature] > 0, feature].double()
        found[feature] = {"active": len(values), "frequency": len(values) / len(codes)}
        found[feature] |= {"mean_activation": float(values.mean()), "largest_activation": float(values.max())}
    return found


def decoder_cosines(dictionary: Dictionary) -> Tensor:
    """Return the cosines of the decoder columns of all pairs of features, (feature, feature), float64."""
    columns = torch.nn.functional.normalize(dictionary.decoder.double(), dim=0)
    return columns.T @ columns


def opposing_pair(dictionary: Dictionary, features: Sequence[int]) -> tuple[int, int]:
    """Return those two of the features whose decoder columns have the most negative cosine."""
    chosen = list(features)
    if len(chosen) < 2:
        raise ValueError(f"features must be at least 2, got {len(chosen)}: too few fire to oppose each other")
    first, second = divmod(int(decoder_cosines(dictionary)[chosen][:, chosen].argmin()), len(chosen))
    return chosen[first], chosen[second]


def spectra(matrix: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return the eigenvalues of a symmetric matrix, (in,), and of random ones with the same moments, (draw, in)."""
    matrix = matrix.double().cpu()
    size = len(matrix)
    upper = matrix[tuple(torch.triu_indices(size, size, 1))]
    noise = torch.randn(DRAWS, size, size, generator=draw, dtype=torch.float64).triu(1)
    noise = (noise * upper.std() + upper.mean()).triu(1)
    diagonal = (
        torch.randn(DRAWS, size, generator=draw, dtype=torch.float64) * matrix.diag().std() + matrix.diag().mean()
    )
    return torch.linalg.eigvalsh(matrix), torch.linalg.eigvalsh(noise + noise.mT + torch.diag_embed(diagonal))


def bimodality(values: Sequence[float]) -> float:
    """Return Sarle's coefficient (skewness^2 + 1) / kurtosis: 1 for two equal points, 1/3 for a normal distribution."""
    return float((stats.skew(values) ** 2 + 1) / stats.kurtosis(values, fisher=False))


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> str:
    """Return Spearman's correlation with a 95 % interval over features (Fisher's z)."""
    value = float(stats.spearmanr(a, b).statistic)
    half = 1.96 / math.sqrt(max(len(a) - 3, 1))
    low, high = (math.tanh(math.atanh(max(min(value, 0.999999), -0.999999)) + sign * half) for sign in (-1, 1))
    return f"{value:+.3f} [{low:+.3f}, {high:+.3f}]"


def report_statistics(job: Job, rows: Sequence[Row], chosen: int) -> dict[str, Figure]:
    """Print what is usual and what stands out, and return the figures; `chosen` is the feature that is drawn."""
    noise = torch.randn(len(rows), job.layer.shape[0], generator=torch.Generator().manual_seed(0))
    random = torch.nn.functional.normalize(noise, dim=1)
    null = float((random @ random.T).min())
    pairs = {
        tuple(sorted((int(row["feature"]), int(row["opposite"])))): row
        for row in sorted(rows, key=lambda row: row["cosine"])
    }
    names = Names.read(job.out, "mlp-out")
    shown = [
        {"first": names.label(a), "second": names.label(b), "cosine": row["cosine"]}
        for (a, b), row in list(pairs.items())[:5]
    ]
    opposing = sum(float(row["cosine"]) < OPPOSING for row in pairs.values())
    title = f"the most opposed pairs of output features, by decoder columns: {opposing} pairs below {OPPOSING};"
    title += f" {len(rows)} random directions reach {null:.3f}"
    print_rows(title, shown)
    by_feature = {int(row["feature"]): row for row in rows}
    for name, mine in (
        ("all", list(rows)),
        (f"feature {names.label(chosen)}", [by_feature[chosen]] if chosen in by_feature else []),
    ):
        if mine:
            fields = (
                "self_std",
                "cross_std",
                "self_largest",
                "cross_largest",
                "cross_kurtosis",
                "outside",
                "edge",
                "most_positive",
                "most_negative",
            )
            means = {field: float(np.mean([float(row[field]) for row in mine])) for field in fields}
            print_rows(f"interactions and spectra, {name}: means over {len(mine)}", [means])
    counts = [int(row["outside"]) for row in rows]
    one_each = np.mean([row["outside"] == 2 and row["outside_positive"] == 1 for row in rows])
    print(f"eigenvalues outside: median {np.median(counts):.0f}, from {min(counts)} to {max(counts)}", end="; ")
    print(f"exactly one of each sign: {one_each:.3f} of the features")
    return {"statistics": draw_usual(job, chosen)}


def with_two_eigenpairs(records: Sequence[Row]) -> list[Row]:
    """Return the rows of `correlation` for two eigenpairs, of features that are active on enough tokens."""
    return [
        row for row in records if row["k"] == 2 and row["active"] >= FEWEST and math.isfinite(row["active_correlation"])
    ]


def report_correlations(records: Sequence[Row], rows: Sequence[Row]) -> dict[str, Figure]:
    """Print how the correlations with two eigenpairs are spread and what goes with them, and return the figure.

    records: rows of `correlation`. rows: one per feature, with the fields of `activities`.
    """
    two = with_two_eigenpairs(records)
    for steps in dict.fromkeys(int(row["steps"]) for row in two):
        values = [float(row["active_correlation"]) for row in two if row["steps"] == steps]
        print(
            f"steps {steps}: Sarle's coefficient of the correlations with 2 eigenpairs {bimodality(values):.3f}", end=""
        )
        print(f" ({BIMODAL:.3f} if uniform, 0.333 if normal); above {ABOVE}: {np.mean(np.array(values) > ABOVE):.3f}")
    by_feature = {int(row["feature"]): row for row in rows}
    last = max(int(row["steps"]) for row in two)
    final = {int(row["feature"]): float(row["active_correlation"]) for row in two if row["steps"] == last}
    both = [feature for feature in final if feature in by_feature]
    correlations = [final[feature] for feature in both]
    for field in ACTIVITY:
        found = rank_correlation(correlations, [float(by_feature[feature][field]) for feature in both])
        print(f"rank correlation over {len(both)} features of the correlation with {field.replace('_', ' ')}: {found}")
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for trained in dict.fromkeys(int(row["trained"]) for row in two):
        found_here = [float(row["active_correlation"]) for row in two if row["trained"] == trained]
        left.hist(found_here, bins=np.linspace(-0.5, 1, 31).tolist(), histtype="step", label=f"{trained:,} tokens")
    left.set(xlabel="correlation on active tokens, 2 eigenpairs", ylabel="features")
    left.legend(fontsize=8, loc="upper left")
    right.plot([float(by_feature[feature]["mean_activation"]) for feature in both], correlations, ".", markersize=4)
    right.set(xlabel="mean activation where active", ylabel="correlation, 2 eigenpairs")
    return {"correlations": figure}


def draw_usual(job: Job, chosen: int) -> Figure:
    """Draw the interactions and the spectrum of one feature, and spectra of random matrices."""
    inputs, outputs = (job.dictionary(job.config().steps, point) for point in POINTS)
    decoder = inputs.decoder[:, sorted(Names.read(job.out, "mlp-in").tokens)[:1000]]
    found = feature_interactions(job.layer, outputs.encoder[chosen], decoder, bias=inputs.decoder_bias)
    everything = range(len(found))
    matrix = found.block(everything, everything)
    own, random = spectra(
        job.layer.interaction_matrix(outputs.encoder[chosen][None])[0], torch.Generator().manual_seed(0)
    )
    figure = Figure(figsize=(11, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    parts = {"self": matrix.diag(), "cross": matrix[tuple(torch.triu_indices(len(found), len(found), 1))]}
    bins = np.linspace(float(matrix.min()), float(matrix.max()), 60).tolist()
    for name, values in parts.items():
        left.hist(to_numpy(values), bins=bins, density=True, histtype="step", label=f"{name}: {len(values)}")
    left.set(yscale="log", xlabel="interaction", ylabel="density")
    left.locator_params(axis="x", nbins=5)  # their numbers have many decimals
    left.set_title(f"interactions of output feature {chosen}", fontsize=9)
    left.legend(fontsize=8)
    places = np.arange(1, len(own) + 1)
    ends = random.sort(-1).values
    right.fill_between(
        places, to_numpy(ends.amin(0)), to_numpy(ends.amax(0)), color="0.8", label=f"{DRAWS} random matrices"
    )
    right.plot(places, to_numpy(own), ".", markersize=4, label="eigenvalues")
    right.set(xlabel="number, most negative first", ylabel="eigenvalue")
    right.set_title("its spectrum, and random matrices of the same moments", fontsize=9)
    right.legend(fontsize=8)
    figure.suptitle(f"MLP of {job.layer.name}", fontsize=10)
    return figure
