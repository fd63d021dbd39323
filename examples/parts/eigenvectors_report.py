"""Printed tables and figures of `eigenvectors.py`, from its tables and tensors on disk."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from torch import Tensor

from models.tables import summarise
from tensornet_interp.plots import compared_vectors, curves, image_cell, to_numpy

Rows = Sequence[Mapping[str, float | str]]
Row = dict[str, object]
SIGNS = ("positive", "negative")
SHOWN = (0.25, 0.5)  # strengths of a switch in the table by class


def print_tables(tables: Mapping[str, Rows]) -> None:
    """Print means over classes and seeds, with intervals over seeds, and the table of switches by class."""
    vectors, switches = tables["vectors"], tables["switches"]
    accuracies = {row["seed"]: f"{row['accuracy']:.4f}" for row in vectors}
    print(
        f"\n{vectors[0]['dataset']}, {vectors[0]['epochs']:g} epochs, {len(accuracies)} seeds; test accuracy", end=" "
    )
    print(", ".join(accuracies.values()) + "; mean [95 % interval over seeds]\n\nleading eigenvectors")
    fields = [name for name in vectors[0] if name.startswith(("area", "local", "across", "along", "null"))]
    found = {sign: _over_seeds([row for row in vectors if row["sign"] == sign], [], fields)[0] for sign in SIGNS}
    for field in fields:
        print(f"  {field:<16}" + "".join(f"{sign}: {_text(row, field):<28}" for sign, row in found.items()))
    print("  local by number, largest magnitude first:")
    for sign in SIGNS:
        numbered = _over_seeds([row for row in vectors if row["sign"] == sign], ["number"], ["local"])
        print(f"  {sign:<16}" + "  ".join(_text(row, "local") for row in numbered))
    print(
        "\nfirst positive eigenvector by class: share of seeds where it is local; area; kept across by 2 pixels, and of"
    )
    print("random vectors")
    firsts = [row for row in vectors if row["sign"] == "positive" and row["number"] == 1]
    told = ("local", "area", "across_2", "null_across_2")
    for row in _over_seeds(firsts, ["class"], told):
        print(f"  {_name(row['class']):<12} " + "  ".join(f"{row[field]:.3f}" for field in told))
    print(
        "\npositive eigenvectors 1 to 5 by class: share of the energy in the upper half, and in brackets |cosine| with"
    )
    print("the mean image of the class minus the mean of all")
    parts = _over_seeds(
        [row for row in vectors if row["sign"] == "positive"], ["class", "number"], ["upper", "mean_image"]
    )
    for name in dict.fromkeys(row["class"] for row in parts):
        cells = [f"{row['upper']:.2f} ({row['mean_image']:.2f})" for row in parts if row["class"] == name]
        print(f"  {_name(name):<12} " + "  ".join(cells))
    print("\nnegative eigenvectors 1 to 5 by class: share of the energy in the upper right quarter")
    parts = _over_seeds([row for row in vectors if row["sign"] == "negative"], ["class", "number"], ["upper_right"])
    for name in dict.fromkeys(row["class"] for row in parts):
        cells = [_text(row, "upper_right") for row in parts if row["class"] == name]
        print(f"  {_name(name):<12} " + "  ".join(cells))
    line = _over_seeds(tables["spectra"], [], ["half", "ten"])[0]
    print(f"\neigenvalues per class that hold half of sum |eigenvalue|: {_text(line, 'half')}")
    print(f"share of the ten largest: {_text(line, 'ten')}")
    ends = ("changed", "to_one", "to_second")
    print(
        "\nstrength (norm over the mean norm of an image) of a direction; share of decisions that change; of these, the"
    )
    print("share that goes to the most frequent class, and to the class that was second")
    for row in _over_seeds(switches, ["kind", "strength"], ends):
        cells = [f"{_text(row, field):<26}" for field in ends if field in row]
        print(f"  {row['kind']:<18}{row['strength']:<6g}" + "".join(cells))
    for strength in SHOWN:
        _print_classes([row for row in switches if row["strength"] == strength], strength)
    line = _over_seeds(tables["overcomplete"], ["directions", "outputs"], ["relative_error", "within", "between"])[0]
    print(f"\n{line['directions']:g} directions for {line['outputs']:g} outputs:", end=" ")
    print(f"relative error {line['relative_error']:.2g}; largest |cosine| of leading eigenvectors of one direction")
    print(f"{line['within']:.2g}, of two directions {_text(line, 'between')} (mean over pairs)")
    names = [name for name in tables["directions"][0] if name.startswith("class ")]
    print("\nleading output directions by seed: singular value, and the part of each class")
    print(" " * 22 + "".join(f"{name.removeprefix('class ')[:7]:>8}" for name in names))
    for part in tables["directions"]:
        start = f"  {part['direction']:g}, seed {part['seed']:g}:"
        print(f"{start:<14}{part['singular_value']:>8.3f}" + "".join(f"{part[name]:>+8.2f}" for name in names))


def _print_classes(rows: Rows, strength: float) -> None:
    kinds = list(dict.fromkeys(str(row["kind"]) for row in rows))
    print(f"\nat {strength:g}, by class: changed ({', '.join(kinds)}); by seed, where the first kind goes most")
    means = {(row["class"], row["kind"]): row for row in _over_seeds(rows, ["class", "kind"], ["changed"])}
    for name in dict.fromkeys(row["class"] for row in rows):
        shares = ", ".join(f"{means[name, kind]['changed']:.3f}" for kind in kinds)
        moves = [row for row in rows if row["class"] == name and row["kind"] == kinds[0] and "to" in row]
        print(f"  {_name(name):<12} {shares}  " + ", ".join(f"{_name(row['to'])} {row['to_one']:.2f}" for row in moves))


def _over_seeds(rows: Rows, by: Sequence[str], fields: Sequence[str]) -> list[Row]:
    """Average within each seed, then over seeds."""
    return summarise(summarise(rows, [*by, "seed"], fields), by, fields)


def _text(row: Row, field: str) -> str:
    ends = f" [{row[f'{field}_low']:.3f}, {row[f'{field}_high']:.3f}]" if f"{field}_low" in row else ""
    return f"{row[field]:.3f}{ends}"


def figures(tables: Mapping[str, Rows], kept: Mapping[str, Tensor]) -> dict[str, Figure]:
    """Draw the gallery of eigenvectors, the spectra, areas, moved images, switched images and changed decisions."""
    rows = tables["vectors"]
    names = list(dict.fromkeys(_name(row["class"]) for row in rows))
    height = int(rows[0]["height"])
    shape = (height, kept["vectors"].shape[2] // height)
    where = f"{rows[0]['dataset']}, {len({row['seed'] for row in rows})} seeds"
    vectors, values = dict(zip(names, kept["vectors"], strict=True)), dict(zip(names, kept["values"], strict=True))
    title = f"{rows[0]['dataset']}, seed 0: five most positive, then five most negative eigenvectors of each class"
    changed = _over_seeds(tables["switches"], ["kind", "strength"], ["changed"])
    bands = {"changed": ("changed_low", "changed_high")} if "changed_low" in changed[0] else None
    switches = curves(changed, "strength", ["changed"], "kind", bands=bands)
    switches.suptitle(f"{where}: share of decisions changed", fontsize=10)
    return {
        "gallery": compared_vectors(vectors, values, shape, title=title),
        "spectra": spectra(kept["eigenvalues"], names, str(rows[0]["dataset"])),
        "areas": areas(rows, where),
        "switches": switches,
        "switched": switched(kept, names, shape, str(rows[0]["dataset"])),
    }


def spectra(eigenvalues: Tensor, names: Sequence[str], dataset: str, count: int = 20) -> Figure:
    """Draw the `count` most positive and most negative eigenvalues of every class."""
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    columns = -(-len(names) // 2)
    for axes, name, values in zip(
        figure.subplots(2, columns, sharex=True, sharey=True, squeeze=False).flat, names, eigenvalues, strict=False
    ):
        ordered = to_numpy(values.sort(descending=True).values)
        axes.axhline(0, color="0.7", linewidth=0.8)
        axes.plot(range(1, count + 1), ordered[:count], ".-", linewidth=0.8, color="tab:red")
        axes.plot(range(1, count + 1), ordered[::-1][:count], ".-", linewidth=0.8, color="tab:blue")
        axes.set_title(name, fontsize=9)
    figure.supxlabel("number, largest magnitude of its sign first", fontsize=9)
    figure.supylabel("eigenvalue", fontsize=9)
    figure.suptitle(f"{dataset}, seed 0: eigenvalues of each class in pixels", fontsize=10)
    return figure


def areas(rows: Rows, where: str) -> Figure:
    """Draw areas against those of random vectors, and the response that is left after moves."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for sign, colour in (("positive", "tab:red"), ("negative", "tab:blue")):
        mine = [row for row in rows if row["sign"] == sign]
        pairs = [[float(row[name]) for row in mine] for name in ("area_within", "area")]
        left.plot(*pairs, ".", color=colour, label=sign, alpha=0.7)
    most = max(float(row[name]) for row in rows for name in ("area_within", "area"))
    left.plot([0, most], [0, most], color="0.5", linewidth=0.8)
    left.set(xlabel="random vectors with its spectrum, within the model's area: mean", ylabel="eigenvector")
    left.set_title("share of pixels with 90 % of the energy", fontsize=9)
    left.legend(fontsize=8)
    moves = [name.removeprefix("across_") for name in rows[0] if name.startswith("across_")]
    for part, style in (("", "-"), ("null_", ":")):
        for way, colour in (("across", "tab:orange"), ("along", "tab:green")):
            means = [sum(float(row[f"{part}{way}_{move}"]) for row in rows) / len(rows) for move in moves]
            label = f"{way} the edge" + (", random vectors" if part else "")
            right.plot([0, *map(int, moves)], [1.0, *means], style, color=colour, marker=".", label=label)
    right.set_xticks([0, *map(int, moves)])
    right.set(xlabel="pixels that the image moves", ylabel="share of the activation that is left", ylim=(0, 1.05))
    right.set_title("response on the 100 strongest images", fontsize=9)
    right.legend(fontsize=8)
    figure.suptitle(f"{where}: leading eigenvectors", fontsize=10)
    return figure


def switched(kept: Mapping[str, Tensor], names: Sequence[str], shape: tuple[int, int], dataset: str) -> Figure:
    """Draw one image per class, above, and the same with the negative eigenvector of its class added, below."""
    figure = Figure(figsize=(1.25 * len(names), 3.4), layout="constrained")
    grid = figure.subplots(2, len(names), squeeze=False)
    for number, name in enumerate(names):
        image_cell(grid[0, number], kept["before"][number], shape, name)
        decision = names[int(kept["decisions"][number])]
        image_cell(grid[1, number], kept["after"][number], shape, f"decided:\n{decision}")
    title = f"{dataset}, seed 0: images, and with the most negative eigenvector of their class at half of a mean norm"
    figure.suptitle(title, fontsize=10)
    return figure


def _name(value: object) -> str:
    """A class name: digits were read from the table as numbers."""
    return f"{value:g}" if isinstance(value, float) else str(value)
