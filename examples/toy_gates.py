"""What does a layer that computes boolean operations look like as a tensor, and what does symmetrization change?

One bilinear layer with biases learns six gates on the six pairs of four bits: y = B(z, z) with z = [1, bits]. B[out] is
not symmetric, because training decides by accident how an interaction is split between (i, j) and (j, i). Only the
symmetric part acts, since both inputs are equal. Each gate can be read from it: "and" is +1/2 at (i, j) and (j, i),
"xor" is -1. One freedom stays: a bit is its own square, so weight can move between xi * xi (diagonal) and xi * 1.
Eigenvalues are those of the symmetrized interaction matrix in the basis [1, bits].
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from models import LogicGate, LogicGateConfig, LogicGateModel, train_logic_gates, truth_table
from tensornet_interp import decompose

CONFIG = LogicGateConfig(
    n_bits=4,
    gates=(
        LogicGate("and", 0, 1),
        LogicGate("or", 0, 2),
        LogicGate("xor", 0, 3),
        LogicGate("nand", 1, 2),
        LogicGate("nor", 1, 3),
        LogicGate("xnor", 2, 3),
    ),
)
MANY = 8  # with more coordinates, a panel shows only those of its gate


def matrices(model: LogicGateModel) -> tuple[Tensor, Tensor]:
    """Return B[gate, in1, in2] as trained, and symmetrized: (gate, 1 + bits, 1 + bits) each."""
    layer = model.layer().drop_constant()  # the constant output is not a gate
    return layer.to_tensor().cpu(), layer.symmetrize().to_tensor().cpu()


def table(model: LogicGateModel) -> str:
    """Return a table with one line per gate: accuracy on the truth table, max |y - gate|, eigenvalues.

    An output above 1/2 counts as true.
    """
    weight = next(model.parameters())
    x, y = truth_table(model.config, device=weight.device, dtype=weight.dtype)
    with torch.no_grad():
        outputs = model(x)  # (row, gate)
    right = ((outputs > 0.5) == (y > 0.5)).double().mean(0)
    worst = (outputs - y).abs().amax(0)
    result = decompose(model.layer().drop_constant(), "eigen")
    names = model.config.names
    width = max(len(name) for name in names)
    lines = [f"{'gate':{width}}  accuracy  max error  eigenvalues (basis: 1, bits)"]
    for gate, name in enumerate(names):
        values = " ".join(f"{value:+7.3f}" for value in result.eigenvalues[gate].tolist())
        lines.append(f"{name:{width}}  {right[gate]:8.3f}  {worst[gate]:9.1e}  {values}")
    return "\n".join(lines)


def figure(model: LogicGateModel) -> Figure:
    """Draw B[gate] as trained (upper row) and symmetrized (lower row), one column per gate, with one colour scale."""
    config = model.config
    raw, symmetric = matrices(model)
    limit = float(raw.abs().max())  # symmetrizing never makes the largest entry larger
    columns = len(config.gates)
    drawing = Figure(figsize=(1.9 * columns + 1.4, 4.6), layout="constrained")
    axes = drawing.subplots(2, columns, squeeze=False)
    for gate, (spec, name) in enumerate(zip(config.gates, config.names, strict=True)):
        shown = list(range(1 + config.n_bits))
        if len(shown) > MANY:
            shown = [0, 1 + spec.first, 1 + spec.second]
        labels = ["1" if i == 0 else f"x{i - 1}" for i in shown]
        for row, tensor in enumerate((raw, symmetric)):
            axis = axes[row, gate]
            image = axis.imshow(tensor[gate][shown][:, shown].numpy(), cmap="RdBu_r", vmin=-limit, vmax=limit)
            axis.set_xticks(range(len(shown)), labels)
            axis.set_yticks(range(len(shown)), labels)
            axis.tick_params(length=0)
            own = [i for i, at in enumerate(shown) if at in (1 + spec.first, 1 + spec.second)]
            for ticks in (axis.get_xticklabels(), axis.get_yticklabels()):
                for i in own:
                    ticks[i].set_fontweight("bold")
        axes[0, gate].set_title(name)
    axes[0, 0].set_ylabel("as trained\nin1")
    axes[1, 0].set_ylabel("symmetrized\nin1")
    for axis in axes[1]:
        axis.set_xlabel("in2")
    drawing.colorbar(image, ax=axes, label="B[gate, in1, in2]", shrink=0.8)
    drawing.suptitle("Interaction matrices of boolean gates, in the basis [1, bits]; bold: the gate's own bits")
    return drawing


def main(argv: Sequence[str] | None = None) -> None:
    """Train the layer, print the table and write the figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=2000, help="training steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out/toy_gates"), help="folder for the figure and the table")
    parser.add_argument("--device", default="cpu", help="device of the analysis; training is on the CPU")
    options = parser.parse_args(argv)
    model = train_logic_gates(CONFIG, steps=options.steps, seed=options.seed).to(options.device)
    text = table(model)
    print(text)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "table.txt").write_text(text + "\n", encoding="utf-8")
    path = options.out / "interaction_matrices.png"
    figure(model).savefig(path, dpi=150)
    print(f"figure: {path}")


if __name__ == "__main__":
    main()
