"""Does a bilinear layer learn a constant as a constant, or as squares that are constant on its training inputs?

Appendix L of the paper says that a linear relation is learned as a quadratic one if there is no bias, and that training
often degenerates to quadratic invariances instead of constants. Here one bilinear layer learns one arithmetic function
of two numbers a and b; two more inputs play no part. It trains on all combinations of the values of a domain:

- signs: -1 and 1. There x^2 = 1, so squares can stand for a constant;
- bits: 0 and 1. There x^2 = x, so squares can stand for a linear part;
- levels: -1, 0 and 1. No square equals lower terms, so every part is determined: the control.

The wanted polynomial is the best quadratic one on the domain, without squares if lower terms can stand for them. Biases
are "none", "inner" (of the two maps into the layer, as in the paper) or "all" (one more for the output). The layer is
split into its quadratic, linear and constant part. Let k be the wanted part that squares could stand for (signs: the
constant; bits: the linear part; levels: both), and own = learned . k / k . k. The rule, per task and seed:

- "not learned": on the training inputs, the squared error is above 1 % of the wanted polynomial's square;
- "own": |own - 1| <= 0.1, so the part was learned as what it is; "squares": |own| <= 0.1; "mixed": anything else;
- if k is zero: "none" if the learned part is at most 0.1 of the size of the polynomial, otherwise "cancelling", because
  squares cancel it on the training inputs.

The error outside compares layer and wanted polynomial on inputs drawn evenly from -2 to 2, as a share of its size.
"""

import argparse
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.functional import mse_loss
from tqdm import tqdm

from examples.parts.image_job import decays_of
from models import Bilinear, write_table
from models.full_batch import fit
from models.tables import plus_minus, read_table, summarise
from tensornet_interp.checks import check_int, check_number
from tensornet_interp.lifting import split


class Domain(NamedTuple):
    """A `Domain` holds the values of an input, and the parts of a polynomial that squares can stand for there."""

    values: tuple[float, ...]
    replaceable: tuple[str, ...]


DOMAINS = {
    "signs": Domain((-1.0, 1.0), ("constant",)),
    "bits": Domain((0.0, 1.0), ("linear",)),
    "levels": Domain((-1.0, 0.0, 1.0), ("constant", "linear")),  # not there; compared all the same
}
TASKS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "a + b": lambda a, b: a + b,
    "a - b": lambda a, b: a - b,
    "a b": lambda a, b: a * b,
    "max(a, b)": torch.maximum,
    "|a - b|": lambda a, b: (a - b).abs(),
    "one": lambda a, b: torch.ones_like(a),
    "1 + a + a b": lambda a, b: 1 + a + a * b,
}
BIASES = ("none", "inner", "all")
VERDICTS = ("own", "squares", "mixed", "not learned", "none", "cancelling")
INPUTS = 4  # a, b and two more
LEARNED, TOLERANCE = 0.01, 0.1
REACH, DRAWS = 2.0, 4096  # inputs outside the domain
PARTS = ("quadratic", "linear", "constant")
Row = dict[str, object]


def main(argv: Sequence[str] | None = None) -> None:
    """Train all layers, print the tables and draw the figure."""
    options = _options(argv)
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    if not options.replot:
        jobs = [(domain, bias, decay) for domain in DOMAINS for decay in options.decays for bias in BIASES]
        rows = [
            row for job in tqdm(jobs, desc="train", unit="domain and bias") for row in measured(*job, options=options)
        ]
        write_table(out / "table.csv", rows)
    read = read_table(out / "table.csv")
    print_tables(read)
    figure(read).savefig(out / "own.png", dpi=120)
    print(f"\ntable and figure: {out}")


def measured(domain: str, bias: str, decay: float, *, options: argparse.Namespace) -> list[Row]:
    """Train one layer per task and seed on a domain, and measure each."""
    x = table_of(domain).to(options.device)
    names = [(task, seed) for task in TASKS for seed in range(options.seeds)]
    modules = [build(bias, options.hidden, seed).to(options.device) for _, seed in names]
    y = torch.stack([TASKS[task](x[:, 0], x[:, 1]) for task, _ in names])
    train_together(modules, x, y, steps=options.steps, lr=options.lr, weight_decay=decay)
    setting: Row = {"domain": domain, "bias": bias, "weight_decay": decay, "hidden": options.hidden}
    setting |= {"steps": options.steps, "lr": options.lr}
    return [
        setting | {"task": task, "seed": seed} | measure(module.cpu(), task, domain)
        for (task, seed), module in zip(names, modules, strict=True)
    ]


