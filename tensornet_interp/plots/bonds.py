"""Figures of the bonds of networks: their singular values, and what truncation costs."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from tensornet_interp.bonds.truncation import ODT
from tensornet_interp.checks import check_kind, check_mapping, check_number, check_records
from tensornet_interp.plots.images import to_numpy
from tensornet_interp.plots.sheets import Sheet, legend

_FLOOR = 1e-8  # singular values below this share of the largest are rounding


def bond_spectra(odts: Mapping[str, ODT]) -> Figure:
    """Draw the singular values at every bond between layers: one panel per bond, one colour per ODT, by name.

    odts: results of ODT by name, of networks of equal depth. Singular values are divided by the norm of the network.
    Solid lines show the values without the constant coordinate, which determine the error of a cut. Dashed lines show
    the values of all coordinates. A network of one layer has no bond between layers, so its input bond is drawn.
    """
    for name, found in check_mapping("odts", odts).items():
        check_kind(f"odts[{name!r}]", found, ODT)
    if not odts:
        raise ValueError("odts is empty: give at least one ODT by name")
    bonds = {name: odt.bonds[1:-1] or odt.bonds[:1] for name, odt in odts.items()}
    depths = {len(found) for found in bonds.values()}
    if len(depths) > 1:
        raise ValueError(f"odts must be of networks of equal depth, got {sorted(depths)} bonds")
    count = depths.pop()
    figure = Sheet(4.2 * count + 1, 3.8, layout="constrained")
    panels = figure.subplots(1, count, squeeze=False, sharey=True)[0]
    for number, axes in enumerate(panels):
        for color, (name, found) in enumerate(bonds.items()):
            bond = found[number]
            spectra = {
                name: (bond.singular_values_without_constant, "-"),
                f"{name}, with the constant": (bond.singular_values, "--"),
            }
            for label, (tensor, style) in spectra.items():
                values = to_numpy(tensor)
                values = values[values > _FLOOR * values.max()]
                axes.plot(range(1, len(values) + 1), values, style, color=f"C{color}", linewidth=1.2, label=label)
        title = "input" if bond.index == 0 else f"between layers {bond.index - 1} and {bond.index}"
        axes.set(yscale="log", xlabel="number", title=f"bond {bond.index}, {title}")
        axes.grid(True, color="0.92")
    panels[0].set_ylabel("singular value / norm of the network")
    legend(panels[0])
    return figure


def bond_curves(records: Sequence[Mapping[str, float | str]], *, accuracy: float, loss: float) -> Figure:
    """Draw accuracy, cross-entropy and error against the share of removed bond dimensions, one colour per metric.

    records: mappings with the keys "metric", "removed", "accuracy", "cross_entropy", "measured" and "bound". The last
    two are the relative error of the tree tensor in the norm of the metric, and a bound on this error. accuracy: the
    accuracy of the whole network. loss: the cross-entropy of the whole network. Dotted lines show these two numbers.
    """
    check_number("accuracy", accuracy)
    check_number("loss", loss)
    keys = ("metric", "removed", "accuracy", "cross_entropy", "measured", "bound")
    check_records("records", records, keys, "there is nothing to draw")
    figure = Sheet(12.5, 3.8, layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for color, metric in enumerate(dict.fromkeys(str(record["metric"]) for record in records)):
        rows = [record for record in records if record["metric"] == metric]
        removed = [100 * float(row["removed"]) for row in rows]
        for axes, key, style, label in (
            (left, "accuracy", "o-", metric),
            (middle, "cross_entropy", "o-", metric),
            (right, "measured", "o-", f"{metric}: measured"),
            (right, "bound", "--", f"{metric}: bound"),
        ):
            axes.plot(removed, [row[key] for row in rows], style, color=f"C{color}", markersize=4, label=label)
    left.axhline(accuracy, color="0.4", linestyle=":", linewidth=1, label="whole network")
    middle.axhline(loss, color="0.4", linestyle=":", linewidth=1, label="whole network")
    for axes, name in ((left, "accuracy"), (middle, "cross-entropy (nats)"), (right, "relative error of the tree")):
        axes.set(xlabel="bond dimensions removed (%)", ylabel=name)
        axes.grid(True, color="0.92")
        axes.legend(fontsize=8)
    right.set_yscale("log")
    return figure
