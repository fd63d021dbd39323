"""Figures of tensor networks: tensors are boxes, modes are lines, a mode of three or more tensors is a dot."""

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from tensornet_interp.checks import check_text
from tensornet_interp.contraction import Term
from tensornet_interp.layer import TensorNetwork
from tensornet_interp.network import BilinearNetwork, check_network
from tensornet_interp.plots.sheets import TITLE, Sheet, line_height, plain, wrap

Vertex = tuple[str, str | int]  # ("mode", its name) or ("tensor", its number among the terms)
_COLORS = ("#cfe2f3", "#fce5cd", "#d9ead3", "#ead1dc", "#fff2cc", "#d0e0e3")  # one per part, from the bottom
_COLUMN, _ROW = 1.25, 0.52  # inches
_MOST_TENSORS = 100


def canvas(width: float, height: float, title: str, size: float = TITLE) -> tuple[Figure, Axes]:
    """Return a figure and one empty Axes that fills it; the units of the Axes are inches from the lower left corner."""
    figure = Sheet(width, 0)
    figure.set_size_inches(width, height)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.set_axis_off()
    axes.text(0.15, height - 0.12, title, ha="left", va="top", fontsize=size, gid="title")
    return figure, axes


def draw_network(network: TensorNetwork, *, title: str = "") -> Figure:
    """Draw the tensors of `network.terms()` as boxes and its modes as lines with name and size, output on top.

    A mode that three or more tensors share is a dot, and the line of an open mode has a free end. A box shows the name
    of the field that holds the tensor and, in a stack, the number of the part. Copies of a part have the same colour.
    title: by default, the type of the network and the number of its tensors.
    Raises ValueError for more than 100 tensors, because such a figure could not be read; draw a part of the network.
    """
    terms = check_network("network", network).terms()
    check_text("title", title, empty=True)
    if len(terms) > _MOST_TENSORS:
        raise ValueError(
            f"the network has {len(terms)} tensors, but a figure holds at most {_MOST_TENSORS}; draw a part of it,"
            " such as network[0]"
        )
    first = [mode for mode in network.modes if mode == "out"]  # on top, also of an evaluation with a batch
    graph = _Graph([term.modes for term in terms], [*first, *(mode for mode in network.modes if mode not in first)])
    columns, rows = graph.size
    width = max(_COLUMN * columns + 0.4, 4.0)
    title = title or f"{type(network).__name__}: {len(terms)} tensors. Red modes are open"
    title = wrap(plain(title), width - 0.3, TITLE)
    head = line_height(TITLE) * (1 + title.count("\n")) + 0.45
    height = _ROW * rows + head + 0.15
    figure, axes = canvas(width, height, title)
    left = (width - _COLUMN * columns) / 2

    def place(vertex: Vertex) -> tuple[float, float]:
        column, row = graph.places[vertex]
        return left + _COLUMN * (column + 0.5), height - head - _ROW * row

    sizes = {mode: size for term in terms for mode, size in zip(term.modes, term.data.shape, strict=True)}
    for mode, tensors in graph.tensors.items():
        x, y = place(("mode", mode))
        ends = [place(("tensor", tensor)) for tensor in tensors]
        for end in ends:
            axes.plot([x, end[0]], [y, end[1]], color="0.45", linewidth=1, zorder=1)
        is_open = mode in network.modes
        text = f"{mode}  {sizes[mode]}"
        style: dict[str, Any] = {
            "fontsize": 7,
            "color": "tab:red" if is_open else "0.2",
            "gid": f"mode {mode}",
            "zorder": 2,
        }
        if len(tensors) + is_open == 2:
            box = {"boxstyle": "square,pad=0.15", "facecolor": "white", "edgecolor": "none"}
            axes.text(x, y, text, ha="center", va="center", bbox=box, **style)
            continue
        axes.plot(x, y, "o", color="0.15", markersize=5, zorder=3, gid=f"copy {mode}")
        if is_open:
            axes.plot([x, x], [y, y + 0.4 * _ROW], color="0.45", linewidth=1, zorder=1)
        above = any(end[1] < y for end in ends)  # beside the dot, away from its lines
        axes.text(x + 0.09, y + (0.03 if above else -0.03), text, ha="left", va="bottom" if above else "top", **style)
    for number, (name, part) in enumerate(_labels(network)):
        x, y = place(("tensor", number))
        box = {"boxstyle": "round,pad=0.3", "facecolor": _COLORS[part % len(_COLORS)], "edgecolor": "0.3"}
        axes.text(x, y, name, fontsize=8, ha="center", va="center", bbox=box, zorder=4, gid=f"tensor {number}")
    return figure


