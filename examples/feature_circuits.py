"""Which features of one MLP of a language model are computed by small circuits, and do the circuits hold on new text?

The script trains autoencoders before and behind the MLP ("mlp-in", "mlp-out") and ranks output features by the share of
their two leading eigenvalues, from weights alone. It takes the first three that fire, and the first one about negation.
The circuit of such a feature is the set of input features in its twelve strongest interactions. Circuits are drawn and
shown in text. They are also removed on held-out text; as a control, as much of other active features is removed.
The script measures how well a few eigenvectors predict the activations, by training length of the autoencoders, and
what is usual: opposing features, sizes of interactions, and spectra beside random matrices with the same moments.
Every finished stage is kept in --out and not repeated.

    python examples/feature_circuits.py --model out/language_model/none-0 --out out/circuits/small
    python examples/feature_circuits.py --model out/large/none-0 --out out/circuits/large
    python examples/feature_circuits.py --model out/language_model/none-0 --out out/circuits/small --replot --pages 20
    python examples/feature_circuits.py --out out/circuits/small --compare out/circuits/large
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from examples.parts.circuit_job import POINTS, Job, check_settings, train
from examples.parts.circuit_statistics import report_statistics, statistics
from examples.parts.circuit_tables import (
    INTERACTIONS,
    NEGATION_RULE,
    Names,
    correlation_summary,
    draw_circuit_of,
    draw_lengths,
    is_negation,
    print_rows,
)
from models.contexts import Context, as_html, as_text, contexts
from models.quality import evaluate
from models.tables import read_table, write_table
from tensornet_interp import decompose
from tensornet_interp.features import (
    REMOVAL_RULE,
    circuit_tests,
    feature_interactions,
    label_directions,
    low_rank_correlation,
    rank_by_structure,
    strongest_windows,
)
from tensornet_interp.graphs import feature_graph
from tensornet_interp.pages import write_feature_pages
from tensornet_interp.plots import curves

KS = (1, 2, 4, 8, 16, 32)
FEWEST = 10  # a feature with fewer active held-out tokens is left out of the correlations
Row = dict[str, Any]


def quality(job: Job) -> list[Row]:
    """Measure every autoencoder on held-out text."""
    config, rows = job.config(), []
    for point in POINTS:
        for steps in config.checkpoints:
            found = evaluate(job.dictionary(steps, point), job.model, job.index, point, job.held_rows)
            rows.append({"point": point, "steps": steps, "trained": steps * config.batch_size} | found.record())
    return rows


def correlation(job: Job) -> list[Row]:
    """Correlate the activation from k eigenpairs with the true pre-activation, on held-out tokens.

    There is one row per training length, output feature and k.
    """
    config, rows = job.config(), []
    truth = job.layer(job.held_x)
    ks = [k for k in KS if k <= min(job.layer.shape[1], 2 * job.layer.rank)]
    for steps in config.checkpoints:
        outputs = job.dictionary(steps, "mlp-out")
        active = torch.cat([outputs.encode(part) > 0 for part in truth.split(4096)])
        records = low_rank_correlation(job.layer, outputs.encoder, job.held_x, ks, active=active)
        rows += [{"steps": steps, "trained": steps * config.batch_size} | record for record in records]
    return [{key: value for key, value in row.items() if key != "basis"} for row in rows]


def circuits(job: Job) -> list[Row]:
    """Rank the output features, show and test the circuits of some, and return the rows of the tests.

    Writes ranking.csv, features.csv, contexts.html, contexts.txt and contexts.ansi.
    """
    steps = job.config().steps
    inputs, outputs = (job.dictionary(steps, point) for point in POINTS)
    before, behind = (job.strongest(part, point) for part, point in zip((inputs, outputs), POINTS, strict=True))
    names = {
        point: Names.of(found, job.shown_rows, job.piece) for point, found in zip(POINTS, (before, behind), strict=True)
    }
    write_table(job.out / "features.csv", [row for point in POINTS for row in names[point].rows(point)])
    firing = set(behind.alive().tolist())
    ranking: list[Row] = []
    for record in rank_by_structure(job.layer, outputs.encoder):
        feature = int(record["feature"])
        if feature in firing:
            negation = is_negation(behind, job.shown_rows, feature, job.piece)
            row = record | {"place": len(ranking) + 1, "token": names["mlp-out"][feature], "negation": negation}
            ranking.append({key: value for key, value in row.items() if key != "basis"})
    write_table(job.out / "ranking.csv", ranking)
    chosen = [int(row["feature"]) for row in ranking[: job.options.circuits]]
    about_negation = [int(row["feature"]) for row in ranking if row["negation"]]
    chosen = list(dict.fromkeys(chosen + about_negation[:1]))
    alive = before.alive()
    codes = torch.cat([outputs.encode(part) > 0 for part in job.layer(job.held_x).split(4096)])
    window = torch.arange(len(job.held_x)) // job.held_rows.shape[1]
    tests: list[Row] = []
    sections: dict[str, list[Context]] = {}
    plain: list[str] = []
    colored: list[str] = []
    for feature in chosen:
        place = next(row["place"] for row in ranking if row["feature"] == feature)
        found = feature_interactions(
            job.layer, outputs.encoder[feature], inputs.decoder[:, alive], bias=inputs.decoder_bias
        )
        count = min(INTERACTIONS, len(alive) * (len(alive) + 1) // 2)
        members = alive[list(found.smallest_submatrix(count).features)]
        on = codes[:, feature]
        about = {"place": place, "token": names["mlp-out"][feature], "members": " ".join(map(str, members.tolist()))}
        if bool(on.any()):
            where = window[on.cpu()].to(on.device)
            for test in circuit_tests(job.layer, inputs, outputs, feature, members, job.held_x[on], where):
                tests.append(about | test.record())
        else:
            tests.append(about | {"feature": feature, "removed": "", "tokens": 0, "verdict": "untested"})
        shown = {f"output feature {feature}, place {place} of the ranking": ("mlp-out", outputs, behind, feature)}
        for member in members[:4].tolist():
            shown[f"input feature {member} of the circuit of {feature}"] = ("mlp-in", inputs, before, member)
        for title, (point, part, peaks, at) in shown.items():
            made = contexts(part, job.model, job.index, point, job.shown_rows, peaks, [at])[at]
            sections[title] = made
            for color, text in ((False, plain), (True, colored)):
                text.append(f"{title}\n{as_text(made[:5], job.piece, color=color)}\n")
    page = as_html(f"Circuits of {job.layer.name}: where their features are strongest", sections, job.piece)
    (job.out / "contexts.html").write_text(page, encoding="utf-8")
    for name, text in (("contexts.txt", plain), ("contexts.ansi", colored)):
        (job.out / name).write_text("\n".join(text), encoding="utf-8")
    # every row gets all columns, because write_table takes them from the first row
    columns = dict.fromkeys(key for row in tests for key in row)
    return [{key: row.get(key, "") for key in columns} for row in tests]


def directions(job: Job, blocks: int = 6) -> list[Row]:
    """Find the leading output directions that all features share, with their nearest tokens and output features."""
    result = decompose(job.layer, "output_svd", blocks=min(blocks, job.layer.shape[0]), rank=1)
    found, head = result.outputs.T, job.model.head.weight.detach()
    outputs, names = job.dictionary(job.config().steps, "mlp-out"), Names.read(job.out, "mlp-out")
    pieces = [job.piece(token) for token in range(len(head))]
    labels = [names.label(feature) for feature in range(outputs.features)]
    rows = []
    for block, (tokens, features) in enumerate(
        zip(label_directions(found, head, pieces, 5), label_directions(found, outputs.encoder, labels, 3), strict=True)
    ):
        text = ["; ".join(f"{label.name!r} {label.cosine:+.2f}" for label in part) for part in (tokens, features)]
        rows.append({"block": block, "tokens": text[0], "features": text[1]})
    return rows


def pages(job: Job) -> None:
    """Write one HTML page per output feature at the top of the ranking, from held-out text, and their index."""
    inputs, outputs = (job.dictionary(job.config().steps, point) for point in POINTS)
    best = [int(row["feature"]) for row in list(read_table(job.out / "ranking.csv"))[: job.options.pages]]
    x = job.held_x.unflatten(0, job.held_rows.shape)
    found = strongest_windows((outputs.encode(job.layer(part)) for part in x.split(16)), 1)
    part = 2 * job.index + 1  # in the network, every MLP comes after its attention
    network, dictionaries = job.model.network(), {(part, "in"): inputs, (part, "out"): outputs}
    graphs = {}
    for feature in best:  # the graph of each feature where it is strongest
        for window, position in found.peaks(feature):
            prompt = job.model.embedding(job.held_rows[window].to(x.device))
            graphs[feature] = feature_graph(network, dictionaries, (part, "out", feature), prompt, position=position)
    write_feature_pages(
        job.out / "pages",
        job.layer,
        inputs,
        outputs,
        best,
        x=x,
        text=[[job.piece(token) for token in row] for row in job.held_rows.tolist()],
        graphs=graphs,
        overwrite=True,
    )
    print(f"pages of {len(best)} features: {job.out / 'pages' / 'index.html'}")


def report(job: Job) -> None:
    """Print the tables and draw the figures, from the tables on disk and the weights."""
    graded = job.table("quality", lambda: quality(job))
    print_rows("autoencoders on held-out text; nmse: squared error over the variance", graded)
    records = job.table("correlation", lambda: correlation(job))
    summary = correlation_summary(records, FEWEST)
    write_table(job.out / "summary.csv", summary)
    print_rows(
        f"correlation from k eigenpairs on active held-out tokens; features with at least {FEWEST} such tokens", summary
    )
    tests = job.table("circuits", lambda: circuits(job))
    ranking = list(read_table(job.out / "ranking.csv"))
    shown = ("place", "feature", "token", "share", "opposite", "first", "second", "effective_rank", "negation")
    print_rows("output features that fire, by the share of their two leading eigenvalues", ranking[:8], shown)
    print(f"{NEGATION_RULE}: {sum(row['negation'] == 'True' for row in ranking)} of {len(ranking)}")
    kept = "contexts.ansi" if sys.stdout.isatty() else "contexts.txt"
    print("\n" + (job.out / kept).read_text(encoding="utf-8"))
    print(f"the rule. {REMOVAL_RULE}")
    columns = ("place", "feature", "token", "removed", "tokens", "windows", "length", "drop", "control_drop")
    print_rows("circuits, removed on held-out text", tests, (*columns, "difference", "low", "high", "verdict"))
    found = job.table("directions", lambda: directions(job))
    print_rows("output directions shared by all features (output_svd): nearest tokens and features, cosines", found)
    usual = job.table("statistics", lambda: statistics(job))
    inputs, outputs = (job.dictionary(job.config().steps, point) for point in POINTS)
    names = {point: Names.read(job.out, point) for point in POINTS}
    about = f"MLP of {job.layer.name}, {outputs.features} features behind it, seed {job.options.seed}"
    figures = draw_lengths(graded, summary, records, about, job.layer.basis)
    drawn = list(dict.fromkeys(int(row["feature"]) for row in tests))
    figures |= report_statistics(job, usual, records, drawn[-1], FEWEST)  # the last one is about negation, if any is
    for feature in drawn:
        figures |= draw_circuit_of(job.layer, inputs, outputs, feature, names)
    for name, figure in figures.items():
        figure.savefig(job.out / f"{name}.png", dpi=150)
    print(f"\ntables, figures and contexts.html: {job.out}")
    if job.options.pages:
        pages(job)


def compare(folders: Sequence[Path]) -> None:
    """Compare several models in one table and one figure, written to the first folder."""
    rows = []
    for folder in folders:
        graded = {row["steps"]: row for row in read_table(folder / "quality.csv") if row["point"] == "mlp-out"}
        parameters = json.loads((folder / "settings.json").read_text(encoding="utf-8"))["parameters"]
        name = f"{folder.name}, {parameters / 1e6:.2g} M"
        for row in read_table(folder / "summary.csv"):
            more = {name: graded[row["steps"]][name] for name in ("nmse", "loss_recovered", "dead_share", "loss")}
            rows.append({"model": name} | row | more)
    write_table(folders[0] / "comparison.csv", rows)
    two = [row for row in rows if row["k"] == 2]
    print_rows("two eigenpairs, active held-out tokens", two)
    figure = curves(two, "trained", ["mean_correlation", "share_above", "nmse"], by="model")
    figure.savefig(folders[0] / "comparison.png", dpi=150)
    print(f"\ncomparison: {folders[0] / 'comparison.png'}")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the missing stages and report."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--model", help="folder of a bilinear language model; its tokenizer is there or above")
    made.add_argument(
        "--text", help="training text of the autoencoders: UTF-8 stories or .npy; default: train.npy above --model"
    )
    made.add_argument("--held-out", help="text that nothing was trained on; default: held_out.npy above --model")
    made.add_argument("--text-tokens", type=int, help="number of tokens of --text to use; default: all")
    made.add_argument("--layer", type=int, help="layer whose MLP is analysed; default: the middle one")
    made.add_argument("--expansion", type=int, default=4, help="number of features divided by the width")
    made.add_argument("--k", type=int, default=16, help="active features per token")
    made.add_argument("--lr", type=float, default=1e-3)
    made.add_argument("--batch-size", type=int, default=1024, help="tokens per batch")
    made.add_argument(
        "--steps", type=int, default=800, help="steps of the longest training; 1/8, 1/4, 1/2 of it are kept too"
    )
    made.add_argument("--buffer", type=int, default=2**15, help="vectors that are shuffled together")
    made.add_argument("--held-out-tokens", type=int, default=30_000)
    made.add_argument("--shown-tokens", type=int, default=100_000, help="tokens of --text searched for contexts")
    made.add_argument("--circuits", type=int, default=3, help="number of circuits from the top of the ranking")
    made.add_argument("--pages", type=int, default=0, help="number of features from the top of the ranking with a page")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--device", default="cpu")
    made.add_argument("--no-progress", dest="progress", action="store_false")
    made.add_argument("--replot", action="store_true", help="only print and draw from the tables on disk")
    made.add_argument("--out", type=Path, help="default: out/feature_circuits/ and the names of the model's folders")
    made.add_argument("--compare", type=Path, nargs="+", metavar="OUT", help="folders to draw beside --out")
    options = made.parse_args(argv)
    if options.compare:
        if options.out is None:
            made.error("--compare needs --out, the first of the folders")
        return compare([options.out, *options.compare])
    if not options.model:
        made.error("--model is needed: a folder of examples/language_model.py, such as out/language_model/none-0")
    place = Path(options.model).resolve()
    out = options.out or Path("out/feature_circuits") / f"{place.parent.name}-{place.name}"
    out.mkdir(parents=True, exist_ok=True)
    job = Job(options, out)
    check_settings(job)
    if not options.replot:
        train(job)
    report(job)


if __name__ == "__main__":
    main()