def table_of(domain: str) -> Tensor:
    """Return all combinations (row, INPUTS) of the values of a domain."""
    return torch.cartesian_prod(*[torch.tensor(DOMAINS[domain].values)] * INPUTS)


def build(bias: str, hidden: int, seed: int) -> Bilinear:
    """Return a new layer with one output: without biases, with those of its two inner maps, or with all three."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        module = Bilinear(INPUTS, hidden, 1, bias=bias != "none")
        if bias == "inner":
            module.down = nn.Linear(hidden, 1, bias=False)
    return module


def train_together(modules: Sequence[nn.Module], x: Tensor, y: Tensor, **training: float) -> None:
    """Train modules of one shape on the mean squared error of inputs (row, in) and their own targets (module, row).

    Their losses are added and share no parameter, so each is trained as if it were alone.
    """
    parameters, _ = stack_module_state(list(modules))

    def error(own: dict[str, Tensor], target: Tensor) -> Tensor:
        return mse_loss(functional_call(modules[0], own, (x,))[:, 0], target)

    fit(parameters.values(), lambda: vmap(error)(parameters, y).sum(), **training)  # type: ignore[arg-type]
    for number, module in enumerate(modules):
        module.load_state_dict({name: value[number].detach() for name, value in parameters.items()})


def measure(module: Bilinear, task: str, domain: str) -> Row:
    """Split a trained layer into its parts, judge it by the rule, and compare it with the wanted polynomial outside."""
    form = split(module.layer().to(dtype=torch.float64))
    x = table_of(domain).double()
    wanted = wanted_polynomial(task, domain)

    def parts(inputs: Tensor) -> dict[str, Tensor]:
        linear, constant = inputs @ form.linear[0], form.constant.expand(len(inputs))
        return {"quadratic": form.interaction(inputs)[:, 0], "linear": linear, "constant": constant}

    learned = parts(x)
    whole, target = sum(learned.values(), torch.zeros(())), monomials(x, domain) @ wanted
    error = float((whole - target).square().mean() / target.square().mean())
    own_parts = {"constant": (form.constant, wanted[:1]), "linear": (form.linear[0], wanted[1 : 1 + INPUTS])}
    found, needed = (torch.cat([own_parts[name][k] for name in DOMAINS[domain].replaceable]) for k in (0, 1))
    own = float(found @ needed / (needed @ needed)) if float(needed.norm()) > TOLERANCE else None
    size = float(target.square().mean().sqrt())
    drawn = torch.rand(DRAWS, INPUTS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    outside = REACH * (2 * drawn - 1)
    far, aim = sum(parts(outside).values(), torch.zeros(())), monomials(outside, domain) @ wanted
    return {
        "error": error,
        **{name: float((part * whole).mean() / whole.square().mean()) for name, part in learned.items()},
        "own": own,
        "verdict": verdict(error, own, float(found.norm()) / size),
        "outside": float(((far - aim).square().mean() / aim.square().mean()).sqrt()),
    }


def verdict(error: float, own: float | None, size: float) -> str:
    """Return the verdict of the rule; `size` is that of the learned part, over the polynomial's size."""
    if error > LEARNED:
        return "not learned"
    if own is None:
        return "none" if size <= TOLERANCE else "cancelling"
    return "own" if abs(own - 1) <= TOLERANCE else "squares" if abs(own) <= TOLERANCE else "mixed"


def monomials(x: Tensor, domain: str) -> Tensor:
    """Return 1, x_i, x_i x_j with i < j, and x_i^2 if lower terms cannot stand for it: (row, monomial)."""
    i, j = torch.triu_indices(INPUTS, INPUTS, 1)
    columns = [torch.ones(len(x), 1, dtype=x.dtype), x, x[:, i] * x[:, j]]
    return torch.cat([*columns, x.square()] if len(DOMAINS[domain].values) > 2 else columns, 1)


def wanted_polynomial(task: str, domain: str) -> Tensor:
    """Return the coefficients of `monomials` that fit the task best on its domain, float64."""
    x = table_of(domain).double()
    fitted: Tensor = torch.linalg.lstsq(monomials(x, domain), TASKS[task](x[:, 0], x[:, 1])[:, None]).solution[:, 0]
    return fitted


