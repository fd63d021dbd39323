"""Which features of one MLP of a language model are computed by small circuits, and do the circuits hold on new text?

The script trains autoencoders before and behind the MLP ("mlp-in", "mlp-out") and ranks output features by the share of
their two leading eigenvalues, from weights alone. It takes the first three that fire, and the first one about negation.
The circuit of such a feature is the set of input features in its twelve strongest interactions. Circuits are drawn and
shown in text. They are also removed on held-out text; as a control, as much of other active features is removed.
The script measures how well a few eigenvectors predict the activations, by training length of the autoencoders, and
what is usual: opposing features, sizes of interactions, and spectra beside random matrices with the same moments.
Words are projected on the planes of the two most opposed output features and of the one about negation. Output features
put the tensor together again, by the pseudoinverse. Every finished stage is kept in --out and not repeated.

    python examples/feature_circuits.py --model out/language_model/none-0 --out out/circuits/small
    python examples/feature_circuits.py --model out/large/none-0 --out out/circuits/large
    python examples/feature_circuits.py --model out/language_model/none-0 --out out/circuits/small --replot --pages 20
    python examples/feature_circuits.py --out out/circuits/small --compare out/circuits/large
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from examples.parts.circuit_comparison import compare
from examples.parts.circuit_directions import REASSEMBLY, directions, reassembly
from examples.parts.circuit_job import POINTS, Job, check_settings, correlation, quality, train
from examples.parts.circuit_pages import named, pages
from examples.parts.circuit_plane import FAR, draw_plane, plane_rows, planes_of_all, print_plane
from examples.parts.circuit_statistics import opposing_pair, report_correlations, report_statistics, statistics
from examples.parts.circuit_tables import (
    FEWEST,
    NEGATION_RULE,
    Names,
    about_negation,
    circuit_members,
    correlation_summary,
    draw_circuit_of,
    draw_lengths,
    is_negation,
    print_rows,
)
from models.contexts import Context, as_html, as_text, contexts
from models.tables import read_table, write_table
from tensornet_interp.features import REMOVAL_RULE, circuit_tests, rank_by_structure

Row = dict[str, Any]


def circuits(job: Job) -> list[Row]:
    """Rank the output features, show and test the circuits of some, and return the rows of the tests.

    Writes ranking.csv, features.csv, contexts.html, contexts.txt and contexts.ansi.
    """
    steps = job.config().steps
    inputs, outputs = (job.dictionary(steps, point) for point in POINTS)
    found_at, names = named(job)
    before, behind = (found_at[point] for point in POINTS)
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
    on_negation = [int(row["feature"]) for row in ranking if row["negation"]]
    chosen = list(dict.fromkeys(chosen + on_negation[:1]))
    alive = before.alive().tolist()
    codes = torch.cat([outputs.encode(part) > 0 for part in job.layer(job.held_x).split(4096)])
    window = torch.arange(len(job.held_x)) // job.held_rows.shape[1]
    tests: list[Row] = []
    sections: dict[str, list[Context]] = {}
    plain: list[str] = []
    colored: list[str] = []
    for feature in chosen:
        place = next(row["place"] for row in ranking if row["feature"] == feature)
        members = circuit_members(job.layer, inputs, outputs, feature, alive)
        on = codes[:, feature]
        about = {"place": place, "token": names["mlp-out"][feature], "members": " ".join(map(str, members))}
        if bool(on.any()):
            where, circuit = window[on.cpu()].to(on.device), torch.tensor(members, device=on.device)
            for test in circuit_tests(job.layer, inputs, outputs, feature, circuit, job.held_x[on], where):
                tests.append(about | test.record())
        else:
            tests.append(about | {"feature": feature, "removed": "", "tokens": 0, "verdict": "untested"})
        shown = {f"output feature {feature}, place {place} of the ranking": ("mlp-out", outputs, behind, feature)}
        for member in members[:4]:
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
    print(f"{NEGATION_RULE}: {len(about_negation(ranking))} of {len(ranking)}")
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
    negation = about_negation(ranking)
    chosen = negation[0] if negation else drawn[-1]
    figures |= report_statistics(job, usual, chosen) | report_correlations(records, usual)
    pair = opposing_pair(outputs, list(names["mlp-out"].tokens))
    print_plane(job.table("plane", lambda: plane_rows(job, [*pair, chosen])))
    others = [int(row["feature"]) for row in ranking if int(row["feature"]) not in negation]
    everywhere = job.table("planes", lambda: planes_of_all(job, negation, others))
    print_rows(f"planes of all output features that fire; far: place above {FAR}", everywhere)
    print_rows(REASSEMBLY, job.table("reassembly", lambda: reassembly(job)))
    for feature in dict.fromkeys([*drawn, *pair]):
        figures |= draw_circuit_of(job.layer, inputs, outputs, feature, names)
    for feature in (*pair, chosen):
        figures |= draw_plane(job, feature)
    for name, figure in figures.items():
        figure.savefig(job.out / f"{name}.png", dpi=150)
    print(f"\ntables, figures and contexts.html: {job.out}")
    if job.options.pages:
        pages(job, [*pair, *(int(row["feature"]) for row in ranking[: job.options.pages])])


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
    made.add_argument("--pages", type=int, default=0, help="features of the ranking with a page, besides opposed ones")
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
