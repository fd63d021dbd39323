"""Pairs of boolean operations on input bits: the toy task of Pearce et al. (2025), arXiv 2410.08417.

One bilinear layer with biases represents every operation of two bits exactly: x AND y = x y, x XOR y = x + y - 2 x y,
and the negation of f is 1 - f. The constants need the biases.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.bilinear import Bilinear
from models.full_batch import fit
from tensornet_interp import BilinearLayer
from tensornet_interp.checks import check_choice, check_int

OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "and": torch.logical_and,
    "or": torch.logical_or,
    "xor": torch.logical_xor,
    "nand": lambda a, b: ~torch.logical_and(a, b),
    "nor": lambda a, b: ~torch.logical_or(a, b),
    "xnor": lambda a, b: ~torch.logical_xor(a, b),
}


class LogicGate(NamedTuple):
    """A `LogicGate` is operation(bit[first], bit[second])."""

    operation: str
    first: int
    second: int


@dataclass(frozen=True)
class LogicGateConfig:
    """A `LogicGateConfig` holds the number of bits, the logic gates (one output each) and the hidden width.

    >>> LogicGateConfig(n_bits=3, gates=(LogicGate("and", 0, 1), LogicGate("xnor", 1, 2)), hidden=4).names
    ('and(0, 1)', 'xnor(1, 2)')
    """

    n_bits: int
    gates: tuple[LogicGate, ...]
    hidden: int = 12

    def __post_init__(self) -> None:
        check_int("n_bits", self.n_bits, 2)
        check_int("hidden", self.hidden, 1)
        if len(self.gates) == 0:
            raise ValueError("gates is empty: give at least one (operation, first, second)")
        gates = []
        for index, entry in enumerate(self.gates):
            if isinstance(entry, str) or len(entry) != 3:
                raise ValueError(f"gates[{index}] must be (operation, first, second), got {entry!r}")
            operation, first, second = entry
            check_choice(f"gates[{index}] operation", operation, OPERATIONS)
            for bit in (check_int(f"gates[{index}] bit", first, 0), check_int(f"gates[{index}] bit", second, 0)):
                if bit >= self.n_bits:
                    raise ValueError(f"gates[{index}] bit must be less than n_bits={self.n_bits}, got {bit}")
            if first == second:
                raise ValueError(f"gates[{index}] needs two different bits, got {first} twice")
            gates.append(LogicGate(operation, first, second))
        object.__setattr__(self, "gates", tuple(gates))  # lists, as they come from JSON, become LogicGate tuples

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the outputs."""
        return tuple(f"{gate.operation}({gate.first}, {gate.second})" for gate in self.gates)


def truth_table(
    config: LogicGateConfig,
    *,
    max_rows: int = 4096,
    seed: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """Return inputs x (rows, n_bits) and outputs y (rows, gates), both of zeros and ones.

    y[row, gate] = operation(x[row, first], x[row, second])

    If 2**n_bits is at most `max_rows`, all rows come in counting order, with bit 0 as the most significant. Otherwise
    `max_rows` rows are drawn uniformly with replacement, from a stream of their own that `seed` starts.
    """
    check_int("max_rows", max_rows, 1)
    check_int("seed", seed, 0)
    n = config.n_bits
    if 2**n <= max_rows:
        shifts = torch.arange(n - 1, -1, -1, device="cpu")
        bits = (torch.arange(2**n, device="cpu")[:, None] >> shifts & 1).bool()
    else:
        generator = torch.Generator().manual_seed(seed)
        bits = torch.rand(max_rows, n, generator=generator, dtype=torch.float32, device="cpu") < 0.5
    y = torch.stack([OPERATIONS[gate.operation](bits[:, gate.first], bits[:, gate.second]) for gate in config.gates], 1)
    return bits.to(device, dtype), y.to(device, dtype)


class LogicGateModel(nn.Module):
    """A `LogicGateModel` is one bilinear layer with biases and one output per gate.

    y = down((left x + a) * (right x + b)) + c
    """

    def __init__(
        self, config: LogicGateConfig, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self.bilinear = Bilinear(config.n_bits, config.hidden, len(config.gates), bias=True, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Return y: (..., n_bits) -> (..., gates)."""
        y: Tensor = self.bilinear(x)
        return y

    def layer(self) -> BilinearLayer:
        """Return the model as a lifted `BilinearLayer`, exactly: coordinates [1, bits] -> [1, gates]."""
        return self.bilinear.layer("gates", basis="bits, 0 or 1")


def train_logic_gates(
    config: LogicGateConfig,
    *,
    steps: int = 2000,
    lr: float = 0.02,
    weight_decay: float = 0.0,
    seed: int = 0,
    max_rows: int = 4096,
) -> LogicGateModel:
    """Train a model on the truth table: full-batch AdamW on the mean squared error, on the CPU.

    The learning rate falls to zero. The global random streams stay as they are. Raises FloatingPointError, naming the
    step, if the loss is not finite. Cost: steps * rows * 6 hidden (2 n_bits + gates) flops.
    """
    check_int("seed", seed, 0)
    x, y = truth_table(config, max_rows=max_rows, seed=seed)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = LogicGateModel(config, device="cpu", dtype=torch.float32)
    fit(model.parameters(), lambda: functional.mse_loss(model(x), y), steps=steps, lr=lr, weight_decay=weight_decay)
    return model
