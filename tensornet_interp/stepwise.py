"""Evaluate and plan a stack part by part: the time for planning and the flops grow linearly with the number of parts.

The contraction of a whole stack as one tree has 2^L copies of its bottom part. A stack that is evaluated contracts one
part after the other, so each part is described once, as calls of a function of terms and output modes. If the function
is `contract`, the calls compute; if it is a `Planner`, they plan, and no array is allocated.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tensornet_interp.contraction import Modes, Plan, Term, plan
from tensornet_interp.layer import TensorNetwork

__all__ = ["Planner", "Run", "sliced", "through"]

Run = Callable[[Sequence[Term], Modes], Tensor]  # the tensor with axes `output`, summed over all other modes

_NO_LIMIT = 1e300


class Planner:
    """A planner stands in for `contract`: it keeps the plan of every call and returns an array without storage.

    plans: the plans so far. peak_elements: the most elements alive at once, which are those of the largest plan and of
    all results so far; call `start` to forget the results.
    """

    def __init__(self) -> None:
        self.plans: list[Plan] = []
        self.peak_elements = 0
        self._alive = 0

    def __call__(self, terms: Sequence[Term], output: Modes) -> Tensor:
        """Keep the plan of one contraction and return a result on the device "meta"."""
        bare: dict[int, Tensor] = {}
        empty = [Term(bare.setdefault(id(data), data.to("meta")), modes) for data, modes in terms]
        made = plan(empty, output, max_elements=_NO_LIMIT)
        self.plans.append(made)
        self.peak_elements = max(self.peak_elements, self._alive + made.peak_elements)
        shape = [made.sizes[mode] for mode in output]
        self._alive += torch.Size(shape).numel()
        return torch.empty(shape, dtype=empty[0].data.dtype, device="meta")

    def start(self, alive: int) -> None:
        """Begin a new part: forget all results but the `alive` elements that the part gets and returns."""
        self._alive = alive

    def check(self, max_elements: float, remedy: str) -> None:
        """Raise ValueError if more than `max_elements` elements would be in memory at once."""
        if self.peak_elements > max_elements:
            raise ValueError(
                f"the evaluation needs {self.peak_elements:.1e} elements at once, more than"
                f" max_elements={max_elements:.0e}; {remedy}"
            )


def sliced(run: Run, count: int, step: int | None, work: Callable[[slice], Tensor], axis: int) -> Tensor:
    """Return work(rows) for slices of at most `step` of `count` rows, joined along an axis; None for all at once.

    What one slice needs is forgotten before the next. A planner plans the first slice, which no other exceeds.
    """
    size = min(step or count, count)
    first = work(slice(0, size))
    if size == count:
        return first
    if isinstance(run, Planner):
        shape = list(first.shape)
        shape[axis] = count
        return first.new_empty(shape)
    return torch.cat([first, *(work(slice(at, min(at + size, count))) for at in range(size, count, size))], axis)


def through(part: TensorNetwork, x: Tensor, run: Run) -> Tensor:
    """Return the output (batch, out) of a part with modes (out, in1, ...) whose input modes all take x (batch, in)."""
    inputs = [Term(x, ("batch", mode)) for mode in part.modes if mode != "out"]
    return run([*part.terms(), *inputs], ("batch", "out"))
