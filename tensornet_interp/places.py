"""Places for arrays: a device and a dtype, which are checked before anything is moved."""

import torch
from torch import Tensor

from tensornet_interp.checks import DTYPE_NAMES, DTYPES

__all__ = ["check_device", "check_place", "move"]


def check_device(value: object) -> torch.device:
    """Return a device, given by its name or as an object; whether the machine has it is not checked."""
    if not isinstance(value, str | torch.device):
        raise TypeError(f"device must be a torch.device or its name, got {value!r:.60} ({type(value).__name__})")
    try:
        return torch.device(value)
    except RuntimeError:
        raise ValueError(f"device must be a name that torch knows, such as 'cpu' or 'cuda:1', got {value!r}") from None


def check_place(device: object, dtype: object, like: Tensor) -> tuple[torch.device, torch.dtype]:
    """Return the device and the dtype to which `like` is to be moved; None stands for its present one.

    Raises ValueError for float64 on an Apple GPU, which does not support it.
    """
    place = like.device if device is None else check_device(device)
    if dtype is None:
        dtype = like.dtype
    elif not isinstance(dtype, torch.dtype) or dtype not in DTYPES:
        raise TypeError(f"dtype must be {DTYPE_NAMES}, got {dtype!r:.60}")
    if place.type == "mps" and dtype == torch.float64:
        raise ValueError(
            "device mps (an Apple GPU) has no float64, but everything except calls of a layer is computed in float64;"
            " move the layer and its data to the CPU first, with layer.to('cpu')"
        )
    return place, dtype


def move(name: str, value: Tensor, device: object, dtype: object) -> Tensor:
    """Return an array on a device and in a dtype; None stands for its present one.

    Raises ValueError if the dtype is too narrow: if finite entries are too large for it.
    """
    moved = value.to(*check_place(device, dtype, value))
    most = torch.finfo(moved.dtype).max
    if value.numel() and most < torch.finfo(value.dtype).max:
        largest = value.detach().abs().amax()
        if torch.isfinite(largest) and torch.isinf(largest.to(moved.dtype)):
            raise ValueError(
                f"dtype {moved.dtype} is too narrow: the largest entry of {name} is {float(largest):.3g}, more than "
                f"{most:.3g}"
            )
    return moved
