"""Turn a gated model into a bilinear one by fine-tuning (Pearce et al. 2025, appendix J).

First, `anneal` replaces the gates and returns a callback. During training, the callback lowers beta from 1 to 0.
Finally, `remove_gates` folds the gates into the weights, and the model has gate "none".
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import is_dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from models.bilinear import Bilinear
from tensornet_interp.checks import check_choice, check_int, check_number

# gate(z) = z share(beta z); every share is exactly 1/2 at 0
SHARES: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": torch.sigmoid,
    "gelu": torch.special.ndtr,  # the distribution function of N(0, 1)
}
LOWEST = 0.01  # last value of the exponential, before it is shifted to end at 0
STEEPNESS = 10.0  # of the logistic between start and end


class AnnealedGate(nn.Module):
    """An `AnnealedGate` is a gate that changes into z / 2 as beta falls from 1 to 0.

    gate(z) = z share(beta z)

    At beta = 1 it is the gate `kind`; at beta = 0 it is z / 2 bit by bit. `kind` is "silu" (share: sigmoid) or "gelu"
    (share: normal distribution function). `beta` is a plain number: it is no parameter and not in the state_dict. The
    callback of `anneal` sets it before every step. z may have any shape and dtype.

    >>> AnnealedGate("silu", beta=0.0)(torch.tensor([3.0, -1.0]))
    tensor([ 1.5000, -0.5000])
    """

    def __init__(self, kind: str = "silu", beta: float = 1.0) -> None:
        super().__init__()
        self.kind = check_choice("kind", kind, SHARES)
        self.beta = check_number("beta", beta, 0.0)

    def forward(self, z: Tensor) -> Tensor:
        """Return z share(beta z), in the shape of z."""
        return z * SHARES[self.kind](self.beta * z)

    def extra_repr(self) -> str:
        """Return the text that `print(model)` shows for this gate."""
        return f"{self.kind!r}, beta={self.beta:g}"


def _logistic(t: float) -> float:
    def rising(t: float) -> float:
        return 1 / (1 + math.exp(STEEPNESS * (t - 0.5)))

    return (rising(t) - rising(1.0)) / (rising(0.0) - rising(1.0))


SCHEDULES: dict[str, Callable[[float], float]] = {  # t, from 0 to 1 -> beta, from 1 to 0
    "linear": lambda t: 1 - t,
    "exponential": lambda t: (LOWEST**t - LOWEST) / (1 - LOWEST),
    "logistic": _logistic,
    "smootherstep": lambda t: (1 - t) ** 3 * (6 * (1 - t) ** 2 - 15 * (1 - t) + 10),
}


def schedule(name: str, start: int, end: int) -> Callable[[int], float]:
    """Return beta as a function of the step: exactly 1 up to `start`, exactly 0 from `end` on, and falling in between.

    Between the two, t = (step - start) / (end - start) and beta is

    - "linear": 1 - t;
    - "exponential": (r^t - r) / (1 - r), r = 0.01. The shift by r lets beta reach 0 without a jump;
    - "logistic": 1 / (1 + exp(10 (t - 1/2))), shifted and scaled to run from 1 to 0;
    - "smootherstep": u^3 (6 u^2 - 15 u + 10), u = 1 - t. Slope and curvature are 0 at both ends.

    If start = end, the gate goes in one step. Raises ValueError for an unknown name, a negative start and start > end.

    >>> [schedule("linear", 10, 20)(step) for step in (9, 10, 15, 20, 21)]
    [1.0, 1.0, 0.5, 0.0, 0.0]
    """
    way = SCHEDULES[check_choice("schedule", name, SCHEDULES)]
    check_int("start", start, 0)
    check_int("end", end, 0)
    if start > end:
        raise ValueError(f"start must be at most end, got start={start} and end={end}")

    def beta(step: int) -> float:
        if step >= end:
            return 0.0
        return 1.0 if step <= start else way((step - start) / (end - start))

    return beta


class Site(NamedTuple):
    """A `Site` is one gate of a model: `owner.attribute` is applied to the output of `linear`."""

    name: str
    owner: nn.Module
    attribute: str
    linear: nn.Linear

    @property
    def gate(self) -> Callable[[Tensor], Tensor] | None:
        """The present gate function, or None if there is none."""
        found: Callable[[Tensor], Tensor] | None = getattr(self.owner, self.attribute)
        return found


def gate_sites(model: nn.Module) -> list[Site]:
    """Return the gates of a model: one `Site` per `Bilinear` and per MLP of the Llama type.

    An MLP is of the Llama type if it has gate_proj, up_proj, down_proj and act_fn. Raises ValueError if the model has
    no gated MLP, and TypeError if a gate_proj is not an nn.Linear.
    """
    sites = []
    for name, module in model.named_modules():
        if isinstance(module, Bilinear):
            sites.append(Site(name, module, "activation", module.left))
        elif all(hasattr(module, part) for part in ("gate_proj", "up_proj", "down_proj", "act_fn")):
            linear = module.gate_proj
            if not isinstance(linear, nn.Linear):
                raise TypeError(f"{name}.gate_proj is a {type(linear).__name__}, not an nn.Linear")
            sites.append(Site(name, module, "act_fn", linear))
    if not sites:
        raise ValueError(
            f"{type(model).__name__} has no gated MLP: neither a Bilinear nor a module with gate_proj, up_proj, "
            "down_proj and act_fn"
        )
    return sites


def anneal(model: nn.Module, name: str, start: int, end: int) -> Callable[[int, nn.Module], None]:
    """Replace every gate by an `AnnealedGate`, in place, and return a callback that sets beta of all gates.

    Call `callback(step, model)` before each step, with steps counted from 0: `train_language` does so if it is given as
    `callback=`. beta depends on the step alone, so a resumed run continues correctly. If `train_language` only reads
    back a finished run, it makes no step; then call the callback once with the last step before `remove_gates`. Gates
    that are annealed already stay. `name`, `start` and `end` are those of `schedule`.

    Raises ValueError, before anything is changed, if a gate is neither SiLU nor GELU. Gates are recognised by their
    values, so no gate, ReLU and the tanh approximation of GELU are refused.
    """
    beta = schedule(name, start, end)
    kinds = [(site, _kind(site)) for site in gate_sites(model)]
    for site, kind in kinds:
        if not isinstance(site.gate, AnnealedGate):
            setattr(site.owner, site.attribute, AnnealedGate(kind))

    def callback(step: int, model: nn.Module) -> None:
        for gate in _annealed(model):
            gate.beta = beta(step)

    callback(0, model)
    return callback


def remove_gates(model: nn.Module) -> None:
    """Fold gates with beta = 0 into the weights of `left`, in place.

    down((left x / 2) * right x) = down((left/2) x * right x)

    Weight and bias of `left` (`gate_proj`) are halved. Halving is exact in floating point, so outputs stay the same bit
    by bit. Afterwards the gate and every config say "none" ("linear" in a Hugging Face config), and the saved model
    opens as a bilinear one.

    Raises ValueError, before anything is changed, if a gate was not annealed or its beta is not 0.
    Cost: one pass over the weights of `left`.
    """
    sites = gate_sites(model)
    for site in sites:
        gate = site.gate
        if not isinstance(gate, AnnealedGate):
            raise ValueError(f"the gate of {site.name} is {_title(gate)}, which was not annealed: call anneal() first")
        if gate.beta != 0:
            raise ValueError(
                f"the gate of {site.name} has beta={gate.beta:g}, it must be 0: continue the training until the end "
                "of the schedule"
            )
    with torch.no_grad():
        for parameter in {parameter for site in sites for parameter in site.linear.parameters()}:  # once if tied
            parameter.mul_(0.5)
    name_no_gate(model, sites)


def name_no_gate(model: nn.Module, sites: Sequence[Site]) -> None:
    """Take the gates of these sites away, in place, and let every config of the model say that it has none."""
    for site in sites:
        if isinstance(site.owner, Bilinear):
            site.owner.gate, site.owner.activation = "none", None
        else:
            site.owner.act_fn = nn.Identity()
    for module in model.modules():
        config: Any = getattr(module, "config", None)
        if hasattr(config, "hidden_act"):
            config.hidden_act = "linear"
        elif is_dataclass(config) and not isinstance(config, type) and hasattr(config, "gate"):
            module.config = replace(config, gate="none")  # type: ignore[assignment]


def _annealed(model: nn.Module) -> Iterator[AnnealedGate]:
    return (module for module in model.modules() if isinstance(module, AnnealedGate))


def _kind(site: Site) -> str:
    """Recognise a gate by its values, because many classes implement the same function."""
    gate = site.gate
    if isinstance(gate, AnnealedGate):
        return gate.kind
    z = torch.linspace(-4, 4, 33, dtype=torch.float64, device="cpu")
    with torch.no_grad():
        for kind in SHARES:
            if gate is not None and torch.allclose(gate(z), AnnealedGate(kind)(z), rtol=0.0, atol=1e-7):
                return kind
    raise ValueError(f"the gate of {site.name} is {_title(gate)}; only these can be annealed: {', '.join(SHARES)}")


def _title(gate: Callable[[Tensor], Tensor] | None) -> str:
    if gate is None or isinstance(gate, nn.Identity):
        return "none"
    return type(gate).__name__ if isinstance(gate, nn.Module) else getattr(gate, "__name__", repr(gate))
