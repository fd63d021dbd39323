"""How well do bilinear layers stand in for gated MLPs, and do circuits that are read in them hold in the gated model?

The script opens a language model with SiLU gates, or trains a small one. It puts a bilinear layer in the place of each
MLP, in five ways from z / 2 to `linearize`, and measures on held-out text the error of each layer and the loss that it
adds, alone and with all layers replaced. No way trains the model. Then it reads circuits in one linearized layer, as
feature_circuits.py does in a bilinear one: autoencoders before and behind the MLP are trained on the gated model, and
output features that fire are ranked by the share of their two leading eigenvalues. The circuit of each of the first
five is tested by removal, in the gated MLP itself and in the linearized layer.

    python examples/gated_model.py --model out/language_model/silu-0
    python examples/gated_model.py --text TinyStoriesV2-GPT4-train.txt --held-out TinyStoriesV2-GPT4-valid.txt

Every finished stage is kept in --out and not repeated.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from examples.parts.circuit_job import POINTS, Job, check_settings, train
from examples.parts.circuit_tables import INTERACTIONS, Names, print_rows
from examples.parts.language_job import add_training, language_config, model_config, prepare
from models.language import held_out_loss, train_language
from models.linearizing import gated_mlps, linearized_mlps, mlp_inputs, put_layers, replaced
from models.published import load_transformer, save_transformer
from models.tables import read_table, write_table
from models.text import load_tokens
from models.transformer import build_transformer
from tensornet_interp import BilinearLayer, decompose
from tensornet_interp.features import (
    REMOVAL_RULE,
    Dictionary,
    feature_interactions,
    plane_part,
    random_part,
    rank_by_structure,
    removal_test,
)
from tensornet_interp.gated import GatedLayer, gate_fit, linearization_error, linearize
from tensornet_interp.lifting import lift, split
from tensornet_interp.weights import load_layer

WAYS: dict[str, dict[str, Any]] = {  # after z / 2: each way contains the one before
    "a + b z": {"weighted": False, "refit": False},
    "a + b z, weighted": {"refit": False},
    "down refitted": {"linear": False},
    "with linear part": {},
}
HALF = "z / 2"
CIRCUIT_RULE = (
    f"the circuit of an output feature: the input features in the {INTERACTIONS} largest terms |linear[i]| A_i and |2 "
    "Q[i, j]| A_i A_j of the linearized layer, where A_i is the mean of feature i over training tokens with it active"
)
Row = dict[str, Any]


@dataclass(frozen=True)
class GatedJob(Job):
    """A `GatedJob` reads circuits in the linearized layer of a gated model."""

    kept: ClassVar[tuple[str, ...]] = (*Job.kept, "fit_tokens")

    @cached_property
    def gated(self) -> GatedLayer:
        """The MLP as it is."""
        return load_layer(self.options.model, self.index, gated=True, device=self.options.device)

    @cached_property
    def layer(self) -> BilinearLayer:
        """The linearized MLP, lifted; the whole linearized model is made first if it is not there."""
        folder = self.out / "linearized"
        if not folder.is_dir():
            made = load_transformer(self.options.model, device=self.options.device)
            put_layers(made, linearized_mlps(made, self.fitted))
            save_transformer(made, folder)
        return load_layer(folder, self.index, device=self.options.device).drop_constant()

    @property
    def fitted(self) -> Tensor:
        """The tokens of the training text that the layers are fitted to."""
        return self.text["train"].flatten()[: self.options.fit_tokens]

    def check_model(self) -> None:
        """Raise ValueError if the model has no gates."""
        if self.model.config.gate == "none":
            raise ValueError(f"{self.options.model} has no gates: examples/feature_circuits.py reads it as it is")


def ways(job: GatedJob) -> list[Row]:
    """Measure error and added loss of every way, for each layer alone and for all of them."""
    model, tokens = job.model, job.held_rows.flatten()
    layers, inputs, others = gated_mlps(model), mlp_inputs(model, job.fitted), mlp_inputs(model, tokens)
    before, rows = held_out_loss(model, tokens), list[Row]()
    for way in (HALF, *WAYS):
        made = {
            name: halved(layer) if way == HALF else linearize(layer, inputs[name], **WAYS[way])
            for name, layer in layers.items()
        }
        for name, layer in layers.items():
            with replaced(model, {name: made[name]}):
                loss = held_out_loss(model, tokens)
            error = linearization_error(layer, made[name], others[name])
            rows.append({"way": way, "layer": name, "error": error, "loss": loss, "added": loss - before})
        with replaced(model, made):
            loss = held_out_loss(model, tokens)
        rows.append({"way": way, "layer": "all", "error": "", "loss": loss, "added": loss - before})
    return rows


def halved(layer: GatedLayer) -> BilinearLayer:
    """Return the layer with the gate z / 2."""
    half = BilinearLayer(down=layer.down, left=layer.left / 2, right=layer.right, name=layer.name, basis=layer.basis)
    left_bias = None if layer.left_bias is None else layer.left_bias / 2
    biases: dict[str, Any] = {"left_bias": left_bias, "right_bias": layer.right_bias, "bias": layer.bias}
    return half if all(bias is None for bias in biases.values()) else lift(half, **biases)


def units(job: GatedJob) -> list[Row]:
    """Say how near to lines the gates of every layer are: the share that the line leaves, over hidden units."""
    inputs, rows = mlp_inputs(job.model, job.fitted), list[Row]()
    for name, layer in gated_mlps(job.model).items():
        fit = gate_fit(layer, inputs[name])
        worst = fit.residuals.argsort(descending=True)[:3].tolist()
        row = {"layer": name, "median": float(fit.residuals.median()), "largest": float(fit.residuals.max())}
        rows.append(row | {"units": " ".join(map(str, worst)), "silent": len(fit.silent)})
    return rows


def circuit(layer: BilinearLayer, inputs: Dictionary, direction: Tensor, alive: Tensor, size: Tensor) -> Tensor:
    """Return the input features of the circuit of an output direction, by `CIRCUIT_RULE`; size: A of the `alive`."""
    found = feature_interactions(layer, direction, inputs.decoder[:, alive], bias=inputs.decoder_bias)
    every = torch.arange(len(alive), device=alive.device)
    pairs = torch.cat([found.block(rows, every) for rows in every.split(256)])
    pairs = (pairs.abs() * size[:, None] * size).triu() * 2
    pairs.diagonal().div_(2)  # Q[i, i] counts once
    terms = torch.cat([pairs.flatten(), found.linear.abs() * size])
    best = terms.topk(min(INTERACTIONS, len(terms))).indices
    first = torch.where(best < pairs.numel(), best // len(alive), best - pairs.numel())
    second = torch.where(best < pairs.numel(), best % len(alive), first)
    return alive[torch.cat([first, second]).unique()]


def circuits(job: GatedJob) -> list[Row]:
    """Rank the output features that fire, and test the circuits of the first ones in the gated MLP."""
    inputs, outputs = (job.dictionary(job.config().steps, point) for point in POINTS)
    before, behind = (job.strongest(part, point) for part, point in zip((inputs, outputs), POINTS, strict=True))
    pieces = [Names.of(found, job.shown_rows, job.piece) for found in (before, behind)]
    plain, firing, alive = split(job.layer).interaction, set(behind.alive().tolist()), before.alive()
    ranking = [record for record in rank_by_structure(plain, outputs.encoder) if int(record["feature"]) in firing]
    write_table(job.out / "ranking.csv", [{k: v for k, v in row.items() if k != "basis"} for row in ranking])
    seen = inputs.encode(mlp_inputs(job.model, job.fitted)[f"blocks.{job.index}.mlp"])[:, alive].to(torch.float64)
    size = seen.sum(0) / (seen > 0).sum(0).clamp_min(1)
    held = job.held_x.to(torch.float64)
    codes, wide = inputs.to(dtype=torch.float64).encode(held), inputs.decoder.to(torch.float64)
    active = torch.cat([outputs.encode(part) > 0 for part in job.gated(job.held_x).split(4096)])
    window, rows = torch.arange(len(held)) // job.held_rows.shape[1], list[Row]()
    for place, record in enumerate(ranking[: job.options.circuits], 1):
        feature = int(record["feature"])
        members = circuit(job.layer, inputs, outputs.encoder[feature], alive, size)
        about = {"place": place, "feature": feature, "token": pieces[1][feature]}
        about |= {"members": "; ".join(pieces[0].label(member) for member in members.tolist())}
        on = active[:, feature]
        if not bool(on.any()):
            rows.append(about | {"removed": "", "run in": "", "windows": 0, "verdict": "untested"})
            continue
        pair = decompose(plain, "eigen", directions=outputs.encoder[feature][None], rank=2)
        parts = {
            "input features": codes[on][:, members] @ wide[:, members].T,
            "leading plane": plane_part(held[on], pair.eigenvectors[0].to(torch.float64)),
        }
        for name, removed in parts.items():
            count = (codes[on][:, members] > 0).sum(1) if name == "input features" else torch.full((len(removed),), 2)
            control = random_part(codes[on], wide, removed, count.to(held.device), members, seed=job.options.seed)
            for title, layer in (("gated", job.gated), ("linearized", job.layer)):
                where = window[on.cpu()].to(held.device)
                found = removal_test(layer, outputs, feature, held[on], removed, control, where, name=name).record()
                rows.append(about | {"removed": name, "run in": title} | found)
    columns = dict.fromkeys(key for row in rows for key in row)
    return [{key: row.get(key, "") for key in columns} for row in rows]


def trained(options: argparse.Namespace, out: Path) -> Path:
    """Train the gated model to start from, unless it is there, and return its folder."""
    prepare(options, out)
    tokens, folder = load_tokens(out / "train.npy"), out / "silu-0"
    model = build_transformer(model_config(options, "silu"), 0, device=options.device)
    config = replace(language_config(options, 0, options.model_steps), lr=options.model_lr)
    train_language(model, tokens, config, folder / "training", every=options.every, progress=options.progress)
    save_transformer(model, folder)
    return folder


def report(job: GatedJob) -> None:
    """Run the missing stages and print the tables."""
    print(
        f"held-out text: {job.held_rows.numel():,} tokens; layers fitted to {len(job.fitted):,} tokens of training text"
    )
    rows = job.table("ways", lambda: ways(job))
    print_rows(
        "error: of the outputs, relative, on held-out text; added: loss in nats per token, nothing trained", rows
    )
    print_rows(
        "gates: share of E[gate(u)^2 v^2] that a line leaves; the three largest units",
        job.table("units", lambda: units(job)),
    )
    train(job)
    found = job.table("circuits", lambda: circuits(job))
    print_rows(
        "output features that fire, by the share of their two leading eigenvalues",
        list(read_table(job.out / "ranking.csv"))[:8],
    )
    print(f"\n{CIRCUIT_RULE}\nthe rule of the removal. {REMOVAL_RULE}")
    columns = ("place", "feature", "token", "removed", "run in", "tokens", "windows", "length", "drop", "control_drop")
    print_rows("circuits, removed on held-out text", found, (*columns, "difference", "low", "high", "verdict"))
    for row in {row["feature"]: row for row in found}.values():
        print(f"  circuit of {row['feature']:.0f} {row['token']}: {row['members']}")
    for title in ("gated", "linearized"):
        for name in ("input features", "leading plane"):
            said = [row["verdict"] for row in found if (row["run in"], row["removed"]) == (title, name)]
            print(f"{name}, run in the {title} layer: {said.count('confirmed')} of {len(said)} confirmed")
    print(f"\ntables, autoencoders and the linearized model: {job.out}")


def main(argv: Sequence[str] | None = None) -> None:
    """Open or train the model, and report."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_training(made, every=50)
    made.add_argument("--model", help="folder of a gated model of examples/language_model.py; default: train one")
    made.add_argument(
        "--model-steps", type=int, default=500, help="steps of the training of the model, without --model"
    )
    made.add_argument("--model-lr", type=float, default=4e-3, help="learning rate of that training")
    made.add_argument("--fit-tokens", type=int, default=50_000, help="tokens of the training text for least squares")
    made.add_argument("--text-tokens", type=int, help="number of tokens of the training text to use; default: all")
    made.add_argument("--held-out-tokens", type=int, default=30_000)
    made.add_argument("--shown-tokens", type=int, default=100_000, help="tokens searched for the features' contexts")
    made.add_argument("--layer", type=int, help="layer whose circuits are read; default: the middle one")
    made.add_argument("--circuits", type=int, default=5, help="number of circuits from the top of the ranking")
    made.add_argument("--expansion", type=int, default=4, help="features of an autoencoder divided by the width")
    made.add_argument("--k", type=int, default=16, help="active features per token")
    made.add_argument("--lr", type=float, default=1e-3, help="learning rate of the autoencoders")
    made.add_argument("--batch-size", type=int, default=1024, help="tokens per batch of the autoencoders")
    made.add_argument("--steps", type=int, default=800, help="steps of the autoencoders")
    made.add_argument("--buffer", type=int, default=2**15, help="vectors that are shuffled together")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--replot", action="store_true", help="only print the tables on disk")
    made.add_argument("--out", type=Path, default=Path("out/gated_model"))
    options = made.parse_args(argv)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.model is None:
        if not options.text or not options.held_out:
            made.error("--model is needed, or --text and --held-out to train one")
        options.model = str(trained(options, options.out))
        options.text = options.held_out = None  # as tokens, they are beside the model
    job = GatedJob(options, options.out)
    check_settings(job)
    report(job)


if __name__ == "__main__":
    main()
