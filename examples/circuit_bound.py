"""How far can an output move by the weights that a circuit leaves out? A bound from these weights, beside the data.

The output along a direction is x^T Q x. The first k eigenvectors of Q are the circuit, and x^T (Q - Q_k) x is what is
left out. Four ways bound it, from least to most that they know about an input x, with z_i = (v_i . x)^2:

- "norm": from -|lambda_{k+1}| |x|^2 to |lambda_{k+1}| |x|^2;
- "norm, by sign": the lowest and the highest eigenvalue that is left out, each times |x|^2;
- "rest, by sign": the same times |x|^2 - sum_{i<=k} z_i, the part of x that the circuit does not see;
- "rest and range": the least and the most of sum_{i>k} lambda_i z_i, where the z_i add up to at most this rest, and no
  z_i is larger than on the first training inputs. For an input outside of this range, the third way is taken.

The ratio compares two intervals: the one that is proven to hold the changes of all test inputs, and the one that holds
them; the fourth way is compared on inputs within the range. The second moment of training inputs says more about means:
sum |lambda_i| E z_i is at least the mean of |change| there. This is an expectation and no bound for an input, so it has
a table of its own.

Directions are the outputs of a classifier (noise 0.5, weight decay 1, in pixels). For decisions they are the
differences of two outputs: an image is proven if k eigenvectors of every difference leave no other class. In a language
model, directions are features behind an MLP, and a token is proven if the sign of the pre-activation is. There,
`feature_graph` bounds circuits of input features too, and the change is measured by removal of all other features.

Expected times on one core: digits and a toy language 1 minute; MNIST 30 seconds per seed, and training; a language
model of width 128 20 seconds, and the training of its autoencoders.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from examples.parts.circuit_bound_report import report_images, report_language
from examples.parts.circuit_bounds import ROUNDING, Cut, Row, decision_rows, direction_rows, mean_rows
from examples.parts.image_job import NOISE, WEIGHT_DECAY, classifier, dataset_of, out_folder, parse, parser, schedule
from examples.parts.small_language import LanguageJob, add_language, check_language, open_language
from models.runs import trained
from models.tables import write_table
from models.vectors import vectors_at
from tensornet_interp import BilinearLayer, decompose
from tensornet_interp.attention import Part, SequenceNetwork
from tensornet_interp.checks import check_int
from tensornet_interp.features import Dictionary
from tensornet_interp.graphs import feature_graph

MEMBERS = (2, 4, 8)  # input features of a circuit
PARTS = ("images", "language")
SEEDS = 3
RANGE_ON, TOKENS = 10_000, 20_000  # training inputs that the range is measured on


def images(options: argparse.Namespace, out: Path) -> None:
    """Measure the classifiers of all seeds and write their tables."""
    data = dataset_of(options)
    tables: dict[str, list[Row]] = {"images": [], "images_means": [], "decisions": []}
    for seed in tqdm(range(options.seeds), desc=data.name, unit="model"):
        training = schedule(data, options, noise=NOISE, weight_decay=WEIGHT_DECAY, seed=seed)
        model = trained(options.models, data, classifier(data), training, progress=False)
        layer = model.network("input")[0].to_layer().to(dtype=torch.float64)
        x, seen = data.test_x.double(), data.train_x[:RANGE_ON].double()
        outputs = layer(x)
        unit = torch.eye(outputs.shape[1], dtype=torch.float64, device=x.device)
        head: Row = {"dataset": data.name, "seed": seed, "epochs": training.epochs}
        for one, name, cut in zip(outputs.T, data.class_names, cuts_of(layer, unit, x, seen), strict=True):
            tables["images"] += [head | {"class": name} | row for row in direction_rows(cut, one)]
            tables["images_means"] += [head | {"class": name} | row for row in mean_rows(cut, one)]
        pairs = [(a, b) for a in range(len(unit)) for b in range(a + 1, len(unit))]
        differences = torch.stack([unit[a] - unit[b] for a, b in pairs])
        cuts = zip(pairs, cuts_of(layer, differences, x, seen), strict=True)
        tables["decisions"] += [head | row for row in decision_rows(cuts, outputs.argmax(1))]
        for table, rows in tables.items():
            write_table(out / f"{table}.csv", rows)


def cuts_of(layer: BilinearLayer, directions: Tensor, x: Tensor, seen: Tensor) -> Iterator[Cut]:
    """Yield the cut of every direction (direction, out) for inputs x (input, in); `seen` are those of the range.

    All is computed in a basis of what the layer sees of its inputs; only |x|^2 has the rest of x.
    """
    both = torch.linalg.svd(torch.cat([layer.left, layer.right], 1), full_matrices=False)
    basis = both.U[:, ROUNDING * both.S[0] < both.S]
    inner, inside, there = layer.change_basis(inputs=basis), x @ basis, seen @ basis
    for direction in directions:
        result = decompose(inner, "eigen", directions=direction[None])
        cut = Cut.of(result.eigenvalues[0], result.eigenvectors[0], inside, there)
        yield cut._replace(length=x.square().sum(1))


def language(job: LanguageJob) -> None:
    """Measure features behind the MLP and write their tables."""
    layer, behind = job.layer.to(dtype=torch.float64), dictionary(job, "mlp-out")
    rows = job.text["train"][: max(1, TOKENS // job.model.config.context)]
    seen = torch.cat([part.flatten(0, 1) for part in vectors_at(job.model, rows, job.index, "mlp-in")]).double()
    x = job.held_x.double()
    outputs = layer(x)
    draw = torch.Generator().manual_seed(job.options.seed)
    chosen = torch.randperm(behind.features, generator=draw)[: job.options.features].tolist()
    bias = behind.reading_bias()
    found: list[Row] = []
    means: list[Row] = []
    for feature, cut in zip(chosen, cuts_of(layer, behind.encoder[chosen], x, seen), strict=True):
        one = outputs @ behind.encoder[feature]
        shift = 0.0 if bias is None else float(bias[feature])
        found += [{"feature": feature} | row for row in direction_rows(cut, one, shift)]
        means += [{"feature": feature} | row for row in mean_rows(cut, one)]
    write_table(job.out / "features.csv", found)
    write_table(job.out / "features_means.csv", means)
    circuits = circuit_rows(layer, dictionary(job, "mlp-in"), behind, x, chosen[: job.options.circuits])
    write_table(job.out / "circuits.csv", list(circuits))


def dictionary(job: LanguageJob, point: str) -> Dictionary:
    """Return the autoencoder of a hook point in float64, for a network of this layer alone."""
    return replace(job.dictionary(job.config().steps, point), name="", point="").to(dtype=torch.float64)


def circuit_rows(
    layer: BilinearLayer, inputs: Dictionary, behind: Dictionary, x: Tensor, chosen: Sequence[int]
) -> Iterator[Row]:
    """Yield one row per feature and number of members: the bound of `feature_graph`, and the change itself.

    Each feature is read on the token of x (token, in) where its pre-activation is largest. The change is that of the
    pre-activation if the part of the input that all input features but the members write is removed.
    """
    network = SequenceNetwork([Part(layer)])
    places = {(0, "in"): inputs, (0, "out"): replace(behind, k=None, rectify=False)}  # a feature need not be one of k
    outputs = layer(x)
    for feature in chosen:
        pre = outputs @ behind.encoder[feature]
        best = int(pre.argmax())
        token = x[best : best + 1]
        codes = inputs.encode(token)
        for members in MEMBERS:
            graph = feature_graph(network, places, (0, "out", feature), token, features=members, nodes=1)
            kept = [node.feature for node in graph.nodes if (node.kind, node.place) == ("feature", "in")]
            others = codes.clone()
            others[:, kept] = 0
            left = float(layer(token - others @ inputs.decoder.T)[0] @ behind.encoder[feature])
            change, target = abs(float(pre[best]) - left), graph.targets[0]
            rounding = ROUNDING * abs(float(pre[best]))
            yield {
                "feature": feature,
                "members": members,
                "active": int((codes > 0).sum()),
                "change": change,
                "bound": target.bound,
                "ratio": target.bound / change if change > rounding else "",
                "of_activation": target.bound / abs(float(pre[best])),
                "violations": int(change > target.bound + rounding),
            }


def main(argv: list[str] | None = None) -> None:
    """Train the missing models, measure, print tables and draw figures."""
    options = _options(argv)
    out = out_folder(options)
    if "images" in options.parts:
        if not options.replot:
            images(options, out)
        report_images(out)
    if "language" in options.parts:
        job = open_language(options, out, LanguageJob)
        if not options.replot:
            language(job)
        report_language(job.out)
    print(f"\ntables and figures: {out}")


def _options(argv: list[str] | None) -> argparse.Namespace:
    made = parser(__doc__, "circuit_bound")
    add_language(made)
    made.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what is measured")
    made.add_argument("--features", type=int, default=64, help="features behind the MLP, drawn at random")
    made.add_argument("--circuits", type=int, default=32, help="how many of them have circuits of input features")
    options = parse(made, argv)
    for name in ("features", "circuits"):
        check_int(f"--{name}", getattr(options, name), 1)
    check_language(options)
    options.seeds = options.seeds or SEEDS
    return options


if __name__ == "__main__":
    main()
