"""Events, printed tables and figures of `modular_addition.py`, from its tables and vectors on disk."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from torch import Tensor

from models.tables import plus_minus, summarise
from tensornet_interp.plots import to_numpy

PANELS = {
    "accuracy": {"train_accuracy": "training pairs", "test_accuracy": "held-out pairs"},
    "energy at one frequency": {"fourier_share": "Fourier basis", "random_share": "random basis"},
    "entries of one frequency": {"same_frequency": "interaction matrices"},
    "effective rank": {"effective_rank": "interaction matrices"},
}
STYLES = ("-", ":")
LEARNED = 0.99  # accuracy of the training pairs from which on they are learned
EVENTS = ("train_accuracy", "test_accuracy", "learned", "half", "generalised", "rise_before", "share_before")
SHARES = (
    *("share_start", "share_end", "random_end", "same_start", "same_end"),
    *("rank_start", "rank_end", "frequencies_end", "unreached_end"),
)
Row = dict[str, object]
Read = Mapping[str, float | str]


def events(rows: Sequence[Read]) -> list[Row]:
    """Return one row per training: the steps at which something happens, and numbers of its start and end.

    learned: the training accuracy reaches LEARNED; half, generalised: the held-out accuracy reaches 0.5 and 0.9.
    rise_before: the part of the rise of fourier_share that is over at the last measured step before half; share_before:
    fourier_share at that step. A step that is never reached is left out.
    """
    runs: dict[tuple[object, ...], list[Read]] = {}
    for row in rows:
        runs.setdefault((row["p"], row["weight_decay"], row["seed"]), []).append(row)
    found: list[Row] = []
    for (p, decay, seed), curve in runs.items():
        start, end = curve[0], curve[-1]
        one: Row = {"p": p, "weight_decay": decay, "seed": seed}
        one |= {name: end[name] for name in ("train_accuracy", "test_accuracy")}
        one |= {"learned": _first(curve, "train_accuracy", LEARNED), "half": _first(curve, "test_accuracy", 0.5)}
        one |= {"generalised": _first(curve, "test_accuracy", 0.9), "rise_before": None, "share_before": None}
        if one["half"] is not None:
            before = [row for row in curve if float(row["step"]) < float(str(one["half"]))][-1]
            first, then, last = (float(row["fourier_share"]) for row in (start, before, end))
            one |= {"rise_before": (then - first) / (last - first), "share_before": then}
        one |= {"share_start": start["fourier_share"], "share_end": end["fourier_share"]}
        one |= {"random_end": end["random_share"], "same_start": start["same_frequency"]}
        one |= {"same_end": end["same_frequency"], "rank_start": start["effective_rank"]}
        one |= {"rank_end": end["effective_rank"], "frequencies_end": end["frequencies"]}
        found.append(one | {"unreached_end": end["unreached"]})
    return found


def _first(curve: Sequence[Read], name: str, level: float) -> float | str | None:
    return next((row["step"] for row in curve if float(row[name]) >= level), None)


def print_table(found: Sequence[Mapping[str, object]]) -> None:
    """Print means over seeds with 95 % intervals; a step that some seed does not reach says in how many it is."""
    for fields in (EVENTS, SHARES):
        print(f"\n{'p':>4}{'decay':>7}{'seeds':>6}" + "".join(f"{name:>20}" for name in fields))
        for line in summarise(found, ["p", "weight_decay"], fields):
            mine = [row for row in found if (row["p"], row["weight_decay"]) == (line["p"], line["weight_decay"])]
            cells = [_cell(line, name, sum(isinstance(row[name], int | float) for row in mine)) for name in fields]
            print(f"{line['p']:>4.0f}{line['weight_decay']:>7g}{line['n']:>6}" + "".join(f"{c:>20}" for c in cells))
    print(
        f"\nlearned: step at which the accuracy of the training pairs reaches {LEARNED}; half, generalised: that of\n"
        "held-out pairs reaches 0.5, 0.9; rise_before, share_before: part of the rise of the Fourier share, and the\n"
        "share, just before half; random: in a random basis; same: entries of one frequency; rank: effective rank;\n"
        "unreached: energy of entries that no pair reaches"
    )


def _cell(line: Mapping[str, object], name: str, known: int) -> str:
    if name not in line:
        return "never"
    text = plus_minus(line, name, 0 if name in ("learned", "half", "generalised") else 3)
    return text if known == line["n"] else f"{text} ({known} of {line['n']})"


def curves(rows: Sequence[Mapping[str, float | str]]) -> Figure:
    """Draw accuracies, Fourier shares and effective rank over the steps: columns are moduli, thin lines are seeds."""
    moduli = list(dict.fromkeys(row["p"] for row in rows))
    decays = list(dict.fromkeys(row["weight_decay"] for row in rows))
    figure = Figure(figsize=(3.6 * len(moduli) + 2.4, 2.3 * len(PANELS) + 0.6), layout="constrained")
    grid = figure.subplots(len(PANELS), len(moduli), squeeze=False, sharex="col", sharey="row")
    for line, (label, names) in enumerate(PANELS.items()):
        for column, p in enumerate(moduli):
            axes = grid[line, column]
            for number, decay in enumerate(decays):
                mine = [row for row in rows if (row["p"], row["weight_decay"]) == (p, decay)]
                for seed in dict.fromkeys(row["seed"] for row in mine):
                    curve = [row for row in mine if row["seed"] == seed]
                    steps = [max(1.0, float(row["step"])) for row in curve]  # step 0 stands at 1
                    for (name, text), style in zip(names.items(), STYLES, strict=False):
                        shown = f"{text}, decay {decay:g}" if seed == mine[0]["seed"] else None
                        values = [float(row[name]) for row in curve]
                        axes.plot(steps, values, style, color=f"C{number}", linewidth=1, alpha=0.8, label=shown)
            axes.set_xscale("log")
            axes.grid(True, color="0.92")
            axes.set_axisbelow(True)
            if line == 0:
                axes.set_title(f"p = {p:.0f}", fontsize=10)
            if line == len(PANELS) - 1:
                axes.set_xlabel("step (0 is drawn at 1)")
        grid[line, 0].set_ylabel(label)
        found = grid[line, 0].get_legend_handles_labels()
        grid[line, -1].legend(*found, fontsize=7, loc="upper left", bbox_to_anchor=(1.02, 1))
    figure.suptitle("Modular addition: one line per seed, one colour per weight decay", fontsize=10)
    return figure


def spectra(kept: Mapping[str, Tensor]) -> Figure:
    """Draw answer 0 at the start and at the end: eigenvalues, energy per frequency, and the leading eigenvector."""
    p = int(kept["modulus"])
    figure = Figure(figsize=(11, 5.4), layout="constrained")
    grid = figure.subplots(2, 3)
    for line, name in enumerate(("start", "end")):
        values, energy, leading = (to_numpy(kept[f"{name}.{part}"]) for part in ("eigenvalues", "energy", "leading"))
        shown = energy.shape[1]
        first, second, third = grid[line]
        first.axhline(0, color="0.7", linewidth=0.8)
        first.plot(range(1, len(values) + 1), values, ".", markersize=4)
        first.set(xlabel="eigenvalue, largest magnitude first", ylabel=f"{name} of training\neigenvalue")
        image = second.imshow(energy, cmap="Greys", vmin=0, vmax=1, aspect="auto", origin="lower")
        image.set_extent((0.5, shown + 0.5, -0.5, len(energy) - 0.5))
        second.set(xlabel="eigenvector, largest magnitude first", ylabel="frequency")
        figure.colorbar(image, ax=second, label="share of the energy")
        third.axhline(0, color="0.7", linewidth=0.8)
        for half, text, style in ((leading[:p], "a", ".-"), (leading[p:], "b", ".--")):
            third.plot(range(p), half, style, markersize=4, linewidth=0.8, label=text)
        third.set(xlabel="value of a or b", ylabel="leading eigenvector")
        third.legend(fontsize=8)
    figure.suptitle(
        f"Interaction matrix of answer 0 minus the mean over answers, p = {p}, weight decay "
        f"{float(kept['weight_decay']):g}, seed 0",
        fontsize=10,
    )
    return figure
