"""Places for arrays: a device and a dtype, which are checked before anything is moved."""

import torch
from torch import Tensor

from tensornet_interp.checks import DTYPE_NAMES, DTYPES
from tensornet_interp.float64 import has_float64

__all__ = ["check_device", "check_place", "kept_place", "move"]


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

    Raises ValueError for float64 on a device that has none.
    """
    place = like.device if device is None else check_device(device)
    if dtype is None:
        dtype = like.dtype
    elif not isinstance(dtype, torch.dtype) or dtype not in DTYPES:
        raise TypeError(f"dtype must be {DTYPE_NAMES}, got {dtype!r:.60}")
    if dtype == torch.float64 and not has_float64(place):
        raise ValueError(
            f"device {place} has no float64; give dtype=torch.float32. What needs float64 is then computed on the CPU,"
            " and its result moved back"
        )
    return place, dtype


def kept_place(device: object, like: Tensor) -> torch.device:
    """Return where an array that keeps its dtype goes: to a device, or in float64 that this lacks, to the CPU.

    device: None stands for its present one.
    """
    place = like.device if device is None else check_device(device)
    return torch.device("cpu") if like.dtype == torch.float64 and not has_float64(place) else place


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
