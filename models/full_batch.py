"""Training on a whole table at once."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from tensornet_interp.checks import check_int, check_number


def fit(
    parameters: Iterable[Tensor], loss: Callable[[], Tensor], *, steps: int, lr: float, weight_decay: float = 0.0
) -> None:
    """Minimise `loss()` over its parameters, in place, with AdamW; the learning rate falls from `lr` to zero.

    Raises FloatingPointError, naming the step, if the loss is not finite. Cost: steps * three times that of `loss()`.
    """
    check_int("steps", steps, 1)
    check_number("lr", lr, 0.0)
    check_number("weight_decay", weight_decay, 0.0)
    with torch.enable_grad():
        optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
        for step in range(steps):
            optimizer.zero_grad()
            value = loss()
            if not torch.isfinite(value):
                raise FloatingPointError(f"the loss is {value.item()} at step {step} of {steps}; lower lr={lr}")
            value.backward()
            with torch.device("cpu"):  # AdamW counts its steps here
                optimizer.step()
            schedule.step()
        optimizer.zero_grad()