def _labels(network: TensorNetwork) -> Iterator[tuple[str, int]]:
    """Yield the name and the part number of every term, in the order of `terms()`."""
    if not isinstance(network, BilinearNetwork):
        yield from ((name, 0) for name in _fields(network))
        return

    def tree(level: int) -> Iterator[tuple[str, int]]:
        yield from ((f"{name} {level}", level) for name in _fields(network[level]))
        for _ in range(2 if level else 0):
            yield from tree(level - 1)

    yield from tree(len(network) - 1)


def _fields(part: TensorNetwork) -> list[str]:
    """Return for every term the name of the field that holds its array, or "tensor" if no field does.

    If several fields hold the same array, the terms of this array get the names of these fields in turn. A term may be
    a view that starts where the array of a field does.
    """
    names: dict[int, deque[str]] = defaultdict(deque)
    starts: dict[int, deque[str]] = defaultdict(deque)

    def collect(fields: Iterable[tuple[str, object]], prefix: str) -> None:
        for name, value in fields:
            if isinstance(value, Term):
                value = value.data
            if isinstance(value, Tensor):
                names[id(value)].append(prefix + name)
                starts[value.data_ptr()].append(prefix + name)
            elif isinstance(value, TensorNetwork):
                collect(vars(value).items(), f"{prefix}{name}.")
            elif isinstance(value, tuple | list):
                inner = prefix if name == "parts" else f"{prefix}{name}."
                collect(((str(number), item) for number, item in enumerate(value)), inner)
            elif isinstance(value, dict):
                collect(((str(key), item) for key, item in value.items()), f"{prefix}{name}.")

    collect(vars(part).items() if hasattr(part, "__dict__") else (), "")
    found = []
    for term in part.terms():
        held = names.get(id(term.data)) or starts.get(term.data.data_ptr(), deque(["tensor"]))
        found.append(held[0])
        held.rotate(-1)
    return found


@dataclass
class _Graph:
    """A graph holds the places of tensors and modes in trees, one tree per connected part of the network.

    The row of a vertex is its distance from the root, which is an open mode if there is one. Each leaf has its own
    column.
    """

    terms: Sequence[Sequence[str]]  # modes of every tensor
    open_modes: Sequence[str]
    tensors: dict[str, list[int]] = field(default_factory=dict)  # mode -> tensors
    places: dict[Vertex, tuple[float, float]] = field(default_factory=dict)  # (column, row)
    _children: dict[Vertex, list[Vertex]] = field(default_factory=dict)
    _columns: int = 0

    def __post_init__(self) -> None:
        for number, modes in enumerate(self.terms):
            for mode in modes:
                self.tensors.setdefault(mode, []).append(number)
        vertices: list[Vertex] = [("mode", mode) for mode in (*self.open_modes, *self.tensors)]
        vertices += [("tensor", number) for number in range(len(self.terms))]  # includes tensors without modes
        for vertex in vertices:
            if vertex not in self._children:  # not connected to what was placed before: a separate tree
                self._search(vertex)
                self._set(vertex, 0)

    @property
    def size(self) -> tuple[int, int]:
        """Return the numbers of columns and rows."""
        return self._columns, int(max(row for _, row in self.places.values())) + 1

    def _search(self, root: Vertex) -> None:
        """Build the tree below `root` breadth first, so that the row of a vertex is its distance."""
        self._children[root] = []
        queue = deque([root])
        while queue:
            vertex = queue.popleft()
            for near in self._near(vertex):
                if near not in self._children:
                    self._children[near] = []
                    self._children[vertex].append(near)
                    queue.append(near)

    def _near(self, vertex: Vertex) -> list[Vertex]:
        kind, name = vertex
        if kind == "mode":
            return [("tensor", number) for number in self.tensors[str(name)]]
        return [("mode", mode) for mode in self.terms[int(name)]]

    def _set(self, vertex: Vertex, row: int) -> float:
        """Place a vertex and its subtree, and return the column of the vertex.

        Children that lead to no open mode are in the middle.
        """
        children = [child for child in self._children[vertex] if self._leads_out(child)]
        middle = len(children) // 2
        children[middle:middle] = [child for child in self._children[vertex] if child not in children]
        columns = [self._set(child, row + 1) for child in children]
        if columns:
            column = (columns[0] + columns[-1]) / 2
        else:
            column, self._columns = float(self._columns), self._columns + 1
        self.places[vertex] = (column, row)
        return column

    def _leads_out(self, vertex: Vertex) -> bool:
        return vertex[1] in self.open_modes or any(self._leads_out(child) for child in self._children[vertex])
