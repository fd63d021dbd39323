"""Are sparse components of a high-rank direction active more sparsely than eigenvectors, and do they pass removal?

Eigenvectors of one direction are orthogonal, which may be wrong for a direction of high rank. Directions are features
behind an MLP of a language model: drawn at random from the tenth of highest effective rank. All components have two
input vectors, so that planes of one size are compared, and there are as many components for each method:

- "eigen pairs": the k-th most positive with the k-th most negative eigenvector, which is a cp term of smallest error;
- "rotated": a control, these rotated at random within each sign: the same subspace and sum, not quite orthogonal;
- "random planes": a control, orthogonal planes of the same subspace in random directions;
- "cp, sparse inputs": a cp of this direction with `Sparse` on the coordinates of the stream;
- "cp, sparse features": the same on the activations of input features, mapped back to vectors of the stream;
- "cp, sparse activity": a cp with a prior of its own, for terms that few training tokens activate;
- "shared cp, sparse outputs": a cp of the whole layer with `Sparse` on its outputs, as many terms as outputs; of these
  the ones that are largest in the direction;
- "shared block terms": likewise a block-term decomposition of the whole layer, with blocks of rank 2. One direction has
  no block terms but its eigenvectors.

On held-out text the activation of every component is measured: kurtosis, the share of tokens that carry 90 % of its
energy, and the share on which its magnitude is above its standard deviation. Then its plane is removed from the input
where the feature is active; as a control, a part of other features with the same length. A component passes if this
takes more of the feature's activation than the control does (the 95 % interval over windows), and is confirmed if it
takes half of it. All components together are removed in the same way. Intervals are over directions of one model.

Expected times on one core: a toy language 1 minute; a language model of width 128 3 minutes, and the training of its
autoencoders. Every finished direction is kept in --out.
"""

import argparse
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from tqdm import tqdm

from examples.parts.small_language import LanguageJob, add_language, check_language, open_language
from examples.parts.sparse_fits import (
    Component,
    SparseActivity,
    combined,
    cp_of_features,
    cp_terms,
    eigen_pairs,
    largest,
    of_shared,
    random_planes,
    rotated_pairs,
)
from examples.parts.sparse_report import report
from models.tables import write_table
from models.vectors import vectors_at
from tensornet_interp import CPResult, SpectralResult, decompose, load, save
from tensornet_interp.checks import check_int, check_number
from tensornet_interp.decompositions import Sparse
from tensornet_interp.features import REMOVAL_RULE, Dictionary, plane_part, random_part, rank_by_structure, removal_test

HIGH = 0.9  # features above this quantile of the effective rank are of high rank
SAMPLE = 2000  # training tokens on which activity is asked to be sparse
Row = dict[str, Any]


class SparseJob(LanguageJob):
    """A `SparseJob` holds the model, its text and autoencoders, and the decompositions of the whole layer."""

    kept: ClassVar[tuple[str, ...]] = (*LanguageJob.kept, "components", "strengths", "fit_steps")

    def coder(self, point: str) -> Dictionary:
        """Return the autoencoder of a hook point, in float64."""
        return self.dictionary(self.config().steps, point).to(dtype=torch.float64)

    def shared(self) -> dict[str, CPResult | SpectralResult]:
        """Return the decompositions of the whole layer, from disk if they are there."""
        layer = self.layer.to(dtype=torch.float64)
        size = layer.shape[0]
        found: dict[str, CPResult | SpectralResult] = {}
        for strength in self.options.strengths:
            priors = [Sparse("outputs", strength)]
            options = {"rank": min(size, layer.rank), "priors": priors, "max_iterations": self.options.fit_steps}
            found[f"shared cp, sparse outputs {strength:g}"] = self._kept(f"cp-{strength:g}", "cp", options)
        found["shared block terms"] = self._kept("block_term", "block_term", {"blocks": size, "rank": 2})
        return found

    def _kept(self, name: str, method: str, options: Row) -> Any:
        path = self.out / "shared" / f"{name}.safetensors"
        if not path.is_file():
            path.parent.mkdir(exist_ok=True)
            save(decompose(self.layer.to(dtype=torch.float64), method, **options), path)
        return load(path)


