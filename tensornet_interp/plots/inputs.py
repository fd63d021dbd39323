"""The one place that decides how a vector of the input space is drawn: as an image, or as bars with names."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from matplotlib.axes import Axes
from torch import Tensor

from tensornet_interp.checks import check_names
from tensornet_interp.names import Named, Shape, check_shape
from tensornet_interp.plots.images import DIVERGING, image_cell, to_numpy
from tensornet_interp.plots.sheets import SMALL, bare, fitted, measure, signs

_IMAGE = 1.05  # inches: the longer side of an image
_BARS = 8  # the most entries that are drawn as bars
_WIDEST = 1.5  # inches: a longer name is wrapped
_LONGEST = 4000  # of more names than these, only those that are drawn are measured


@dataclass(frozen=True)
class InputView:
    """A view draws vectors of inputs in cells of one size: as images if `shape` is known, otherwise as named bars."""

    shape: Shape | None
    names: Sequence[str] | None
    size: int

    @property
    def note(self) -> str:
        """Return a text that explains the colours and numbers of the cells."""
        if self.shape is not None:
            return "Red is positive, blue is negative, white is 0. ± below an image: the values of the full colours."
        return "Red is positive, blue is negative; largest entries first. ± below bars: the value of the longest bar."

    @property
    def width(self) -> float:
        """Return the width of a cell in inches."""
        if self.shape is not None:
            return max(0.8, _IMAGE * min(1.0, self.shape[1] / self.shape[0]))
        return 2 * min(_WIDEST, self._name_width) + 0.1

    @property
    def height(self) -> float:
        """Return the height of a cell in inches."""
        if self.shape is not None:
            return max(0.3, _IMAGE * min(1.0, self.shape[0] / self.shape[1]))
        return min(self.size, _BARS) * (0.14 if self._name_width <= _WIDEST else 0.25)

    @functools.cached_property
    def _name_width(self) -> float:
        names = [self.name(i) for i in range(self.size)]
        if len(names) > _LONGEST:
            return _WIDEST
        return max(0.5, max(measure(name, SMALL) for name in names) + 0.05)

    def name(self, at: int) -> str:
        """Return the name of an input, by default x and its number."""
        return f"x{at}" if self.names is None else self.names[at]

    def draw(self, axes: Axes, vector: Tensor, title: str = "", *, weights: bool = True) -> None:
        """Draw a vector with its scale.

        weights: if False, the vector is an input; an image of an input without negative entries is drawn in grey.
        """
        if self.shape is not None:
            signed = weights or bool((vector < 0).any())
            image_cell(axes, vector, self.shape, title, cmap=DIVERGING if signed else "gray_r", symmetric=signed)
            return
        best = largest(vector, _BARS)
        values = to_numpy(vector[torch.tensor(best, device=vector.device)])
        limit = float(abs(values).max()) or 1.0
        axes.barh(range(len(best)), values / limit, height=0.75, color=signs(values))
        axes.axvline(0, color="0.5", linewidth=0.6)
        labels, _, _ = fitted([self.name(i) for i in best], _WIDEST, SMALL, 2)
        for row, (label, value) in enumerate(zip(labels, values.tolist(), strict=True)):
            style: dict[str, Any] = {"ha": "right", "x": -0.03} if value > 0 else {"ha": "left", "x": 0.03}
            axes.text(y=row, s=label, fontsize=SMALL, va="center", linespacing=0.9, gid="name", **style)
        axes.set(xlim=(-1, 1), ylim=(len(best) - 0.4, -0.6))
        bare(axes)
        axes.set_title(title, fontsize=8)
        more = f"{len(best)} of {len(vector)}, " if len(best) < len(vector) else ""
        axes.set_xlabel(f"{more}±{limit:.3g}", fontsize=SMALL, color="0.35", labelpad=2)


def largest(vector: Tensor, count: int) -> list[int]:
    """Return the places of the `count` entries of largest magnitude, largest first."""
    return vector.detach().abs().argsort(descending=True, stable=True)[:count].tolist()


def output_names(part: Named, count: int, names: Sequence[str] | None = None, what: str = "output") -> Sequence[str]:
    """Return one name per output: the given names, else the names that the map knows, else "output" and a number."""
    if names is not None:
        return check_names("names", names, count, what)
    return part.output_names or [f"output {number}" for number in range(count)]


def vector_view(what: str, size: int, shape: Shape | None, input_names: Sequence[str] | None) -> InputView:
    """Return the view of vectors that belong to no layer or result; `what` names the vectors in errors."""
    if input_names is not None and len(check_names("input_names", input_names)) != size:
        raise ValueError(f"input_names must be one per input, got {len(input_names)} for {size} inputs of {what}")
    return InputView(None if shape is None else check_shape(shape, size), input_names, size)


def input_view(part: Named, size: int, shape: Shape | None = None, names: Sequence[str] | None = None) -> InputView:
    """Return the view of the inputs of a layer, result or network.

    If `shape` or `names` is given, nothing is taken from `part`.
    """
    if shape is None and names is None:
        shape, names = part.input_shape, part.input_names
    return InputView(None if shape is None else check_shape(shape, size), names, size)
