"""Helpers that figures share: they draw a vector of the input space as an image."""

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from torch import Tensor, float64, strided

from tensornet_interp.checks import check_bool, check_choice, check_int, check_kind, check_tensor, check_text
from tensornet_interp.spectral import SpectralResult

Shape = tuple[int, int]
DIVERGING = "RdBu_r"  # red positive, blue negative, white zero


def check_shape(shape: Shape, size: int) -> None:
    """Check that an image of this shape has as many pixels as a vector has numbers."""
    if not isinstance(shape, tuple | list) or len(shape) != 2:
        raise TypeError(f"shape must be a pair (height, width), got {shape!r:.60}")
    for name, pixels in zip(("height of shape", "width of shape"), shape, strict=True):
        check_int(name, pixels, 1)
    if size != shape[0] * shape[1]:
        raise ValueError(f"an image of shape {shape} needs {shape[0] * shape[1]} pixels, but the input has {size}")


def image_cell(
    axes: Axes, values: Tensor, shape: Shape, title: str, *, cmap: str = DIVERGING, symmetric: bool = True
) -> None:
    """Draw `values` as an image without ticks; `symmetric` puts zero in the middle of the colours."""
    check_tensor("values", values, ("...",) * (getattr(values, "ndim", 0) - 1) + ("pixel",))
    check_text("title", title, empty=True)
    check_choice("cmap", cmap, colormaps)
    check_bool("symmetric", symmetric)
    check_shape(shape, values.numel())
    image = to_numpy(values).reshape(shape)
    limit = float(np.abs(image).max()) or 1.0
    axes.imshow(image, cmap=cmap, vmin=-limit if symmetric else 0, vmax=limit)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(title, fontsize=8)


def pixels(result: SpectralResult, block: int, rank: int) -> Tensor:
    """Return an eigenvector without the constant coordinate of a lifted input."""
    vector = result.eigenvectors[block, :, rank]
    return vector[1:] if result.constant_in else vector


def to_numpy(tensor: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Return a tensor as a float64 NumPy array on the CPU."""
    check_kind("tensor", tensor, Tensor)
    if tensor.layout != strided or tensor.is_complex():
        raise TypeError(f"tensor must be dense and real, got {tensor.dtype}, {tensor.layout}")
    return tensor.detach().to("cpu", float64).numpy()
