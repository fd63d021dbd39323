"""Does a bilinear language model predict as well as others, at equal steps and at equal time?

The script trains small transformers on stories, from several seeds. Their MLPs are `down(gate(left x) * right x)` with
the gate none (bilinear), ReLU or SiLU. Their attention is softmax, or with --attention bilinear a product of two
scores; bilinear models with --norm none are polynomials. The script measures the loss on held-out text. For one seed,
initial weights and order of the text are the same for every gate. "Equal time" gives a model as many steps as gate none
makes in the same time; the script first measures the time per step. With --shares, gates are also trained for other
numbers of steps, each with a schedule of its own, and the script says how many steps they need to the final loss of
gate none, and their loss at equal time. Every stage is kept in --out, and a stopped run continues from it. Models are
saved in the published layout. The text is two plain files, of TinyStories or any other stories separated by
<|endoftext|>:

    python examples/language_model.py --text TinyStoriesV2-GPT4-train.txt --held-out TinyStoriesV2-GPT4-valid.txt

The defaults take less than 10 minutes on two CPU cores. Sizes for a GPU: --device cuda --precision bfloat16
--vocabulary 4096 --d-model 512 --layers 6 --heads 8 --context 256 --batch 128 --epochs 5 --lr 1e-3

Several processes share every batch if torchrun starts the script; on CUDA each takes a device of its own. The losses
are those of one process up to rounding, and a run goes on with as many processes as it began with:

    torchrun --nproc-per-node 2 -m examples.language_model --text ... --held-out ...
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from examples.parts.language_job import CURVE, add_training, interval, language_config, model_config, prepare
from examples.parts.language_lengths import report_lengths
from models import processes
from models.bilinear import GATES
from models.language import LanguageConfig, generate, held_out_loss, train_language
from models.published import TOKENIZER, load_transformer, save_transformer
from models.tables import summarise, write_table
from models.text import check_vocabulary, load_tokenizer, load_tokens
from models.training_state import differences
from models.transformer import ATTENTIONS, NORMS, Transformer, TransformerConfig, build_transformer
from tensornet_interp.disk import replace_files
from tensornet_interp.plots import curves

TIMED, REPEATS = 8, 10  # steps per timing, of which the later half counts; timings, of which the best counts
PROMPT, SAMPLE = "once upon a time", 120
Row = dict[str, Any]


class Kind(NamedTuple):
    """A kind of model: the gate of its MLPs, and its attention."""

    gate: str
    attention: str = "softmax"

    def __str__(self) -> str:
        return self.gate if self.attention == "softmax" else f"{self.gate}-{self.attention}"

    def config(self, options: argparse.Namespace) -> TransformerConfig:
        """Return the config of a model of this kind."""
        return replace(model_config(options, self.gate), attention=self.attention, norm=options.norm)


def main(argv: list[str] | None = None) -> None:
    """Train the models on their own or with the other processes of torchrun."""
    options = _options(argv)
    with processes.joined(options.device) as options.device:
        options.progress = options.progress and processes.is_first()
        run(options)


def run(options: argparse.Namespace) -> None:
    """Prepare the text, train the models, print tables and draw the losses."""
    out = Path(options.out)
    with processes.first_before_others():
        prepare(options, out)
    tokens, held_out = load_tokens(out / "train.npy"), load_tokens(out / "held_out.npy")
    if options.device != "cpu":
        tokens, held_out = tokens.long().to(options.device), held_out.long().to(options.device)
    times = step_times(options, tokens, out)
    if options.prepare:
        return
    rows: list[Row] = []
    records: list[Row] = []
    base = options.base
    for seed in options.seed_list:
        for kind in options.kinds:
            for equal, share in shares(options, kind, times).items():
                row, history = trained(options, kind, seed, equal, share, tokens, held_out, out)
                rows += [row | {"equal": name} for name in (options.equal if kind == base else (equal,))]
                records += history if equal == "steps" else []
    if processes.is_first():
        report(rows, records, base, times, out, f"{len(held_out) - 1:,} tokens of {Path(options.held_out).name}")
    print(f"\nfigures, tables and models: {out}")


def step_times(options: argparse.Namespace, tokens: Tensor, out: Path) -> dict[str, float]:
    """Return the seconds per step by kind: the best of alternating repeats, measured once and then read from disk.

    With one thread on the CPU this is processor time, which other work on the machine disturbs less. Otherwise it is
    wall clock, and nothing else should run while it is measured.
    """
    path = out / "step_times.json"
    settings = Kind("none").config(options).settings() | {"batch": options.batch}
    settings |= {"device": torch.device(options.device).type, "threads": torch.get_num_threads()}
    alone = settings["device"] == "cpu" and settings["threads"] == 1
    clock = time.process_time if alone else time.perf_counter
    settings |= {"clock": clock.__name__, "precision": options.precision}
    settings |= {"processes": processes.count()} if processes.count() > 1 else {}
    info = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"settings": settings, "seconds": {}}
    if info["settings"] != settings:
        raise ValueError(f"{path} has other settings; {differences(info['settings'], settings)}")
    times: dict[str, float] = info["seconds"]
    found: dict[Kind, list[float]] = {kind: [] for kind in (options.base, *options.kinds) if str(kind) not in times}
    config = language_config(options, 0, TIMED)
    for _ in range(REPEATS):
        for kind, seconds in found.items():
            model = build_transformer(kind.config(options), seed=0, device=options.device)
            seconds.append(seconds_per_step(model, tokens, config, clock))
    times |= processes.of_first(lambda: {str(kind): min(seconds) for kind, seconds in found.items()})
    if processes.is_first():
        replace_files([(path, json.dumps(info, indent=2).encode())])
    each = options.batch * options.context
    print("per step: " + ", ".join(f"{kind} {1e3 * value:.1f} ms" for kind, value in times.items()), end="; ")
    base = str(options.base)
    print(f"{each / times[base]:,.0f} tokens per second with gate {base}, {settings['threads']} threads")
    return times


def seconds_per_step(model: Transformer, tokens: Tensor, config: LanguageConfig, clock: Callable[[], float]) -> float:
    """Return the time of a step between the starts of the later half of the steps; the first half warms up."""
    marks: list[float] = []
    train_language(model, tokens, config, callback=lambda step, model: marks.append(clock()), progress=False)
    half = len(marks) // 2
    return (marks[-1] - marks[half]) / (len(marks) - 1 - half)


def shares(options: argparse.Namespace, kind: Kind, times: dict[str, float]) -> dict[str, float]:
    """Return the lengths of the trainings of a kind, as shares of the steps, by the names of the comparisons."""
    base = options.base
    if kind == base:
        return {"steps": 1.0}
    found = {"steps": 1.0, "time": times[str(base)] / times[str(kind)]}
    return {name: found[name] for name in options.equal} | {f"{share:g}": share for share in options.shares}


def trained(
    options: argparse.Namespace,
    kind: Kind,
    seed: int,
    equal: str,
    share: float,
    tokens: Tensor,
    held_out: Tensor,
    out: Path,
) -> tuple[Row, list[Row]]:
    """Train the model of a kind and a seed for a share of the steps, save and measure it.

    Returns its row and its history. A model that is on disk is read instead.
    """
    model = build_transformer(kind.config(options), seed, device=options.device)
    tokenizer = load_tokenizer(out / TOKENIZER)
    check_vocabulary(tokenizer, model.config.vocabulary)
    windows = (len(tokens) - 1) // options.context
    whole = options.steps or LanguageConfig(epochs=options.epochs, batch_size=options.batch).count_steps(windows)
    config = language_config(options, seed, max(1, round(share * whole)))
    folder = out / (f"{kind}-{seed}" if config.steps == whole else f"{kind}-{seed}-{config.steps}-steps")
    history = train_language(
        model, tokens, config, folder, held_out=held_out[:CURVE], every=options.every, progress=options.progress
    )
    with processes.first_before_others():
        if (folder / "config.json").is_file():
            row = json.loads((folder / "config.json").read_text(encoding="utf-8"))["extra"]
            model = load_transformer(folder, device=options.device)
        else:
            last = history.records[-1]
            row = {"gate": str(kind), "seed": seed, "steps": last["step"], "epochs": last["epoch"]}
            row |= {
                "seconds": last["seconds"],
                "train_loss": last["loss"],
                "held_out_loss": held_out_loss(model, held_out),
            }
            replace_files([(folder / TOKENIZER, (out / TOKENIZER).read_bytes())])
            history.to_csv(folder / "history.csv")
            save_transformer(model, folder, extra=row)
    print(f"\ngate {kind}, seed {seed}, {row['steps']} steps: held-out loss {row['held_out_loss']:.4f}")
    if equal == "steps":
        print(f"  {sample(model, tokenizer, seed)}")
    names = {"gate": str(kind), "seed": seed}
    return row, [names | record for record in history.records]


def sample(model: Transformer, tokenizer: Any, seed: int) -> str:
    """Return a continuation of `PROMPT`, drawn at temperature 0.7 from the 40 likeliest tokens."""
    device = model.head.weight.device
    prompt = torch.tensor(tokenizer.encode(PROMPT).ids, device=device)
    generator = torch.Generator(device=device).manual_seed(seed)
    tokens = generate(model, prompt, SAMPLE, temperature=0.7, top_k=40, generator=generator).tolist()
    return tokenizer.decode(tokens, skip_special_tokens=False).replace("\n", "\n  ")


def report(
    rows: Sequence[Row], records: Sequence[Row], base: Kind, times: Mapping[str, float], out: Path, text: str
) -> None:
    """Write and print the held-out losses by kind, with their differences from the kind `base`, and draw the curves."""
    bases = {row["seed"]: row for row in rows if row["gate"] == str(base)}
    losses = {seed: row["held_out_loss"] for seed, row in bases.items()}
    for row in rows:
        other = None if row["gate"] == str(base) else losses.get(row["seed"])
        row["difference"] = "" if other is None else row["held_out_loss"] - other
    write_table(out / "losses.csv", rows)
    write_table(out / "histories.csv", records)
    summary = summarise(rows, ("equal", "gate"), ("held_out_loss", "difference", "steps", "train_loss"))
    columns = dict.fromkeys(name for found in summary for name in found)
    write_table(out / "summary.csv", [dict.fromkeys(columns, "") | found for found in summary])
    print(f"\nheld-out loss in nats per token, on {text}; mean over seeds and 95 % confidence interval")
    titles = f"{'held-out loss':<28}{f'minus {base}, same seed':<30}train"
    print(f"{'equal':<7}{'gate':<14}{'steps':>7}{'seeds':>6}  {titles}")
    for found in summary:
        cells = f"{interval(found, 'held_out_loss'):<28}{interval(found, 'difference'):<30}"
        head = f"{found['equal']:<7}{found['gate']:<14}{found['steps']:>7.0f}{found['n']:>6}"
        print(f"{head}  {cells}{found['train_loss']:.4f}")
    report_lengths(rows, bases, times, out)
    if not records:  # gates at equal time alone
        return
    means = summarise(records, ("gate", "step"), ("held_out_loss", "loss"))
    points = [found | {"train_loss": found["loss"]} for found in means]
    band = {"held_out_loss": ("held_out_loss_low", "held_out_loss_high")}
    figure = curves(points, "step", ["held_out_loss", "train_loss"], by="gate", bands=band)
    seeds = len({row["seed"] for row in rows})
    title = f"Gates at equal steps, nats per token; mean of {seeds} seed{'s' * (seeds > 1)}"
    figure.suptitle(f"{title}\nheld out: the first {CURVE:,} of {text}", fontsize=9)
    figure.savefig(out / "losses.png", dpi=120)


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_training(parser, every=50)
    parser.add_argument("--gates", nargs="+", choices=sorted(GATES), default=["none", "relu", "silu"])
    parser.add_argument("--attention", nargs="+", choices=sorted(ATTENTIONS), default=["softmax"])
    parser.add_argument("--norm", choices=NORMS, default="rms", help="before attention, MLPs and head")
    parser.add_argument("--equal", nargs="+", choices=("steps", "time"), default=["steps", "time"])
    parser.add_argument(
        "--shares", nargs="+", type=float, default=[], help="shares of the steps to train gates other than none for too"
    )
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds, from 0 on")
    parser.add_argument("--seed-list", type=int, nargs="+", help="the seeds, instead of --seeds; for one per process")
    parser.add_argument("--prepare", action="store_true", help="make tokenizer, tokens and step times, then stop")
    parser.add_argument("--steps", type=int, help="steps of every training; default: 500, or as --epochs says")
    parser.add_argument("--epochs", type=float, help="length of every training, instead of --steps")
    parser.add_argument("--lr", type=float, default=4e-3)
    parser.add_argument("--out", default="out/language_model")
    options = parser.parse_args(argv)
    if not options.text or not options.held_out:
        parser.error("--text and --held-out are needed: two plain text files, for example of roneneldan/TinyStories")
    for name, value in (("--seeds", options.seeds), ("--steps", options.steps)):
        if value is not None and value < 1:
            parser.error(f"{name} must be at least 1, got {value}")
    for share in options.shares:
        if not 0 < share < math.inf:
            parser.error(f"--shares must be above 0 and finite, got {share:g}")
    if options.steps is None and options.epochs is None:
        options.steps = 500
    options.kinds = [Kind(gate, attention) for attention in options.attention for gate in options.gates]
    options.base = Kind("none", options.attention[0])
    options.seed_list = options.seed_list or list(range(options.seeds))
    return options


if __name__ == "__main__":
    main()
