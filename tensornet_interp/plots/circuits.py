"""Figures of circuits: the tree of components of an output, with inputs at the leaves."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from tensornet_interp.checks import check_int, check_kind, check_names
from tensornet_interp.circuits import Circuit, Component
from tensornet_interp.plots.images import Shape, check_shape, image_cell
from tensornet_interp.plots.networks import canvas

_COLUMN, _ROW, _LEAF, _MARGIN = 1.15, 1.15, 1.0, 0.85  # inches
_ENTRIES = 4  # largest entries of a vector that label a leaf
_MOST_LEAVES = 64


def draw_circuit(
    circuit: Circuit, shape: Shape | None = None, names: Sequence[str] | None = None, *, count: int = 2
) -> Figure:
    """Draw the best `count` children of every component, with eigenvalue and score.

    Red components add to their parent, blue ones subtract, and lines are wider for larger scores. Leaves are
    eigenvectors in the input space: images if a shape is given, else their largest entries by name (by default x0, x1,
    ...). "const" is the entry of the constant coordinate; if it is large, a component acts on its parent as the linear
    function 2 λ const (v . x). Raises ValueError for more than 64 leaves.
    """
    check_int("count", count, 1)
    check_kind("circuit", circuit, Circuit)
    lifted = circuit.network.constant_in
    inputs = circuit.levels[-1].vectors.shape[1] - lifted
    if shape is not None:
        check_shape(shape, inputs)
    names = [f"x{i}" for i in range(inputs)] if names is None else names
    check_names("names", names, inputs, "input")
    leaves = _leaves(circuit.components, count)
    if leaves > _MOST_LEAVES:
        raise ValueError(
            f"count={count} gives {leaves} leaves, but a figure holds at most {_MOST_LEAVES}; lower the count"
            " or the widths of the circuit"
        )
    depth = len(circuit.levels)
    width, height = max(_MARGIN + _COLUMN * leaves + 0.15, 6.5), _ROW * depth + _LEAF + 1.5
    title = f"Circuit of {circuit.name or 'an output direction'}\nλ: eigenvalue; %: {circuit.ranking}"
    figure, axes = canvas(width, height, title)
    widest = max(float(level.scores.max()) for level in circuit.levels)
    column = 0

    def level_height(row: int) -> float:
        return height - 0.95 - _ROW * row

    def draw(components: Sequence[Component], row: int) -> float:
        """Draw siblings and everything below them; return the position of their parent."""
        nonlocal column
        positions = []
        for node in components[:count]:
            if node.children:
                x = draw(node.children, row + 1)
            else:
                x = _MARGIN + _COLUMN * (column + 0.5)
                column += 1
            positions.append(x)
        parent = (positions[0] + positions[-1]) / 2
        for node, x in zip(components, positions, strict=False):
            color = "tab:red" if node.eigenvalue > 0 else "tab:blue"
            ends = level_height(row - 1), level_height(row)
            line = 0.6 + 4.4 * node.score / (widest or 1)
            axes.plot([parent, x], ends, color=color, linewidth=line, alpha=0.6, zorder=1)
            label = f"λ {node.eigenvalue:+.2g}\n{100 * node.score:.3g} %"
            label += f"\nconst {float(node.vector[0]):+.2f}" if circuit.network[node.layer].constant_in else ""
            label += f"\n{count} of {len(node.children)}" if len(node.children) > count else ""
            _box(axes, x, ends[1], label, f"component {node.layer}.{node.number}")
            if not node.children:
                _leaf(axes, x, ends[1] - 0.38, node, node.vector[lifted:], shape, names)
        return parent

    top = draw(circuit.components, 1)
    more = f"\n{count} of {len(circuit.components)}" if len(circuit.components) > count else ""
    _box(axes, top, level_height(0), f"{circuit.name or 'output'}{more}", "output")
    for row, level in enumerate(circuit.levels, 1):
        axes.text(0.1, level_height(row), f"layer {level.layer}", fontsize=8, va="center", color="0.4")
    return figure


def _leaves(components: Sequence[Component], count: int) -> int:
    return sum(_leaves(node.children, count) if node.children else 1 for node in components[:count])


def _box(axes: Axes, x: float, y: float, text: str, gid: str) -> None:
    box = {"boxstyle": "round,pad=0.25", "facecolor": "white", "edgecolor": "0.5"}
    axes.text(x, y, text, fontsize=7, ha="center", va="center", bbox=box, zorder=3, gid=gid)


def _leaf(
    axes: Axes, x: float, y: float, node: Component, vector: Tensor, shape: Shape | None, names: Sequence[str]
) -> None:
    """Draw a vector under the point (x, y): as an image, or as its largest entries."""
    if shape is not None:
        cell = axes.inset_axes((x - _LEAF / 2, y - _LEAF, _LEAF, _LEAF), transform=axes.transData)
        image_cell(cell, vector, shape, "")
        return
    best = vector.abs().argsort(descending=True, stable=True)[:_ENTRIES].tolist()
    text = "\n".join(f"{names[i]} {float(vector[i]):+.2f}" for i in best)
    axes.text(x, y - 0.05, text, fontsize=7, ha="center", va="top", gid=f"leaf {node.layer}.{node.number}")
