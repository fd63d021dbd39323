"""What does it cost to make a gated language model bilinear by fine-tuning it?

The script fine-tunes a model with SiLU gates. It replaces each gate by z sigmoid(beta z), and beta falls from 1 to 0 on
each of `--schedules`. At 0 the gate is z / 2, which is folded into the weights. Two runs on the same batches, at the
same learning rate, serve as comparison: "baseline" keeps its gates, and "abrupt" has beta = 0 from the first step on.
With `--start least-squares` there is one more run, "linearized": it starts from the best bilinear layers, which
`linearize` finds without training, at the rate `--linearized-lr`. The script compares the losses on held-out text. It
also reads every layer of the models without gates from disk as a `BilinearLayer` and compares the layer with its MLP,
and says how the gap to the baseline changes after annealing.

    python examples/anneal_gate.py --text TinyStoriesV2-GPT4-train.txt --held-out TinyStoriesV2-GPT4-valid.txt

This command first trains the model to start from; `--model out/language_model/silu-0` starts from a model of
examples/language_model.py. `--llama` does the same with a Llama of the library `transformers`, of the same sizes. Every
stage is kept in --out, and a stopped run continues from it. The defaults take less than 10 minutes on two CPU cores.
Sizes for a GPU: --device cuda --precision bfloat16 --vocabulary 4096 --d-model 512 --layers 6 --heads 8 --context 256
--batch 128 --base-steps 10000 --steps 5000
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from examples.parts.anneal_report import (
    ABRUPT,
    BASELINE,
    CUT,
    FITTED,
    LINEARIZED,
    START,
    read_pooled,
    report,
)
from examples.parts.language_job import CURVE, add_training, language_config, model_config, prepare
from models.annealing import SCHEDULES as ANNEALINGS
from models.annealing import anneal, gate_sites, remove_gates, schedule
from models.huggingface import build_llama, load_huggingface, save_huggingface
from models.language import held_out_loss, train_language
from models.linearizing import linearized_mlps, put_layers
from models.published import TOKENIZER, load_transformer, save_transformer
from models.tables import write_table
from models.text import load_tokens
from models.transformer import LanguageModel, build_transformer
from tensornet_interp.disk import replace_files
from tensornet_interp.weights import load_layer

Row = dict[str, Any]


class Kind(NamedTuple):
    """A `Kind` is a kind of model: functions to build, load and save it, and its layout on disk."""

    title: str
    layout: str
    build: Callable[..., Any]
    load: Callable[..., Any]
    save: Callable[..., None]


OURS = Kind("this project's transformer", "published", build_transformer, load_transformer, save_transformer)
LLAMA = Kind("a Llama of transformers", "llama", build_llama, load_huggingface, save_huggingface)


class Run(NamedTuple):
    """A `Run` is one fine-tuning: beta falls from 1 to 0 between the steps `start` and `end`, by `schedule`.

    If `schedule` is None, the gates stay, or were replaced before the first step in the run "linearized".
    """

    name: str
    schedule: str | None
    start: int = 0
    end: int = 0


def main(argv: list[str] | None = None) -> None:
    """Train or read the model to start from, fine-tune it on every schedule, and compare."""
    options = _options(argv)
    kind = LLAMA if options.llama else OURS
    out = Path(options.out or f"out/anneal_gate/{'llama' if options.llama else 'transformer'}")
    if not options.replot:
        prepare(options, out, None if options.model is None else Path(options.model) / TOKENIZER)
        tokens, held_out = load_tokens(out / "train.npy"), load_tokens(out / "held_out.npy")
        if options.device != "cpu":
            tokens, held_out = tokens.long().to(options.device), held_out.long().to(options.device)
        base = base_model(kind, options, tokens, held_out, out)
        records, rows = list[Row](), starting_point(kind, base, options, tokens, held_out, out)
        for seed in range(1, 1 + options.seeds):  # the first training had seed 0
            for run in _runs(options):
                during, row = fine_tuned(kind, base, run, seed, options, tokens, held_out, out / f"{run.name}-{seed}")
                records, rows = [*records, *during], [*rows, row]
        _compare(records, "during_loss", ("seed", "step"))
        _compare(rows, "held_out_loss", ("seed",))
        write_table(out / "steps.csv", records)
        write_table(out / "losses.csv", rows)
    folders = [out, *options.pool]
    report(read_pooled(folders, "losses.csv"), read_pooled(folders, "steps.csv"), out)


def base_model(kind: Kind, options: argparse.Namespace, tokens: Tensor, held_out: Tensor, out: Path) -> Path:
    """Return the folder of the SiLU-gated model that every run starts from: `--model`, or a model trained here."""
    if options.model is not None:
        return Path(options.model)
    folder = out / "base"
    model = kind.build(model_config(options, "silu"), 0, device=options.device)
    config = replace(language_config(options, 0, options.base_steps), lr=options.base_lr)
    training = folder / "training"
    train_language(
        model, tokens, config, training, held_out=held_out[:CURVE], every=options.every, progress=options.progress
    )
    replace_files([(folder / TOKENIZER, (out / TOKENIZER).read_bytes())])
    kind.save(model, folder)
    return folder


def starting_point(
    kind: Kind, base: Path, options: argparse.Namespace, tokens: Tensor, held_out: Tensor, out: Path
) -> list[Row]:
    """Measure the loss before any step, with the gates, with all gates at beta = 0, and linearized."""
    model = kind.load(base, device=options.device)
    about: Row = {"model": kind.title, "seed": 1, "steps": 0, "start": 0, "end": 0, "tokens": len(held_out) - 1}
    losses = {START: held_out_loss(model, held_out)}
    anneal(model, "linear", 0, 0)
    losses[CUT] = held_out_loss(model, held_out)
    if options.start == "least-squares":
        losses[FITTED] = held_out_loss(linearized(kind, base, options, tokens, out), held_out)
    return [about | {"run": run, "held_out_loss": loss, "layer_error": ""} for run, loss in losses.items()]


def linearized(kind: Kind, base: Path, options: argparse.Namespace, tokens: Tensor, out: Path) -> LanguageModel:
    """Return the model with the best bilinear layers on `--fit-tokens` of the training text, and keep it in `out`."""
    folder = out / f"{LINEARIZED}-{options.fit_tokens}"
    if not folder.is_dir():
        made: LanguageModel = kind.load(base, device=options.device)
        put_layers(made, linearized_mlps(made, tokens[: options.fit_tokens]))
        kind.save(made, folder)
    model: LanguageModel = kind.load(folder, device=options.device)
    return model


def fine_tuned(
    kind: Kind,
    base: Path,
    run: Run,
    seed: int,
    options: argparse.Namespace,
    tokens: Tensor,
    held_out: Tensor,
    out: Path,
) -> tuple[list[Row], Row]:
    """Fine-tune one run, save its model in `out`, and return the records during the run and the row of its end.

    Step 0 of the records is the model that the run starts from.
    """
    config = language_config(options, seed, options.steps)
    if run.name == LINEARIZED:
        model = linearized(kind, base, options, tokens, out.parent)
        config = replace(config, lr=options.linearized_lr or options.lr)
    else:
        model = kind.load(base, device=options.device)
    about: Row = {"model": kind.title, "run": run.name, "seed": seed}
    before = held_out_loss(model, held_out[:CURVE])
    beta, callback = None, None
    if run.schedule is not None:
        beta, callback = schedule(run.schedule, run.start, run.end), anneal(model, run.schedule, run.start, run.end)
    history = train_language(
        model,
        tokens,
        config,
        out / "training",
        held_out=held_out[:CURVE],
        callback=callback,
        extra=run._asdict(),
        every=options.every,
        progress=options.progress,
    )
    gates = 0.0 if run.name == LINEARIZED else 1.0  # beta without a schedule
    records = [about | {"step": 0, "beta": gates, "train_loss": "", "during_loss": before}]
    for record in history.records:
        step = int(record["step"])
        losses = {"train_loss": record["loss"], "during_loss": record["held_out_loss"]}
        records.append(about | {"step": step, "beta": beta(step - 1) if beta else gates} | losses)
    if callback is not None:
        callback(options.steps, model)  # if a finished run was read back, no step has set beta
        remove_gates(model)
    kind.save(model, out)
    row = about | {"steps": options.steps, "start": run.start, "end": run.end}
    row |= {"held_out_loss": held_out_loss(model, held_out), "tokens": len(held_out) - 1}
    return records, row | {"layer_error": "" if run.name == BASELINE else largest_error(kind, model, out, held_out)}


def largest_error(kind: Kind, model: LanguageModel, folder: Path, tokens: Tensor) -> float:
    """Compare every MLP with its layer on disk, and return the largest relative error of all layers.

    error = max |MLP(x) - layer(x)| / max |MLP(x)|, with x the inputs of the MLP on the text

    Raises ValueError if a layer does not open as a bilinear one.
    """
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    sites = gate_sites(model)
    handles = [
        site.owner.register_forward_hook(lambda _, given, y, name=site.name: seen.update({name: (given[0], y)}))
        for site in sites
    ]
    try:
        with torch.no_grad():
            model(tokens[: model.config.context].long()[None].to(next(model.parameters()).device))
    finally:
        for handle in handles:
            handle.remove()
    errors = []
    for index, site in enumerate(sites):
        x, y = (part.flatten(0, -2) for part in seen[site.name])  # (position, d_model)
        layer = load_layer(folder, index, layout=kind.layout, gate_removed=kind.layout == "llama", device=x.device)
        errors.append(float((layer(x) - y).abs().max() / y.abs().max()))
    return max(errors)


def _runs(options: argparse.Namespace) -> list[Run]:
    start, end = round(options.beta_start * options.steps), round(options.beta_end * options.steps)
    annealed = [Run(name, name, start, end) for name in options.schedules]
    fitted = [Run(LINEARIZED, None)] * (options.start == "least-squares")
    return [Run(BASELINE, None), *annealed, Run(ABRUPT, "linear"), *fitted]  # if start = end, schedules are the same


def _compare(rows: list[Row], loss: str, by: tuple[str, ...]) -> None:
    reference = {tuple(row[name] for name in by): row[loss] for row in rows if row["run"] == BASELINE}
    for row in rows:
        row["above_baseline"] = row[loss] - reference[tuple(row[name] for name in by)]


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_training(parser, every=25)
    parser.add_argument("--model", help="folder of a SiLU-gated model with its tokenizer.json; default: train one")
    parser.add_argument("--llama", action="store_true", help="a Llama of transformers, from --model or trained here")
    known = [*sorted(ANNEALINGS), "all"]
    parser.add_argument("--schedules", nargs="+", choices=known, default=["linear", "smootherstep"])
    parser.add_argument("--beta-start", type=float, default=0.0, help="share of the steps after which beta falls")
    parser.add_argument("--beta-end", type=float, default=0.3, help="share of the steps after which beta is 0")
    parser.add_argument("--start", choices=("gates", "least-squares"), default="gates", help="see above")
    parser.add_argument("--fit-tokens", type=int, default=100_000, help="tokens of --text for --start least-squares")
    parser.add_argument("--linearized-lr", type=float, help="learning rate of the run linearized; default: --lr")
    parser.add_argument("--seeds", type=int, default=1, help="number of orders of the batches in fine-tuning")
    parser.add_argument("--steps", type=int, default=250, help="steps of every fine-tuning")
    parser.add_argument("--lr", type=float, default=1e-3, help="learning rate of every fine-tuning")
    parser.add_argument("--base-steps", type=int, default=500, help="steps of the first training, without --model")
    parser.add_argument("--base-lr", type=float, default=2e-3, help="learning rate of the first training")
    parser.add_argument("--replot", action="store_true", help="print and draw again from the tables on disk")
    parser.add_argument(
        "--pool", type=Path, nargs="+", default=[], help="with --replot: folders of the same runs on other models"
    )
    parser.add_argument("--out", help="default: out/anneal_gate/transformer, with --llama out/anneal_gate/llama")
    options = parser.parse_args(argv)
    if not options.replot and not (options.text and options.held_out):
        parser.error("--text and --held-out are needed: two plain text files, for example of roneneldan/TinyStories")
    if options.pool and not options.replot:
        parser.error("--pool needs --replot: it reads the tables of finished runs")
    if "all" in options.schedules:
        options.schedules = list(ANNEALINGS)
    start, end = options.beta_start, options.beta_end
    if not 0 <= start <= end or round(end * options.steps) >= options.steps:
        parser.error(
            "0 <= --beta-start <= --beta-end must hold, and beta must be 0 before the last step: got --beta-start "
            f"{start} and --beta-end {end} of {options.steps} steps"
        )
    return options


if __name__ == "__main__":
    main()