def high_rank(job: SparseJob, active: Tensor) -> list[int]:
    """Return the directions: features of high effective rank that are active in enough windows, in a random order.

    active: (window, feature), whether a feature is active in a window of held-out text.
    """
    records = rank_by_structure(job.layer, job.coder("mlp-out").encoder.to(job.layer.down))
    ranks = torch.tensor([float(record["effective_rank"]) for record in records], dtype=torch.float64)
    least = float(ranks.quantile(HIGH))
    high = sorted(int(record["feature"]) for record in records if float(record["effective_rank"]) >= least)
    often = [feature for feature in high if int(active[:, feature].sum()) >= REMOVAL_RULE.min_windows]
    print(f"\n{len(records)} features have an effective rank of {ranks.min():.1f} to {ranks.max():.1f}; {len(high)} of")
    print(f"them at least {least:.1f}; of these, {len(often)} are active in {REMOVAL_RULE.min_windows} windows")
    if len(often) < 2:
        raise ValueError(f"{len(often)} features of high rank are active often enough; raise --held-out-tokens")
    order = torch.randperm(len(often), generator=torch.Generator().manual_seed(job.options.seed)).tolist()
    return [often[at] for at in order[: job.options.directions]]


def measure(job: SparseJob) -> None:
    """Measure all directions that are not on disk yet, and join their tables."""
    behind, x = job.coder("mlp-out"), job.held_x.double()
    layer = job.layer.to(dtype=torch.float64)
    codes = torch.cat([behind.encode(part) > 0 for part in layer(x).split(4096)])
    window = torch.arange(len(x), device=x.device) // job.held_rows.shape[1]
    of_window = torch.zeros(int(window[-1]) + 1, behind.features, device=x.device).index_add(0, window, codes.float())
    chosen = high_rank(job, of_window > 0)
    rows = job.text["train"][: max(1, SAMPLE // job.model.config.context + 1)]
    sample = torch.cat([part.flatten(0, 1) for part in vectors_at(job.model, rows, job.index, "mlp-in")])[:SAMPLE]
    shared = job.shared()
    tables = []
    for feature in tqdm(chosen, unit="direction", disable=not job.options.progress):
        path = job.out / "directions" / f"{feature}.csv"
        if not path.is_file():
            methods = fits(job, behind.encoder[feature], sample.double(), shared)
            on = codes[:, feature]
            matrix = layer.interaction_matrix(behind.encoder[feature][None])[0]
            made = []
            for method, components in methods.items():
                made += rows_of(job, feature, method, components, matrix, x, on, window)
            path.parent.mkdir(exist_ok=True)
            write_table(path.with_suffix(".part"), made)
            path.with_suffix(".part").replace(path)
        tables.append(path.read_text(encoding="utf-8").splitlines())
    lines = [tables[0][0], *(line for table in tables for line in table[1:])]
    (job.out / "components.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def fits(
    job: SparseJob, direction: Tensor, sample: Tensor, shared: dict[str, CPResult | SpectralResult]
) -> dict[str, list[Component]]:
    """Return the components of one direction (out,) by method, largest first."""
    o = job.options
    layer = job.layer.to(dtype=torch.float64).change_basis(outputs=direction[None])
    result = decompose(layer, "eigen")
    values, vectors = result.eigenvalues[0], result.eigenvectors[0]
    count = min(o.components, int((values > 0).sum()), int((values < 0).sum()))
    small = result.to_layer()  # fewer hidden units
    decoder = job.coder("mlp-in").decoder
    found = {
        "eigen pairs": eigen_pairs(values, vectors, count),
        "rotated": rotated_pairs(values, vectors, count, o.seed),
        "random planes": random_planes(values, vectors, count, o.seed),
    }
    for strength in o.strengths:
        found[f"cp, sparse inputs {strength:g}"] = cp_terms(small, count, Sparse("inputs", strength), o.fit_steps)
        found[f"cp, sparse features {strength:g}"] = cp_of_features(small, decoder, count, strength, o.fit_steps)
        activity = SparseActivity(sample, strength)
        found[f"cp, sparse activity {strength:g}"] = cp_terms(small, count, activity, o.fit_steps)
    found |= {name: of_shared(result, direction, count) for name, result in shared.items()}
    return {name: largest(components) for name, components in found.items()}


def rows_of(
    job: SparseJob,
    feature: int,
    method: str,
    components: list[Component],
    matrix: Tensor,
    x: Tensor,
    on: Tensor,
    window: Tensor,
) -> list[Row]:
    """Return one row per component of a method, and one with number 0 for all of them together.

    matrix: (in, in), of the direction. x: (token, in). on: (token,), where the feature is active. window: (token,).
    """
    inputs, outputs = job.coder("mlp-in"), job.coder("mlp-out")
    layer, codes = job.layer.to(dtype=torch.float64), inputs.encode(x[on])
    truth = x[on] @ matrix * x[on]
    active = torch.stack([component.activation(x) for component in components])
    weights, error = combined(components, matrix)
    parts = [torch.cat([component.plane for component in components], 1), *(one.plane for one in components)]
    rows = []
    for number, (plane, values) in enumerate(zip(parts, (weights @ active, *active), strict=True)):
        removed = plane_part(x[on], plane)
        count = torch.full((len(removed),), plane.shape[1], device=x.device)
        nobody = torch.zeros(0, dtype=torch.int64, device=x.device)
        control = random_part(codes, inputs.decoder, removed, count, nobody, seed=job.options.seed)
        test = removal_test(layer, outputs, feature, x[on], removed, control, window[on], name=method)
        row: Row = {"feature": feature, "method": method, "number": number} | sparsity(values)
        row |= {"tokens": test.tokens, "length": test.length, "drop": test.drop, "control_drop": test.control_drop}
        row |= {"difference": test.difference, "passes": int(test.low > 0)}
        row |= {"confirmed": int(test.verdict == "confirmed"), "error": "", "correlation": ""}
        if number == 0:
            pair = torch.stack([values[on], truth.sum(1)])
            row |= {"error": error, "correlation": float(torch.corrcoef(pair)[0, 1])}
        rows.append(row)
    return rows


def sparsity(values: Tensor) -> Row:
    """Return how sparsely a component is active on tokens, from its activations (token,)."""
    centred = values - values.mean()
    variance = centred.square().mean()
    energy = values.square().sort(descending=True).values.cumsum(0)
    return {
        "kurtosis": float(centred.pow(4).mean() / variance.square()),
        "share_90": float((energy < 0.9 * energy[-1]).sum() + 1) / len(values),
        "above": float((values.abs() > variance.sqrt()).double().mean()),
    }


def main(argv: list[str] | None = None) -> None:
    """Train the missing models, fit, measure, print tables and draw the figure."""
    options = _options(argv)
    job = open_language(options, options.out, SparseJob)
    if not options.replot:
        measure(job)
    report(job.out)


def _options(argv: list[str] | None) -> argparse.Namespace:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_language(made)
    made.add_argument("--directions", type=int, default=16, help="number of directions")
    made.add_argument("--components", type=int, default=8, help="components per direction, two input vectors each")
    made.add_argument("--strengths", type=float, nargs="+", default=[0.1], help="strengths of the priors")
    made.add_argument("--fit-steps", type=int, default=600, help="steps of a fit with a prior")
    made.add_argument("--device", default="cpu")
    made.add_argument("--replot", action="store_true", help="print and draw the tables on disk again")
    made.add_argument("--out", type=Path, default=Path("out/sparse_components"))
    options = made.parse_args(argv)
    for name, least in (("directions", 2), ("components", 1), ("fit_steps", 1)):
        check_int(f"--{name.replace('_', '-')}", getattr(options, name), least)
    for strength in options.strengths:
        check_number("--strengths", strength, 0)
    check_language(options)
    return options


if __name__ == "__main__":
    main()
