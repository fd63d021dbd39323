"""Helpers that draw a vector of the input space as an image."""

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from torch import Tensor, float64, strided

from tensornet_interp.checks import check_bool, check_choice, check_kind, check_tensor, check_text
from tensornet_interp.names import Shape, check_shape
from tensornet_interp.plots.sheets import SMALL

DIVERGING = "RdBu_r"  # red positive, blue negative, white zero


def image_cell(
    axes: Axes, values: Tensor, shape: Shape, title: str, *, cmap: str = DIVERGING, symmetric: bool = True
) -> None:
    """Draw `values` as an image without ticks; a text below the image gives the scale of the colours.

    symmetric: if True, zero is in the middle of the colours, which end at plus and minus the largest magnitude. If
    False, the colours go from 0, or from the smallest value if that is negative, to the largest value.
    """
    check_tensor("values", values, ("...",) * (getattr(values, "ndim", 0) - 1) + ("pixel",))
    check_text("title", title, empty=True)
    check_choice("cmap", cmap, colormaps)
    check_bool("symmetric", symmetric)
    check_shape(shape, values.numel())
    image = to_numpy(values).reshape(shape)
    largest = float(np.abs(image).max()) or 1.0
    low, high = (-largest, largest) if symmetric else (min(0.0, float(image.min())), max(0.0, float(image.max())))
    if low == high:
        high = 1.0
    axes.imshow(image, cmap=cmap, vmin=low, vmax=high)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(title, fontsize=8)
    scale = f"±{largest:.3g}" if symmetric else f"{low:.3g} to {high:.3g}"
    axes.set_xlabel(scale, fontsize=SMALL, color="0.35", labelpad=2)


def to_numpy(tensor: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Return a tensor as a float64 NumPy array on the CPU."""
    check_kind("tensor", tensor, Tensor)
    if tensor.layout != strided or tensor.is_complex():
        raise TypeError(f"tensor must be dense and real, got {tensor.dtype}, {tensor.layout}")
    return tensor.detach().to("cpu").to(float64).numpy()
