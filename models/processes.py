"""Several processes train one model, as `torchrun` starts them: which one writes, and what all must agree on."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from typing import TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")


@contextmanager
def joined(device: str) -> Iterator[str]:
    """Join the processes that `torchrun` started, inside a `with` block; give the device that this one works on.

    On CUDA each process of a machine has a device of its own, and they talk through NCCL; elsewhere through gloo. Only
    the first process prints. In a process that `torchrun` did not start, nothing happens. Raises ValueError if there
    are more processes than CUDA devices, or if `device` names one of these for all.
    """
    if not dist.is_torchelastic_launched():
        yield device
        return
    place = torch.device(device)
    if place.type == "cuda":
        local, devices = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if place.index is not None or local >= devices:
            raise ValueError(
                f"each process needs a CUDA device of its own: got device={device!r}, which must be 'cuda', and process"
                f" {local} on a machine with {devices} devices"
            )
        place = torch.device("cuda", local)
        torch.cuda.set_device(place)
    dist.init_process_group("nccl" if place.type == "cuda" else "gloo")
    try:
        with nullcontext() if is_first() else redirect_stdout(None):
            yield str(place)
    finally:
        dist.destroy_process_group()


def count() -> int:
    """Return how many processes work together: 1 if this one is alone."""
    return dist.get_world_size() if dist.is_initialized() else 1


def number() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_first() -> bool:
    """Return True in the process that writes files: the only one, or number 0."""
    return number() == 0


def of_first(make: Callable[[], T]) -> T:
    """Return in every process what `make` returns in the first one, which alone calls it."""
    if count() == 1:
        return make()
    found = [make() if is_first() else None]
    dist.broadcast_object_list(found)
    return found[0]  # type: ignore[return-value]


def gathered(value: T) -> list[T]:
    """Return the values of all processes, in their order."""
    if count() == 1:
        return [value]
    found: list[T] = [value] * count()
    dist.all_gather_object(found, value)
    return found


def mean(value: float, device: torch.device) -> float:
    """Return the mean of a number over all processes, which work on devices of this type."""
    if count() == 1:
        return value
    total = torch.tensor(value, dtype=torch.float64, device=device)
    dist.all_reduce(total)
    return total.item() / count()


def wait() -> None:
    """Wait until all processes have come here."""
    if count() > 1:
        dist.barrier()


@contextmanager
def first_before_others() -> Iterator[None]:
    """Run a `with` block in the first process and then in the others, which read what the first one has written."""
    if not is_first():
        wait()
    yield
    if is_first():
        wait()
