"""Places to compute: a device and a dtype, checked before anything moves there."""

import torch
from torch import Tensor

from tensornet_interp.checks import DTYPE_NAMES, DTYPES

__all__ = ["check_device", "check_place"]


def check_device(value: object) -> torch.device:
    """A device by its name or as an object; whether this machine has it, torch says when it is used."""
    if not isinstance(value, str | torch.device):
        raise TypeError(f"device must be a torch.device or its name, got {value!r:.60} ({type(value).__name__})")
    try:
        return torch.device(value)
    except RuntimeError:
        raise ValueError(f"device must be a name that torch knows, as 'cpu' or 'cuda:1', got {value!r}") from None


def check_place(device: object, dtype: object, like: Tensor) -> tuple[torch.device, torch.dtype]:
    """Device and dtype to move `like` to, its own for None; an error for float64 on Apple GPUs, which have none."""
    place = like.device if device is None else check_device(device)
    if dtype is None:
        dtype = like.dtype
    elif not isinstance(dtype, torch.dtype) or dtype not in DTYPES:
        raise TypeError(f"dtype must be {DTYPE_NAMES}, got {dtype!r:.60}")
    if place.type == "mps" and dtype == torch.float64:
        raise ValueError(
            "device mps (an Apple GPU) has no float64, in which everything but calls of a layer is computed; move the"
            " layer and its data to the CPU first, as layer.to('cpu')"
        )
    return place, dtype