def print_tables(rows: Sequence[Mapping[str, float | str]]) -> None:
    """Print verdicts over all tasks, and means over seeds per task for the first weight decay."""
    seeds = len({row["seed"] for row in rows})
    print(f"\nlayers by verdict, {seeds} seeds of every task\n{'domain':<8}{'decay':>6} {'biases':<7}", end="")
    print("".join(f"{name:>13}" for name in VERDICTS))
    by = ("domain", "weight_decay", "bias")
    for line in summarise(rows, by, ["error"]):
        count = Counter(row["verdict"] for row in rows if all(row[name] == line[name] for name in by))
        print(f"{line['domain']:<8}{line['weight_decay']:>6g} {line['bias']:<7}", end="")
        print("".join(f"{count[name]:>13}" for name in VERDICTS))
    first = [row for row in rows if row["weight_decay"] == rows[0]["weight_decay"]]
    print(f"\nper task, weight decay {rows[0]['weight_decay']:g}: means over seeds ± 95 % interval")
    fields = ("error", *PARTS, "own", "outside")
    print(f"{'domain':<8}{'biases':<7}{'task':<12}" + "".join(f"{name:>18}" for name in fields) + "  verdicts")
    by = ("domain", "bias", "task")
    for line in summarise(first, by, fields):
        count = Counter(row["verdict"] for row in first if all(row[name] == line[name] for name in by))
        cells = [plus_minus(line, name) for name in fields]
        print(f"{line['domain']:<8}{line['bias']:<7}{line['task']:<12}" + "".join(f"{c:>18}" for c in cells), end="  ")
        print(", ".join(f"{number} {name}" for name, number in count.items()))
    print(
        "\nerror: squared, on the training inputs, over the wanted polynomial's square; quadratic, linear, constant:\n"
        "shares of the layer's square there; own: how much of the part that squares could stand for is learned as\n"
        f"what it is; outside: error on inputs from {-REACH:g} to {REACH:g}, over the wanted polynomial's size"
    )


def figure(rows: Sequence[Mapping[str, float | str]]) -> Figure:
    """Draw `own` of every learned layer: a panel per domain and weight decay, a colour per kind of bias."""
    decays = list(dict.fromkeys(row["weight_decay"] for row in rows))
    made = Figure(figsize=(12, 2.7 * len(decays) + 0.8), layout="constrained")
    grid = made.subplots(len(decays), len(DOMAINS), squeeze=False, sharey=True)
    places = {task: number for number, task in enumerate(TASKS)}
    for line, decay in enumerate(decays):
        for axes, domain in zip(grid[line], DOMAINS, strict=True):
            for level in (0, 1):
                axes.axhline(level, color="0.6", linestyle="--", linewidth=0.8)
            for number, bias in enumerate(BIASES):
                mine = [
                    row
                    for row in rows
                    if (row["domain"], row["bias"], row["weight_decay"]) == (domain, bias, decay)
                    and row["verdict"] in ("own", "squares", "mixed")
                ]
                at = [places[str(row["task"])] + 0.25 * (number - 1) + 0.02 * (float(row["seed"]) - 2) for row in mine]
                axes.plot(at, [float(row["own"]) for row in mine], "o", color=f"C{number}", alpha=0.6, label=bias)
            axes.set_xticks(np.arange(len(places)), list(places), rotation=25, fontsize=8)
            axes.set_xlim(-0.5, len(places) - 0.5)
            parts = " and ".join(DOMAINS[domain].replaceable)
            axes.set_title(f"{domain}, weight decay {decay:g}: {parts}", fontsize=9)
        grid[line, 0].set_ylabel("learned as what it is\n(0: as squares)")
    grid[0, -1].legend(title="biases", fontsize=8, loc="upper left", bbox_to_anchor=(1.02, 1))
    made.suptitle("One dot per layer that learned its task; a task without such a part has none", fontsize=10)
    return made


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    made = argparse.ArgumentParser(
        prog="toy_arithmetic.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--steps", type=int, default=2000, help="training steps, each with the whole table")
    made.add_argument("--lr", type=float, default=0.02, help="learning rate, which falls to 0")
    made.add_argument("--hidden", type=int, default=8, help="hidden units")
    made.add_argument("--decays", default="0,0.1", help="weight decays, separated by commas")
    made.add_argument("--seeds", type=int, default=5, help="number of seeds, from 0 on")
    made.add_argument("--device", default="cpu", help="device of the training; the analysis is on the CPU")
    made.add_argument("--replot", action="store_true", help="draw the figure again from the table on disk")
    made.add_argument("--out", default="out/toy_arithmetic", help="folder of the table and the figure")
    options = made.parse_args(argv)
    options.decays = decays_of(options.decays)
    for name in ("steps", "hidden", "seeds"):
        check_int(f"--{name}", getattr(options, name), 1)
    check_number("--lr", options.lr, 0.0)
    return options


if __name__ == "__main__":
    main()
