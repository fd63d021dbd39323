"""Do figures 8 and 9 of the paper come out again, on the language models and autoencoders that its authors published?

The script needs the files of one model: its weights in the published layout, and its autoencoders before and behind the
MLP of one layer. It first prints which files it needs and how large they are; with --dry-run it ends there. Files come
from folders (--model, --dictionaries), or from the hub where a network is at hand. It was tested on small files of the
same layout, and not on the real ones: no network was at hand.

Figure 8: the two output features whose decoder columns oppose each other most, their strongest interactions, words in
the plane of their two leading eigenvectors, and their activation from this plane. Figure 9: the correlation of
activations from k eigenvectors, its distribution, and how it goes with the size of activations. The text is not
fetched: give tokens of the model (.npy), or documents in UTF-8 separated by <|endoftext|>, such as TinyStories for the
first model and FineWeb for the others.

    python examples/published_models.py --dry-run
    python examples/published_models.py --text TinyStoriesV2-GPT4-valid.txt --pages
    python examples/published_models.py --which fineweb-16 --text fineweb.txt --features 512 --device cuda
    python examples/published_models.py --model ts --dictionaries ts-scope --tokenizer tokenizer.json --text stories.txt
    python examples/published_models.py --compare out/published_models/tinystories out/published_models/fineweb-16
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from examples.parts.circuit_job import POINTS, Job, check_folders, check_settings, correlation
from examples.parts.circuit_pages import named, pages
from examples.parts.circuit_plane import draw_plane, plane_rows, print_plane
from examples.parts.circuit_statistics import (
    activities,
    decoder_cosines,
    interaction_sizes,
    opposing_pair,
    report_correlations,
)
from examples.parts.circuit_tables import FEWEST, Names, correlation_summary, draw_circuit_of, print_rows
from examples.parts.published_job import KNOWN, PublishedJob, needed
from models.tables import read_table, write_table
from tensornet_interp.checks import check_int
from tensornet_interp.features import feature_interactions
from tensornet_interp.places import check_device
from tensornet_interp.plots import correlation_by_rank, curves

SIZES = ("self_std", "self_largest", "cross_std", "cross_largest")


def figure_8(job: Job) -> tuple[int, int]:
    """Report on the two opposing features and draw them; return their numbers."""
    inputs, outputs = (job.dictionary(job.config().steps, point) for point in POINTS)
    if not (job.out / "features.csv").is_file():
        named(job)
    names = {point: Names.read(job.out, point) for point in POINTS}
    first, second = job.options.pair or opposing_pair(outputs, list(names["mlp-out"].tokens))
    cosine = float(decoder_cosines(outputs)[first, second])
    print(f"\nfigure 8: output features {names['mlp-out'].label(first)} and {names['mlp-out'].label(second)}", end=", ")
    print(f"decoder cosine {cosine:.3f}; the paper: {KNOWN[job.options.which].about}")
    alive = sorted(names["mlp-in"].tokens)
    rows = []
    for feature in (first, second):
        decoder = inputs.decoder[:, alive]
        found = feature_interactions(job.layer, outputs.encoder[feature], decoder, bias=inputs.decoder_bias)
        rows.append({"feature": feature, "token": names["mlp-out"][feature]} | interaction_sizes(found))
    print_rows("sizes of interactions", rows, ("feature", "token", *SIZES))
    print_plane(job.table("plane", lambda: plane_rows(job, [first, second])))
    for feature in (first, second):
        made = draw_circuit_of(job.layer, inputs, outputs, feature, names) | draw_plane(job, feature)
        for name, figure in made.items():
            figure.savefig(job.out / f"{name}.png", dpi=150)
    return first, second


def figure_9(job: Job) -> None:
    """Report the correlations of output features with their activation from a few eigenvectors, and draw them."""
    records = job.table("correlation", lambda: correlation(job))
    rows = job.table("activity", lambda: [{"feature": f} | found for f, found in activities(job).items()])
    summary = correlation_summary(records, FEWEST)
    write_table(job.out / "summary.csv", summary)
    print_rows(f"figure 9: correlation from k eigenpairs, features with at least {FEWEST} active tokens", summary)
    figures = report_correlations(records, rows)
    missing: dict[str, Any] = {"basis": job.layer.basis} | dict.fromkeys(
        ("correlation", "active_correlation"), math.nan
    )
    figures["correlation_by_rank"] = correlation_by_rank([missing | row | {"k": int(row["k"])} for row in records])
    for name, figure in figures.items():
        figure.savefig(job.out / f"{name}.png", dpi=150)


def compare(folders: Sequence[Path]) -> None:
    """Draw the correlations of several models in one figure, in the first folder (figure 9A)."""
    check_folders(folders)
    rows: list[dict[str, Any]] = [
        {"model": folder.name} | row for folder in folders for row in read_table(folder / "summary.csv")
    ]
    print_rows("correlation from k eigenpairs", rows)
    figure = curves(rows, "k", ["mean_correlation", "share_above"], by="model")
    figure.savefig(folders[0] / "comparison.png", dpi=150)
    print(f"\ncomparison: {folders[0] / 'comparison.png'}")


def main(argv: Sequence[str] | None = None) -> None:
    """Say what is needed, open it, and report."""
    options = read_options(argv)
    if options.compare:
        return compare(options.compare)
    files = needed(options)
    plan = "\n".join(f"  {file}" for file in files)
    total = sum(file.size or 0 for file in files if not (file.here or file.local))
    plan += f"\nto be fetched, unless the cache of the hub has it: {total / 1e6:,.0f} MB as far as known, in float32"
    print(f"needed for figures 8 and 9 of {options.which}, layer {options.layer}:\n{plan}", flush=True)
    if options.dry_run:
        return None
    options.out.mkdir(parents=True, exist_ok=True)
    job = PublishedJob(options, options.out)
    try:
        check_settings(job)
    except (ConnectionError, FileNotFoundError, ImportError) as error:
        raise type(error)(
            f"{error}\nThese files are needed, and one is neither here nor could it be fetched:\n{plan}\nCopy them to "
            "folders, with these names, and pass --model FOLDER --dictionaries FOLDER --tokenizer FILE"
        ) from error
    pair = figure_8(job)
    figure_9(job)
    print(f"\ntables and figures: {job.out}")
    if options.pages:
        pages(job, pair, graphs=False)
    return None


def read_options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options; those that are not given get what is known of the paper's model."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--which", choices=KNOWN, default="tinystories", help="the model of the paper")
    made.add_argument("--model", help="folder or hub name; default: the name on the hub, as far as we know")
    made.add_argument("--dictionaries", help="folder or hub name with a folder per autoencoder; default: likewise")
    made.add_argument("--tokenizer", help="tokenizer.json; default: in the folder of the model, or on the hub")
    made.add_argument("--text", help="documents in UTF-8, or tokens as .npy; needed, because no text is fetched")
    made.add_argument("--layer", type=int, help="layer whose MLP is analysed; default: the one that the paper shows")
    made.add_argument("--expansion", type=int, default=4, help="as in the names of the autoencoders")
    made.add_argument("--k", type=int, default=30, help="as in the names of the autoencoders")
    made.add_argument("--tokens", type=int, default=100_000, help="number of tokens of --text to use")
    made.add_argument("--features", type=int, default=256, help="number of random output features in figure 9")
    made.add_argument("--pair", type=int, nargs=2, help="output features of figure 8; default: the most opposed ones")
    made.add_argument("--pages", action="store_true", help="write pages of the two features (tables 7 to 9)")
    made.add_argument("--dry-run", action="store_true", help="only say which files are needed")
    made.add_argument("--compare", type=Path, nargs="+", metavar="OUT", help="folders of finished models to compare")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--device", default="cpu")
    made.add_argument("--out", type=Path, help="default: out/published_models/ and the name of the model")
    options = made.parse_args(argv)
    known = KNOWN[options.which]
    options.model, options.dictionaries = options.model or known.model, options.dictionaries or known.dictionaries
    options.layer = known.layer if options.layer is None else check_int("--layer", options.layer, 0)
    options.out = options.out or Path("out/published_models") / options.which
    options.replot = False
    for name in ("expansion", "k", "tokens", "features"):
        check_int(f"--{name}", getattr(options, name), 1)
    check_int("--seed", options.seed, 0)
    if options.pair and options.pair[0] == options.pair[1]:
        made.error(f"--pair: two different features are needed, got {options.pair[0]} twice")
    check_device(options.device)
    for name in ("text", "tokenizer"):
        path = getattr(options, name)
        if path is not None and not Path(path).is_file():
            made.error(f"--{name}: {path} is missing")
    if options.text is None and not options.dry_run and not options.compare:
        made.error("--text is needed: a file of documents or tokens; --dry-run says which other files are")
    return options


if __name__ == "__main__":
    main()
