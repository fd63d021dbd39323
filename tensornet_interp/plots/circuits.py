"""Figures of circuits: the tree of components of an output, with inputs at the leaves."""

from collections.abc import Iterator, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tensornet_interp.checks import check_int, check_kind, check_names
from tensornet_interp.circuits import Circuit, Component
from tensornet_interp.names import Shape
from tensornet_interp.plots.inputs import input_view
from tensornet_interp.plots.networks import canvas
from tensornet_interp.plots.sheets import LABEL, line_height, numbers, plain, readable, wrap

_COLUMN, _ROW, _MARGIN = 1.15, 1.15, 0.85  # inches
_MOST_LEAVES = 64


def draw_circuit(
    circuit: Circuit, shape: Shape | None = None, names: Sequence[str] | None = None, *, count: int = 2
) -> Figure:
    """Draw a circuit as a tree, with the `count` children of largest score below every component.

    A box shows the eigenvalue and the score of a component. A red line means that the component adds to its parent, a
    blue line that it subtracts. A larger score has a wider line. Leaves are eigenvectors in the input space.
    shape: (height, width) of inputs that are images. Without it, a leaf is drawn as bars of its largest entries. names:
    one per input, by default x0, x1, ... If neither is given, both come from the network, as far as it knows them.
    The number "const" is the component's entry at the constant coordinate. If this entry is large, the component acts
    on its parent as the linear function 2 λ const (v . x). Raises ValueError if the figure has more than 64 leaves.
    """
    check_int("count", count, 1)
    check_kind("circuit", circuit, Circuit)
    lifted = circuit.network.constant_in
    inputs = circuit.levels[-1].vectors.shape[1] - lifted
    if names is not None:
        check_names("names", names, inputs, "input")
    view = input_view(circuit.network, inputs, shape, names)
    leaves = _leaves(circuit.components, count)
    if leaves > _MOST_LEAVES:
        raise ValueError(
            f"count={count} gives {leaves} leaves, but a figure holds at most {_MOST_LEAVES}; lower the count"
            " or the widths of the circuit"
        )
    depth = len(circuit.levels)
    step = max(_COLUMN, view.width + 0.15)
    width = max(_MARGIN + step * leaves + 0.15, 6.5)
    named = _output_name(circuit)
    title = f"Circuit of {named or 'an output direction'}\nλ: eigenvalue; %: {circuit.ranking}. A red line adds"
    title = wrap(plain(f"{title} to its parent, a blue one subtracts. {view.note}"), width - 0.3, LABEL)
    head = line_height(LABEL) * (1 + title.count("\n")) + 0.55
    height = _ROW * depth + view.height + 0.75 + head
    figure, axes = canvas(width, height, title, LABEL)
    widest = max(float(level.scores.max()) for level in circuit.levels)
    drawn = list(_drawn(circuit.components, count))
    shown = dict(zip(drawn, numbers(node.eigenvalue for node in drawn), strict=True))
    column = 0

    def level_height(row: int) -> float:
        return height - head - _ROW * row

    def draw(components: Sequence[Component], row: int) -> float:
        """Draw siblings and everything below them; return the position of their parent."""
        nonlocal column
        positions = []
        for node in components[:count]:
            if node.children:
                x = draw(node.children, row + 1)
            else:
                x = _MARGIN + step * (column + 0.5)
                column += 1
            positions.append(x)
        parent = (positions[0] + positions[-1]) / 2
        for node, x in zip(components, positions, strict=False):
            color = "tab:red" if node.eigenvalue > 0 else "tab:blue"
            ends = level_height(row - 1), level_height(row)
            line = 0.6 + 4.4 * node.score / (widest or 1)
            axes.plot([parent, x], ends, color=color, linewidth=line, alpha=0.6, zorder=1)
            label = f"λ {shown[node]}\n{100 * node.score:.1f} %"
            label += f"\nconst {float(node.vector[0]):+.2f}" if circuit.network[node.layer].constant_in else ""
            label += f"\n{count} of {len(node.children)}" if len(node.children) > count else ""
            _box(axes, x, ends[1], label, f"component {node.layer}.{node.number}")
            if not node.children:
                place = (x - view.width / 2, ends[1] - 0.42 - view.height, view.width, view.height)
                cell = axes.inset_axes(place, transform=axes.transData)
                view.draw(cell, node.vector[lifted:])
        return parent

    top = draw(circuit.components, 1)
    more = f"\n{count} of {len(circuit.components)}" if len(circuit.components) > count else ""
    _box(axes, top, level_height(0), f"{wrap(readable(named or 'output'), 2.5, 7, 2)}{more}", "output")
    for row, level in enumerate(circuit.levels, 1):
        axes.text(0.1, level_height(row), f"layer {level.layer}", fontsize=8, va="center", color="0.4")
    return figure


def _output_name(circuit: Circuit) -> str:
    """Return the name of the circuit, or of the only output in its direction; "" if neither is known."""
    names, outputs = circuit.network.output_names, circuit.direction.nonzero()[:, 0]
    return circuit.name or (names[int(outputs[0])] if names is not None and len(outputs) == 1 else "")


def _drawn(components: Sequence[Component], count: int) -> Iterator[Component]:
    for node in components[:count]:
        yield node
        yield from _drawn(node.children, count)


def _leaves(components: Sequence[Component], count: int) -> int:
    return sum(_leaves(node.children, count) if node.children else 1 for node in components[:count])


def _box(axes: Axes, x: float, y: float, text: str, gid: str) -> None:
    box = {"boxstyle": "round,pad=0.25", "facecolor": "white", "edgecolor": "0.5"}
    axes.text(x, y, text, fontsize=7, ha="center", va="center", bbox=box, zorder=3, gid=gid)
