"""The part of `metric.py` about language models: MLP layers in the metric of their inputs."""

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from examples.parts.language_job import add_training, language_config, model_config, prepare
from examples.parts.metric_nulls import turned
from models.language import held_out_loss, train_language
from models.text import load_tokens
from models.transformer import Transformer, build_transformer
from models.vectors import vectors_at, windows
from tensornet_interp import Moments, decompose
from tensornet_interp.checks import check_int
from tensornet_interp.concentration import participation

METHODS: list[tuple[str, dict[str, Any]]] = [
    ("eigen", {"rank": 4}),
    ("eigen", {"rank": 16}),
    ("hosvd", {"ranks": (32, 32)}),
    ("hosvd", {"ranks": (64, 64)}),
]
TEST_WINDOWS = 64  # of held-out text, on which errors are measured
Row = dict[str, object]


def measure_language(argv: list[str], out: Path) -> list[Row]:
    """Train a small language model without gates, and return one row per layer and method, which it prints."""
    options = _options(argv)
    prepare(options, out)
    tokens, held_out = (load_tokens(out / f"{name}.npy") for name in ("train", "held_out"))
    model = build_transformer(model_config(options, "none"), 0, device=options.device)
    config = language_config(options, 0, options.steps)
    train_language(model, tokens, config, out / "model", every=options.every, progress=options.progress)
    loss = held_out_loss(model, held_out)
    sizes = f"width {options.d_model}, hidden {model.config.d_hidden}, {options.steps} steps"
    print(f"\nlanguage model of {options.layers} layers, {sizes}, held-out loss {loss:.4f}; per MLP, on held-out text:")
    print(
        "error of the outputs without and with the metric of the inputs after the norm, and the first over the second"
    )
    rows = []
    train_rows, test_rows = windows(tokens.long(), options.context), windows(held_out.long(), options.context)
    for layer in range(options.layers):
        moments = Moments.of(_inputs(model, train_rows[:512], layer))
        x = torch.cat(list(_inputs(model, test_rows[:TEST_WINDOWS], layer))).double()
        rows += layer_rows(model, layer, moments, x)
    return rows


def layer_rows(model: Transformer, layer: int, moments: Moments, x: Tensor) -> list[Row]:
    """Return one row per method for the MLP of a layer, and print it."""
    part = model.mlp(layer).layer().to(dtype=torch.float64)
    whole = part(x)
    spread = torch.linalg.eigvalsh(moments.second_moment).clamp_min(0)
    rank = float(participation(spread))
    print(f"layer {layer}: effective rank of the second moment {rank:.1f} of {len(spread)}")
    rows = []
    for name, chosen in METHODS:
        ways = [{}, {"moments": moments}, {"moments": turned(moments, 0)}]
        results = [decompose(part, name, **chosen, **way) for way in ways]
        plain, found, null = (float((result(x) - whole).norm() / whole.norm()) for result in results)
        row: Row = {"layer": layer, "effective_rank": rank, "method": name, "options": str(chosen)}
        rows.append(row | {"no metric": plain, "metric": found, "turned": null, "ratio": plain / found})
        print(f"  {f'{name} {chosen}':<28} {plain:.3f} {found:.3f} {null:.3f} {plain / found:.2f}")
    return rows


def _inputs(model: Transformer, rows: Tensor, layer: int) -> Any:
    """Yield batches (token, d_model) of the inputs of the MLP of a layer."""
    return (chunk.flatten(0, 1) for chunk in vectors_at(model, rows, layer, "mlp-in"))


def _options(argv: list[str]) -> argparse.Namespace:
    made = argparse.ArgumentParser(prog="metric.py --language", description=__doc__)
    add_training(made, every=100)
    made.add_argument("--steps", type=int, default=300, help="steps of the training")
    made.add_argument("--lr", type=float, default=3e-3, help="learning rate")
    options = made.parse_args(argv)
    check_int("--steps", options.steps, 1)
    if options.text is None or options.held_out is None:
        made.error("give --text and --held-out")
    return options
