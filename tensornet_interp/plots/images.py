"""What figures share: a vector of the input space as an image."""

import numpy as np
from matplotlib.axes import Axes
from torch import Tensor, float64

from tensornet_interp.spectral import SpectralResult

Shape = tuple[int, int]
DIVERGING = "RdBu_r"  # red positive, blue negative, white zero


def check_shape(shape: Shape, size: int) -> None:
    """As many pixels in the image as numbers in the vector."""
    if size != shape[0] * shape[1]:
        raise ValueError(f"an image of shape {shape} needs {shape[0] * shape[1]} pixels, the input has {size}")


def image_cell(
    axes: Axes, values: Tensor, shape: Shape, title: str, *, cmap: str = DIVERGING, symmetric: bool = True
) -> None:
    """Draw `values` as an image without ticks; `symmetric` puts zero in the middle of the colours."""
    check_shape(shape, values.numel())
    image = to_numpy(values).reshape(shape)
    limit = float(np.abs(image).max()) or 1.0
    axes.imshow(image, cmap=cmap, vmin=-limit if symmetric else 0, vmax=limit)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(title, fontsize=8)


def pixels(result: SpectralResult, block: int, rank: int) -> Tensor:
    """An eigenvector without the constant coordinate of a lifted input."""
    vector = result.eigenvectors[block, :, rank]
    return vector[1:] if result.constant_in else vector


def to_numpy(tensor: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """On the host, in float64."""
    return tensor.detach().to("cpu", float64).numpy()
